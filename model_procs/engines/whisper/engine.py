"""Whisper: text of a recording in any of a hundred languages, or in English, on CPU.

The template checks the weights and reads the tokenizer; each worker opens the network, because its
library computes in threads. A recording is cut where nobody speaks into clips of at most 30 s,
which the model needs; what is no speech is left out, because Whisper invents text for it.
"""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Generator
from typing import TYPE_CHECKING

import numpy as np

from ipc.codec import content
from ipc.engines import EngineInfo, Json
from ipc.errors import ErrorCode, ServiceError
from ipc.operations import (
    AUTO_LANGUAGE,
    NO_LANGUAGE,
    Paralinguistics,
    Segment,
    Transcribe,
    Transcript,
    Word,
)
from ipc.spacing import join
from model_procs.audio.pcm import Samples
from model_procs.engine import EngineConfig
from model_procs.engines.whisper import weights
from model_procs.heap import give_back, keep_large_blocks
from model_procs.listening import vad
from model_procs.listening.base import RATE, TranscriptionEngine
from model_procs.listening.transcript import NO_EMOTION, tagged
from model_procs.weights import locate

if TYPE_CHECKING:
    from faster_whisper.transcribe import Segment as Found

    from model_procs.engines.whisper.model import Model

CLIP_SECONDS = 30.0
"""The longest clip: what the encoder sees at once."""


class WhisperEngine(TranscriptionEngine):
    """Whisper behind the Engine protocol.

    The option `quantize` (default true) makes it compute in int8.
    """

    name = "whisper"

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._quantize = bool(config.options.get("quantize", True))
        self._model: Model | None = None
        self._notes: list[str] = []
        self._facts: Json = {}

    @property
    def model(self) -> Model:
        """The model, once it has loaded."""
        assert self._model is not None
        return self._model

    def load(self) -> None:
        """Find and check the weights, and load all but the network.

        Raises ServiceError (model_unavailable) with the library's message and how to fix it.
        """
        folder, self._notes = weights.locate(self._config.models_dir, self._config.cache_dir)
        try:
            from model_procs.engines.whisper.model import Model

            self._model = Model(folder)
            version = locate.fingerprint(folder / "model.bin")
        except Exception as error:
            raise ServiceError(
                ErrorCode.model_unavailable,
                f"Whisper cannot be loaded from {folder}: {type(error).__name__}: {error}",
            ) from error
        vad.load()
        self._facts = {"weights": folder.name, "quantized": self._quantize, "version": version}
        locate.release_scratch()

    def warm_up(self) -> None:
        """Open the network, and recognize the language of a second of noise."""
        keep_large_blocks()
        self.model.open("int8" if self._quantize else "float32", self._config.threads)
        noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32) * 0.05
        self.model.language_probabilities(self.model.encode_clip(noise, silence=0.0))
        give_back()

    def info(self) -> EngineInfo:
        """Languages, and what clients must know."""
        return EngineInfo(
            engine=self.name,
            sample_rate=RATE,
            languages=(AUTO_LANGUAGE, *self.model.languages),
            translates=len(self.model.languages) > 1,
            notes=(
                *self._notes,
                "recognizes no emotions and no sound events",
                "always writes punctuation; itn has no effect",
                "a recording has one language, that of its first speech",
            ),
            facts=self._facts,
            hotwords=True,
        )

    def transcribe(
        self, samples: Samples, options: Transcribe, stop: threading.Event
    ) -> Generator[Segment | None, None, Transcript]:
        """Yield every segment of `samples` (mono, 16 kHz) as soon as its clip is done.

        Raises ServiceError (invalid_option) for a language that the model does not know, and
        Cancelled after `stop` is set: within the time for a clip.
        """
        if options.language not in (AUTO_LANGUAGE, *self.model.languages):
            raise ServiceError(
                ErrorCode.invalid_option,
                f"this Whisper model does not know the language {options.language!r}; send auto, "
                f"or one of {', '.join(self.model.languages)}",
            )

        from model_procs.engines.whisper.recognition import Recognition

        self.model.begin(zlib.crc32(content(options)))
        recognition = Recognition(self.model, options, stop)
        segments: list[Segment] = []
        probabilities = vad.speech_probabilities(samples, stop)
        for start, end in vad.clips(probabilities, len(samples), CLIP_SECONDS):
            for found in recognition.clip(samples[start:end]):
                earliest = segments[-1].end if segments else 0.0
                bounds = (max(earliest, start / RATE), end / RATE)
                told = recognition.told
                segments.append(_segment(len(segments), found, told, start / RATE, bounds))
                yield segments[-1]
        told = recognition.told if segments else Paralinguistics(NO_LANGUAGE, NO_EMOTION)
        text = join(segment.text for segment in segments)
        return Transcript(
            text=text,
            raw=tagged(text, told.language, itn=True),
            duration=round(len(samples) / RATE, 3),
            paralinguistics=told,
            segments=tuple(segments),
        )


def _segment(
    id: int, found: Found, told: Paralinguistics, offset: float, bounds: tuple[float, float]
) -> Segment:
    """A segment of a clip that begins at `offset`; its times stay in `bounds`, and in order."""
    earliest, latest = bounds

    def timed(start: float, end: float) -> tuple[float, float]:
        nonlocal earliest
        start = min(max(offset + float(start), earliest), latest)
        earliest = min(max(offset + float(end), start), latest)
        return round(start, 3), round(earliest, 3)

    words = [
        Word(word.word.strip(), *timed(word.start, word.end), _logarithm(word.probability))
        for word in found.words or ()
        if word.word.strip()
    ]
    start, end = (words[0].start, words[-1].end) if words else timed(found.start, found.end)
    return Segment(
        id=id,
        start=start,
        end=end,
        text=found.text.strip(),
        paralinguistics=told,
        words=None if found.words is None else tuple(words),
        avg_logprob=round(float(found.avg_logprob), 4),
        no_speech=round(float(found.no_speech_prob), 4),
        compression_ratio=round(found.compression_ratio, 4),
        temperature=float(found.temperature),
        tokens=tuple(found.tokens),
    )


def _logarithm(probability: float) -> float:
    return round(math.log(max(float(probability), 1e-6)), 4)
