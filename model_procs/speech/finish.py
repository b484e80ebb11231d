"""Joins, silence and loudness of speech, between the engine and the encoder. Runs in workers."""

from __future__ import annotations

import numpy as np

from ipc.operations import Speak
from model_procs.audio.edges import Fades, Trim
from model_procs.audio.loudness import StreamLevel, WholeLevel
from model_procs.audio.pcm import Samples


class Finish:
    """Fades each sentence in and out, and obeys `trim` and `loudness` of a request."""

    def __init__(self, speak: Speak, rate: int) -> None:
        self._fades = Fades(rate)
        self._trim = Trim(rate) if speak.trim else None
        self._level: StreamLevel | WholeLevel | None = None
        if speak.loudness is not None:
            self._level = (StreamLevel if speak.streamed else WholeLevel)(rate, speak.loudness)

    @property
    def skipped(self) -> int:
        """How many samples have been left out at the beginning."""
        return self._trim.skipped if self._trim is not None else 0

    def feed(self, samples: Samples, *, begins: bool) -> Samples:
        """The next samples, with which a sentence `begins`; what comes out may be a little late."""
        before = self._fades.end() if begins else np.empty(0, np.float32)
        return self._rest(np.concatenate([before, self._fades.feed(samples)]))

    def end(self) -> Samples:
        """The rest."""
        last = self._fades.end()
        if self._trim is not None:
            last = np.concatenate([self._trim.feed(last), self._trim.end()])
        if self._level is not None:
            last = np.concatenate([self._level.feed(last), self._level.end()])
        return last

    def _rest(self, samples: Samples) -> Samples:
        if self._trim is not None:
            samples = self._trim.feed(samples)
        if self._level is not None:
            samples = self._level.feed(samples)
        return samples
