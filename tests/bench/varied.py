"""Requests that differ as those of real clients do: length, voice, format. Seeded.

A worker that leaks, or an allocator that keeps what was freed, shows only when sizes change. Runs
in the bench's main process.
"""

from __future__ import annotations

import io
import math
import random

import numpy as np
import soundfile

from model_procs.audio.pcm import Samples
from tests.support.sentences import SENTENCES

_RATES = (16_000, 24_000, 44_100)
_FORMATS = ("WAV", "WAV", "FLAC", "OGG", "MP3")
_LOUDNESS = 0.05


class Varied:
    """A seeded source of texts and recordings, none of which comes twice."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._noise = np.random.default_rng(seed)

    def log_uniform(self, low: float, high: float) -> float:
        """Short ones are as frequent as long ones are rare, as with real requests."""
        return math.exp(self._random.uniform(math.log(low), math.log(high)))

    def text(self, low: int = 3, high: int = 400) -> str:
        """Between `low` and `high` words, whole sentences as far as they go."""
        count = round(self.log_uniform(low, high))
        words: list[str] = []
        while len(words) < count:
            words += self._random.choice(SENTENCES).split()
        return " ".join(words[:count])

    def long_text(self, characters: int) -> str:
        """As many sentences as fit into so many characters."""
        text = ""
        while len(text) < characters:
            text += self._random.choice(SENTENCES) + " "
        return text[:characters].rstrip()

    def recording(self, low: float, high: float) -> tuple[bytes, float]:
        """A file with `low` to `high` seconds of sound, and how many they are.

        Noise, louder and softer with the rhythm of syllables: to models with random weights as good
        as speech.
        """
        rate = self._random.choice(_RATES)
        format_ = self._random.choice(_FORMATS)
        samples = self._sound(int(self.log_uniform(low, high) * rate), rate)
        return _encode(samples, rate, format_), len(samples) / rate

    def wav(self, seconds: float, rate: int = 24_000) -> bytes:
        """A WAV of that length."""
        return _encode(self._sound(int(seconds * rate), rate), rate, "WAV")

    def seconds(self, low: float, high: float) -> float:
        """A length of a recording."""
        return self._random.uniform(low, high)

    def choice(self, *weighted: tuple[str, int]) -> str:
        """One of several names, by weight."""
        names, weights = zip(*weighted, strict=True)
        chosen: str = self._random.choices(names, weights)[0]
        return chosen

    def _sound(self, count: int, rate: int) -> Samples:
        syllables = 1 + np.sin(np.arange(count, dtype=np.float32) * (2 * math.pi * 4 / rate))
        noise = self._noise.standard_normal(count, dtype=np.float32)
        return np.asarray(noise * syllables * _LOUDNESS, dtype=np.float32)


def _encode(samples: Samples, rate: int, format_: str) -> bytes:
    """In blocks: the Vorbis encoder keeps what it is given at once on the stack."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", samplerate=rate, channels=1, format=format_) as encoder:
        for start in range(0, len(samples), rate):
            encoder.write(samples[start : start + rate])
    return file.getvalue()
