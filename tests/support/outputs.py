"""What engines make of an operation: all that they yield, and the result."""

from __future__ import annotations

from typing import Any

from ipc.operations import SpeechResult, Transcript
from model_procs.engine import Output


def collected(output: Output) -> tuple[list[Any], Any]:
    """All that `output` yields, and what it returns in the end."""
    items: list[Any] = []
    while True:
        try:
            items.append(next(output))
        except StopIteration as end:
            return items, end.value


def speech(output: Output) -> tuple[list[bytes], SpeechResult]:
    """The bytes of speech in the pieces in which they come, and the result."""
    pieces, result = collected(output)
    assert all(isinstance(piece, bytes) for piece in pieces)
    assert isinstance(result, SpeechResult)
    return pieces, result


def transcript(output: Output) -> tuple[list[Any], Transcript]:
    """What a transcription streams, and the transcript."""
    items, result = collected(output)
    assert isinstance(result, Transcript)
    return items, result
