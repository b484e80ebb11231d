"""An engine that answers with as many bytes as it is asked for. Runs in the bench's workers."""

from __future__ import annotations

import threading
from collections.abc import Generator

from ipc.messages import Json, Request
from model_procs.engine import EngineConfig


class Answering:
    """Takes no time, so that what is left is the way to it and back."""

    def __init__(self, config: EngineConfig) -> None:
        self._answers: dict[int, bytes] = {}

    def load(self) -> None:
        """There is nothing to load."""

    def warm_up(self) -> None:
        """There is nothing to warm up."""

    def info(self) -> Json:
        """The least that is asked of an engine."""
        return {"engine": "answering"}

    def run(self, request: Request, stop: threading.Event) -> Generator[bytes, None, Json]:
        """`params["size"]` bytes in one piece."""
        size: int = request.params["size"]
        if size not in self._answers:
            self._answers[size] = bytes(size)
        yield self._answers[size]
        return {}
