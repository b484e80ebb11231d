"""The edges of speech: fades against clicks, and silence that is left out. Runs in workers.

What comes out does not depend on how the samples are divided into pieces.
"""

from __future__ import annotations

import numpy as np

from model_procs.audio.pcm import Samples

FADE_SECONDS = 0.005
"""Short enough to be heard by nobody; a step becomes a slope."""

_SILENCE = 0.003
"""50 dB below full scale: what is not louder is silence."""
_BEFORE_SECONDS = 0.02
_AFTER_SECONDS = 0.1
"""How much silence stays around the speech: soft beginnings, and what rings on."""

_NOTHING: Samples = np.empty(0, np.float32)


class Fades:
    """Fades each part of a sound in and out, so that it joins others without a click."""

    def __init__(self, rate: int, *, begin: bool = True) -> None:
        """Without `begin` only the ends are faded: the parts begin softly by themselves."""
        self._length = int(FADE_SECONDS * rate)
        self._ramp = np.linspace(0, 1, self._length, dtype=np.float32)
        self._first = 0 if begin else self._length
        self._done = self._first
        """How many samples of the part have been faded in."""
        self._last = _NOTHING
        """The last samples, which may be the end of the part."""

    def feed(self, samples: Samples) -> Samples:
        """The next samples of the part that come out."""
        ramp = self._ramp[self._done : self._done + len(samples)]
        if len(ramp):
            samples = samples.copy()
            samples[: len(ramp)] *= ramp
            self._done += len(ramp)
        samples = np.concatenate([self._last, samples])
        cut = max(0, len(samples) - self._length)
        self._last = samples[cut:]
        return samples[:cut]

    def end(self) -> Samples:
        """The rest of the part; another one may follow."""
        last, self._last, self._done = self._last, _NOTHING, self._first
        return last * self._ramp[: len(last)][::-1]


class Trim:
    """Leaves out the silence before the first sound and after the last one."""

    def __init__(self, rate: int) -> None:
        self._before = int(_BEFORE_SECONDS * rate)
        self._after = int(_AFTER_SECONDS * rate)
        self._held = _NOTHING
        """Silence that is left out, unless there is more sound behind it."""
        self._begun = False
        self.skipped = 0
        """How many samples have been left out at the beginning."""

    def feed(self, samples: Samples) -> Samples:
        """The next samples that come out."""
        samples = np.concatenate([self._held, samples])
        loud = np.flatnonzero(np.abs(samples) > _SILENCE)
        if not self._begun:
            first = int(loud[0]) if len(loud) else len(samples)
            cut = max(0, first - self._before)
            self.skipped += cut
            samples, loud = samples[cut:], loud - cut
            self._begun = bool(len(loud))
        last = int(loud[-1]) + 1 if len(loud) else 0
        self._held = samples[last:]
        return samples[:last]

    def end(self) -> Samples:
        """The rest: what rings on."""
        return self._held[: self._after] if self._begun else _NOTHING
