"""A job: one request for one model, until it has its result. Runs in the front."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, cast

from ipc.codec import content
from ipc.operations import AnyOperation, Operation, ResultT, SpeechResult
from supervisor.dispatch.cost import Work

_ids = itertools.count(1)


class Sink(Protocol):
    """Where the stream of a response goes: bytes of speech, or segments of a transcript."""

    @property
    def size(self) -> int:
        """How much has been appended: bytes, or segments."""

    def append(self, item: Any) -> None:
        """Add the next item of the stream."""

    def rewind(self) -> None:
        """Drop everything, unless some has been read: the stream starts again from its start."""

    def finish(self, error: BaseException | None = None) -> None:
        """End the stream; with an `error`, the reader gets it at the end."""


@dataclass(slots=True)
class Run:
    """One run of a job: it waits, then a worker has it. On the clock of `time.monotonic`."""

    queued: float
    worker: str | None = None
    """The name of the worker; None while it waits."""
    started: float = 0.0
    """When it went to its worker."""
    ended: float | None = None


@dataclass(slots=True)
class Job(Generic[ResultT]):
    """One request. `deadline` is on the clock of `time.monotonic`, `client` is for fairness."""

    operation: Operation[ResultT]
    output: Sink
    deadline: float
    client: str
    work: Work
    id: int = field(default_factory=_ids.__next__)
    cost: float = 0.0
    """Estimated seconds of computing."""
    queued_s: float = 0.0
    running_s: float = 0.0
    runs: list[Run] = field(default_factory=list)
    """More than one if workers died."""
    attempts: int = 0
    """How many workers it may have killed."""
    result: ResultT | None = None
    """Once it is finished."""
    continues: bool = False
    """Whether it belongs to a session that was open before: admitted also while others drain."""

    @property
    def encode_s(self) -> float | None:
        """The part of `running_s` that encoding took, if the engine tells it."""
        return self.result.encode_seconds if isinstance(self.result, SpeechResult) else None

    @property
    def inference_s(self) -> float:
        """The rest of `running_s`."""
        return self.running_s - (self.encode_s or 0.0)

    def digest(self) -> bytes:
        """A hash of the content: equal for requests that would fail in the same way."""
        return hashlib.sha256(content(cast(AnyOperation, self.operation))).digest()
