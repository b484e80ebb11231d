"""The monitor: reads memory, sends pings, frees memory, unloads idle models. In the front.

Each tick reads the RSS of every worker, which takes microseconds, and sends a ping. Slower readings
run in a thread: USS and PSS, which walk page tables, and the container's usage, which is in files.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from supervisor.events import MemoryPressure, Publish
from supervisor.log import logger
from supervisor.memory.cgroup import Container
from supervisor.memory.malloc import give_back
from supervisor.memory.recycling import Reason, relieve
from supervisor.memory.usage import Share, share, to_mb
from supervisor.threads import SUPERVISION, in_thread
from supervisor.workers.handle import Cause
from supervisor.workers.lifecycle import State
from supervisor.workers.pool import Pool
from supervisor.workers.process import live_processes, reap_orphans
from supervisor.workers.slot import Slot

_MONITORED = (State.READY, State.DRAINING)
_SHARE_INTERVAL = 10.0
"""Seconds between two readings of USS and PSS."""
_FRONT_MARGIN = 32 * 1024 * 1024
"""Bytes that must stay free when a successor runs beside the old worker."""


@dataclass(frozen=True, slots=True)
class MonitorConfig:
    """Seconds between ticks, seconds without a pong, share of the container that may be used."""

    interval: float
    ping_timeout: float
    pressure: float


class Monitor:
    """Watches the workers of all pools."""

    def __init__(
        self,
        config: MonitorConfig,
        container: Container,
        publish: Publish,
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_tick` is called at the end of each tick."""
        self.config = config
        self._container = container
        self._publish = publish
        self._on_tick = on_tick
        self.pools: Sequence[Pool] = ()
        self.shares: dict[int, Share] = {}
        """By pid, the front's too; as old as the last reading."""
        self.usage = 0
        """Bytes of the container in use, at the last tick."""
        self._oom_kills = container.oom_kills()
        self._shares_at = 0.0
        self._relieving: Slot | None = None

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            await asyncio.sleep(self.config.interval)
            try:
                await self._tick()
            except Exception:  # a bug here must be logged, and must not end the monitor
                logger.exception("monitor_failed")

    def has_room(self, size: int) -> bool:
        """Whether `size` more bytes fit into the container."""
        limit = int(self._container.limit * self.config.pressure)
        return self.usage + size + _FRONT_MARGIN <= limit

    def kernel_killed(self) -> bool | None:
        """Whether the kernel has killed a process for lack of memory since this was last asked.

        None when the kernel does not tell.
        """
        before, self._oom_kills = self._oom_kills, self._container.oom_kills()
        return None if self._oom_kills is None else self._oom_kills > (before or 0)

    async def _tick(self) -> None:
        for pool in self.pools:
            for slot in [slot for slot in pool.slots if slot.worker.state in _MONITORED]:
                pool.check(slot)
                self._check_heartbeat(slot)
            pool.unload_if_idle()
        pids = list(self._pids())
        reap_orphans(live_processes)
        if time.monotonic() - self._shares_at >= _SHARE_INTERVAL:
            self._shares_at = time.monotonic()
            all_pids = [os.getpid(), *pids]
            self.shares = await in_thread(lambda: _read_shares(all_pids), SUPERVISION)
            await in_thread(give_back, SUPERVISION)
        self.usage = await in_thread(lambda: self._read_usage(pids), SUPERVISION)
        self._relieve()
        self._on_tick()

    def _read_usage(self, pids: list[int]) -> int:
        """Bytes in use. If the limit comes from a setting, only our own processes count."""
        if self._container.source != "setting":
            return self._container.usage()
        shares = _read_shares([os.getpid(), *pids])
        return sum(found.pss for found in shares.values())

    def _pids(self) -> Iterator[int]:
        for pool in self.pools:
            for slot in pool.slots:
                yield slot.worker.pid
            for _, pid in pool.templates.processes:
                yield pid

    def _check_heartbeat(self, slot: Slot) -> None:
        worker = slot.worker
        # Count pings, not time: a clock also runs on while the whole container is frozen.
        silence = worker.unanswered_pings * self.config.interval
        if silence > self.config.ping_timeout:
            worker.stop(f"unresponsive for {silence:.0f} s", cause=Cause.UNRESPONSIVE)
        worker.ping()

    def _relieve(self) -> None:
        """Replace one worker at a time, so that the memory it frees is counted before the next."""
        if self._relieving is not None and self._relieving.worker.state is not State.DEAD:
            return
        self._relieving = None
        growth = [
            ((pool, slot), slot.worker.rss - slot.worker.baseline_rss)
            for pool in self.pools
            for slot in pool.replaceable()
        ]
        limit = self._container.limit
        chosen = relieve(self.usage, limit, self.config.pressure, growth)
        if chosen is not None:
            pool, slot = chosen
            self._publish(
                MemoryPressure(
                    model=pool.config.model,
                    child=slot.worker.name,
                    usage_mb=to_mb(self.usage),
                    limit_mb=to_mb(limit),
                )
            )
            if pool.recycle(slot, Reason.PRESSURE):
                self._relieving = slot


def _read_shares(pids: list[int]) -> dict[int, Share]:
    shares = {pid: share(pid) for pid in pids}
    return {pid: found for pid, found in shares.items() if found is not None}
