"""The Engine protocol, and what engines of all kinds share.

Runs in templates (`load`) and in workers (everything else). An engine knows its model and nothing
of HTTP, pipes or processes.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ipc.engines import EngineInfo
from ipc.messages import WorkerOptions
from ipc.operations import AnyOperation, AnyResult, Segment

Output = Generator[bytes | Segment | None, None, AnyResult]
"""What an engine makes of a request: it yields the stream and returns the result.

Speech is a stream of bytes, a streamed transcript one of segments. None means that the request
waits for the next step of a `BatchEngine`.
"""


class Cancelled(Exception):  # noqa: N818 - not an error: the client has gone
    """Raised by an engine that noticed its stop event; the worker reports `cancelled`."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What an engine is built from; `options` holds the engine's own settings."""

    models_dir: Path
    threads: int = 1
    options: dict[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """What a template loads and a worker runs, one request at a time."""

    def __init__(self, config: EngineConfig) -> None: ...

    def load(self) -> None:
        """Load the weights. Runs in the template, which must still have one thread afterwards."""

    def warm_up(self) -> None:
        """Run one real inference, in the worker, before it reports READY."""

    def info(self) -> EngineInfo:
        """Facts for clients and for /health."""

    def run(self, operation: AnyOperation, stop: threading.Event) -> Output:
        """Answer one request.

        Raises `ServiceError` for what the client can mend and `Cancelled` soon after `stop` is set.
        """


@runtime_checkable
class BatchEngine(Engine, Protocol):
    """An engine that serves up to `capacity` requests at once.

    Each request runs as `run` says, until it yields None: it waits for the next step. `step`
    advances all that wait; then each goes on. A request that is cancelled has `Cancelled` raised
    where it waits.
    """

    capacity: int

    def step(self) -> None:
        """Compute the next step of all requests that wait."""


@runtime_checkable
class VoiceKeeper(Protocol):
    """An engine that keeps encoded voices, in files that outlive the worker."""

    def keep_voices(self, options: WorkerOptions) -> None:
        """Keep encoded voices from now on, and load the hot ones; in the worker, before READY."""
