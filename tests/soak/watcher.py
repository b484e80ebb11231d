"""What the soak sees of the service's processes: memory over time, descriptors, what is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp
import psutil

from tests.soak import front
from tests.soak.engines import ORDERS
from tests.soak.traffic import Traffic
from tests.support.service import RunningService

_INTERVAL = 0.5
MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Census:
    """Counts at a quiet moment: of the front, and of the front with its children."""

    front_rss: int
    front_fds: int
    front_threads: int
    front_tasks: int
    processes: int
    fds: int
    spooled: int

    def settled(self, before: Census) -> bool:
        """Whether there is nothing more open than before."""
        return (
            self.front_fds <= before.front_fds
            and self.front_tasks <= before.front_tasks
            and self.front_threads <= before.front_threads
            and self.processes <= before.processes
            and self.fds <= before.fds
        )


@dataclass(slots=True)
class Line:
    """RSS of one process over time: seconds since the start, bytes."""

    name: str
    model: str
    role: str
    times: list[float] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Watcher:
    """Samples RSS while it runs; remembers every process that it has seen."""

    service: RunningService
    traffic: Traffic
    lines: dict[int, Line] = field(default_factory=dict)

    async def run(self, over: Callable[[], bool]) -> None:
        """Sample until `over()`."""
        own = self.service.process.pid
        self.lines[own] = Line("front", "", "front")
        async with aiohttp.ClientSession(self.service.url) as session:
            while not over():
                health = await self.traffic.look(session)
                for child in health["children"]:
                    line = Line(child["name"], child["model"], child["role"])
                    self.lines.setdefault(child["pid"], line)
                for pid in [own, *(child["pid"] for child in health["children"])]:
                    with contextlib.suppress(psutil.Error):
                        if rss := psutil.Process(pid).memory_info().rss:  # 0 of one just killed
                            self.lines[pid].rss.append(rss)
                            self.lines[pid].times.append(self.traffic.now())
                await asyncio.sleep(_INTERVAL)

    async def settle(self, workers: int, timeout: float = 300.0) -> bool:
        """Wait until all stands still: every worker idle, nothing under way; False if it does not.

        Connections that clients have closed take the front a moment to notice.
        """
        end = time.monotonic() + timeout
        async with aiohttp.ClientSession(self.service.url) as session:
            while time.monotonic() < end:
                health = await self.traffic.look(session)
                quiet = all(
                    model["state"] == "SERVING" and model["in_flight"] == model["queued"] == 0
                    for model in health["models"].values()
                )
                states = sorted(child["state"] for child in health["children"])
                if quiet and states == ["IDLE"] * 2 * workers + ["READY"] * 2:
                    return True
                await asyncio.sleep(0.1)
        return False

    async def census(self, spool: str, before: Census | None = None) -> Census:
        """Count; the most settled of a few tries, as sockets close a moment after their clients.

        One that shows nothing more than `before` is settled enough.
        """
        found = [await self._count(spool)]
        for _ in range(10):
            if before is not None and found[-1].settled(before):
                return found[-1]
            await asyncio.sleep(0.3)
            found.append(await self._count(spool))
        return min(found, key=lambda c: (c.front_fds, c.front_tasks, c.fds, c.front_rss))

    async def _count(self, spool: str) -> Census:
        events = self.service.events
        told = sum(event["event"] == front.EVENT for event in events)
        self.service.process.send_signal(front.SIGNAL)
        answer = await asyncio.to_thread(self.service.wait_for, front.EVENT, count=told + 1)
        processes = self.service.processes()
        own = processes[0]
        return Census(
            front_rss=own.memory_info().rss,
            front_fds=own.num_fds(),
            front_threads=own.num_threads(),
            front_tasks=answer["tasks"],
            processes=len(processes),
            fds=sum(process.num_fds() for process in processes),
            spooled=len(spooled(spool)),
        )


def spooled(spool: str) -> list[str]:
    """Files in the spool folder, but for the lock of its owner."""
    return [
        file for _, _, files in os.walk(spool) for file in files if file not in ("lock", "ballast")
    ]


def survivors(orders: str, patience: float = 5.0) -> list[str]:
    """Processes of the service that still run; they are known by their environment.

    A program that a worker had started dies with it, but a moment later.
    """
    end = time.monotonic() + patience
    while (found := _running(orders)) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def _running(orders: str) -> list[str]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(ORDERS) == orders:
                found.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
    return found
