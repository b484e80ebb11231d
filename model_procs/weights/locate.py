"""What the production engines share about weights on disk. Used in templates."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
from pathlib import Path

import numpy as np

from ipc.engines import ENGINES
from ipc.errors import ErrorCode, ServiceError
from model_procs.weights.synthetic import NOTE_FILE

VOICES_FOLDER = "voices"
"""Beside the weights of Pocket TTS: the built-in voices, NAME.safetensors."""


def weights_folder(models_dir: Path, engine: str) -> Path:
    """The folder of `engine`'s weights below the models folder."""
    return models_dir / Path(ENGINES[engine].files[0]).parent


def fingerprint(weights: Path) -> str:
    """A hash of one byte in every kilobyte: reaches every layer, in a fraction of a second.

    Tells one set of weights from another, so it may be part of a cache's key.
    """
    every_kilobyte = np.memmap(weights, np.uint8, "r")[::1024]
    size = weights.stat().st_size
    return hashlib.sha256(f"{size} ".encode() + every_kilobyte.tobytes()).hexdigest()[:16]


def notes(folder: Path) -> list[str]:
    """What a client must know about the weights in `folder`, if anything."""
    note = folder / NOTE_FILE
    return [note.read_text("utf-8").strip()] if note.is_file() else []


def cannot_load(model: str, folder: Path, error: Exception) -> ServiceError:
    """The library's own words, and the command that mends it."""
    return ServiceError(
        ErrorCode.model_unavailable,
        f"{model} cannot be loaded from {folder}: {type(error).__name__}: {error}"
        f" - get the weights with `voice-engine models fetch {folder.parent}`",
    )


def release_scratch() -> None:
    """Give back what loading needed, so that workers do not inherit it."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
