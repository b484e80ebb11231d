"""Blocks of decoded sound, and where in time they are. Runs in workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model_procs.audio.containers import invalid

Channels = npt.NDArray[np.float32]
"""Sound of shape (channels, n), float32."""

MAX_CHANNELS = 32
MIN_RATE, MAX_RATE = 2_000, 768_000

SHORTEST_GAP_SECONDS = 0.2
"""A gap in timestamps that is shorter is no gap.

Timestamps of WebM are whole milliseconds, those of microphones jitter, and silence within a word
would hurt more than a time that is wrong by this much. Short gaps are not forgotten: they add up.
"""


@dataclass(frozen=True, slots=True)
class Block:
    """The next samples of a recording, at `rate` Hz, after `gap` seconds without any."""

    rate: int
    samples: Channels
    gap: float = 0.0


class Planes:
    """Frames of FFmpeg as float32 with a row for each channel, whatever they were before."""

    def __init__(self) -> None:
        self._resampler: Any = None
        self._shape: tuple[Any, ...] = ()

    def of(self, frame: Any) -> Channels:
        """The samples of `frame`. Raises `ServiceError` for a number of channels out of range."""
        import av

        check_shape(frame.sample_rate, frame.layout.nb_channels)
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        if shape != self._shape:
            self._shape = shape
            self._resampler = av.AudioResampler(format="fltp")
        # It changes only the format of the samples, so it keeps none of them.
        pieces = [piece.to_ndarray() for piece in self._resampler.resample(frame)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)


def check_shape(rate: int, channels: int) -> None:
    """Raise `ServiceError` for a sample rate or a number of channels out of range."""
    if not (MIN_RATE <= rate <= MAX_RATE and 1 <= channels <= MAX_CHANNELS):
        raise invalid(
            f"the recording's header says {channels} channels at {rate} Hz",
            f"send 1 to {MAX_CHANNELS} channels at {MIN_RATE} to {MAX_RATE} Hz",
        )


def check_damage(good: int, bad: int) -> None:
    """Raise `ServiceError` if most of the packets of a recording could not be decoded."""
    if bad > good:
        raise invalid("most of the recording is damaged", "send it again from the original")
