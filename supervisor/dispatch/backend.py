"""Where a model runs: the interface between the routes and the workers. Runs in the front.

Routes use only the protocol `Backend`. `LocalBackend` is a queue and a pool of workers in this
container.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from ipc.engines import EngineInfo, EngineSpec
from ipc.messages import SandboxLayer
from ipc.operations import ResultT
from supervisor.dispatch.cost import CostModel
from supervisor.dispatch.dispatcher import DispatchConfig, Dispatcher
from supervisor.dispatch.job import Job
from supervisor.dispatch.quarantine import Quarantine
from supervisor.events import Publish
from supervisor.memory.recycling import Reason
from supervisor.memory.usage import Share, resident_bytes
from supervisor.workers.backoff import Backoff
from supervisor.workers.config import PoolConfig
from supervisor.workers.lifecycle import ModelState
from supervisor.workers.monitor import Monitor
from supervisor.workers.on_demand import Residents
from supervisor.workers.pool import Environment, Pool
from supervisor.workers.slot import Slot
from supervisor.workers.template import Template


@dataclass(frozen=True, slots=True)
class ChildStatus:
    """A template or a worker. Memory is in bytes, `started` on the clock of `time.monotonic`."""

    name: str
    role: Literal["template", "worker"]
    pid: int
    state: str
    started: float
    rss: int | None
    share: Share | None
    baseline: int | None
    soft_limit: int | None
    hard_limit: int | None
    requests: int | None
    """How many requests it has finished; None for a template, which serves none."""
    in_flight: int | None
    live_in_flight: int | None
    capacity: int | None
    live: int | None
    restarts: int
    last_exit: str | None
    sandbox: tuple[SandboxLayer, ...] | None
    """The layers of a worker's sandbox, none if that is off; None for others."""
    node: str | None = None
    """The machine that it runs on, in a cluster."""


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """The state of a model; times are in seconds."""

    state: ModelState
    engine: EngineSpec
    info: EngineInfo | None
    message: str | None
    retry_after: float
    in_flight: int
    queued: int
    backlog: float
    """Work that waits or runs, as if one by one."""
    speed: float
    """Seconds of such work that get done in a second while all slots are taken."""
    paused: bool
    """An operator has paused it: jobs wait."""
    workers: int
    """How many workers it is to have."""
    free_slots: int
    sandbox: tuple[SandboxLayer, ...] | None
    """That of its last worker; None before READY."""
    children: tuple[ChildStatus, ...]
    threads: int
    """Compute threads of each worker."""
    notes: tuple[str, ...]
    """What operators must know, besides what `info` says."""


class Backend(Protocol):
    """Runs the operations of one model."""

    @property
    def state(self) -> ModelState:
        """The state of the model."""

    @property
    def engine(self) -> EngineSpec:
        """The engine that runs."""

    @property
    def info(self) -> EngineInfo | None:
        """The engine's description of itself; None until it has loaded once."""

    @property
    def retry_after(self) -> float:
        """Seconds until the next attempt to start; 0 when one is running."""

    @property
    def busy(self) -> bool:
        """Whether a new job would wait for others."""

    def start(self) -> None:
        """Begin to load the model; returns at once."""

    async def run(self, job: Job[ResultT]) -> ResultT:
        """Run `job`; its stream goes to `job.output`. Raises `ServiceError`."""

    async def known_info(self) -> EngineInfo | None:
        """`info`, once the first start has worked; None when all attempts have failed."""

    def status(self) -> BackendStatus:
        """The state for operators; does not wait for anything."""

    def recycle(self, child: str) -> bool | None:
        """Replace the worker `child`. False: not possible now. None: there is no such worker."""

    def kill(self, child: str) -> bool:
        """End a child at once, as if it had crashed. False: there is no such child."""

    def pause(self) -> None:
        """Give no more jobs to workers, until `resume`; new ones wait."""

    def resume(self) -> None:
        """Go on after a pause."""

    def unload(self, reason: str) -> bool:
        """End all processes until the next request. False: it has requests, or does not serve."""

    async def drain(self) -> None:
        """Refuse new jobs from now on, and wait until none is in flight."""

    async def reload(self) -> None:
        """Take over what the settings say now, and lose no request.

        Raises `LaunchError` when the model cannot be loaded; then it goes on as it was.
        """

    async def adapt(self) -> None:
        """The same, but what runs stays if it only has to be more or fewer, or has other limits."""

    async def close(self) -> None:
        """End everything that belongs to the model."""


@dataclass(frozen=True, slots=True)
class LocalConfig:
    """The configuration of a `LocalBackend`."""

    pool: PoolConfig
    dispatch: DispatchConfig


class LocalBackend:
    """A queue and a pool of workers in this container: a `Backend`.

    `config` is asked now and at each reload; `on_serving` is called when the model serves for the
    first time.
    """

    def __init__(
        self,
        config: Callable[[], LocalConfig],
        backoff: Backoff,
        quarantine: Quarantine,
        monitor: Monitor,
        *,
        publish: Publish,
        on_serving: Callable[[], None],
        residents: Residents,
    ) -> None:
        now = config()
        self._config = config
        self._monitor = monitor
        self._on_serving: Callable[[], None] | None = on_serving
        self.pool = Pool(
            now.pool,
            backoff,
            Environment(
                publish=publish,
                on_change=self._on_change,
                has_room=monitor.has_room,
                kernel_killed=monitor.kernel_killed,
                residents=residents,
            ),
        )
        self.dispatcher = Dispatcher(now.dispatch, CostModel(), quarantine, self.pool)

    @property
    def state(self) -> ModelState:
        """The state of the pool."""
        return self.pool.state

    @property
    def engine(self) -> EngineSpec:
        """The engine of the pool's workers."""
        return self.pool.config.engine

    @property
    def info(self) -> EngineInfo | None:
        """What the last worker reported about the engine."""
        return self.pool.info

    @property
    def retry_after(self) -> float:
        """Seconds until the pool's next attempt to start."""
        return self.pool.retry_after

    @property
    def busy(self) -> bool:
        """Whether jobs wait, or all slots are taken."""
        return self.dispatcher.busy

    def start(self) -> None:
        """Start to load the model; returns at once."""
        self.pool.start()

    async def run(self, job: Job[ResultT]) -> ResultT:
        """Run `job` in a worker."""
        return await self.dispatcher.run(job)

    async def known_info(self) -> EngineInfo | None:
        """`info`, once a worker was READY or enough attempts have failed."""
        return await self.pool.known_info()

    def status(self) -> BackendStatus:
        """The pool, its children and the queue."""
        pool, dispatcher = self.pool, self.dispatcher
        shares = self._monitor.shares
        children = [_template(pool, *each, shares) for each in pool.templates.processes]
        children += [_worker(slot, shares) for slot in pool.slots]
        return BackendStatus(
            state=pool.state,
            engine=pool.config.engine,
            info=pool.info,
            message=pool.message,
            retry_after=pool.retry_after,
            in_flight=dispatcher.in_flight,
            queued=dispatcher.queued,
            backlog=dispatcher.backlog,
            speed=dispatcher.speed,
            paused=dispatcher.paused,
            workers=pool.config.size,
            free_slots=sum(slot.worker.free_slots for slot in pool.slots),
            sandbox=pool.sandbox,
            children=tuple(children),
            threads=pool.config.launch.threads,
            notes=tuple(pool.config.notes.values()),
        )

    def recycle(self, child: str) -> bool | None:
        """Replace a worker; its successor is READY before it exits."""
        for slot in self.pool.slots:
            if slot.worker.name == child:
                return self.pool.recycle(slot, Reason.FORCED)
        return None

    def kill(self, child: str) -> bool:
        """Send SIGKILL to a worker or a template; requests are replayed."""
        return self.pool.kill(child)

    def pause(self) -> None:
        """Hold the queue."""
        self.dispatcher.pause()

    def resume(self) -> None:
        """Let the queue go on."""
        self.dispatcher.resume()

    def unload(self, reason: str) -> bool:
        """End all processes, if there is no request in flight."""
        return self.pool.unload(reason)

    async def drain(self) -> None:
        """Refuse new jobs, and wait for those that were admitted."""
        self.dispatcher.drain()
        await self.dispatcher.idle()

    async def reload(self) -> None:
        """Apply the configuration. Raises `LaunchError`; then the old pool continues."""
        config = self._config()
        self.dispatcher.config = config.dispatch
        await self.pool.reload(config.pool)

    async def adapt(self) -> None:
        """Apply the configuration, with another template only if that has to be another one."""
        config = self._config()
        if _sizes_alone_differ(config.pool, self.pool.config):
            self.dispatcher.config = config.dispatch
            self.pool.resize(config.pool)
        else:
            await self.reload()

    async def close(self) -> None:
        """Stop the workers and the template."""
        await self.pool.close()

    def _on_change(self) -> None:
        self.dispatcher.wake()
        if self._on_serving is not None and self.pool.state is ModelState.SERVING:
            self._on_serving()
            self._on_serving = None


def _sizes_alone_differ(new: PoolConfig, old: PoolConfig) -> bool:
    return replace(new, size=old.size, policy=old.policy, notes=old.notes) == old


def _template(pool: Pool, template: Template, pid: int, shares: Mapping[int, Share]) -> ChildStatus:
    return ChildStatus(
        name=template.name,
        role="template",
        pid=pid,
        state="READY" if template.ready else "STARTING",
        started=template.started,
        rss=resident_bytes(pid),
        share=shares.get(pid),
        baseline=template.baseline_rss or None,
        soft_limit=None,
        hard_limit=None,
        requests=None,
        in_flight=None,
        live_in_flight=None,
        capacity=None,
        live=None,
        restarts=pool.templates.restarts,
        last_exit=pool.templates.last_exit,
        sandbox=None,
    )


def _worker(slot: Slot, shares: Mapping[int, Share]) -> ChildStatus:
    worker = slot.worker
    return ChildStatus(
        name=worker.name,
        role="worker",
        pid=worker.pid,
        state=worker.state.value,
        started=worker.started,
        rss=worker.rss or None,
        share=shares.get(worker.pid),
        baseline=worker.baseline_rss or None,
        soft_limit=slot.bounds.soft,
        hard_limit=slot.bounds.hard,
        requests=worker.requests,
        in_flight=worker.in_flight,
        live_in_flight=worker.live_in_flight,
        capacity=worker.capacity,
        live=worker.live,
        restarts=slot.history.restarts,
        last_exit=slot.history.last_exit,
        sandbox=worker.sandbox,
    )
