"""Part `loop`: how long supervision holds the front's event loop.

The service's own pools, dispatchers and monitor around real production workers, in a process of its
own (`python -m tests.bench.loop SECONDS FOLDER`) in which every callback of the loop is timed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipc.engines import Kind
from ipc.errors import ServiceError
from ipc.operations import Recording, Sampling, Speak, Transcribe, Voice
from supervisor import log
from supervisor.dispatch.backend import LocalBackend
from supervisor.dispatch.cost import Unit, Work
from supervisor.dispatch.job import Job
from supervisor.dispatch.models import Model
from supervisor.dispatch.response_buffer import ResponseBuffer, SegmentBuffer
from supervisor.memory.malloc import keep_front_small
from supervisor.memory.recycling import Reason
from supervisor.service import Service
from supervisor.settings import Settings
from supervisor.workers.lifecycle import ModelState
from supervisor.workers.pool import Pool
from tests.bench.models import models_folder
from tests.bench.report import Table, step
from tests.bench.varied import Varied
from tests.support.service import ROOT

_AIM_MS = 5.0
_SHOWN = 12
_ROUND_SECONDS = 0.5
_WORKERS = 2


def run(*, quick: bool) -> list[Table]:
    """Time every callback while workers are used, recycled and killed, and templates too."""
    seconds = 10 if quick else 60
    step(f"loop: {seconds} s")
    result = subprocess.run(
        [sys.executable, "-m", "tests.bench.loop", str(seconds), str(models_folder(quick=True))],
        stdout=subprocess.PIPE,
        check=True,
        cwd=ROOT,
    )
    facts: dict[str, Any] = json.loads(result.stdout)
    rows = sorted(facts["callbacks"], key=lambda row: row["longest_ms"], reverse=True)
    total = sum(row["count"] for row in rows)
    return [
        Table(
            f"loop: time that supervision holds the front's event loop (aim: {_AIM_MS:.0f} ms)",
            ("callback", "count", "mean ms", "p99.9 ms", "longest ms", "longest CPU ms"),
            [
                *(
                    (
                        *(row["name"], row["count"], row["mean_ms"], row["p999_ms"]),
                        *(row["longest_ms"], row["longest_cpu_ms"]),
                    )
                    for row in rows[:_SHOWN]
                ),
                (
                    *("all", total, facts["mean_ms"], facts["p999_ms"]),
                    *(rows[0]["longest_ms"], max(row["longest_cpu_ms"] for row in rows)),
                ),
            ],
            [
                f"{seconds} s with {_WORKERS} workers of each production model (tiny weights), "
                f"{facts['requests']} requests, {facts['recycled']} replacements, "
                f"{facts['killed']} workers and {facts['templates']} templates killed",
                "one callback is what runs between two looks at the sockets; CPU is the loop's own "
                "thread, so the rest of a long one is another process that had the core",
                f"the {min(_SHOWN, len(rows))} longest of {len(rows)} kinds of callback",
            ],
        )
    ]


@dataclass(slots=True)
class _Times:
    """Seconds of each run of one kind of callback."""

    wall: list[float]
    cpu: list[float]


def _timed(times: dict[str, _Times]) -> Callable[[asyncio.Handle], None]:
    """What runs a callback, and notes how long that took under the callback's name."""
    run_handle = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        name = _name(handle._callback)  # type: ignore[attr-defined]
        wall, cpu = time.perf_counter(), time.thread_time()
        run_handle(handle)
        taken = times.setdefault(name, _Times([], []))
        taken.cpu.append(time.thread_time() - cpu)
        taken.wall.append(time.perf_counter() - wall)

    return timed


def _name(callback: Any) -> str:
    task = getattr(callback, "__self__", None)
    if isinstance(task, asyncio.Task):
        coroutine: Any = task.get_coro()
        inner = coroutine.cr_frame.f_locals.get("coroutine") if coroutine.cr_frame else None
        return str(getattr(inner, "__qualname__", None) or coroutine.__qualname__)
    return str(getattr(callback, "__qualname__", type(callback).__name__))


async def main(seconds: float, folder: Path) -> dict[str, Any]:
    """Load the service for so long; the times of all callbacks, but for those of the load."""
    times: dict[str, _Times] = {}
    with tempfile.TemporaryDirectory() as voices:
        settings = Settings(
            models_dir=folder,
            voices_dir=Path(voices),
            profile="production",
            tts_workers=str(_WORKERS),
            stt_workers=str(_WORKERS),
            min_lifetime=0,
        )
        asyncio.Handle._run = _timed(times)  # type: ignore[assignment,method-assign]
        service = Service(settings)
        service.start()
        pools = _pools(service)
        while any(pool.state is not ModelState.SERVING for pool in pools):  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.05)
        varied = Varied(0)
        counts = {"requests": 0, "killed": 0, "templates": 0}
        clients = [
            asyncio.create_task(_client(service, model, varied, counts))
            for model in [*service.models, *service.models]
        ]
        await _trouble(service, seconds, counts)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        recycled = service.tally.recycles.total()
        await service.drain(asyncio.get_running_loop().time() + 30.0)
        await service.close()
    ours = {
        n: t for n, t in times.items() if n.split(".")[0] not in ("_client", "main", "_trouble")
    }
    everything = sorted(itertools.chain.from_iterable(taken.wall for taken in ours.values()))
    return {
        **counts,
        "recycled": recycled,
        "mean_ms": sum(everything) / len(everything) * 1000,
        "p999_ms": _p999(everything),
        "callbacks": [
            {
                "name": name,
                "count": len(taken.wall),
                "mean_ms": sum(taken.wall) / len(taken.wall) * 1000,
                "p999_ms": _p999(sorted(taken.wall)),
                "longest_ms": max(taken.wall) * 1000,
                "longest_cpu_ms": max(taken.cpu) * 1000,
            }
            for name, taken in ours.items()
        ],
    }


def _p999(ordered: list[float]) -> float:
    return ordered[min(len(ordered) - 1, len(ordered) * 999 // 1000)] * 1000


async def _trouble(service: Service, seconds: float, counts: dict[str, int]) -> None:
    """Replace and kill in turns, all through the time."""
    end = time.monotonic() + seconds
    for number in itertools.count():
        await asyncio.sleep(_ROUND_SECONDS)
        if time.monotonic() > end:
            return
        pools = _pools(service)
        pool = pools[number % len(pools)]
        slots = pool.replaceable()
        if number % 20 == 19 and pool.templates.current is not None:
            pool.templates.current.kill()
            counts["templates"] += 1
        elif number % 5 == 4 and slots:
            os.kill(slots[0].worker.pid, signal.SIGKILL)
            counts["killed"] += 1
        elif slots:
            pool.recycle(slots[0], Reason.FORCED)


def _pools(service: Service) -> list[Pool]:
    return [
        model.backend.pool for model in service.models if isinstance(model.backend, LocalBackend)
    ]


async def _client(service: Service, model: Model, varied: Varied, counts: dict[str, int]) -> None:
    """Requests as the routes make them, one after the other."""
    while True:
        with suppress(ServiceError):
            await _ask(service, model, varied)
            counts["requests"] += 1
        await asyncio.sleep(0.01)


async def _ask(service: Service, model: Model, varied: Varied) -> None:
    recording = Recording(os.urandom(32).hex(), varied.wav(1.0))
    deadline = time.monotonic() + 60
    if model.kind is Kind.STT:
        work = Work(Unit.SECONDS, 100)
        await model.backend.run(Job(Transcribe(recording), SegmentBuffer(), deadline, "", work))
        return
    speech = Speak(
        varied.text(3, 8), Voice(recording=recording), Sampling(seed=1, eos_threshold=-20.0)
    )
    buffer = ResponseBuffer(service.spool)
    try:
        await model.backend.run(Job(speech, buffer, deadline, "", Work(Unit.CHARACTERS, 100)))
    finally:
        buffer.close()


if __name__ == "__main__":
    log.configure("error")
    keep_front_small()
    print(json.dumps(asyncio.run(main(float(sys.argv[1]), Path(sys.argv[2])))))
