"""Engines that decode what they are sent as real ones do, and then do next to nothing.

They run in children of the service, behind the code that all engines share.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np

from ipc.messages import Json
from model_procs.audio.pcm import Samples
from model_procs.engine import EngineConfig
from model_procs.listening.base import RATE, TranscriptionEngine, TranscriptionOptions
from model_procs.listening.transcript import Piece
from model_procs.speech.base import SpeechEngine, SpeechOptions


class Hum(SpeechEngine):
    """Hums as loudly as the reference is."""

    sample_rate = reference_rate = 24_000
    default_voice = "hum"

    def __init__(self, config: EngineConfig) -> None:
        pass

    def load(self) -> None:
        """There is nothing to load."""

    def warm_up(self) -> None:
        """Nor to warm up."""

    def describe(self) -> Json:
        """As real engines describe themselves."""
        return {"engine": "hum", "notes": []}

    def builtin_voices(self) -> list[Json]:
        """The one that is as loud as can be."""
        return [{"id": "hum", "name": "Hum", "language": "en"}]

    def load_builtin_voice(self, name: str) -> float:
        """Its loudness."""
        return 1.0

    def encode_voice(self, reference: Samples) -> float:
        """The loudness, for which every sample is read."""
        return float(np.sqrt(np.mean(reference**2)))

    def synthesize(
        self, text: str, voice: float, options: SpeechOptions, stop: threading.Event
    ) -> Iterator[Samples]:
        """20 ms for every sentence."""
        time = np.arange(480) / self.sample_rate
        yield (voice * np.sin(2 * np.pi * 200 * time)).astype(np.float32)


class Meter(TranscriptionEngine):
    """Hears nothing but how loud a recording is."""

    def __init__(self, config: EngineConfig) -> None:
        pass

    def load(self) -> None:
        """There is nothing to load."""

    def warm_up(self) -> None:
        """Nor to warm up."""

    def info(self) -> Json:
        """As real engines describe themselves."""
        return {"engine": "meter", "sample_rate": RATE, "languages": ["en"], "notes": []}

    def hear(
        self, samples: Samples, options: TranscriptionOptions, stop: threading.Event
    ) -> Iterator[Piece]:
        """One piece, for which every sample is read."""
        loudness = float(np.sqrt(np.mean(samples**2)))
        yield Piece(len(samples) / RATE, f"<|en|><|NEUTRAL|><|Speech|><|withitn|>{loudness:.3f}")
