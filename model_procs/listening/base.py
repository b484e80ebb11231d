"""What all transcription engines share: decoding of the recording, and the shape of the answer.

Runs in workers.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from ipc.messages import Json, Request
from model_procs.audio.decode import decode
from model_procs.audio.pcm import Samples
from model_procs.listening.transcript import Piece, merge

RATE = 16_000
"""Samples a second of what engines hear."""


@dataclass(frozen=True, slots=True)
class TranscriptionOptions:
    """Options of one transcription: a language hint ("auto" for none), written-form numbers, words.

    With `words` every segment tells its words' times.
    """

    language: str = "auto"
    itn: bool = True
    words: bool = False


class TranscriptionEngine:
    """Base of speech-to-text engines."""

    max_seconds: float = 720.0

    def hear(
        self, samples: Samples, options: TranscriptionOptions, stop: threading.Event
    ) -> Iterator[Piece]:
        """The pieces of `samples` (mono, 16 kHz) in order, each as soon as it is understood.

        Times of words are those of `samples`. Raises `ServiceError` for options that the model
        cannot follow, and `Cancelled` soon after `stop` is set.
        """
        raise NotImplementedError

    def describe(self, pieces: Sequence[Piece]) -> Json:
        """What is said of the whole recording, made of all its pieces."""
        return merge(pieces)

    def transcribe(
        self, samples: Samples, options: TranscriptionOptions, stop: threading.Event
    ) -> Json:
        """The transcript of `samples` (mono, 16 kHz).

        Returns text, language, emotion (HAPPY, SAD, ANGRY, NEUTRAL, ... or EMO_UNKNOWN), events,
        raw, which keeps the model's tags, duration in seconds, and segments: see `follow`.
        """
        following = self.follow(samples, options, stop)
        while True:
            try:
                next(following)
            except StopIteration as end:
                result: Json = end.value
                return result

    def follow(
        self, samples: Samples, options: TranscriptionOptions, stop: threading.Event
    ) -> Generator[Json, None, Json]:
        """Yield every segment as soon as it is known, and return the transcript.

        A segment is what people read as one subtitle: id (from 0), start and end (seconds within
        the recording), text, language, emotion, events, a probability of each or None, and words
        if they are wanted.
        """
        pieces: list[Piece] = []
        segments: list[Json] = []
        for piece in self.hear(samples, options, stop):
            pieces.append(piece)
            for segment in piece.segments(words=options.words):
                segments.append({"id": len(segments), **segment})
                yield segments[-1]
        result = self.describe(pieces)
        result["segments"] = segments
        result["duration"] = round(len(samples) / RATE, 3)
        return result

    def run(self, request: Request, stop: threading.Event) -> Generator[bytes, None, Json]:
        """Decode the recording and transcribe it; the whole answer is the returned description.

        `params`: language ("auto"), itn (True), words (False), stream (False). With `stream` every
        segment is also yielded, as one line of JSON in UTF-8.
        """
        samples = decode(
            request.audio if request.audio is not None else str(request.audio_path),
            rate=RATE,
            max_seconds=self.max_seconds,
            truncate=False,
        )
        options = TranscriptionOptions(
            language=request.params.get("language", "auto"),
            itn=request.params.get("itn", True),
            words=request.params.get("words", False),
        )
        following = self.follow(samples, options, stop)
        while True:
            try:
                segment = next(following)
            except StopIteration as end:
                result: Json = end.value
                return result
            if request.params.get("stream", False):
                yield json.dumps(segment, ensure_ascii=False).encode() + b"\n"
