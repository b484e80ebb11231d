"""The header of the WAVs that we make. Used in every process."""

from __future__ import annotations

import struct


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
