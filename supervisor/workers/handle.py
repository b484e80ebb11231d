"""The interface of a worker, independent of where and how it runs. In the front."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from ipc.engines import EngineInfo
from ipc.messages import SandboxLayer
from ipc.operations import AnyOperation, AnyResult, Segment, Speak, SpokenSentence
from supervisor.workers.lifecycle import State

Item = bytes | SpokenSentence | Segment
"""A piece of a stream: of speech, or of a transcript."""


class Cause(Enum):
    """Why a child ended that should not have, in one of few words."""

    SIGNAL = "signal"
    EXIT = "exit"
    KILLED = "killed from outside"
    OUT_OF_MEMORY = "out of memory"
    HARD_LIMIT = "hard memory limit"
    UNRESPONSIVE = "unresponsive"
    NOT_READY = "not READY in time"
    NOT_STOPPED = "did not stop a request"
    PROTOCOL = "broken protocol"
    OPERATOR = "killed by an operator"


def cause_of(status: int | None, *, killed_from_outside: bool) -> Cause:
    """The cause that an exit status tells."""
    if killed_from_outside:
        return Cause.KILLED
    return Cause.SIGNAL if status is not None and status < 0 else Cause.EXIT


class WorkerDied(Exception):  # noqa: N818 - named for what happened
    """The worker died with a request in flight; `blame`: the request may be the cause."""

    def __init__(self, reason: str, *, blame: bool) -> None:
        super().__init__(reason)
        self.blame = blame


def is_live(operation: AnyOperation) -> bool:
    """Whether speech is sent while it is made, so that it must not fall behind real time."""
    return isinstance(operation, Speak) and operation.streamed


@dataclass(slots=True, eq=False)
class Call:
    """One request to one worker.

    `outcome` gets the result; a `ServiceError` if the worker reports an error; or `WorkerDied`.
    Before that, `on_item` gets the items of the stream, without the first `skip`. `alone`: the
    worker gets no other request meanwhile.
    """

    id: int
    operation: AnyOperation
    skip: int
    on_item: Callable[[Item], None]
    outcome: asyncio.Future[Any]
    alone: bool = False
    begun: bool = False
    """Whether the engine has begun it: then the death of the worker may be its fault."""

    @property
    def live(self) -> bool:
        """Whether it takes a slot for live streams."""
        return is_live(self.operation)

    @property
    def slots(self) -> int:
        """How many slots it takes: guided speech is computed twice."""
        return 2 if isinstance(self.operation, Speak) and self.operation.sampling.guided else 1

    @property
    def waits_live(self) -> bool:
        """Whether it must wait for such a slot: nobody listens to it yet."""
        return self.live and not self.skip

    def settle(self, outcome: AnyResult | Exception) -> None:
        """Give the caller what it waits for, unless it no longer does."""
        if self.outcome.done():
            return
        if isinstance(outcome, Exception):
            self.outcome.set_exception(outcome)
            self.outcome.exception()  # mark as retrieved: the caller may be cancelled meanwhile
        else:
            self.outcome.set_result(outcome)


class WorkerHandle(Protocol):
    """One worker, from its start to its death.

    Times are on the clock of `time.monotonic`, memory is in bytes.
    """

    name: str
    state: State
    started: float
    info: EngineInfo | None
    """The engine's description of itself; None before READY."""
    capacity: int
    """How many requests it serves at once; known at READY."""
    live: int
    """How many of them may be live streams; known at READY."""
    sandbox: tuple[SandboxLayer, ...] | None
    """The layers of its sandbox, none if that is off; None before READY."""
    baseline_rss: int
    """RSS at READY."""
    rss: int
    """RSS at the last reading or report."""
    requests: int
    """How many requests it has finished."""
    unanswered_pings: int
    end_reason: str | None
    """Why the front ended this worker; None if the front did not end it."""
    planned: bool
    """Whether the front ended it for a reason that is not a fault."""
    diagnosis: str | None
    """The cause of its death, if the pool found it."""
    ready: asyncio.Future[None]
    """Done when it is READY; fails with `ServiceError` or `WorkerDied` when it never will be."""

    @property
    def pid(self) -> int:
        """The id of its process."""

    @property
    def exited(self) -> asyncio.Future[int | None]:
        """Done when its process has ended, with the exit status; None if that is unknown."""

    @property
    def in_flight(self) -> int:
        """How many requests it works on."""

    @property
    def live_in_flight(self) -> int:
        """How many of them are live streams."""

    @property
    def free_slots(self) -> int:
        """How many more requests it can be given now."""

    @property
    def free_live_slots(self) -> int:
        """How many of them may be live streams."""

    @property
    def last_exit(self) -> str:
        """How this dead worker ended, in words."""

    @property
    def cause(self) -> Cause:
        """The same in one of few words, for an end that was not planned."""

    @property
    def killed_from_outside(self) -> bool:
        """Whether it ended by a SIGKILL that the front did not send."""

    def acquit(self) -> None:
        """Blame no request for its death, whose cause the pool knows."""

    def submit(self, call: Call) -> None:
        """Send a request; there must be a free slot.

        Raises `FrameError` when the request is too long for a frame; then the slot stays free.
        """

    def cancel(self, call: Call, grace: float) -> None:
        """Tell the worker to stop a request; nobody waits for it any more.

        It keeps its slot until the worker reports its end. After `grace` seconds the worker is
        killed.
        """

    def drain(self, reason: str) -> None:
        """Take no new requests, finish those in flight, exit."""

    def stop(
        self,
        reason: str,
        *,
        cause: Cause | None = None,
        grace: float = 0.0,
        blame: bool = True,
        planned: bool = False,
    ) -> None:
        """End it now. With a `grace` in seconds it is asked first. Requests in flight are lost.

        `cause` sums up the reason, unless the end is planned.

        `blame` is False when the requests in flight cannot be the cause, for example when memory
        leaked over many earlier requests.
        """

    def ping(self) -> None:
        """Send a ping."""

    def usage(self) -> int | None:
        """Read its RSS; None when it has ended."""
