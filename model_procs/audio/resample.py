"""Resample sound to another rate a piece at a time, with a state that fits into a message.

Runs in workers. soxr keeps its state to itself, so that no other process could go on with it.
"""

from __future__ import annotations

from functools import cache
from math import gcd

import numpy as np
import numpy.typing as npt

from model_procs.audio.pcm import Samples

_ZEROS = 16
"""Zero crossings of the filter on each side. With 16, the pass band ends at 90 % of its width."""
_CUTOFF = 0.93
"""Where the filter's middle of the transition band is, as a part of the lower Nyquist frequency."""
_BETA = 8.0
"""Of the Kaiser window: what is to be stopped is 80 dB lower."""


class Resampler:
    """From `source` to `target` Hz; the cuts between pieces change no bit.

    `tail` has the samples that later ones of the result still need, and `phase` says where between
    them the next one lies. Another process goes on with both.
    """

    def __init__(
        self, source: int, target: int, *, tail: Samples | None = None, phase: int = 0
    ) -> None:
        common = gcd(source, target)
        self._up, self._down = target // common, source // common
        self._filter = _filters(self._up, self._down)
        half = self._filter.shape[1] // 2
        self.tail = np.zeros(half - 1, np.float32) if tail is None else tail
        """The next result lies between the samples `half - 1` and `half` of it."""
        self.phase = phase
        """How far behind the former, in parts of a sample: of `up`."""

    @property
    def taps(self) -> int:
        """How many samples one of the result needs."""
        return int(self._filter.shape[1])

    def feed(self, samples: Samples, *, last: bool = False) -> Samples:
        """What can be made with these further samples; with `last`, all that is left."""
        if self._up == self._down:
            return samples
        end = [np.zeros(self.taps // 2, np.float32)] if last else []
        sound = np.concatenate([self.tail, samples, *end])
        windows = len(sound) - self.taps + 1
        count = max(0, -(-(windows * self._up - self.phase) // self._down)) if windows > 0 else 0
        steps = self.phase + self._down * np.arange(count + 1, dtype=np.int64)
        starts, phases = steps // self._up, steps % self._up
        made = np.empty(count, np.float32)
        views = np.lib.stride_tricks.sliding_window_view(sound, self.taps) if count else None
        for first in range(0, count, _BLOCK):
            part = slice(first, min(first + _BLOCK, count))
            assert views is not None
            made[part] = (views[starts[part]] * self._filter[phases[part]]).sum(axis=1)
        self.tail, self.phase = sound[int(starts[count]) :].copy(), int(phases[count])
        return made


_BLOCK = 4096
"""Samples that are made at once: their windows take a megabyte or two."""


@cache
def _filters(up: int, down: int) -> npt.NDArray[np.float32]:
    """A windowed sinc for each of the `up` places between two samples."""
    cutoff = _CUTOFF * min(1.0, up / down)
    half = int(np.ceil(_ZEROS / min(1.0, up / down)))
    places = np.arange(1 - half, half + 1)[None, :] - (np.arange(up) / up)[:, None]
    inside = np.clip(1 - (places / half) ** 2, 0, 1)
    window = np.i0(_BETA * np.sqrt(inside)) / np.i0(_BETA)
    filters = cutoff * np.sinc(cutoff * places) * window
    normal: npt.NDArray[np.float32] = (filters / filters.sum(axis=1, keepdims=True)).astype(
        np.float32
    )
    return normal
