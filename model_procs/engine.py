"""The Engine protocol, and what engines of all kinds share.

Runs in templates (`load`) and in workers (everything else). An engine knows only its model: no
HTTP, pipes or processes.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from ipc.engines import EngineInfo
from ipc.errors import ErrorCode, ServiceError
from ipc.messages import WorkerOptions
from ipc.operations import AnyOperation, AnyResult, Segment, SpokenSentence
from model_procs.audio.turns import Work

Item = TypeVar("Item")
Result = TypeVar("Result")

Output = Generator[bytes | SpokenSentence | Segment | None, None, AnyResult]
"""The output of an engine for one request: it yields the stream and returns the result.

The stream has bytes of speech and the sentences that they belong to, or segments of a transcript.
None means that the request waits for the next step of a `BatchEngine`.
"""


class Cancelled(Exception):  # noqa: N818 - not an error: the client has gone
    """Raised by an engine when its stop event is set; the worker reports `cancelled`."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The configuration of an engine; `options` has the engine's own settings.

    Weights that come in packages are put together in `cache_dir`. `capacity` and `live` are for a
    `BatchEngine`; None means what the engine finds best.
    """

    models_dir: Path
    threads: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    capacity: int | None = None
    live: int | None = None
    cache_dir: Path = Path(tempfile.gettempdir(), "voice-engine")


class Engine(Protocol):
    """What a template loads and a worker runs, one request at a time."""

    def __init__(self, config: EngineConfig) -> None: ...

    def load(self) -> None:
        """Load the weights. Runs in the template, which must have only one thread afterwards."""

    def warm_up(self) -> None:
        """Run one real inference, in the worker, before it reports READY."""

    def info(self) -> EngineInfo:
        """Facts for clients and for /health."""

    def run(self, operation: AnyOperation, stop: threading.Event) -> Output:
        """Serve one request.

        Raises `ServiceError` for errors that the client can fix, and `Cancelled` soon after `stop`
        is set.
        """


def no_operation(engine: str, operation: AnyOperation) -> ServiceError:
    """The error for an operation that the engine of this name does not have."""
    message = f"the engine {engine} has no operation {type(operation).__name__}"
    return ServiceError(ErrorCode.invalid_request, message)


@runtime_checkable
class BatchEngine(Engine, Protocol):
    """An engine that serves up to `capacity` requests at once.

    Each request runs in its own `run`, until that yields None: it waits for the next step. `step`
    advances all waiting requests; then each continues. For a cancelled request, `Cancelled` is
    raised where it waits.

    Both numbers are asked for after `warm_up`, `live` also before each step.
    """

    capacity: int

    @property
    def live(self) -> int:
        """How many of them may be live streams: more would fall behind real time.

        The engine measures it, also while it works; where it cannot, this is `capacity`.
        """

    def step(self) -> None:
        """Compute the next step of all requests that wait."""

    def wake(self) -> None:
        """Called by another thread when there is a new request, or one has been cancelled.

        An engine whose steps may take long ends the running one soon.
        """


def alone(
    engine: object, output: Generator[Item | None, None, Result]
) -> Generator[Item, None, Result]:
    """What `output` yields and returns, if `engine` serves nothing else: makes its steps."""
    with closing(output):
        work = Work(output)
        for item in work:
            if item is not None:
                yield item
            elif isinstance(engine, BatchEngine):
                engine.step()
        return work.result


@dataclass(frozen=True, slots=True)
class Needs:
    """What the sandbox of an engine's workers must allow besides what all workers may do.

    - `programs`: names of programs that it starts; they get the rights of the worker, and no more;
    - `writable`: folders in which it writes.
    """

    programs: tuple[str, ...] = ()
    writable: tuple[Path, ...] = ()


@runtime_checkable
class NeedyEngine(Protocol):
    """An engine that declares what it needs in the sandbox; others need nothing special."""

    @property
    def needs(self) -> Needs:
        """What it needs; asked once it has loaded."""


@runtime_checkable
class VoiceKeeper(Protocol):
    """An engine that keeps encoded voices in files, also after the worker has ended."""

    def keep_voices(self, options: WorkerOptions) -> None:
        """Start to keep encoded voices, and load often used ones. In the worker, before READY."""
