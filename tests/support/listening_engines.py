"""Engines that decode what they are sent as real ones do, and then do next to nothing.

`GatedSenseVoice` is a real one that can be held in the midst of its work. All run in children of
the service, behind the code that all engines share.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from ipc.engines import BuiltinVoice, EngineInfo
from ipc.operations import Sampling, Transcribe
from model_procs.audio.pcm import Samples
from model_procs.engine import Cancelled, EngineConfig, Needs
from model_procs.engines.sensevoice.engine import SenseVoiceEngine
from model_procs.listening import batches
from model_procs.listening.base import RATE, TranscriptionEngine
from model_procs.listening.transcript import Piece
from model_procs.speech.base import SpeechEngine

HOLD = "VOICE_TEST_HOLD"
"""The environment variable with the path of the file that lets `GatedSenseVoice` and `LateChoir`
go on."""

_STEPS_BEFORE = 2


class Hum(SpeechEngine):
    """Hums as loudly as the reference is."""

    name = "hum"
    sample_rate = reference_rate = 24_000
    default_voice = "hum"

    def __init__(self, config: EngineConfig) -> None:
        pass

    def load(self) -> None:
        """There is nothing to load."""

    def warm_up(self) -> None:
        """Nor to warm up."""

    def builtin_voices(self) -> list[BuiltinVoice]:
        """The one that is as loud as can be."""
        return [BuiltinVoice("hum", "Hum", "en")]

    def load_builtin_voice(self, name: str) -> float:
        """Its loudness."""
        return 1.0

    def encode_voice(self, reference: Samples) -> float:
        """The loudness, for which every sample is read."""
        return float(np.sqrt(np.mean(reference**2)))

    def synthesize(
        self,
        text: str,
        voice: float,
        sampling: Sampling,
        stop: threading.Event,
    ) -> Iterator[Samples]:
        """20 ms for every sentence."""
        time = np.arange(480) / self.sample_rate
        yield (voice * np.sin(2 * np.pi * 200 * time)).astype(np.float32)


class Choir(Hum):
    """Hums in voices of different loudness, and in mixes of them."""

    name = "choir"
    default_voice = "af_bella"
    mixes = True
    loudness: ClassVar = {"af_bella": 0.2, "af_nova": 0.4, "jf_alpha": 0.8}

    def builtin_voices(self) -> list[BuiltinVoice]:
        """Two of one language, and one of another."""
        codes = {"a": "en", "j": "ja"}
        return [BuiltinVoice(each, each[3:].title(), codes[each[0]]) for each in self.loudness]

    def load_builtin_voice(self, name: str) -> float:
        """Its loudness."""
        return float(self.loudness[name])

    def mix_voices(self, mix: tuple[tuple[str, float], ...]) -> float:
        """The mean of their loudness."""
        return float(sum(self.loudness[voice] * share for voice, share in mix))


class LateChoir(Choir):
    """The same; it does not load before the file `HOLD` names exists."""

    def load(self) -> None:
        """Wait for the file."""
        while not Path(os.environ[HOLD]).exists():
            time.sleep(0.01)


class GatedHum(Hum):
    """The same; at a sentence "Wait PATH." it goes on when there is a file of that path."""

    name = "gated-hum"

    def synthesize(
        self,
        text: str,
        voice: float,
        sampling: Sampling,
        stop: threading.Event,
    ) -> Iterator[Samples]:
        """As `Hum` does."""
        if text.startswith("Wait "):
            while not Path(text.removeprefix("Wait ").rstrip(".")).exists():
                if stop.wait(0.01):
                    raise Cancelled
        yield from super().synthesize(text, voice, sampling, stop)


class Meter(TranscriptionEngine):
    """Recognizes nothing but how loud a recording is."""

    name = "meter"
    language = "en"

    def __init__(self, config: EngineConfig) -> None:
        pass

    def load(self) -> None:
        """There is nothing to load."""

    def warm_up(self) -> None:
        """Nor to warm up."""

    def info(self) -> EngineInfo:
        """As real engines describe themselves."""
        return EngineInfo(self.name, RATE, languages=(self.language,))

    def recognize(
        self, samples: Samples, options: Transcribe, stop: threading.Event
    ) -> Iterator[Piece]:
        """One piece, for which every sample is read."""
        loudness = float(np.sqrt(np.mean(samples**2)))
        tags = f"<|{self.language}|><|NEUTRAL|><|Speech|><|withitn|>"
        yield Piece(len(samples) / RATE, f"{tags}{loudness:.3f}")


class Gauge(Meter):
    """The same, in another language."""

    name = "gauge"
    language = "ja"


class Interpreter(Meter):
    """The same, and it translates."""

    name = "interpreter"

    def info(self) -> EngineInfo:
        """As real engines describe themselves."""
        return replace(super().info(), translates=True)


class GatedSenseVoice(SenseVoiceEngine):
    """SenseVoiceSmall in tiny steps; holds in the midst of them until the file `HOLD` names exists.

    It prints "held" when it begins to hold.
    """

    _steps = 0

    @property
    def needs(self) -> Needs:
        """The file: a test makes it where temporary files are."""
        return Needs(writable=(Path(tempfile.gettempdir()),))

    def warm_up(self) -> None:
        """As SenseVoiceSmall does; from now on a step ends after a layer or two."""
        super().warm_up()
        batches.TURN_SECONDS = 1e-4

    def step(self) -> None:
        """A step, unless it holds."""
        if self._steps < _STEPS_BEFORE or Path(os.environ[HOLD]).exists():
            self._steps += 1
            super().step()
            if self._steps == _STEPS_BEFORE:
                print("held", flush=True)
        else:
            time.sleep(0.01)
