"""What a pool knows of one of its workers, and what memory policy says of it. In the front."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field

from ipc.errors import ServiceError
from supervisor.memory.limits import MemoryLimits
from supervisor.memory.recycling import Bounds, Policy, Reason, Sample, bounds_for, decide
from supervisor.workers.handle import Worker, WorkerDied
from supervisor.workers.launch import Launcher, LaunchError
from supervisor.workers.lifecycle import State

SERVING = (State.IDLE, State.BUSY)
_UNBOUNDED = Bounds(None, None)


@dataclass(frozen=True, slots=True)
class Lineage:
    """What a worker inherits from the one whose place it takes."""

    restarts: int = 0
    last_exit: str | None = None

    def heir(self, last_exit: str) -> Lineage:
        """What the next one inherits when this one's worker has ended so."""
        return Lineage(self.restarts + 1, last_exit)


@dataclass(slots=True)
class Member:
    """A worker, and what the pool knows of it."""

    worker: Worker
    launcher: Launcher
    lineage: Lineage
    spread: float = field(default_factory=lambda: random.uniform(-1, 1))
    bounds: Bounds = _UNBOUNDED
    over_soft: int = 0
    """Samples in a row over the soft limit."""
    replacing: bool = False
    """A successor is on its way."""

    @property
    def serving(self) -> bool:
        """Whether it answers requests and may be given more."""
        return self.worker.state in SERVING

    async def until_ready(self) -> None:
        """Wait until the worker is READY. Raises `LaunchError` when it is not, in time or ever."""
        timeout = self.launcher.ready_timeout
        try:
            await asyncio.wait_for(asyncio.shield(self.worker.ready), timeout)
        except TimeoutError:
            self.worker.stop(f"not READY within {timeout:.0f} s")
            raise LaunchError(f"a worker was not READY within {timeout:.0f} s") from None
        except ServiceError as error:
            raise LaunchError(error.message) from error
        except WorkerDied as death:
            raise LaunchError(f"a worker died before it was READY: {death}") from death

    def settle(self, limits: MemoryLimits) -> None:
        """The worker is READY: what it holds now is its baseline."""
        self.bounds = bounds_for(self.worker.baseline_rss, limits)

    def observe(self, rss: int) -> None:
        """A tick of the clock found the worker holding `rss` bytes.

        Only ticks count towards "several samples in a row": requests may end in quick succession.
        """
        self.worker.rss = rss
        soft = self.bounds.soft
        self.over_soft = self.over_soft + 1 if soft is not None and rss > soft else 0

    def due(self, policy: Policy) -> Reason | None:
        """Why the worker is to end now, by what is known of it; None while it may stay."""
        worker = self.worker
        sample = Sample(
            rss=worker.rss,
            bounds=self.bounds,
            over_soft=self.over_soft,
            age=time.monotonic() - worker.started,
            requests=worker.requests,
            spread=self.spread,
        )
        return decide(sample, policy)
