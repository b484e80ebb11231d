"""Pocket TTS's voices: model states in the format of `pocket-tts export-voice`.

Used in its template and workers.
"""

from __future__ import annotations

import json
import logging
import mmap
import re
from pathlib import Path
from typing import Any

from model_procs.weights.locate import VOICES_FOLDER

_NAME = r"[A-Za-z0-9_-]{1,64}"

_DTYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"},
    **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8"},
}
"""The safetensors names of torch's types."""

logger = logging.getLogger(__name__)


def to_bytes(voice: Any) -> bytes:
    """Serialize a state as safetensors."""
    from safetensors.torch import save

    return bytes(
        save(
            {
                f"{module}/{name}": tensor.contiguous()
                for module, tensors in voice.items()
                for name, tensor in tensors.items()
            }
        )
    )


def from_bytes(data: memoryview) -> Any:
    """Read a state as views into `data`; the library would copy the data twice.

    Format (https://huggingface.co/docs/safetensors): eight bytes with the length of the header, the
    header in JSON, the numbers.
    """
    import torch

    start = 8 + int.from_bytes(data[:8], "little")
    voice: dict[str, dict[str, Any]] = {}
    for key, entry in json.loads(bytes(data[8:start])).items():
        if key == "__metadata__":
            continue
        module, _, name = key.rpartition("/")
        if name == "current_end":  # older files store the step count as the length of this tensor
            voice.setdefault(module, {})["offset"] = torch.tensor(entry["shape"][:1])
            continue
        first, end = entry["data_offsets"]
        dtype = getattr(torch, _DTYPES[entry["dtype"]])
        tensor = torch.frombuffer(data[start + first : start + end], dtype=dtype)
        voice.setdefault(module, {})[name] = tensor.reshape(entry["shape"])
    return voice


def load(path: Path) -> Any:
    """Read a state from a file, which stays mapped while the state is in use."""
    with open(path, "rb") as file:
        return from_bytes(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)))


def find(weights: Path, example: Any) -> tuple[dict[str, Path], list[str]]:
    """The voice files next to `weights` that fit them, by name; and the names of the others.

    A file fits if its state has the shape of `example`. A voice works only with the weights that it
    was made with: others need another shape, or produce noise.
    """
    found: dict[str, Path] = {}
    misfits: list[str] = []
    for path in sorted((weights / VOICES_FOLDER).glob("*.safetensors")):
        if not re.fullmatch(_NAME, path.stem):
            continue
        try:
            if _shape(load(path)) != _shape(example):
                raise ValueError("made for other weights")
        except Exception as error:  # parsers raise anything for invalid bytes
            logger.warning("%s cannot be used: %s", path, error)
            misfits.append(path.stem)
        else:
            found[path.stem] = path
    return found, misfits


def _shape(voice: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of a state's caches, without the number of steps."""
    shapes: dict[str, tuple[int, ...]] = {}
    for module, tensors in voice.items():
        cache = tensors["cache"]
        if not 0 < int(tensors["offset"].view(-1)[0]) <= cache.shape[2]:
            raise ValueError(f"the step count of {module} does not fit its cache")
        shapes[module] = (*cache.shape[:2], *cache.shape[3:])
    return shapes
