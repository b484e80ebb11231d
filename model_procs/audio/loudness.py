"""Loudness as ITU-R BS.1770 measures it, and speech brought to a loudness. Runs in workers.

The K-weighting is FFmpeg's `biquad` with the standard's filters, computed for each sample rate from
their analogue forms; the gates are the standard's. A whole answer is measured as a whole, and gets
one gain. A stream cannot be: its gain follows what has been measured so far.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from model_procs.audio.pcm import Samples

_STEP_SECONDS = 0.1
"""Blocks of 0.4 s overlap by three quarters of it."""
_STEPS = 4
_ABSOLUTE_GATE = -70.0
_RELATIVE_GATE = -10.0
_OFFSET = -0.691

PEAK = 10 ** (-1 / 20)
"""No sample is louder than 1 dB below full scale."""

_PRIOR_LUFS = -23.0
_PRIOR_STEPS = 10
"""A stream begins as if a second of usual speech had been measured: it cannot wait."""
_WINDOW_STEPS = 600
"""Its gain follows the last minute."""
_GAIN_STEPS = 5
"""The gain of a stream changes every fifth of a step: that is how long a sample waits."""
_MAX_GAIN = 10.0
"""20 dB: more would bring up what is no speech."""

Energies = npt.NDArray[np.float64]


def _k_weighting(rate: int) -> list[str]:
    """The two filters of the standard as FFmpeg's arguments.

    Their analogue forms are those whose bilinear transforms at 48 kHz are the standard's numbers.
    """
    k, q = math.tan(math.pi * 1681.974450955533 / rate), 0.7071752369554196
    high = 10 ** (3.999843853973347 / 20)
    band = high**0.4996667741545416
    shelf = (high + band * k / q + k**2, 2 * (k**2 - high), high - band * k / q + k**2)
    filters = [(shelf, _denominator(k, q))]
    k, q = math.tan(math.pi * 38.13547087602444 / rate), 0.5003270373238773
    below = _denominator(k, q)
    # FFmpeg divides by the first number; the standard's numerator is 1, -2, 1 behind that.
    filters.append(((below[0], -2 * below[0], below[0]), below))
    return [
        ":".join(
            f"{name}{index}={value:.17g}"
            for name, numbers in (("b", numerator), ("a", denominator))
            for index, value in enumerate(numbers)
        )
        for numerator, denominator in filters
    ]


def _denominator(k: float, q: float) -> tuple[float, float, float]:
    return 1 + k / q + k**2, 2 * (k**2 - 1), 1 - k / q + k**2


class Meter:
    """The energy of each step of a sound, K-weighted."""

    def __init__(self, rate: int) -> None:
        import av

        self._rate = rate
        self._step = int(_STEP_SECONDS * rate)
        self._left: npt.NDArray[np.float64] = np.empty(0)
        self._taken = 0
        self.energies: list[float] = []
        """Mean squares, one for each whole step."""
        self._graph: Any = av.filter.Graph()
        self._graph.threads = 1
        nodes = [
            self._graph.add_abuffer(
                format="dbl", sample_rate=rate, layout="mono", time_base=Fraction(1, rate)
            ),
            *(self._graph.add("biquad", arguments) for arguments in _k_weighting(rate)),
            self._graph.add("abuffersink"),
        ]
        self._graph.link_nodes(*nodes).configure()

    def feed(self, samples: Samples) -> None:
        """Measure the next samples."""
        import av

        if not len(samples):
            return
        frame = av.AudioFrame.from_ndarray(
            samples[np.newaxis, :].astype(np.float64), format="dbl", layout="mono"
        )
        frame.sample_rate = self._rate
        frame.pts = self._taken
        self._taken += len(samples)
        self._graph.push(frame)
        pieces = [self._left]
        try:
            while True:
                pieces.append(self._graph.pull().to_ndarray()[0])
        except (av.error.BlockingIOError, av.error.EOFError):
            weighted = np.concatenate(pieces)
        whole = len(weighted) // self._step * self._step
        steps = weighted[:whole].reshape(-1, self._step)
        self.energies += [float(np.dot(step, step)) / self._step for step in steps]
        self._left = weighted[whole:]

    @property
    def loudness(self) -> float | None:
        """The integrated loudness in LUFS; None for silence, and for less than 0.4 s."""
        return integrated(np.array(self.energies))


def integrated(energies: Energies) -> float | None:
    """The gated loudness of steps with these energies; None if all of it is below the gates."""
    if len(energies) < _STEPS:
        return None
    blocks = np.convolve(energies, np.full(_STEPS, 1 / _STEPS), "valid")
    blocks = blocks[blocks > _energy(_ABSOLUTE_GATE)]
    if not len(blocks):
        return None
    blocks = blocks[blocks > _energy(_lufs(float(blocks.mean())) + _RELATIVE_GATE)]
    return _lufs(float(blocks.mean()))


def _lufs(energy: float) -> float:
    return _OFFSET + 10 * math.log10(energy)


def _energy(lufs: float) -> float:
    return float(10 ** ((lufs - _OFFSET) / 10))


class WholeLevel:
    """One gain for all of a sound; it comes out when it is over.

    It is softer than wanted where its peaks would be too loud.
    """

    def __init__(self, rate: int, lufs: float) -> None:
        self._lufs = lufs
        self._meter = Meter(rate)
        self._pieces: list[Samples] = []

    def feed(self, samples: Samples) -> Samples:
        """Nothing comes out yet."""
        self._meter.feed(samples)
        self._pieces.append(samples)
        return np.empty(0, np.float32)

    def end(self) -> Samples:
        """All of it."""
        samples = np.concatenate([np.empty(0, np.float32), *self._pieces])
        self._pieces.clear()
        measured = self._meter.loudness
        if measured is None:
            return samples
        gain = min(10 ** ((self._lufs - measured) / 20), _MAX_GAIN)
        peak = float(np.abs(samples).max(initial=0.0))
        if peak * gain > PEAK:
            gain = PEAK / peak
        return samples * np.float32(gain)


class StreamLevel:
    """A gain that follows the loudness so far; what comes out is 20 ms late.

    It begins with the loudness of usual speech for a guess, so that the first second may be off by
    what the guess is. Peaks that would be too loud are made softer while they last.
    """

    def __init__(self, rate: int, lufs: float) -> None:
        self._lufs = lufs
        self._meter = Meter(rate)
        self._length = int(_STEP_SECONDS * rate) // _GAIN_STEPS
        self._left: Samples = np.empty(0, np.float32)
        self._known = 0
        """For how many steps `_wanted` is."""
        self._wanted = self._gain = self._for(np.empty(0))

    def feed(self, samples: Samples) -> Samples:
        """What comes out now."""
        samples = np.concatenate([self._left, samples])
        whole = len(samples) // self._length * self._length
        self._left = samples[whole:]
        parts = [self._next(part) for part in samples[:whole].reshape(-1, self._length)]
        return np.concatenate([np.empty(0, np.float32), *parts])

    def end(self) -> Samples:
        """The rest."""
        rest, self._left = self._left, np.empty(0, np.float32)
        return self._next(rest) if len(rest) else rest

    def _next(self, part: Samples) -> Samples:
        """A short part with its gain, which goes there in a straight line from the last one."""
        if len(self._meter.energies) != self._known:
            self._wanted = self._for(np.array(self._meter.energies[-_WINDOW_STEPS:]))
            self._known = len(self._meter.energies)
        gain = self._wanted
        peak = float(np.abs(part).max())
        if peak * gain > PEAK:
            gain = PEAK / peak
        ramp = np.linspace(self._gain, gain, len(part) + 1, dtype=np.float32)[1:]
        self._gain = gain
        self._meter.feed(part)
        louder: Samples = np.clip(part * ramp, -PEAK, PEAK)
        return louder

    def _for(self, energies: Energies) -> float:
        """The gain for what has been measured, and the guess."""
        measured = integrated(energies)
        energy = _energy(_PRIOR_LUFS)
        if measured is not None:
            # The guess soon counts little, also where it is much louder than what is measured.
            loud = int(np.count_nonzero(energies > _energy(measured + _RELATIVE_GATE))) ** 2
            energy = (_PRIOR_STEPS * energy + loud * _energy(measured)) / (_PRIOR_STEPS + loud)
        return float(min(10 ** ((self._lufs - _lufs(energy)) / 20), _MAX_GAIN))
