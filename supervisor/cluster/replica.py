"""A replica: one model of a cluster with its queue, its pool and its memory policy.

Runs in an actor of Ray Serve, which starts it, asks for its health and replaces it. The template
and the workers are children of that process; they end with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any

from ray import serve

from ipc.codec import FrameError, encode
from ipc.errors import ErrorCode, ServiceError
from ipc.messages import Chunk, Done, Failed, Message, Recognized, Request, Spoken
from ipc.operations import (
    AnyOperation,
    Recording,
    Segment,
    SpokenSentence,
)
from supervisor import log
from supervisor.cluster.actors import registry_of
from supervisor.cluster.messages import (
    Ended,
    RecordingMissing,
    ReplicaReport,
    ReplicaSpec,
    Route,
    aged,
    only_message,
)
from supervisor.cluster.recordings import recording_of, unregistered, with_recording
from supervisor.cluster.scaling import BACKLOG, SPEED
from supervisor.dispatch.job import Job
from supervisor.dispatch.models import Model
from supervisor.dispatch.quarantine import Quarantine
from supervisor.dispatch.spool import Spool
from supervisor.events import Events
from supervisor.local import LocalModels, open_spool
from supervisor.log import logger
from supervisor.settings import Settings
from supervisor.threads import in_thread
from supervisor.voices.bucket import BucketError
from supervisor.voices.folder import VoiceFolder
from supervisor.voices.states import NoRecordingError, SharedStates
from supervisor.workers.handle import Item
from supervisor.workers.lifecycle import ModelState

_REPORT_SECONDS = 1.0
"""Seconds between two reports to the registry."""

_RETRY_SECONDS = 5.0

_TIDY_SECONDS = 3600.0
"""Seconds between two removals of copies whose voices are gone."""

_OVERFULL = 10
"""Health checks in a row that find more memory in use than there is, until the replica gives up."""

Reply = bytes | Ended | RecordingMissing
"""What a request yields: frames of its stream and of its end, then what it has cost."""


class Outbox:
    """The stream of a request on its way to the front: a `Sink` that is read in portions."""

    def __init__(self, skip: int) -> None:
        self._first = self.size = skip
        self._items: deque[Item] = deque()
        self._taken = False
        self._ended = False
        self._changed = asyncio.Event()

    def append(self, item: Item) -> None:
        """Add the next item."""
        self.size += len(item) if isinstance(item, bytes) else isinstance(item, Segment)
        self._items.append(item)
        self._changed.set()

    def rewind(self) -> None:
        """Drop everything, unless some has been sent."""
        if not self._taken:
            self._items.clear()
            self.size = self._first

    def finish(self, error: BaseException | None = None) -> None:
        """End the stream; who runs the job gets its error."""
        self._ended = True
        self._changed.set()

    async def take(self) -> list[Item]:
        """All that has come since; empty at the end."""
        while not self._items and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        taken = list(self._items)
        self._items.clear()
        self._taken = self._taken or bool(taken)
        return taken


class _SharedQuarantine(Quarantine):
    """Content that this replica refuses, and of which it tells the others."""

    def __init__(self, duration: float) -> None:
        super().__init__(duration)
        self.new: list[bytes] = []
        """What the others do not know yet."""

    def add(self, digest: bytes, now: float) -> None:
        """Refuse this content here, and soon everywhere."""
        super().add(digest, now)
        self.new.append(digest)


class Replica:
    """The deployment of one model. Its methods are what fronts and Ray Serve call."""

    async def __init__(self, spec: ReplicaSpec) -> None:  # type: ignore[misc]
        """Load the model. Raises `RuntimeError` when it cannot be loaded."""
        self._spec = spec
        self._settings = settings = settings_of(spec)
        log.configure(settings.log_level, "json")
        self._id = serve.get_replica_context().replica_id.unique_id
        self._node = socket.gethostname()
        self._events = Events()
        self._spool = open_spool(settings)
        self._quarantine = _SharedQuarantine(settings.quarantine)
        self._models = LocalModels(
            settings,
            self._spool,
            publish=self._events.publish,
            quarantine=self._quarantine,
            beside=spec.others,
            warm=True,
        )
        self._shared = SharedStates.of(settings) if settings.voices_url else None
        self._tidy_at = 0.0
        self._overfull = 0
        self._registry = registry_of(spec.application)
        self._reporting: asyncio.Task[None] | None = None
        try:
            await self._load()
        except BaseException:
            await self._close()
            raise
        self._reporting = asyncio.create_task(self._report())

    @property
    def _model(self) -> Model:
        (model,) = self._models.models
        return model

    async def _load(self) -> None:
        """Load the model, with the choices of the other replicas: then a replay sounds the same."""
        self._models.start()
        backend = self._model.backend
        info = await backend.known_info()
        if info is None:
            status = backend.status()
            raise RuntimeError(f"the model {self._spec.model} cannot be loaded: {status.message}")
        if info.chosen:
            agreed = await self._registry.choose.remote(self._spec.model, info.chosen)
            if agreed != info.chosen:
                self._models.options = agreed
                await self._models.reload(self._settings, lambda: None)

    async def run(self, route: Route, frame: bytes, *blocks: bytes) -> AsyncIterator[Reply]:
        """Run an operation. The last thing it yields is `Ended` or `RecordingMissing`.

        `frame` has a `Request`; `blocks` are the bytes of its recording, if they are not in it.
        """
        try:
            request = only_message(frame)
            if not isinstance(request, Request):
                raise FrameError(f"{type(request).__name__} instead of a request")
        except FrameError as error:
            message = f"a replica cannot read what the front sends ({error}); run the same version"
            refused = ServiceError(ErrorCode.model_unavailable, message, retry_after=_RETRY_SECONDS)
            for reply in self._refusal(0, route, refused):
                yield reply
            return
        try:
            async with self._recording(request.operation, blocks) as operation:
                async for reply in self._run(request, operation, route):
                    yield reply
        except BucketError as error:
            message = f"the bucket with the voices cannot be reached: {error}; try again later"
            code = ErrorCode.voices_unavailable
            refused = ServiceError(code, message, retry_after=_RETRY_SECONDS)
            for reply in self._refusal(request.id, route, refused):
                yield reply
        except OSError as error:
            for reply in self._refusal(request.id, route, self._spool.full(error, "recording")):
                yield reply

    def _refusal(self, request: int, route: Route, error: ServiceError) -> tuple[Reply, Reply]:
        """What a request yields that has not begun."""
        return (
            encode(Failed(request, error.code.wire_name, error.message)),
            Ended(self._id, None, 0.0, 0.0, route.attempts, error.retry_after),
        )

    async def _run(
        self, request: Request, operation: AnyOperation, route: Route
    ) -> AsyncIterator[Reply]:
        outbox = Outbox(request.skip)
        job: Job[Any] = Job(
            operation,
            outbox,
            time.monotonic() + route.seconds,
            route.client,
            route.work,
            attempts=route.attempts,
            continues=route.continues,
        )
        running = asyncio.create_task(self._model.backend.run(job))
        retry_after: float | None = None
        try:
            while items := await outbox.take():
                yield b"".join(encode(_message(request.id, item)) for item in items)
            try:
                end: Message = Done(request.id, await running, 0)
            except ServiceError as error:
                lost = error.code is ErrorCode.not_found and route.has_recording
                if lost and outbox.size == request.skip:
                    yield RecordingMissing(self._id)
                    return
                retry_after = error.retry_after
                end = Failed(request.id, error.code.wire_name, error.message)
            yield encode(end)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        worker = job.runs[-1].worker if job.runs else None
        yield Ended(self._id, worker, job.queued_s, job.running_s, job.attempts, retry_after)

    @contextlib.asynccontextmanager
    async def _recording(
        self, operation: AnyOperation, blocks: tuple[bytes, ...]
    ) -> AsyncIterator[AnyOperation]:
        """The operation with a recording that workers can read: in memory, or in a file here.

        Raises `BucketError`.
        """
        recording = recording_of(operation)
        if recording is None:
            yield operation
        elif blocks:
            path = await in_thread(lambda: _write(blocks, self._spool))
            try:
                here = replace(recording, data=None, path=path)
                yield with_recording(unregistered(operation), here)
            finally:
                await in_thread(lambda: os.unlink(path))
        elif recording.data is not None:
            # Nobody tells this machine when a voice is deleted, so that it is kept as those of
            # clones are.
            yield unregistered(operation)
        elif self._shared is not None:
            async with self._from_bucket(self._shared, operation, recording) as fetched:
                yield fetched
        else:
            kept = VoiceFolder(self._settings.voices_dir.resolve()).recording(recording.key)
            if await in_thread(kept.is_file):  # fronts and replicas share the folder
                yield with_recording(operation, replace(recording, path=str(kept)))
            else:
                yield unregistered(operation)  # its encoded form may be here

    @contextlib.asynccontextmanager
    async def _from_bucket(
        self, shared: SharedStates, operation: AnyOperation, recording: Recording
    ) -> AsyncIterator[AnyOperation]:
        key = recording.key
        with shared.hold(key):
            try:
                await shared.fetch(key)
            except NoRecordingError:  # it may be the voice of a clone, which is cached here
                yield unregistered(operation)
                return
            yield with_recording(operation, replace(recording, path=str(shared.recording(key))))
        shared.offer_soon(key)

    async def act(self, _: Route, act: str, child: str | None = None) -> None:
        """What an operator does to this replica, or to one of its children."""
        backend = self._model.backend
        match act, child:
            case "recycle", str(name):
                backend.recycle(name)
            case "kill", str(name):
                backend.kill(name)
            case "pause", None:
                backend.pause()
            case "resume", None:
                backend.resume()
            case "reload", None:
                self._models.reload_model(self._model)
            case _:
                raise ValueError(f"there is no act {act!r}")

    async def check_health(self) -> None:
        """Raise when the replica is to be replaced: its model has FAILED, or memory stays full."""
        backend = self._model.backend
        if backend.state is ModelState.FAILED:
            raise RuntimeError(f"the model has FAILED: {backend.status().message}")
        full = self._models.usage > self._models.container.limit
        self._overfull = self._overfull + 1 if full else 0
        if self._overfull >= _OVERFULL:
            raise RuntimeError("its memory stays full, though workers are replaced")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What the autoscaling policy gets: `supervisor/cluster/scaling.py`."""
        status = self._model.backend.status()
        return {BACKLOG: status.backlog, SPEED: status.speed}

    async def __del__(self) -> None:
        """The end, when all requests are finished. Ray Serve awaits it."""
        with contextlib.suppress(Exception):
            await self._registry.leave.remote(self._id)
        await self._close()

    async def _close(self) -> None:
        if self._reporting is not None:
            self._reporting.cancel()
        await self._models.close()
        if self._shared is not None:
            await self._shared.close()
        self._spool.close()

    async def _report(self) -> None:
        """Tell the registry how this replica is, and learn what the others refuse."""
        while True:
            try:
                async with asyncio.timeout(2 * _REPORT_SECONDS):
                    await self._report_once()
            except Exception as error:  # the registry moves to another node, or the head is away
                logger.debug("report_failed", error=str(error))
                with contextlib.suppress(Exception):
                    self._registry = await in_thread(partial(registry_of, self._spec.application))
            if self._shared is not None and time.monotonic() >= self._tidy_at:
                self._tidy_at = time.monotonic() + _TIDY_SECONDS
                with contextlib.suppress(OSError):
                    await self._shared.tidy()
            await asyncio.sleep(_REPORT_SECONDS)

    async def _report_once(self) -> None:
        while self._quarantine.new:
            digest = self._quarantine.new[0]
            await self._registry.quarantine.remote(digest, self._settings.quarantine)
            self._quarantine.new.pop(0)
        status = aged(self._model.backend.status(), time.monotonic())
        report = ReplicaReport(self._id, self._node, os.getpid(), self._spec, status)
        refused: dict[bytes, float] = await self._registry.report.remote(report)
        for digest, seconds in refused.items():
            self._quarantine.hold_until(digest, time.monotonic() + seconds)


def settings_of(spec: ReplicaSpec) -> Settings:
    """The settings of a replica: those of its machine's environment, then those of its model.

    Raises pydantic's `ValidationError`.
    """
    given = {
        "threads": max(1, int(spec.cpus)),
        **spec.settings,
        f"{spec.kind.value}_engine": spec.engine,
        "memory_limit_mb": spec.memory_mb,
        # Weights change with a new version of the application, and replicas are kept warm.
        "watch_models": 0,
        "pull": "",
        "engines": "",
    }
    return Settings.model_validate(given).with_only(spec.kind, spec.model)


def _write(blocks: tuple[bytes, ...], spool: Spool) -> str:
    descriptor, path = tempfile.mkstemp(dir=spool.folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for block in blocks:
                file.write(block)
    except BaseException:
        os.unlink(path)
        raise
    return path


def _message(id: int, item: Item) -> Message:
    match item:
        case bytes():
            return Chunk(id, item)
        case SpokenSentence():
            return Spoken(id, item)
        case Segment():
            return Recognized(id, item)
