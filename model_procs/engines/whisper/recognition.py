"""How Whisper recognizes the clips of one recording, one after the other. Used in workers."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from faster_whisper.transcribe import Segment as Found

from ipc.errors import ErrorCode, ServiceError
from ipc.operations import AUTO_LANGUAGE, NO_LANGUAGE, Effort, Paralinguistics, Transcribe
from model_procs.audio.pcm import Samples
from model_procs.engine import Cancelled
from model_procs.engines.whisper.engine import CLIP_SECONDS
from model_procs.engines.whisper.model import (
    LADDER,
    LEAST_LOGPROB,
    MOST_COMPRESSION,
    RESET_TEMPERATURE,
    Model,
)
from model_procs.listening.transcript import NO_EMOTION, likely

_SILENCE_SECONDS: dict[Effort, float] = {"soon": 8.0, "draft": 5.0}
"""So much silence behind a clip is enough for the encoder, nearly always."""

_BEAMS = 5
"""So many texts compete."""

_STEADINESS = 50.0
"""So many times likelier another language must be than that of what was said before: few people
change it, and a second of speech may sound like any."""

_REPEATED = re.compile(r"(.{5,})\1")
"""Letters: "try again, try again", but not "bye bye"."""

_HOTWORD_TOKENS = 100
"""The most tokens of hotwords, so that there is room for what was said before and for the text."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    """How a clip is recognized: with `silence` seconds behind it, at these temperatures in turn."""

    silence: float
    temperatures: Sequence[float]


class Recognition:
    """The recognition of one request, clip by clip; each is told what was said before it."""

    def __init__(self, model: Model, options: Transcribe, stop: threading.Event) -> None:
        self._model = model
        self._options = options
        self._stop = stop
        self._hotwords = _hotwords(model, options.hotwords)
        self._context = model.tokens(options.prompt) if options.prompt else []
        self.told = Paralinguistics(NO_LANGUAGE, NO_EMOTION)
        """The language, once there was a clip."""

    def clip(self, samples: Samples) -> list[Found]:
        """The segments of the next clip: those of the first attempt whose text is likely."""
        told, segments = self.told, list[Found]()
        attempts = list(_attempts(self._options))
        for attempt in attempts:
            told, segments = self._try(samples, attempt)
            settled = attempt is attempts[-1] or not _repeats(segments)
            if segments and settled and all(map(_is_likely, segments)):
                break
        else:
            if self._options.effort == "draft":  # nothing is better than nonsense
                segments = []
        self.told = told
        for segment in segments:
            hot = segment.temperature > RESET_TEMPERATURE
            self._context = [] if hot else [*self._context, *segment.tokens]
        return segments

    def _try(self, samples: Samples, attempt: _Attempt) -> tuple[Paralinguistics, list[Found]]:
        self._check()
        clip = self._model.encode_clip(samples, silence=attempt.silence)
        told = self.told
        if told.language == NO_LANGUAGE:
            self._check()
            told = _told(self._model.language_probabilities(clip), self._options)
        segments = self._model.decode_clip(
            clip,
            language=told.language,
            translate=self._options.translate,
            words=self._options.words,
            beams=1 if self._options.effort == "draft" else _BEAMS,
            context=self._context,
            hotwords=self._hotwords,
            temperatures=attempt.temperatures,
            on_attempt=self._check,
        )
        return told, list(segments)

    def _check(self) -> None:
        if self._stop.is_set():
            raise Cancelled


def _attempts(options: Transcribe) -> Iterator[_Attempt]:
    """Little more than the clip first, if it is urgent; then as much as goes in.

    The first is several times faster. It costs a comma or a capital letter here and there, and
    translations come out untranslated.
    """
    if options.effort != "full" and not options.translate:
        yield _Attempt(_SILENCE_SECONDS[options.effort], (0.0,))
    if options.effort != "draft":
        asked = options.temperature
        yield _Attempt(CLIP_SECONDS, LADDER if asked is None else (asked,))


def _is_likely(segment: Found) -> bool:
    """Whether the network itself believes it, and it does not repeat itself."""
    logprob, compression = segment.avg_logprob, segment.compression_ratio
    return bool(logprob >= LEAST_LOGPROB and compression <= MOST_COMPRESSION)


def _repeats(segments: Sequence[Found]) -> bool:
    """Whether something is said twice in a row, which may be for want of silence behind it.

    A few words say it too seldom to be told by how much they can be compressed.
    """
    said = "".join(segment.text for segment in segments).casefold()
    return _REPEATED.search("".join(filter(str.isalnum, said))) is not None


def _hotwords(model: Model, words: Sequence[str]) -> str | None:
    """The words as the library takes them: a text before the recording."""
    if not words:
        return None
    text = ", ".join(words)
    count = len(model.tokens(text))
    if count > _HOTWORD_TOKENS:
        raise ServiceError(
            ErrorCode.invalid_option,
            f"the hotwords are {count} tokens, and Whisper takes {_HOTWORD_TOKENS}; send fewer",
        )
    return text


def _told(probabilities: dict[str, float], options: Transcribe) -> Paralinguistics:
    """The language that is hinted at, or else the likeliest one."""
    language = options.language
    if language == AUTO_LANGUAGE:
        language = max(probabilities, key=probabilities.__getitem__)
        before = options.previous_language
        if before and probabilities.get(before, 0.0) * _STEADINESS > probabilities[language]:
            language = before
    return Paralinguistics(
        language,
        NO_EMOTION,
        ("Speech",),
        language_probability=round(probabilities[language], 4),
        language_probabilities=likely(probabilities),
    )
