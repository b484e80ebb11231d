"""Keeps N workers of one model alive, and replaces them without a gap. Runs in the front."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from ipc.engines import EngineInfo
from ipc.messages import SandboxLayer
from supervisor.events import (
    HardLimitPassed,
    HoldingOff,
    LimitTooLow,
    Loading,
    Publish,
    Recycled,
    Sandboxed,
    SandboxRefused,
    StartFailed,
    Unloaded,
    WorkerDied,
    WorkerEnded,
    WorkerReady,
)
from supervisor.log import logger
from supervisor.memory.recycling import Reason, decide
from supervisor.memory.usage import to_mb
from supervisor.workers.backoff import Backoff
from supervisor.workers.config import PoolConfig
from supervisor.workers.handle import Cause, WorkerHandle
from supervisor.workers.launch import Launcher, LaunchError
from supervisor.workers.lifecycle import ModelState, State
from supervisor.workers.on_demand import Residents
from supervisor.workers.process import LEAVE_SECONDS
from supervisor.workers.slot import RestartHistory, Slot
from supervisor.workers.template import Templates

_A_REQUEST = "a request"
_FOR_ANOTHER = "another model needs its memory"


@dataclass(frozen=True, slots=True)
class Environment:
    """What a pool needs from the rest of the service.

    - `publish` gets the events of the pool.
    - `on_change` is called when a slot may have become free or the state may have changed.
    - `has_room` returns whether that many more bytes fit into the container.
    - `kernel_killed` returns whether the kernel has killed a process for lack of memory since the
      last call; None when that cannot be known here.
    - `residents` gives memory to models that are loaded on demand.
    """

    publish: Publish
    on_change: Callable[[], None]
    has_room: Callable[[int], bool]
    kernel_killed: Callable[[], bool | None]
    residents: Residents = field(default_factory=Residents)


class Pool:
    """The workers of one model."""

    def __init__(self, config: PoolConfig, backoff: Backoff, environment: Environment) -> None:
        self.config = config
        self.slots: list[Slot] = []
        self.message: str | None = None
        """Why the last start failed; None after a start that worked."""
        self.info: EngineInfo | None = config.engine.known
        """The engine's description of itself; None, or what is known, until it has loaded once."""
        self.sandbox: tuple[SandboxLayer, ...] | None = None
        """The layers of the last worker's sandbox, none if that is off; None before READY."""
        self._capacity = self._live = config.capacity
        """Those of a worker when it is READY."""
        self._changed = asyncio.Event()
        self._backoff = backoff
        self._environment = environment
        self.publish = environment.publish
        self.templates = Templates(
            config, replace(backoff), self.publish, on_death=self._changed.set
        )
        self._vacated: list[RestartHistory] = []
        self._launching = 0
        self._counter = 0
        self._not_before = 0.0
        self._failed_at = 0.0
        """When the last failure was counted; 0 after a success."""
        self._closing = False
        self._limit_reported = False
        self._users = 0
        """Requests in flight."""
        self._idle_since = time.monotonic()
        """When the last request ended, or the last worker became READY after a load."""
        self.ready_since = self._idle_since
        """When a worker became READY after the last load."""
        self._unloaded = config.on_demand
        self._unloading: asyncio.Future[None] | None = None
        """The end of the processes of an unloaded model; until the next load has begun."""
        self._leaving = False
        """Whether it is to be unloaded when no worker has a request any more; those wait."""
        self._wanted = ""
        """Why an unloaded model loads again."""
        self._load_began: float | None = None
        """None while no load is being measured."""
        self._load_seconds = 0.0
        """How long the last load took until a worker was READY."""
        self._tried = asyncio.Event()
        if config.on_demand:
            self._tried.set()
            self._unloading = asyncio.get_running_loop().create_future()
            self._unloading.set_result(None)
        self._tasks: set[asyncio.Task[None]] = set()

    # Queries

    @property
    def claim(self) -> int:
        """MB that it needs when it is loaded, if that is on demand."""
        return self.config.claim

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for an unloaded model to load."""
        return not self._unloaded and (self._users > 0 or self._wanted != _A_REQUEST)

    @property
    def idle_since(self) -> float:
        """When the last request ended, or the last worker became READY after a load."""
        return self._idle_since

    @property
    def ending(self) -> bool:
        """Whether it is about to end all of its processes."""
        return self._leaving or self._unloading is not None

    @property
    def state(self) -> ModelState:
        """The state of the model."""
        if self._closing:
            return ModelState.STOPPING
        if self._unloaded:
            return ModelState.UNLOADED
        if any(slot.worker.state is State.READY for slot in self.slots):
            return ModelState.SERVING
        if self._backoff.exhausted:
            return ModelState.FAILED
        if self._backoff.failures or self._backoff.kills:
            return ModelState.BACKOFF
        return ModelState.LOADING if self._wanted else ModelState.STARTING

    @property
    def retry_after(self) -> float:
        """Seconds until the next attempt to start; 0 when one is running."""
        return max(0.0, self._not_before - time.monotonic())

    @property
    def ready_in(self) -> float:
        """Seconds until a model that loads again will serve, if that takes as long as last time."""
        if self.state is not ModelState.LOADING:
            return 0.0
        spent = 0.0 if self._load_began is None else time.monotonic() - self._load_began
        return max(0.0, self._load_seconds - spent)

    @property
    def parallel(self) -> int:
        """How many requests all workers together can serve at once."""
        return self.config.size * self._capacity

    @property
    def parallel_live(self) -> int:
        """How many of them may be live streams."""
        live = [slot.worker.live for slot in self.slots if slot.worker.state is State.READY]
        return sum(live) + self._live * max(0, self.config.size - len(live))

    async def known_info(self) -> EngineInfo | None:
        """`info`, once the first start has worked; None when all attempts have failed."""
        await self._tried.wait()
        return self.info

    def free_worker(
        self, *, live: bool = False, empty: bool = False, slots: int = 1
    ) -> WorkerHandle | None:
        """The READY worker with the most free slots.

        With `live` only slots for live streams count; with `empty` the worker has no requests. It
        has at least so many `slots`, or all of its slots are free. A worker that is being replaced
        is chosen only if no other one is free.
        """
        if self._leaving:
            return None
        chosen: WorkerHandle | None = None
        best = (False, 0)
        for slot in self.slots:
            worker = slot.worker
            free = worker.free_live_slots if live else worker.free_slots
            most = min(worker.capacity, worker.live) if live else worker.capacity
            if free < max(1, min(slots, most)) or (empty and worker.in_flight):
                continue
            if chosen is None or (slot.replacing, -free) < best:
                chosen, best = worker, (slot.replacing, -free)
        return chosen

    def replaceable(self) -> list[Slot]:
        """Slots that `recycle` would replace now."""
        if self.retry_after > 0:
            return []
        return [slot for slot in self.slots if slot.serving and not slot.replacing]

    # Events and commands

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """A request is in flight: an unloaded model loads for it, and stays loaded meanwhile."""
        self._users += 1
        if self._unloaded:
            self._load_again(_A_REQUEST)
        try:
            yield
        finally:
            self._users -= 1
            self._idle_since = time.monotonic()
            if self._users == 0:
                self._environment.residents.changed()

    def unload(self, reason: str) -> bool:
        """End all processes until the next request; False when that is not possible now.

        Only a model that serves, and has no requests, is unloaded, and not while a process starts,
        or must not start because others have failed. Nothing is lost: from here on no worker is
        READY, so a request that comes meanwhile waits for the next load.
        """
        if self._users or not self._can_end:
            return False
        self._unload(reason)
        return True

    @property
    def _can_end(self) -> bool:
        """Whether its processes may end now; requests are not counted.

        A model that shares memory on demand also gives up when it cannot start: others need that.
        """
        if self._launching or self.templates.loading is not None:
            return False
        if self.config.claim and self.state in (ModelState.BACKOFF, ModelState.FAILED):
            return True
        return self.state is ModelState.SERVING and not self.retry_after

    def _unload(self, reason: str) -> None:
        if self.state is ModelState.SERVING:
            self.succeeded()  # the last start worked: failures before it say nothing about the next
        self._unloaded, self._leaving = True, False
        for slot in self.slots:
            slot.worker.drain(f"unloaded: {reason}")
        self._unloading = self._spawn_task(self._end_processes(reason))

    def make_way(self, *, at_once: bool) -> bool:
        """Unload the model, so that another one can load; see `Resident`."""
        if at_once:
            return self.unload(_FOR_ANOTHER)
        if self.state is not ModelState.SERVING:
            return False
        self._leaving = True
        self._leave_if_empty()
        return True

    def _leave_if_empty(self) -> None:
        """Unload a model that makes way, once no worker has a request; others wait for its turn."""
        busy = any(slot.worker.in_flight for slot in self.slots)
        if self._leaving and not busy and self._can_end:
            self._unload(_FOR_ANOTHER)
            if self._users:
                self._load_again(_A_REQUEST)

    def unload_if_idle(self) -> None:
        """A tick of the monitor: unload the model if it has had no request for long enough."""
        if self.config.idle and time.monotonic() - self._idle_since >= self.config.idle:
            self.unload(f"no request for {self.config.idle:g} s")

    def succeeded(self) -> None:
        """A request was finished: whatever failed before, this model works."""
        self._backoff.succeeded()
        self._failed_at = 0.0
        self.message = None

    def crashed(self, worker: WorkerHandle, reason: str) -> None:
        """A request lost its first worker; later losses count only against the request."""
        self._hold_off(
            f"a worker died on a request: {reason}", worker.started, self._backoff.failed
        )
        if (pause := self.retry_after) > 0:
            self.publish(HoldingOff(model=self.config.model, retry_in_s=round(pause, 2)))

    def start(self) -> None:
        """Start to keep workers."""
        if not self._unloaded:
            self._load_began = time.monotonic()
        self._spawn_task(self._maintain())
        self._changed.set()

    async def close(self) -> None:
        """Stop all workers and the template, and wait until they are gone."""
        self._closing = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        workers = [slot.worker for slot in self.slots]
        for worker in workers:
            worker.stop("shutdown", grace=LEAVE_SECONDS, planned=True)
        await asyncio.gather(*(worker.exited for worker in workers))
        await self.templates.close()  # last: a template relays how its workers ended

    def recycle(self, slot: Slot, reason: Reason) -> bool:
        """Replace a worker; False when that is not possible now.

        The successor is READY before the old worker drains. If two do not fit into the container,
        the old worker ends first, and requests wait in the queue until the successor is READY.
        """
        if slot not in self.replaceable():
            return False
        slot.replacing = True
        self._launching += 1
        worker = slot.worker
        beside = self._environment.has_room(max(worker.rss - worker.baseline_rss, 0))
        self._spawn_task(self._replace(slot, reason, beside=beside))
        return True

    async def reload(self, config: PoolConfig) -> None:
        """Load a template from `config` and replace all workers, without losing a request.

        An unloaded model is loaded, so that a configuration that does not work is found at once;
        but not one that is loaded on demand.
        Raises `LaunchError` when the template cannot be loaded; then everything stays as it was.
        """
        if self._unloading is not None and config.on_demand:
            self.config = config
            self.templates.configure(config)
            return
        if self._unloading is not None:
            await asyncio.wait([self._unloading])
        previous = await self.templates.reload(config)
        self.config = config
        if self._unloaded:
            self._load_again("a reload")
        self._limit_reported = False
        self._not_before = 0.0  # the failures were those of the previous configuration
        if previous is not None:
            self._spawn_task(previous.close())
        self._changed.set()

    def resize(self, config: PoolConfig) -> None:
        """Keep the number of workers, and apply the limits, that `config` has; the rest is equal.

        Workers are added, or finish what they have and end.
        """
        self.config = config
        for slot in self.slots:
            if slot.bounded:
                slot.set_bounds(config.policy.limits)
        self._changed.set()

    def kill(self, child: str) -> bool:
        """End a worker or a template at once, as if it had crashed; False: there is none so called.

        Requests in flight are replayed; none of them is to blame.
        """
        for slot in self.slots:
            if slot.worker.name == child and slot.worker.state is not State.DEAD:
                slot.worker.stop("killed by an operator", cause=Cause.OPERATOR, blame=False)
                return True
        for template, _ in self.templates.processes:
            if template.name == child:
                template.killed = True
                template.kill()
                return True
        return False

    def check(self, slot: Slot) -> None:
        """A tick of the monitor: read the worker's memory and apply the memory policy."""
        rss = slot.worker.usage()
        if rss is not None:
            slot.observe(rss)
            self._apply_policy(slot)

    # Keeping the workers

    async def _maintain(self) -> None:
        pause = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause or None):
                    await self._changed.wait()
            self._changed.clear()
            self._leave_if_empty()
            if self._unloaded:
                pause = 0.0
                continue
            if self._unloading is not None and not await self._begin_load(self._unloading):
                pause = 0.0
                continue
            if (pause := self.retry_after) > 0:
                continue
            if not self._missing() and (pause := self.templates.pause) > 0:
                continue
            began = time.monotonic()
            if self._load_began is not None and not self._launching:
                self._load_began = began
            try:
                launcher = await self.templates.launcher()
            except LaunchError as error:
                self._failed(error, began)
                continue
            self._replace_strays(launcher)
            serving, missing = self._serving(), self._missing()
            self._launching += missing
            for _ in range(missing):
                self._spawn_task(self._fill())
            # A worker that is READY may still count as launching for a moment.
            surplus = 0 if self._launching else max(0, serving - self.config.size)
            for slot in self.replaceable()[:surplus]:
                slot.worker.drain("the number of workers was reduced")

    def _serving(self) -> int:
        """How many workers are READY and stay."""
        return sum(slot.serving and not slot.replacing for slot in self.slots)

    def _missing(self) -> int:
        """How many workers must be started."""
        return 0 if self._unloaded else max(0, self.config.size - self._launching - self._serving())

    def _load_again(self, reason: str) -> None:
        """Keep workers again, after an unload."""
        self._unloaded = False
        self._wanted = reason
        self._changed.set()

    async def _begin_load(self, unloading: asyncio.Future[None]) -> bool:
        """Wait until the processes before the unload are gone: their memory is needed.

        False: it is loaded on demand, and nobody wants it any more.
        """
        await asyncio.wait([unloading])
        if self.config.claim and not await self._environment.residents.admit(self):
            self._unloaded = True
            return False
        self._unloading = None
        if self.templates.current is None:
            self._load_began = time.monotonic()
        self.publish(Loading(model=self.config.model, reason=self._wanted))
        return True

    async def _end_processes(self, reason: str) -> None:
        """End what an unloaded model has left."""
        await asyncio.gather(*(asyncio.shield(slot.worker.exited) for slot in self.slots))
        await self.templates.unload()  # last: a template relays how its workers ended
        self._environment.residents.gone(self)
        self.publish(Unloaded(model=self.config.model, reason=reason))

    def _replace_strays(self, launcher: Launcher) -> None:
        """Replace workers of other launchers: they share no memory with it, or have old weights."""
        for slot in list(self.slots):
            if slot.launcher is not launcher:
                died = slot.launcher.died
                self.recycle(slot, Reason.TEMPLATE_DIED if died else Reason.RELOADED)

    async def _fill(self) -> None:
        history = self._vacated.pop() if self._vacated else RestartHistory()
        began = time.monotonic()
        try:
            await self._launch(history)
        except LaunchError as error:
            self._vacated.append(history)
            self._failed(error, began)

    async def _replace(self, slot: Slot, reason: Reason, *, beside: bool) -> None:
        decided = time.monotonic()
        worker = slot.worker
        rss = worker.rss
        told = f"recycled: {reason.value}"
        history = slot.history.next(told)
        if not beside:
            worker.drain(told)
            await asyncio.shield(worker.exited)
        began = time.monotonic()
        try:
            successor = await self._launch(history)
        except LaunchError as error:
            slot.replacing = False
            if not beside:
                self._vacated.append(history)
            self._failed(error, began)
            return
        ready = time.monotonic()
        worker.drain(told)
        await asyncio.shield(worker.exited)
        self.publish(
            Recycled(
                model=self.config.model,
                child=worker.name,
                successor=successor.name,
                reason=reason.value,
                gap=not beside,
                ready_ms=round((ready - decided) * 1000, 1),
                drain_ms=round((time.monotonic() - ready) * 1000, 1),
                rss_mb=to_mb(rss),
                given_back_mb=to_mb(rss - successor.baseline_rss),
            )
        )

    async def _launch(self, history: RestartHistory) -> WorkerHandle:
        """Start a worker and wait until it is READY; `_launching` has been raised for it."""
        self._counter += 1
        name = f"{self.config.model}-{self._counter}"
        try:
            launcher = await self.templates.launcher()
            worker = await launcher.launch(name, self._on_worker_change)
            slot = Slot(worker, launcher, history)
            if worker.state is not State.DEAD:
                self.slots.append(slot)
            await slot.until_ready()
        finally:
            self._launching -= 1
            self._changed.set()
        self.publish(
            WorkerReady(
                model=self.config.model, child=name, pid=worker.pid, rss_mb=to_mb(worker.rss)
            )
        )
        return worker

    def _failed(self, error: LaunchError, began: float, out_of_memory: bool | None = None) -> None:
        """Count and log a failed start that began at `began`.

        `out_of_memory`: whether the kernel killed it; None if nobody has looked yet.
        """
        count = self._backoff.failed
        if error.killed:
            if out_of_memory is None:
                out_of_memory = self._environment.kernel_killed()
            count = partial(self._backoff.killed, out_of_memory=out_of_memory is not False)
        self._hold_off(str(error), began, count)
        if self._backoff.exhausted:
            self._tried.set()
        self.publish(
            StartFailed(
                model=self.config.model,
                error=str(error),
                failures=self._backoff.failures,
                kills=self._backoff.kills,
                retry_in_s=round(self.retry_after, 2),
            )
        )

    def _hold_off(self, message: str, began: float, count: Callable[[], float]) -> None:
        """Delay the next start by what `count` returns.

        Workers that die together count once: what began before the last failure is not another
        failure in a row.
        """
        self.message = message
        if began >= self._failed_at:
            self._failed_at = time.monotonic()
            self._not_before = self._failed_at + count()
        self._changed.set()
        self._environment.on_change()

    # Events of workers

    def _slot(self, worker: WorkerHandle) -> Slot | None:
        return next((slot for slot in self.slots if slot.worker is worker), None)

    def _on_worker_change(self, worker: WorkerHandle) -> None:
        slot = self._slot(worker)
        if slot is not None:
            if worker.state is State.DEAD:
                self._on_dead(slot)
            elif worker.state is State.STOPPING and slot.bounded and not slot.replacing:
                self._vacate(slot)
            elif worker.state is State.READY:
                if not slot.bounded:
                    self._on_ready(slot)
                self._apply_policy(slot)  # before it gets the next request
        if worker.state is not State.READY or self._leaving:  # requests alone need no maintenance
            self._changed.set()
        self._environment.on_change()

    def _on_ready(self, slot: Slot) -> None:
        """The worker is READY: its RSS now is its baseline."""
        worker = slot.worker
        self.info = worker.info
        if worker.info is not None:
            self.templates.chose(worker.info.chosen)
        self._capacity, self._live = worker.capacity, worker.live
        if self._wanted or self._load_began is not None:
            self._idle_since = self.ready_since = time.monotonic()
        if self._load_began is not None:
            self._load_seconds = time.monotonic() - self._load_began
        self._wanted, self._load_began = "", None
        if worker.sandbox != self.sandbox:
            self.sandbox = worker.sandbox
            self._tell_sandbox()
        self._tried.set()
        limits = self.config.policy.limits
        slot.set_bounds(limits)
        if None in (slot.bounds.soft, slot.bounds.hard) and not self._limit_reported:
            self._limit_reported = True
            self.publish(
                LimitTooLow(
                    model=self.config.model,
                    baseline_mb=to_mb(worker.baseline_rss),
                    soft_limit_mb=to_mb(limits.soft.of(worker.baseline_rss)),
                    hard_limit_mb=to_mb(limits.hard.of(worker.baseline_rss)),
                    message="a new worker is already over this limit, so the limit is not "
                    f"applied; raise {self.config.limit_setting}",
                )
            )

    def _tell_sandbox(self) -> None:
        """Tell once for the model, not for each worker, what its workers gave up and what not."""
        layers = self.sandbox or ()
        refused = {layer.name: layer.detail for layer in layers if not layer.active}
        if refused:
            self.publish(
                SandboxRefused(
                    model=self.config.model,
                    layers=refused,
                    message="the kernel, or the container, refuses these layers of the workers' "
                    "sandbox; the model serves without them",
                )
            )
        active = {layer.name: layer.detail for layer in layers if layer.active}
        self.publish(Sandboxed(model=self.config.model, layers=active))

    def _vacate(self, slot: Slot) -> RestartHistory:
        """The worker ends: its successor, which may start before it is dead, gets its history."""
        if slot.next_history is None:
            slot.next_history = slot.history.next(None)
            self._vacated.append(slot.next_history)
        return slot.next_history

    def _on_dead(self, slot: Slot) -> None:
        self.slots.remove(slot)
        worker = slot.worker
        if self._closing or not slot.bounded:
            return  # `_failed` will be told of a worker that was never READY
        killed = worker.killed_from_outside
        out_of_memory = self._environment.kernel_killed() if killed else None
        if out_of_memory:
            worker.diagnosis = "killed by the kernel: the container is out of memory"
        elif out_of_memory is False:
            worker.acquit()  # somebody has sent the signal, which no request can bring about
        reason = worker.last_exit
        if not slot.replacing:
            self._vacate(slot).last_exit = reason
        end = WorkerEnded(
            model=self.config.model,
            child=worker.name,
            pid=worker.pid,
            reason=reason,
            requests=worker.requests,
        )
        if worker.planned:
            self.publish(end)
        else:
            self.publish(WorkerDied(**end.facts(), cause=worker.cause.value))
            by_operator = worker.cause is Cause.OPERATOR  # it says nothing about the model
            if worker.requests == 0 and not worker.in_flight and not by_operator:
                error = LaunchError(
                    f"a worker died before its first request: {reason}", killed=killed
                )
                self._failed(error, worker.started, out_of_memory)

    # Memory

    def _apply_policy(self, slot: Slot) -> None:
        """Replace the worker, or end it at once, if the memory policy says so."""
        worker = slot.worker
        reason = decide(slot.sample(), self.config.policy)
        if reason is Reason.HARD_LIMIT:
            self.publish(
                HardLimitPassed(
                    model=self.config.model,
                    child=worker.name,
                    rss_mb=to_mb(worker.rss),
                    limit_mb=to_mb(slot.bounds.hard),
                    state=worker.state.value,
                )
            )
            # A worker over the limit in its first request is there because of that request.
            first = worker.requests == 0
            worker.stop(
                f"recycled: {reason.value}",
                cause=Cause.HARD_LIMIT,
                blame=first,
                planned=not first,
            )
        elif reason is not None:
            self.recycle(slot, reason)

    def _spawn_task(self, coroutine: Awaitable[None]) -> asyncio.Task[None]:
        async def run() -> None:
            try:
                await coroutine
            except Exception:  # a bug here must be logged
                logger.exception("supervision_failed", model=self.config.model)

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
