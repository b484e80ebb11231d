"""Weights on disk: helpers that the production engines share. Used in templates."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
from pathlib import Path

import numpy as np

from ipc import variants
from ipc.engines import ENGINES, PULLABLE
from ipc.errors import ErrorCode, ServiceError
from model_procs.weights.synthetic import NOTE_FILE

VOICES_FOLDER = variants.VOICES_FOLDER
"""Beside the weights of Pocket TTS: the built-in voices, NAME.safetensors."""


def weights_folder(models_dir: Path, engine: str) -> Path:
    """The folder with `engine`'s weights in the models folder."""
    return models_dir / Path(ENGINES[engine].files[0]).parent


def fingerprint(weights: Path) -> str:
    """A hash of every 1024th byte: covers every layer, and takes a fraction of a second.

    It identifies the weights, so it can be part of a cache key.
    """
    every_kilobyte = np.memmap(weights, np.uint8, "r")[::1024]
    size = weights.stat().st_size
    return hashlib.sha256(f"{size} ".encode() + every_kilobyte.tobytes()).hexdigest()[:16]


def notes(folder: Path) -> list[str]:
    """Notes for clients about the weights in `folder`; usually none."""
    note = folder / NOTE_FILE
    return [note.read_text("utf-8").strip()] if note.is_file() else []


def cannot_load(model: str, folder: Path, error: Exception) -> ServiceError:
    """An error with the library's message and the command that repairs the weights."""
    engine = next(name for name in PULLABLE if weights_folder(folder.parent, name) == folder)
    return ServiceError(
        ErrorCode.model_unavailable,
        f"{model} cannot be loaded from {folder}: {type(error).__name__}: {error}"
        f" - get the weights again with `voice-engine models pull {engine} {folder.parent} "
        "--force`",
    )


def release_scratch() -> None:
    """Free the memory that loading needed, so that workers do not inherit it."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
