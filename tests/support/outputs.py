"""What engines make of an operation: all that they yield, and the result."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Any, cast

from ipc.operations import Sampling, SpeechResult, Transcript
from model_procs.audio.pcm import Samples
from model_procs.engine import BatchEngine, Output, alone
from model_procs.speech.base import SpeechEngine


def collected(output: Output, engine: object = None) -> tuple[list[Any], Any]:
    """All that `output` yields, and what it returns; `engine` makes its steps if it is a batch."""
    items: list[Any] = []
    while True:
        try:
            item = next(output)
        except StopIteration as end:
            return items, end.value
        if item is None and isinstance(engine, BatchEngine):
            engine.step()
        else:
            items.append(item)


def pieces_of(
    engine: SpeechEngine,
    text: str,
    voice: Any,
    sampling: Sampling,
    stop: threading.Event | None = None,
) -> Generator[Samples, None, None]:
    """One sentence, piece by piece, from an engine that may be a batch."""
    pieces = engine.synthesize(text, voice, sampling, stop or threading.Event())
    return alone(engine, cast("Generator[Samples | None, None, None]", pieces))


def speech(output: Output, engine: object = None) -> tuple[list[bytes], SpeechResult]:
    """The bytes of speech in the pieces in which they come, and the result."""
    pieces, result = collected(output, engine)
    assert all(isinstance(piece, bytes) for piece in pieces)
    assert isinstance(result, SpeechResult)
    return pieces, result


def transcript(output: Output, engine: object = None) -> tuple[list[Any], Transcript]:
    """What a transcription streams, and the transcript."""
    items, result = collected(output, engine)
    assert isinstance(result, Transcript)
    return items, result
