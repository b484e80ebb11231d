"""What the front knows of a worker, wherever and however it runs. In the front."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from ipc.engines import EngineInfo
from ipc.operations import Operation, ResultT, Segment
from supervisor.workers.lifecycle import State

Item = bytes | Segment
"""A piece of a stream: of speech, or of a transcript."""


class WorkerDied(Exception):  # noqa: N818 - named for what happened
    """The worker ended with a request in flight; `blame` when that may be the request's fault."""

    def __init__(self, reason: str, *, blame: bool) -> None:
        super().__init__(reason)
        self.blame = blame


class WorkerHandle(Protocol):
    """One worker, from its start to its death.

    A request gets a slot by `reserve`; then it is `run`, or `release`d. Times are on the clock of
    `time.monotonic`, memory is in bytes.
    """

    name: str
    state: State
    started: float
    info: EngineInfo | None
    """What the engine says of itself; None before READY."""
    capacity: int
    """How many requests it serves at once; known at READY."""
    baseline_rss: int
    """RSS at READY."""
    rss: int
    """RSS as it was last read or reported."""
    requests: int
    """How many requests it has finished."""
    unanswered_pings: int
    end_reason: str | None
    """Why the front ended this worker; None while it has not, and for deaths of its own."""
    planned: bool
    """Whether the front ended it for a reason that is no fault."""
    diagnosis: str | None
    """What the pool found out about its death."""
    ready: asyncio.Future[None]
    """Done when it is READY; fails with `ServiceError` or `WorkerDied` when it never will be."""

    @property
    def pid(self) -> int:
        """The id of its process."""

    @property
    def exited(self) -> asyncio.Future[int | None]:
        """Done when its process has ended; the exit status, if anybody can tell."""

    @property
    def in_flight(self) -> int:
        """How many slots are taken."""

    @property
    def free_slots(self) -> int:
        """How many more requests it can be given now."""

    @property
    def last_exit(self) -> str:
        """How this dead worker ended, in words."""

    @property
    def killed_from_outside(self) -> bool:
        """Whether a SIGKILL ended it that the front did not send."""

    def reserve(self, request_id: int, *, alone: bool = False) -> None:
        """Take a slot for a request; `alone`: nobody else gets one until it is free again."""

    def release(self, request_id: int) -> None:
        """Give back the slot of a request that was not run."""

    async def run(
        self,
        request_id: int,
        operation: Operation[ResultT],
        skip: int,
        on_item: Callable[[Item], None],
        cancel_grace: float,
    ) -> ResultT:
        """Have `operation` answered; `on_item` gets what it streams, but for the first `skip`.

        When the caller is cancelled the worker is told to stop the request, and is killed when it
        has not done so after `cancel_grace` seconds. Raises `ServiceError` for an error that the
        worker reported, and `WorkerDied`.
        """

    def drain(self, reason: str) -> None:
        """Take no new requests, finish those in flight, leave."""

    def stop(
        self, reason: str, *, grace: float = 0.0, blame: bool = True, planned: bool = False
    ) -> None:
        """End it now; with a `grace` in seconds it is asked first. Requests in flight are lost.

        `blame` is False when they cannot be the cause, as when memory has leaked over many.
        """

    def ping(self) -> None:
        """Ask for a sign of life."""

    def usage(self) -> int | None:
        """Read its RSS; None when it has ended."""
