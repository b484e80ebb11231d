"""The voices of Kokoro: styles, mixes of them, and which of them is most like a recording.

Used in templates and workers. A style is an array with a row for each number of phonemes.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ipc.engines import BuiltinVoice
from model_procs.audio.pcm import Samples
from model_procs.audio.pitch import median_pitch

Style = npt.NDArray[np.float32]
Mix = tuple[tuple[str, float], ...]
"""Names of voices with their shares, which add up to 1."""

PREFIXES = {
    "a": ("en-us", "US English"),
    "b": ("en-gb", "British English"),
    "e": ("es", "Spanish"),
    "f": ("fr", "French"),
    "h": ("hi", "Hindi"),
    "i": ("it", "Italian"),
    "j": ("ja", "Japanese"),
    "p": ("pt", "Brazilian Portuguese"),
    "z": ("zh", "Chinese"),
}
"""What the first letter of a voice's name says: its language for the reader, and in words."""
_GENDERS = {"f": "female", "m": "male"}
DEFAULTS = ("af_heart", "af_bella", "jm_kumo")
"""The default voice is the first of these that is there."""

_BANDS = 24
_CEPSTRA = 12
_WINDOW, _HOP = 1024, 512
_LOWEST_HZ, _HIGHEST_HZ = 80.0, 7_000.0
_PITCH_WEIGHT = 12.0
"""How much timbre an octave of pitch counts as."""
_STEPS = (0.25, 0.5, 0.75)
"""The shares that are tried in mixes of two voices."""
_SIMPLER = 0.7
"""A mix must be nearer than the nearest voice by this factor."""


@dataclass(frozen=True, slots=True, eq=False)
class KokoroVoice:
    """A voice that speaks: its style, the mix that it is, and its language for the reader."""

    mix: Mix
    style: Style
    language: str


@dataclass(frozen=True, slots=True)
class Likeness:
    """How a voice sounds: its pitch in octaves, and its timbre (mel cepstrum of its loud parts)."""

    octaves: float
    timbre: tuple[float, ...]

    def distance(self, other: Likeness) -> float:
        """How different two voices are."""
        pitch = _PITCH_WEIGHT * (self.octaves - other.octaves)
        return math.hypot(pitch, math.dist(self.timbre, other.timbre))

    def mixed(self, other: Likeness, share: float) -> Likeness:
        """About how a mix sounds that has `share` of the other voice."""
        ours, theirs = (np.array([each.octaves, *each.timbre]) for each in (self, other))
        octaves, *timbre = (1 - share) * ours + share * theirs
        return Likeness(float(octaves), tuple(map(float, timbre)))


class Voices:
    """All voices of a file."""

    def __init__(self, path: Path) -> None:
        """Read the voices. Raises whatever numpy raises for another file."""
        with np.load(path) as file:
            self._styles: dict[str, Style] = {
                name: np.asarray(file[name], np.float32) for name in sorted(file.files)
            }

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all voices."""
        return tuple(self._styles)

    @property
    def default(self) -> str:
        """The voice of requests without a voice."""
        return next((name for name in DEFAULTS if name in self._styles), self.names[0])

    def described(self) -> list[BuiltinVoice]:
        """The voices for clients."""
        return [BuiltinVoice(name, _title(name), _language(name)[:2]) for name in self.names]

    def mixed(self, mix: Mix) -> KokoroVoice:
        """The voice that is the mean of some voices; the language is that of the largest share."""
        style = sum(np.float32(share) * self._styles[name] for name, share in mix)
        largest = max(mix, key=lambda part: part[1])[0]
        return KokoroVoice(mix, np.asarray(style, np.float32), _language(largest))


def _language(name: str) -> str:
    return PREFIXES.get(name[:1], PREFIXES["a"])[0]


def _title(name: str) -> str:
    kind, _, rest = name.partition("_")
    described = [PREFIXES[kind[0]][1]] if kind[:1] in PREFIXES else []
    described += [_GENDERS[kind[1]]] if kind[1:2] in _GENDERS else []
    return f"{rest.capitalize() or name} ({', '.join(described)})" if described else name


class Likenesses:
    """How all voices sound; learned when it is first asked for, by letting them speak."""

    def __init__(
        self, names: tuple[str, ...], known: Mapping[str, Likeness], speak: Callable[[str], Samples]
    ) -> None:
        """`speak` speaks a sentence with a voice, at `RATE`."""
        self._names = names
        self._known = dict(known)
        self._speak = speak
        self._learning = threading.Lock()

    def nearest(self, reference: Likeness) -> Mix:
        """The voice, or the mix of two voices, that sounds most like `reference`."""
        with self._learning:
            for name in self._names:
                if name not in self._known:
                    self._known[name] = likeness(self._speak(name))
        distances = {name: self._known[name].distance(reference) for name in self._names}
        best = min(distances, key=distances.__getitem__)
        least = _SIMPLER * distances[best]
        mix: Mix = ((best, 1.0),)
        for (one, other), share in itertools.product(
            itertools.combinations(self._names, 2), _STEPS
        ):
            between = self._known[one].mixed(self._known[other], share)
            if (distance := between.distance(reference)) < least:
                least, mix = distance, ((one, 1 - share), (other, share))
        return mix


RATE = 24_000

_NO_PITCH_HZ = 150.0
"""Between men and women: for a recording that whispers."""


def likeness(samples: Samples) -> Likeness:
    """How a voice sounds, from some speech at `RATE`."""
    pitch = median_pitch(samples, RATE) or _NO_PITCH_HZ
    padded = np.pad(samples, (0, max(0, _WINDOW - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    spectra = np.abs(np.fft.rfft(frames * np.hanning(_WINDOW))) ** 2
    level = spectra.sum(axis=1)
    loud = spectra[level >= np.median(level)]
    bands = np.log(loud @ _mel_bands().T + 1e-10).mean(axis=0)
    # Without the first number, which is the loudness.
    rows = np.arange(1, _CEPSTRA + 1)[:, None] * (np.arange(_BANDS) + 0.5) * np.pi / _BANDS
    cepstrum = np.sqrt(2 / _BANDS) * (np.cos(rows) @ bands)
    return Likeness(round(math.log2(pitch), 3), tuple(round(float(value), 2) for value in cepstrum))


def _mel_bands() -> npt.NDArray[np.float64]:
    """The weights of overlapping bands of equal width in mel, for each frequency."""
    low, high = (2595 * math.log10(1 + hz / 700) for hz in (_LOWEST_HZ, _HIGHEST_HZ))
    edges = 700 * (10 ** (np.linspace(low, high, _BANDS + 2) / 2595) - 1)
    frequencies = np.fft.rfftfreq(_WINDOW, 1 / RATE)
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    return np.clip(np.minimum(rising, falling), 0.0, None)
