"""The front's handle on one worker: its process, its pipes, the request in flight. In the front."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from ipc.channel import PipeChannel
from ipc.codec import FrameError
from ipc.errors import ErrorCode, ServiceError
from ipc.messages import (
    Cancel,
    Chunk,
    Done,
    Failed,
    Json,
    Message,
    Ping,
    Pong,
    Ready,
    Request,
)
from supervisor.workers.lifecycle import Event, State, next_state
from supervisor.workers.process import Process, describe_exit, end

_LEAVE_SECONDS = 2.0
"""How long a worker may take to leave after EOF; it has nothing left to do."""


class WorkerDied(Exception):  # noqa: N818 - named for what happened
    """The worker ended with a request in flight; `blame` when that may be the request's doing."""

    def __init__(self, reason: str, *, blame: bool) -> None:
        super().__init__(reason)
        self.blame = blame


@dataclass(slots=True)
class _InFlight:
    request: Request
    on_chunk: Callable[[bytes], None]
    outcome: asyncio.Future[Done]
    """Cancelled when nobody waits for it any more."""

    def succeed(self, done: Done) -> None:
        if not self.outcome.cancelled():
            self.outcome.set_result(done)

    def fail(self, error: Exception) -> None:
        if not self.outcome.cancelled():
            self.outcome.set_exception(error)
            self.outcome.exception()  # retrieved here: the caller may be cancelled meanwhile


def _ignore(_: bytes) -> None:
    """Takes the rest of an answer that nobody waits for."""


class Worker:
    """One worker process, from its start to its death.

    `on_change` is called after every transition, so that the pool can look again.
    """

    def __init__(self, name: str, process: Process, on_change: Callable[[Worker], None]) -> None:
        self.name = name
        self.process = process
        self.state = State.STARTING
        self.started = time.monotonic()
        self.info: Json = {}
        self.baseline_rss = 0
        self.rss = 0
        self.requests = 0
        self.end_reason: str | None = None
        """Why the front ended this worker; None while it has not, and for deaths of its own."""
        self.diagnosis: str | None = None
        """What the pool found out about its death."""
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.unanswered_pings = 0
        """How many pings no pong has followed yet."""
        self._on_change = on_change
        self._channel = PipeChannel(self._on_message, self._on_close)
        self._in_flight: _InFlight | None = None
        self._broken: str | None = None
        self._pings = 0
        self.blames_request = True
        """Whether the request in flight may be why this worker ended."""
        self._ending: asyncio.Task[int | None] | None = None
        process.exited.add_done_callback(self._on_exit)

    async def open(self, replies_fd: int, requests_fd: int) -> None:
        """Take over the front's ends of the pipes."""
        await self._channel.open(replies_fd, requests_fd)

    @property
    def last_exit(self) -> str:
        """Why this dead worker died."""
        if self.diagnosis is not None:
            return self.diagnosis
        if self.end_reason is not None:
            return self.end_reason
        status = describe_exit(self.process.exited.result())
        return f"{self._broken}; {status}" if self._broken else status

    def assign(self) -> None:
        """Reserve this IDLE worker for whoever calls `run` or `release` next."""
        self._advance(Event.ASSIGN)

    def release(self) -> None:
        """Give back a worker that was assigned and never run."""
        if self.state in (State.BUSY, State.RETIRING):
            self._advance(Event.FINISH)

    async def run(
        self, request: Request, on_chunk: Callable[[bytes], None], cancel_grace: float
    ) -> Done:
        """Have the assigned worker answer `request`; `on_chunk` gets the answer's bytes.

        When the caller is cancelled the worker is told to stop, and killed when it has not done so
        after `cancel_grace` seconds. Raises `ServiceError` for an error that the worker reported,
        and `WorkerDied`.
        """
        if self.state not in (State.BUSY, State.RETIRING):
            raise WorkerDied(self.end_reason or "ended before the request reached it", blame=False)
        outcome: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        flight = self._in_flight = _InFlight(request, on_chunk, outcome)
        self._channel.send(request)
        try:
            return await outcome
        except asyncio.CancelledError:
            # The caller's end only: the worker is busy until it says otherwise.
            self._cancel(flight, cancel_grace)
            raise

    def _cancel(self, flight: _InFlight, grace: float) -> None:
        flight.on_chunk = _ignore
        self._channel.send(Cancel(flight.request.id))

        def kill_if_still_busy() -> None:
            if self._in_flight is flight:
                self.stop("did not stop a cancelled request")

        asyncio.get_running_loop().call_later(grace, kill_if_still_busy)

    def retire(self, reason: str) -> None:
        """Take no more requests, finish the one in flight, leave."""
        if self.state in (State.IDLE, State.BUSY):
            self.end_reason = self.end_reason or reason
            self.blames_request = False
            self._advance(Event.RETIRE)

    def stop(self, reason: str, *, grace: float = 0.0, blame: bool = True) -> None:
        """End the worker now; with a `grace` it is asked first. A request in flight dies.

        `blame` is False when the request in flight cannot be the cause, as when memory has leaked
        over many.
        """
        if self.state not in (State.STOPPING, State.DEAD):
            self.end_reason = reason
            self.blames_request = blame
            self._advance(Event.STOP, grace=grace)

    def ping(self) -> None:
        """Ask for a sign of life."""
        self._pings += 1
        self.unanswered_pings += 1
        self._channel.send(Ping(self._pings))

    @property
    def has_request(self) -> bool:
        """Whether a request is in flight, or was when the worker died."""
        return self._in_flight is not None

    def _advance(self, event: Event, *, grace: float = _LEAVE_SECONDS) -> None:
        self.state = next_state(self.state, event)
        if self.state is State.STOPPING and self._ending is None:
            ask = self._channel.close if grace > 0 else None
            self._ending = asyncio.get_running_loop().create_task(
                end(self.process, ask=ask, grace=grace)
            )
        self._on_change(self)

    def _on_message(self, message: Message) -> None:
        match message:
            case Pong():
                self.unanswered_pings = 0
            case Ready() if self.state is State.STARTING and not self.ready.done():
                self.info = message.info
                self.baseline_rss = self.rss = message.rss
                self.ready.set_result(None)
                self._advance(Event.READY)
            case Failed(id=0) if not self.ready.done():
                code = ErrorCode.from_wire(message.code)
                self.ready.set_exception(ServiceError(code, message.message))
                # It leaves by itself, unless the model has started a thread that does not end.
                if self.state is State.STARTING:
                    self._advance(Event.STOP)
            case Chunk() if (flight := self._flight(message.id)) is not None:
                flight.on_chunk(message.data)
            case Done() if (flight := self._flight(message.id)) is not None:
                self._finish(message.rss)
                flight.succeed(message)
            case Failed() if (flight := self._flight(message.id)) is not None:
                self._finish(message.rss)
                code = ErrorCode.from_wire(message.code)
                flight.fail(ServiceError(code, message.message))
            case _ if self.state is State.STOPPING:
                pass
            case _:
                raise FrameError(f"{type(message).__name__} came out of turn")

    def _flight(self, request_id: int) -> _InFlight | None:
        flight = self._in_flight
        return flight if flight is not None and flight.request.id == request_id else None

    def _finish(self, rss: int) -> None:
        self._in_flight = None
        self.requests += 1
        self.rss = rss
        if self.state in (State.BUSY, State.RETIRING):
            self._advance(Event.FINISH)

    def _on_close(self, error: Exception | None) -> None:
        if error is not None:
            self._broken = f"broken pipe protocol: {error}"
        if self.state not in (State.STOPPING, State.DEAD):
            # It closed its pipe or speaks nonsense; either way it is of no more use.
            self._advance(Event.STOP, grace=0.0 if error is not None else _LEAVE_SECONDS)

    def _on_exit(self, _: asyncio.Future[int | None]) -> None:
        self._channel.read_rest()
        self._channel.close()
        self._advance(Event.EXIT)
        if not self.ready.done():
            self.ready.set_exception(WorkerDied(self.last_exit, blame=False))
            self.ready.exception()  # retrieved here: nobody waits when the pool is closing
        if self._in_flight is not None:
            self._in_flight.fail(WorkerDied(self.last_exit, blame=self.blames_request))
            self._in_flight = None
