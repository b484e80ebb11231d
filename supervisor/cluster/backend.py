"""A model of a cluster, as a front sees it: a `Backend` that calls replicas. Runs in fronts.

run(job) --> handle --> router --> replica --stream--> job.output
                          ^                               |
                          +------- replay <-- replica died+

A replica admits, queues and replays as a single machine does. What is left for the front: to choose
another replica when one refuses or dies, and to leave out what the client already has.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import ray
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from ipc.codec import Decoder, encode
from ipc.engines import EngineInfo, EngineSpec
from ipc.errors import ErrorCode, ServiceError
from ipc.messages import Chunk, Done, Failed, Message, Recognized, Request, Spoken
from ipc.operations import AnyOperation, Listened, Recording, ResultT
from supervisor.cluster.actors import deployment_of
from supervisor.cluster.messages import (
    Ended,
    RecordingMissing,
    ReplicaReport,
    ReplicaSpec,
    Route,
)
from supervisor.cluster.recordings import (
    recording_of,
    speaks_registered,
    voice_key,
    with_recording,
)
from supervisor.dispatch.backend import BackendStatus, ChildStatus
from supervisor.dispatch.cost import Unit, Work
from supervisor.dispatch.dispatcher import finished, shutting_down, tell_refusal, too_late
from supervisor.dispatch.job import Job, Run
from supervisor.events import Publish, RequestLostWorker
from supervisor.log import logger
from supervisor.threads import in_thread
from supervisor.workers.lifecycle import ModelState

_INLINE = 1024 * 1024
"""Bytes of a recording that go in the frame; a larger one goes through Ray's object store."""

_BLOCK = 4 * 1024 * 1024
"""Bytes of one object there, so that the front never has a whole recording in its memory."""

_MOST_REPLICAS = 10
"""Replicas that may die on one request. That is no fault of a request, because only workers decode
what clients send; but a request does not go round for ever."""

_ELSEWHERE = frozenset(
    {
        *(ErrorCode.overloaded, ErrorCode.shutting_down, ErrorCode.model_unavailable),
        *(ErrorCode.spool_full, ErrorCode.voices_unavailable),
    }
)
"""Refusals of one replica that need not be those of another one."""

_BEST_FIRST = (
    ModelState.SERVING,
    ModelState.LOADING,
    ModelState.UNLOADED,
    ModelState.STARTING,
    ModelState.BACKOFF,
    ModelState.FAILED,
)
"""The state of a model is the best that one of its replicas has."""

_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 1.0
"""Seconds before a request is sent again after the death of its replica, doubling each time."""

_RETRY_SECONDS = 5.0

_OPERATOR = Route(_RETRY_SECONDS, "operator", Work(Unit.VOICES, 0))
"""The route of what operators do."""


class _ReplicaLost(Exception):  # noqa: N818 - named for what happened
    """The replica has died, or cannot be reached any more."""


class ClusterBackend:
    """Runs the operations of one model in its replicas: a `Backend`.

    `see` is given what the registry tells of the replicas.
    """

    def __init__(self, spec: ReplicaSpec, engine: EngineSpec, queue: int, publish: Publish) -> None:
        self.spec = spec
        self._engine = engine
        self.queue = queue
        self._publish = publish
        self._reports: Sequence[ReplicaReport] = ()
        self._slots = 1
        """How many requests a replica runs at once; they are alike."""
        self._all_slots = 0
        """How many all replicas run at once."""
        self._info: EngineInfo | None = engine.known
        self._known = asyncio.Event()
        self._in_flight = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._handle: Any = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def state(self) -> ModelState:
        """The best state of its replicas; STARTING without one."""
        states = {report.status.state for report in self._reports}
        return next((state for state in _BEST_FIRST if state in states), ModelState.STARTING)

    @property
    def engine(self) -> EngineSpec:
        """The engine of the replicas."""
        return self._engine

    @property
    def info(self) -> EngineInfo | None:
        """What a replica's engine says about itself."""
        return self._info

    @property
    def retry_after(self) -> float:
        """Seconds until a replica tries again to start."""
        return min((report.status.retry_after for report in self._reports), default=0.0)

    @property
    def busy(self) -> bool:
        """Whether no replica has a free slot, as far as known."""
        return bool(self._reports) and not any(
            report.status.free_slots and not report.status.queued for report in self._reports
        )

    def see(self, reports: Sequence[ReplicaReport]) -> None:
        """Take over what the registry tells of the replicas."""
        self._reports = reports
        slots = [_slots(report.status) for report in reports]
        self._slots, self._all_slots = max(slots, default=1), sum(slots)
        for report in reports:
            self._engine = report.status.engine
            if report.status.info is not None:
                self._info = report.status.info
                self._known.set()

    def start(self) -> None:
        """Replicas start without fronts."""

    async def run(self, job: Job[ResultT]) -> ResultT:
        """Run `job` in a replica; its stream goes to `job.output`. Raises `ServiceError`."""
        error: BaseException | None = None
        allowed = job.deadline - time.monotonic()
        self._in_flight += 1
        self._idle.clear()
        try:
            self._admit(job)
            async with asyncio.timeout(allowed):
                result = await self._until_finished(job)
            job.result = result
            if not isinstance(result, Listened):
                self._publish(finished(self.spec.model, job))
            return result
        except TimeoutError:
            error = self._late(allowed)
            raise error from None
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._idle.set()
            tell_refusal(self._publish, self.spec.model, job, error)
            job.output.finish(error)
            error = None  # its traceback refers to this frame: a cycle with the recording in it

    def _admit(self, job: Job[Any]) -> None:
        if self._draining and not job.continues:
            raise shutting_down()
        most = self._all_slots + self.queue * max(1, len(self._reports))
        if self._in_flight > most:
            raise ServiceError(
                ErrorCode.overloaded,
                f"the service is busy: {most} requests wait or run; try again later",
                retry_after=_RETRY_SECONDS,
            )

    async def _until_finished(self, job: Job[ResultT]) -> ResultT:
        """Run `job`; on another replica when one refuses it or dies."""
        operation = cast(AnyOperation, job.operation)
        parcel = _Parcel(operation)
        refused: dict[str, ServiceError] = {}
        lost = 0
        while True:
            run = Run(time.monotonic())
            job.runs.append(run)
            route = Route(
                seconds=max(0.0, job.deadline - time.monotonic()),
                client=job.client,
                work=job.work,
                voice=voice_key(operation),
                slots=self._slots,
                avoid=frozenset(refused),
                attempts=job.attempts,
                continues=job.continues,
                has_recording=parcel.has_more,
            )
            try:
                ended = await self._call(job, route, parcel)
            except _ReplicaLost as death:
                lost += 1
                self._lost(job, run, str(death), lost)
                job.output.rewind()
                # Until the router has heard of the death, it may choose the dead one again.
                await asyncio.sleep(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**lost))
                continue
            if isinstance(ended, RecordingMissing):
                parcel.unpack()
                continue
            end, cost = ended
            run.worker, run.ended = cost.worker, time.monotonic()
            run.started = run.ended - cost.running_s
            job.queued_s += max(0.0, run.started - run.queued)
            job.running_s += cost.running_s
            job.attempts = cost.attempts
            if isinstance(end, Done):
                return cast(ResultT, end.result)
            error = ServiceError(
                ErrorCode.from_wire(end.code), end.message, retry_after=cost.retry_after
            )
            again = cost.replica in refused  # the router knows no other one
            refused[cost.replica] = error
            known = {report.replica for report in self._reports}
            everywhere = again or known <= refused.keys()
            if error.code not in _ELSEWHERE or job.output.size or everywhere:
                raise min(refused.values(), key=lambda each: each.retry_after or 0.0)

    async def _call(
        self, job: Job[Any], route: Route, parcel: _Parcel
    ) -> RecordingMissing | tuple[Done | Failed, Ended]:
        """One attempt at one replica. Raises `_ReplicaLost`."""
        frame, blocks = await parcel.packed(job.id, job.output.size)
        response = self._handles.remote(route, frame, *blocks)
        end: Done | Failed | None = None
        decoder = Decoder()
        try:
            async for reply in response:
                if isinstance(reply, bytes):
                    for message in decoder.feed(reply):
                        end = _take(message, job) or end
                elif isinstance(reply, Ended) and end is not None:
                    return end, reply
                elif isinstance(reply, RecordingMissing):
                    return reply
        except asyncio.CancelledError:
            response.cancel()
            raise
        except RayTaskError as error:  # a bug of ours in the replica, or its end
            logger.error("replica_failed", model=self.spec.model, error=str(error))
            raise _ReplicaLost(type(error.cause or error).__name__) from None
        except (RayError, RayServeException) as error:
            raise _ReplicaLost(type(error).__name__) from None
        raise _ReplicaLost("its answer has no end")

    @property
    def _handles(self) -> Any:
        if self._handle is None:
            handle = deployment_of(self.spec.application, self.spec.model)
            self._handle = handle.options(method_name="run", stream=True)
        return self._handle

    def _lost(self, job: Job[Any], run: Run, reason: str, lost: int) -> None:
        run.ended = time.monotonic()
        run.started = run.started or run.ended
        replayed = lost < _MOST_REPLICAS
        self._publish(
            RequestLostWorker(
                model=self.spec.model,
                request=job.id,
                child="a replica",
                reason=reason,
                attempts=job.attempts,
                replayed=replayed,
            )
        )
        if not replayed:
            raise ServiceError(
                ErrorCode.worker_crashed,
                f"{lost} replicas were lost while they ran this request; try again later",
            )

    def _late(self, allowed: float) -> ServiceError:
        if not self._reports:
            return ServiceError(
                ErrorCode.model_unavailable,
                f"no replica of {self.spec.model} runs in the cluster; `voice-engine cluster "
                "status` shows why",
                retry_after=_RETRY_SECONDS,
            )
        return too_late(allowed)

    async def known_info(self) -> EngineInfo | None:
        """`info`, once a replica has loaded."""
        if self._info is None:
            await self._known.wait()
        return self._info

    def status(self) -> BackendStatus:
        """All replicas together; the children of each have its machine's name."""
        return together(self.state, self._engine, self._info, self._reports)

    def _find(self, child: str) -> tuple[str, str] | None:
        """The replica of a child, and its name there."""
        for report in self._reports:
            for own in report.status.children:
                if child_name(report, own) == child:
                    return report.replica, own.name
        return None

    def recycle(self, child: str) -> bool | None:
        """Have a worker replaced; it is on its way when this returns."""
        if (found := self._find(child)) is None:
            return None
        self._act(found[0], "recycle", found[1])
        return True

    def kill(self, child: str) -> bool:
        """Have a child killed; it is on its way when this returns."""
        if (found := self._find(child)) is None:
            return False
        self._act(found[0], "kill", found[1])
        return True

    def pause(self) -> None:
        """Hold the queues of the replicas that run now."""
        self._act_all("pause")

    def resume(self) -> None:
        """Let them go on."""
        self._act_all("resume")

    def unload(self, reason: str) -> bool:
        """Refused: replicas are kept warm, and their number follows the load."""
        raise ServiceError(
            ErrorCode.conflict,
            "models of a cluster are not unloaded; give this one fewer replicas in the cluster's "
            "file and run `voice-engine cluster up` with it",
        )

    async def drain(self) -> None:
        """Refuse new jobs, and wait for those of this front."""
        self._draining = True
        await self._idle.wait()

    async def reload(self) -> None:
        """Have all replicas load their weights again."""
        self.reload_soon()

    def reload_soon(self) -> None:
        """The same; it is on its way when this returns."""
        self._act_all("reload")

    async def adapt(self) -> None:
        """There is nothing that fronts adapt."""

    async def close(self) -> None:
        """Forget what is on its way."""
        for task in list(self._tasks):
            task.cancel()

    def _act_all(self, act: str) -> None:
        for report in self._reports:
            self._act(report.replica, act)

    def _act(self, replica: str, act: str, child: str | None = None) -> None:
        route = replace(_OPERATOR, only=replica)

        async def send() -> None:
            try:
                handle = deployment_of(self.spec.application, self.spec.model)
                async with asyncio.timeout(_RETRY_SECONDS):
                    await handle.act.remote(route, act, child)
            except (RayError, RayServeException, TimeoutError) as error:
                logger.error("act_failed", act=act, replica=replica, error=str(error))

        self._spawn(send())

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Parcel:
    """An operation on its way: without its recording if replicas may have it, else with it."""

    def __init__(self, operation: AnyOperation) -> None:
        self._operation = operation
        recording = recording_of(operation)
        self._recording = recording if recording and recording.source is not None else None
        registered = self._recording is not None and speaks_registered(operation)
        self._with_recording = not registered
        self._blocks: list[Any] | None = None

    @property
    def has_more(self) -> bool:
        """Whether there is a recording that does not go with it."""
        return self._recording is not None and not self._with_recording

    def unpack(self) -> None:
        """Send the recording from now on."""
        self._with_recording = True

    async def packed(self, id: int, skip: int) -> tuple[bytes, Sequence[Any]]:
        """The frame of the request, and references to the blocks of its recording."""
        recording = self._recording
        if recording is None:
            return encode(Request(id, self._operation, skip)), ()
        bare = replace(recording, data=None, path=None)
        blocks: Sequence[Any] = ()
        if self._with_recording:
            data = recording.data
            if data is None:
                data, blocks = await self._read(recording)
            bare = replace(bare, data=data)
        return encode(Request(id, with_recording(self._operation, bare), skip)), blocks

    async def _read(self, recording: Recording) -> tuple[bytes | None, Sequence[Any]]:
        """The bytes in the file of a recording: themselves, or references to their blocks."""
        if self._blocks is None:
            try:
                read = await in_thread(partial(_read_blocks, str(recording.path)))
            except FileNotFoundError:
                raise ServiceError(
                    ErrorCode.not_found, "the voice has been deleted; use another one"
                ) from None
            if isinstance(read, bytes):
                return read, ()
            self._blocks = read
        return None, self._blocks


def _read_blocks(path: str) -> bytes | list[Any]:
    """A small file, or references to the blocks of a large one in Ray's object store."""
    with open(path, "rb") as file:
        block = file.read(_BLOCK)
        if len(block) <= _INLINE:
            return block
        blocks = []
        while block:
            blocks.append(ray.put(block))
            block = file.read(_BLOCK)
        return blocks


def _take(message: Message, job: Job[Any]) -> Done | Failed | None:
    """Give an item of the stream to the job; return its end."""
    match message:
        case Chunk(data=data):
            job.output.append(data)
        case Recognized(segment=segment):
            job.output.append(segment)
        case Spoken(sentence=sentence):
            job.output.append(sentence)
        case Done() | Failed():
            return message
    return None


def _slots(status: BackendStatus) -> int:
    """How many requests the workers of a replica run at once."""
    return sum(child.capacity or 0 for child in status.children)


def child_name(report: ReplicaReport, child: ChildStatus) -> str:
    """The name of a child in the whole cluster: its own, its replica's id, its machine."""
    return f"{child.name}-{report.replica}@{report.node}"


def together(
    state: ModelState,
    engine: EngineSpec,
    info: EngineInfo | None,
    reports: Sequence[ReplicaReport],
) -> BackendStatus:
    """The state of a model from those of its replicas: what can be counted is added up."""
    statuses = [report.status for report in reports]
    first = statuses[0] if statuses else None
    messages: Mapping[str, None] = dict.fromkeys(
        f"{report.node}: {report.status.message}" for report in reports if report.status.message
    )
    serving = state in (ModelState.SERVING, ModelState.UNLOADED)
    return BackendStatus(
        state=state,
        engine=engine,
        info=info,
        message=None if serving else next(iter(messages), None),
        retry_after=min((status.retry_after for status in statuses), default=0.0),
        in_flight=sum(status.in_flight for status in statuses),
        queued=sum(status.queued for status in statuses),
        backlog=sum(status.backlog for status in statuses),
        speed=sum(status.speed for status in statuses),
        paused=any(status.paused for status in statuses),
        workers=sum(status.workers for status in statuses),
        free_slots=sum(status.free_slots for status in statuses),
        sandbox=first.sandbox if first else None,
        children=tuple(
            replace(child, name=child_name(report, child), node=report.node)
            for report in reports
            for child in report.status.children
        ),
        threads=first.threads if first else 0,
        notes=tuple(dict.fromkeys(note for status in statuses for note in status.notes)),
    )
