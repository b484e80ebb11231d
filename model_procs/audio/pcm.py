"""Mono samples, and their conversion to 16-bit PCM. Runs in workers."""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
"""Mono audio: shape (n,), float32, within [-1, 1]."""


def pcm16(samples: Samples) -> bytes:
    """`samples` as little-endian 16-bit integers, clipped to [-1, 1] and rounded."""
    return cast(bytes, np.rint(np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2").tobytes())
