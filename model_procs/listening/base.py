"""What all transcription engines share: decoding of the recording, and the transcript.

Runs in workers.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace

from ipc.engines import EngineInfo
from ipc.errors import ErrorCode, ServiceError
from ipc.operations import (
    TRANSCRIPT_SECONDS,
    AnyOperation,
    Segment,
    Transcribe,
    Transcript,
)
from model_procs.audio.decode import decoding
from model_procs.audio.pcm import Samples
from model_procs.audio.turns import Work, in_turns, result_of
from model_procs.engine import Output, alone, no_operation
from model_procs.listening.transcript import Piece, merge

RATE = 16_000
"""Sample rate in Hz of the samples that engines recognize."""


_TURN_SECONDS = 0.05
"""How long a recording is decoded before other requests get a turn."""


class TranscriptionEngine:
    """Base of speech-to-text engines."""

    name: str
    """The engine's name, as in the table of engines."""

    def recognize(
        self, samples: Samples, options: Transcribe, stop: threading.Event
    ) -> Iterator[Piece | None]:
        """Recognize `samples` (mono, 16 kHz): yields pieces in order, each as soon as possible.

        None means that the next piece needs a step of the batch (`BatchEngine`). Times of words
        count from the start of `samples`. Raises `ServiceError` for options that the model does not
        support, and `Cancelled` soon after `stop` is set.
        """
        raise NotImplementedError

    def info(self) -> EngineInfo:
        """Facts for clients and for /health."""
        raise NotImplementedError

    def merge(self, pieces: Sequence[Piece]) -> Transcript:
        """The transcript of the whole recording from all its pieces, without segments."""
        return merge(pieces)

    def transcribe(
        self, samples: Samples, options: Transcribe, stop: threading.Event
    ) -> Generator[Segment | None, None, Transcript]:
        """Yield every segment of `samples` (mono, 16 kHz) as soon as it is known.

        Returns the transcript. It also yields None where `recognize` does.
        """
        pieces: list[Piece] = []
        segments: list[Segment] = []
        for piece in self.recognize(samples, options, stop):
            if piece is None:
                yield None
                continue
            pieces.append(piece)
            for segment in piece.segments(len(segments), words=options.words):
                segments.append(segment)
                yield segment
        return replace(
            self.merge(pieces),
            segments=tuple(segments),
            duration=round(len(samples) / RATE, 3),
        )

    def run(self, operation: AnyOperation, stop: threading.Event) -> Output:
        """Decode and transcribe the recording; with `streamed`, yield every segment."""
        if not isinstance(operation, Transcribe):
            raise no_operation(self.name, operation)
        source = operation.recording.source
        if source is None:
            raise ServiceError(
                ErrorCode.invalid_request, "the request has no recording to transcribe; send one"
            )
        if operation.translate and not self.info().translates:
            raise ServiceError(
                ErrorCode.invalid_option,
                f"the engine {self.name} does not translate; use the engine whisper",
            )
        if operation.hotwords and not self.info().hotwords:
            raise ServiceError(
                ErrorCode.invalid_option,
                f"the engine {self.name} knows no hotwords; leave hotwords out, or use the engine "
                "sensevoice or whisper",
            )
        if operation.hotword_weight is not None and not self.info().hotword_weight:
            raise ServiceError(
                ErrorCode.invalid_option,
                f"the engine {self.name} does not weigh hotwords; leave hotword_weight out, or use "
                "the engine sensevoice",
            )
        samples = yield from in_turns(
            decoding(source, rate=RATE, max_seconds=TRANSCRIPT_SECONDS, truncate=False),
            _TURN_SECONDS,
        )
        work = Work(self.transcribe(samples, operation, stop))
        for segment in work:
            if segment is None or operation.streamed:
                yield segment
        return work.result


def finished(
    engine: TranscriptionEngine, transcribing: Generator[Segment | None, None, Transcript]
) -> Transcript:
    """Run `TranscriptionEngine.transcribe` of `engine` to its end and return the transcript."""
    return result_of(alone(engine, transcribing))
