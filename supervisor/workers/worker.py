"""A worker process behind two pipes: its state, its requests in flight. Runs in the front."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ipc.channel import PipeChannel
from ipc.codec import FrameError, IncompleteFrameError
from ipc.engines import EngineInfo
from ipc.errors import ErrorCode, ServiceError
from ipc.messages import (
    Begun,
    Cancel,
    Chunk,
    Done,
    Failed,
    Live,
    Message,
    Ping,
    Pong,
    Ready,
    Recognized,
    Request,
    SandboxLayer,
    Spoken,
)
from ipc.operations import (
    RESULT_OF,
    AnyResult,
    EncodeVoice,
    Segment,
    Speak,
    SpokenSentence,
    Transcribe,
)
from supervisor.memory.usage import resident_bytes
from supervisor.workers.handle import Call, Cause, Item, WorkerDied, cause_of
from supervisor.workers.lifecycle import Event, State, next_state
from supervisor.workers.process import LEAVE_SECONDS, Process, describe_exit, end


def _ignore(_: Item) -> None:
    """Drop an item of a stream that nobody reads any more."""


class Worker:
    """One worker process, from its start to its death: a `WorkerHandle`.

    `on_change` is called after every transition, and when a slot has become free.
    """

    def __init__(self, name: str, process: Process, on_change: Callable[[Worker], None]) -> None:
        self.name = name
        self.process = process
        self.state = State.STARTING
        self.started = time.monotonic()
        self.info: EngineInfo | None = None
        self.capacity = 1
        self.live = 1
        self.sandbox: tuple[SandboxLayer, ...] | None = None
        self.baseline_rss = 0
        self.rss = 0
        self.requests = 0
        self.unanswered_pings = 0
        self.end_reason: str | None = None
        self.planned = False
        self.diagnosis: str | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_change = on_change
        self._channel = PipeChannel(self._on_message, self._on_close)
        self._in_flight: dict[int, Call] = {}
        """By request id."""
        self._blames = True
        """Whether a request may be the cause of this worker's end."""
        self._broken: str | None = None
        self._cause: Cause | None = None
        self._pings = 0
        self._ending: asyncio.Task[int | None] | None = None
        process.exited.add_done_callback(self._on_exit)

    async def open(self, replies_fd: int, requests_fd: int) -> None:
        """Take over the front's ends of the pipes."""
        await self._channel.open(replies_fd, requests_fd)

    @property
    def pid(self) -> int:
        """The id of its process."""
        return self.process.pid

    @property
    def exited(self) -> asyncio.Future[int | None]:
        """Done when its process has ended."""
        return self.process.exited

    @property
    def in_flight(self) -> int:
        """How many requests it works on."""
        return len(self._in_flight)

    @property
    def live_in_flight(self) -> int:
        """How many of them are live streams."""
        return sum(call.live for call in self._in_flight.values())

    @property
    def free_slots(self) -> int:
        """How many more requests it can be given now."""
        if self.state is not State.READY or any(call.alone for call in self._in_flight.values()):
            return 0
        return max(0, self.capacity - sum(call.slots for call in self._in_flight.values()))

    @property
    def free_live_slots(self) -> int:
        """How many of them may be live streams."""
        taken = sum(call.slots for call in self._in_flight.values() if call.live)
        return max(0, min(self.free_slots, self.live - taken))

    @property
    def last_exit(self) -> str:
        """How this dead worker ended."""
        if self.diagnosis is not None:
            return self.diagnosis
        if self.end_reason is not None:
            return self.end_reason
        status = describe_exit(self.process.exited.result())
        return f"{self._broken}; {status}" if self._broken else status

    @property
    def cause(self) -> Cause:
        """How this dead worker ended, in one of few words."""
        if self.diagnosis is not None:
            return Cause.OUT_OF_MEMORY
        if self._cause is not None:
            return self._cause
        if self._broken:
            return Cause.PROTOCOL
        status = self.process.exited.result()
        return cause_of(status, killed_from_outside=self.killed_from_outside)

    @property
    def killed_from_outside(self) -> bool:
        """Whether it ended by a SIGKILL that the front did not send."""
        return self.end_reason is None and self.process.killed_from_outside

    def acquit(self) -> None:
        """Blame no request for its death; see `WorkerHandle`."""
        self._blames = False

    def usage(self) -> int | None:
        """Read its RSS, in bytes."""
        return resident_bytes(self.process.pid)

    def submit(self, call: Call) -> None:
        """Send a request; see `WorkerHandle`."""
        self._channel.send(Request(call.id, call.operation, call.skip))
        call.begun = self.capacity == 1
        self._in_flight[call.id] = call

    def cancel(self, call: Call, grace: float) -> None:
        """Tell the worker to stop a request; see `WorkerHandle`."""
        if self._in_flight.get(call.id) is not call:
            return  # it has ended already
        call.on_item = _ignore
        self._channel.send(Cancel(call.id))

        def kill_if_still_busy() -> None:
            if self._in_flight.get(call.id) is call:
                # Other requests of this worker are not the cause, and nobody waits for this one.
                reason = "did not stop a cancelled request"
                self.stop(reason, cause=Cause.NOT_STOPPED, blame=False)

        asyncio.get_running_loop().call_later(grace, kill_if_still_busy)

    def drain(self, reason: str) -> None:
        """Take no new requests, finish those in flight, exit."""
        if self.state is State.READY:
            self.end_reason = self.end_reason or reason
            self._blames = False
            self.planned = True
            self._advance(Event.DRAIN)
            if not self._in_flight:
                self._advance(Event.EMPTY)

    def stop(
        self,
        reason: str,
        *,
        cause: Cause | None = None,
        grace: float = 0.0,
        blame: bool = True,
        planned: bool = False,
    ) -> None:
        """End the worker now; with a `grace` in seconds it is asked first."""
        if self.state not in (State.STOPPING, State.DEAD):
            self.end_reason = reason
            self._cause = cause
            self.planned = planned
            self._blames = blame
            self._advance(Event.STOP, grace=grace)

    def ping(self) -> None:
        """Send a ping."""
        self._pings += 1
        self.unanswered_pings += 1
        self._channel.send(Ping(self._pings))

    def _advance(self, event: Event, *, grace: float = LEAVE_SECONDS) -> None:
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
            case Live() if self.state is not State.STARTING:
                self.live = message.count
                self._on_change(self)
            case Chunk() | Done() | Recognized() | Spoken() | Begun() | Failed() if (
                call := self._in_flight.get(message.id)
            ) is not None:
                self._on_reply(call, message)
            case Ready() if self.state is State.STARTING and not self.ready.done():
                self.info = message.info
                self.capacity = message.capacity
                self.live = message.live
                self.sandbox = message.sandbox
                self.baseline_rss = self.rss = message.rss
                self.ready.set_result(None)
                self._advance(Event.READY)
            case Failed(id=0) if not self.ready.done():
                code = ErrorCode.from_wire(message.code)
                self.ready.set_exception(ServiceError(code, message.message))
                # It exits by itself, unless the model has started a thread that does not end.
                if self.state is State.STARTING:
                    self._advance(Event.STOP)
            case _ if self.state is State.STOPPING:
                pass
            case _:
                raise FrameError(f"{type(message).__name__} is not expected in this state")

    def _on_reply(
        self, call: Call, message: Chunk | Done | Recognized | Spoken | Begun | Failed
    ) -> None:
        match message:
            case Chunk():
                self._take(call, message.data)
            case Recognized():
                self._take(call, message.segment)
            case Spoken():
                self._take(call, message.sentence)
            case Begun():
                call.begun = True
            case Done():
                self._finish(call, message.result, message.rss)
            case Failed():
                code = ErrorCode.from_wire(message.code)
                self._finish(call, ServiceError(code, message.message), message.rss)

    @staticmethod
    def _take(call: Call, item: Item) -> None:
        match call.operation, item:
            case (
                (Transcribe(), Segment())
                | (Speak() | EncodeVoice(), bytes())
                | (Speak(streamed=True, alignment=True), SpokenSentence())
            ):
                call.on_item(item)
            case _:
                raise FrameError(f"{type(item).__name__} is not an item of this stream")

    def _finish(self, call: Call, outcome: AnyResult | ServiceError, rss: int) -> None:
        """Free the slot of a request and settle it."""
        failed = isinstance(outcome, ServiceError)
        if not failed and type(outcome) is not RESULT_OF[type(call.operation)]:
            raise FrameError(f"{type(outcome).__name__} is the result of another operation")
        self.requests += 1
        self.rss = rss
        del self._in_flight[call.id]
        call.settle(outcome)
        if self.state is State.DRAINING and not self._in_flight:
            self._advance(Event.EMPTY)
        elif self.state is State.READY:
            self._on_change(self)

    def _on_close(self, error: Exception | None) -> None:
        # An incomplete frame is what a worker leaves that is killed while it writes.
        if error is not None and not isinstance(error, IncompleteFrameError):
            self._broken = f"broken pipe protocol: {error}"
        if self.state not in (State.STOPPING, State.DEAD):
            # It closed its pipe or broke the protocol; in both cases it cannot serve any more.
            self._advance(Event.STOP, grace=0.0 if self._broken else LEAVE_SECONDS)

    def _on_exit(self, _: asyncio.Future[int | None]) -> None:
        self._channel.read_rest()
        self._channel.close()
        self._advance(Event.EXIT)
        if not self.ready.done():
            self.ready.set_exception(WorkerDied(self.last_exit, blame=False))
            self.ready.exception()  # mark as retrieved: nobody waits when the pool is closing
        lost, self._in_flight = self._in_flight, {}
        for call in lost.values():
            call.settle(WorkerDied(self.last_exit, blame=self._blames and call.begun))
