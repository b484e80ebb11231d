"""An engine that answers with as many bytes as it is asked for. Runs in the bench's workers."""

from __future__ import annotations

import threading

from ipc.engines import EngineInfo
from ipc.operations import AnyOperation, Speak, SpeechResult
from model_procs.engine import EngineConfig, Output


class Answering:
    """Takes no time, so that what is left is the way to it and back."""

    def __init__(self, config: EngineConfig) -> None:
        self._answers: dict[int, bytes] = {}

    def load(self) -> None:
        """There is nothing to load."""

    def warm_up(self) -> None:
        """There is nothing to warm up."""

    def info(self) -> EngineInfo:
        """The least that is asked of an engine."""
        return EngineInfo(engine="answering", sample_rate=1)

    def run(self, operation: AnyOperation, stop: threading.Event) -> Output:
        """As many bytes as the text says, in one piece."""
        assert isinstance(operation, Speak)
        size = int(operation.text)
        if size not in self._answers:
            self._answers[size] = bytes(size)
        yield self._answers[size]
        return SpeechResult(sample_rate=1, samples=0)
