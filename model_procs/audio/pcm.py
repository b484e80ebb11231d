"""Mono samples, and their conversion to 16-bit PCM. Runs in workers."""

from __future__ import annotations

import struct
from typing import cast

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
"""Mono audio: shape (n,), float32, within [-1, 1]."""


def wav_header(rate: int, samples: int | None) -> bytes:
    """The 44-byte WAV header of mono PCM16 at `rate` Hz. `samples` None: the length is unknown."""
    data = 0xFFFFFFFF if samples is None else 2 * samples
    riff = 0xFFFFFFFF if samples is None else 36 + data
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", riff, b"WAVE"),
        *(b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16),
        *(b"data", data),
    )


def pcm16(samples: Samples) -> bytes:
    """`samples` as little-endian 16-bit integers, clipped to [-1, 1] and rounded."""
    return cast(bytes, np.rint(np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2").tobytes())
