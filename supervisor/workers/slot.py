"""A slot of a pool: its worker, its memory limits, its restarts. Runs in the front."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field

from ipc.errors import ServiceError
from supervisor.memory.limits import MemoryLimits
from supervisor.memory.recycling import Bounds, Sample, bounds_for
from supervisor.workers.handle import Cause, WorkerDied, WorkerHandle
from supervisor.workers.launch import Launcher, LaunchError
from supervisor.workers.lifecycle import State

_UNBOUNDED = Bounds(None, None)


@dataclass(slots=True)
class RestartHistory:
    """How often the worker of a slot was replaced, and how the last one ended."""

    restarts: int = 0
    last_exit: str | None = None
    """None also while that worker is still ending, because its successor may start earlier."""

    def next(self, last_exit: str | None) -> RestartHistory:
        """The history of the successor of a worker that ended in this way."""
        return RestartHistory(self.restarts + 1, last_exit)


@dataclass(slots=True)
class Slot:
    """A worker and the pool's data about it."""

    worker: WorkerHandle
    launcher: Launcher
    history: RestartHistory
    spread: float = field(default_factory=lambda: random.uniform(-1, 1))
    bounds: Bounds = _UNBOUNDED
    over_soft: int = 0
    """Samples in a row over the soft limit."""
    replacing: bool = False
    """A successor is being started."""
    next_history: RestartHistory | None = None
    """The history of the successor, once the worker ends without being replaced."""
    bounded: bool = False
    """The worker has been READY, so that its bounds are known."""

    @property
    def serving(self) -> bool:
        """Whether the worker serves requests and may get more."""
        return self.worker.state is State.READY

    async def until_ready(self) -> None:
        """Wait until the worker is READY. Raises `LaunchError` if it fails or takes too long."""
        timeout = self.launcher.ready_timeout
        try:
            await asyncio.wait_for(asyncio.shield(self.worker.ready), timeout)
        except TimeoutError:
            self.worker.stop(f"not READY within {timeout:.0f} s", cause=Cause.NOT_READY)
            raise LaunchError(f"a worker was not READY within {timeout:.0f} s") from None
        except ServiceError as error:
            raise LaunchError(error.message) from error
        except WorkerDied as death:
            raise LaunchError(
                f"a worker died before it was READY: {death}",
                killed=self.worker.killed_from_outside,
            ) from death

    def set_bounds(self, limits: MemoryLimits) -> None:
        """The worker is READY: its RSS now is its baseline."""
        self.bounds = bounds_for(self.worker.baseline_rss, limits)
        self.bounded = True

    def observe(self, rss: int) -> None:
        """Record the RSS, in bytes, that a tick of the monitor has read.

        Only ticks count towards "several samples in a row", because many requests may end within a
        short time.
        """
        self.worker.rss = rss
        soft = self.bounds.soft
        self.over_soft = self.over_soft + 1 if soft is not None and rss > soft else 0

    def sample(self) -> Sample:
        """The facts by which the memory policy decides."""
        return Sample(
            rss=self.worker.rss,
            bounds=self.bounds,
            over_soft=self.over_soft,
            age=time.monotonic() - self.worker.started,
            requests=self.worker.requests,
            spread=self.spread,
        )
