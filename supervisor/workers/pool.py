"""Keeps N workers of one model alive, and replaces them without a gap. Runs in the front."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

from ipc.messages import Json
from supervisor.log import logger
from supervisor.memory.recycling import Reason
from supervisor.memory.usage import to_mb
from supervisor.workers.backoff import Backoff
from supervisor.workers.config import PoolConfig
from supervisor.workers.handle import Worker
from supervisor.workers.launch import Launcher, LaunchError
from supervisor.workers.lifecycle import State
from supervisor.workers.process import describe_exit
from supervisor.workers.slot import SERVING, Lineage, Member
from supervisor.workers.template import Template, Templates

_LEAVE_SECONDS = 2.0


class PoolState(Enum):
    """How a model is doing as a whole."""

    STARTING = "STARTING"
    SERVING = "SERVING"
    BACKOFF = "BACKOFF"
    FAILED = "FAILED"
    STOPPING = "STOPPING"


@dataclass(frozen=True, slots=True)
class Environment:
    """What a pool asks of the rest of the service.

    `on_change` is called whenever a worker may have become free or the state may have changed;
    `has_room` tells whether that many more bytes fit into the container; `kernel_killed` whether
    the kernel has killed a process for lack of memory since it was last asked.
    """

    on_change: Callable[[], None]
    has_room: Callable[[int], bool]
    kernel_killed: Callable[[], bool]


class Pool:
    """The workers of one model."""

    def __init__(self, config: PoolConfig, backoff: Backoff, environment: Environment) -> None:
        self.config = config
        self.members: list[Member] = []
        self.message: str | None = None
        """Why the last start failed; None once one has worked."""
        self.info: Json = {}
        """What the engine says of itself; empty until it has loaded once."""
        self.recycles: Counter[Reason] = Counter()
        self._changed = asyncio.Event()
        self.templates = Templates(config, on_death=self._changed.set)
        self._backoff = backoff
        self._environment = environment
        self._vacated: list[Lineage] = []
        self._launching = 0
        self._counter = 0
        self._not_before = 0.0
        self._failed_at = 0.0
        """When the last failure was counted, if nothing has worked since."""
        self._closing = False
        self._limit_reported = False
        self._tried = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    # What others ask

    @property
    def state(self) -> PoolState:
        """How the model is doing."""
        if self._closing:
            return PoolState.STOPPING
        if any(member.serving for member in self.members):
            return PoolState.SERVING
        if self._backoff.exhausted:
            return PoolState.FAILED
        return PoolState.BACKOFF if self._backoff.failures else PoolState.STARTING

    @property
    def retry_after(self) -> float:
        """Seconds until the next try to start; 0 when one is under way."""
        return max(0.0, self._not_before - time.monotonic())

    async def known_info(self) -> Json:
        """`info`, once the first start has worked; still empty when all tries have failed."""
        await self._tried.wait()
        return self.info

    def idle_worker(self) -> Worker | None:
        """A worker that can take a request; one about to be replaced only as a last resort."""
        idle = [member for member in self.members if member.worker.state is State.IDLE]
        chosen = min(idle, key=lambda member: member.replacing, default=None)
        return chosen.worker if chosen else None

    def replaceable(self) -> list[Member]:
        """Workers that `recycle` would replace now."""
        if self.retry_after > 0:
            return []
        return [m for m in self.members if m.serving and not m.replacing]

    # What others tell

    def succeeded(self) -> None:
        """A request was answered: whatever failed before, this model works."""
        self._backoff.succeeded()
        self._failed_at = 0.0
        self.message = None

    def crashed(self, worker: Worker, reason: str) -> None:
        """A request lost its first worker. What its replays cost is the request's fault alone."""
        pause = self._hold_off(f"a worker died on a request: {reason}", worker.started)
        if pause > 0:
            logger.warning("holding_off", model=self.config.model, retry_in_s=round(pause, 2))

    def start(self) -> None:
        """Begin to keep workers."""
        self._spawn_task(self._maintain())
        self._changed.set()

    async def close(self) -> None:
        """Stop all workers and the template, and wait until they are gone."""
        self._closing = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        workers = [member.worker for member in self.members]
        for worker in workers:
            worker.stop("shutdown", grace=_LEAVE_SECONDS)
        await asyncio.gather(*(worker.process.exited for worker in workers))
        await self.templates.close()  # last: a template relays how its workers ended

    def recycle(self, member: Member, reason: Reason) -> bool:
        """Replace a worker; False when that is not possible now.

        The successor is READY before the old worker drains, unless two of them would not fit into
        the container: then the queue holds while one goes and the other comes.
        """
        if member not in self.replaceable():
            return False
        member.replacing = True
        self._launching += 1
        worker = member.worker
        beside = self._environment.has_room(max(worker.rss - worker.baseline_rss, 0))
        self._spawn_task(self._replace(member, reason, beside=beside))
        return True

    async def reload(self, config: PoolConfig) -> None:
        """Load a template from `config` and replace all workers by its own, losing no request.

        Raises `LaunchError` when it cannot be loaded; then everything stays as it was.
        """
        old = await self.templates.reload(config)
        self.config = config
        self._limit_reported = False
        self._not_before = 0.0  # what failed was another model
        if old is not None:
            self._spawn_task(old.close())
        self._changed.set()

    # How it keeps them

    async def _maintain(self) -> None:
        pause = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause or None):
                    await self._changed.wait()
            self._changed.clear()
            if (pause := self.retry_after) > 0:
                continue
            began = time.monotonic()
            try:
                launcher = await self.templates.launcher()
            except LaunchError as error:
                self._failed(str(error), began)
                continue
            self._replace_orphans(launcher)
            serving = sum(m.serving and not m.replacing for m in self.members)
            missing = max(0, self.config.size - self._launching - serving)
            self._launching += missing
            for _ in range(missing):
                self._spawn_task(self._fill())
            # A worker that is READY may still count as launching for a moment.
            surplus = 0 if self._launching else max(0, serving - self.config.size)
            for member in self.replaceable()[:surplus]:
                member.worker.retire("there are to be fewer workers")

    def _replace_orphans(self, launcher: Launcher) -> None:
        """Workers of another template share no memory with this one's, or have other weights."""
        for member in list(self.members):
            if member.launcher is not launcher:
                died = isinstance(member.launcher, Template) and not member.launcher.closing
                self.recycle(member, Reason.TEMPLATE_DIED if died else Reason.RELOADED)

    async def _fill(self) -> None:
        lineage = self._vacated.pop() if self._vacated else Lineage()
        began = time.monotonic()
        try:
            await self._launch(lineage)
        except LaunchError as error:
            self._vacated.append(lineage)
            self._failed(str(error), began)

    async def _replace(self, member: Member, reason: Reason, *, beside: bool) -> None:
        decided = time.monotonic()
        worker = member.worker
        rss = worker.rss
        told = f"recycled: {reason.value}"
        lineage = member.lineage.heir(told)
        if not beside:
            worker.retire(told)
            await asyncio.shield(worker.process.exited)
        began = time.monotonic()
        try:
            successor = await self._launch(lineage)
        except LaunchError as error:
            member.replacing = False
            if not beside:
                self._vacated.append(lineage)
            self._failed(str(error), began)
            return
        ready = time.monotonic()
        self.recycles[reason] += 1
        worker.retire(told)
        await asyncio.shield(worker.process.exited)
        logger.info(
            "recycled",
            child=worker.name,
            successor=successor.name,
            reason=reason.value,
            gap=not beside,
            ready_ms=round((ready - decided) * 1000, 1),
            drain_ms=round((time.monotonic() - ready) * 1000, 1),
            rss_mb=to_mb(rss),
            given_back_mb=to_mb(rss - successor.baseline_rss),
        )

    async def _launch(self, lineage: Lineage) -> Worker:
        """Start a worker and wait until it is READY; `_launching` has been raised for it."""
        self._counter += 1
        name = f"{self.config.model}-{self._counter}"
        try:
            launcher = await self.templates.launcher()
            worker = await launcher.launch(name, self._on_worker_change)
            member = Member(worker, launcher, lineage)
            if worker.state is not State.DEAD:
                self.members.append(member)
            await member.until_ready()
        finally:
            self._launching -= 1
            self._changed.set()
        logger.info("worker_ready", child=name, pid=worker.process.pid, rss_mb=to_mb(worker.rss))
        return worker

    def _failed(self, message: str, began: float) -> None:
        """What has begun at that time could not be started."""
        pause = self._hold_off(message, began)
        if self._backoff.exhausted:
            self._tried.set()
        logger.error(
            "start_failed",
            model=self.config.model,
            error=message,
            failures=self._backoff.failures,
            retry_in_s=round(pause, 2),
        )

    def _hold_off(self, message: str, began: float) -> float:
        """Count a failure and put off the next start; returns by how many seconds.

        Workers that die together tell no more than one does: what had begun before the last failure
        is no further one in a row.
        """
        self.message = message
        if began >= self._failed_at:
            self._failed_at = time.monotonic()
            self._not_before = self._failed_at + self._backoff.failed()
        self._changed.set()
        self._environment.on_change()
        return self.retry_after

    # What happens to them

    def _member(self, worker: Worker) -> Member | None:
        return next((member for member in self.members if member.worker is worker), None)

    def _on_worker_change(self, worker: Worker) -> None:
        member = self._member(worker)
        if member is not None:
            if worker.state is State.DEAD:
                self._bury(member)
            elif worker.state is State.IDLE:
                if worker.requests == 0:
                    self._settle(member)
                self._obey_policy(member)  # before the next request is given to it
        if worker.state not in SERVING:  # from IDLE to BUSY and back there is nothing to maintain
            self._changed.set()
        self._environment.on_change()

    def _settle(self, member: Member) -> None:
        """The worker is READY: what it holds now is its baseline."""
        worker = member.worker
        self.info = worker.info
        self._tried.set()
        limits = self.config.policy.limits
        member.settle(limits)
        if None in (member.bounds.soft, member.bounds.hard) and not self._limit_reported:
            self._limit_reported = True
            logger.error(
                "limit_too_low",
                model=self.config.model,
                baseline_mb=to_mb(worker.baseline_rss),
                soft_limit_mb=to_mb(limits.soft.of(worker.baseline_rss)),
                hard_limit_mb=to_mb(limits.hard.of(worker.baseline_rss)),
                message="a fresh worker is over this limit already, so it is not applied; raise "
                f"VOICE_ENGINE_{self.config.model.upper()}_SOFT_LIMIT_MB or _HARD_LIMIT_MB",
            )

    def _bury(self, member: Member) -> None:
        self.members.remove(member)
        worker = member.worker
        was_ready = worker.ready.done() and worker.ready.exception() is None
        if self._closing or not was_ready:
            return
        self._diagnose(worker)
        reason = worker.last_exit
        if not member.replacing:
            self._vacated.append(member.lineage.heir(reason))
        if worker.end_reason is None or worker.blames_request:
            logger.warning(
                "worker_died",
                child=worker.name,
                pid=worker.process.pid,
                reason=reason,
                requests=worker.requests,
            )
            if worker.requests == 0 and not worker.has_request:
                self._failed(f"a worker died before it did anything: {reason}", worker.started)

    def _diagnose(self, worker: Worker) -> None:
        """A SIGKILL that was not ours may have been the kernel's."""
        if (
            worker.end_reason is None
            and describe_exit(worker.process.exited.result()) == "SIGKILL"
            and self._environment.kernel_killed()
        ):
            worker.diagnosis = "killed by the kernel: the container is out of memory"

    # Memory

    def observe(self, member: Member, rss: int) -> None:
        """A tick of the clock found the worker holding `rss` bytes."""
        member.observe(rss)
        self._obey_policy(member)

    def _obey_policy(self, member: Member) -> None:
        worker = member.worker
        reason = member.due(self.config.policy)
        if reason is Reason.HARD_LIMIT:
            self.recycles[reason] += 1
            logger.warning(
                "hard_limit",
                child=worker.name,
                rss_mb=to_mb(worker.rss),
                limit_mb=to_mb(member.bounds.hard),
                state=worker.state.value,
            )
            # A worker that got here in its first request got here because of that request.
            worker.stop(f"recycled: {reason.value}", blame=worker.requests == 0)
        elif reason is not None:
            self.recycle(member, reason)

    def _spawn_task(self, coroutine: Awaitable[None]) -> None:
        async def run() -> None:
            try:
                await coroutine
            except Exception:  # a bug here must be seen
                logger.exception("supervision_failed", model=self.config.model)

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
