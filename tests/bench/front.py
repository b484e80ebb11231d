"""Part `front`: the front's memory, idle and under load, and how long it keeps /health waiting."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from tests.bench.clients import Client, busy
from tests.bench.load import Measured, Plan, finish, start
from tests.bench.report import Cell, Table, step
from tests.support.service import RunningService, recording_form, running, script_form

_AIM_MB = 64
_CLIENTS = 8
_RATE = 20.0


@dataclass(frozen=True, slots=True)
class _Load:
    """What the clients do."""

    name: str
    client: Client | None


def _upload(size: int) -> Client:
    return Client("/v1/transcribe", lambda _: recording_form("pid", size))


def _speech(pieces: int, *, stream: bool) -> Client:
    options = {"stream": "true"} if stream else {}
    return Client("/v1/clone", lambda _: script_form(f"say {pieces}", **options))


_LOADS = (
    _Load("idle", None),
    _Load("uploads of 100 B", _upload(100)),
    _Load("uploads of 200 KB", _upload(200_000)),
    _Load("uploads of 5 MB", _upload(5_000_000)),
    _Load("answers of 200 KB, whole", _speech(208, stream=False)),
    _Load("answers of 200 KB, streamed", _speech(208, stream=True)),
    _Load("idle again", None),
)


def run(*, quick: bool) -> list[Table]:
    """Load one service with each kind in turn."""
    seconds = 2 if quick else 10
    rows = []
    with running() as service:
        service.wait_ready()
        for load in _LOADS:
            step(f"front: {load.name}, {seconds} s")
            rows.append(asyncio.run(_row(service, load, seconds)))
    return [
        Table(
            f"front: its memory under {_CLIENTS} clients (aim: under {_AIM_MB} MB)",
            (
                *("load", "requests/s", "failed", "peak RSS MB", "RSS MB", "of the aim"),
                *("/health p99 ms", "/health longest ms"),
            ),
            rows,
            [
                "peak RSS: the kernel's high-water mark of this load; RSS: when it ended",
                "of the aim: peak RSS in parts of it",
                f"the event loop was never blocked for longer than the longest /health and the "
                f"{1000 / _RATE:.0f} ms between two",
            ],
        )
    ]


async def _row(service: RunningService, load: _Load, seconds: int) -> tuple[Cell, ...]:
    pid = service.process.pid
    clients = [load.client] * _CLIENTS if load.client else []
    _reset_peak(pid)
    async with busy(service, clients) as answers:
        plan = Plan(service.port, "/health", int(seconds * _RATE), rate=_RATE)
        measured: Measured = await asyncio.to_thread(lambda: finish(start(plan)))
        total = sum(counter.total() for counter in answers.values())
        good = sum(counter["200"] for counter in answers.values())
        peak, rss = _memory_mb(pid)
    return (
        load.name,
        total / measured.seconds if clients else None,
        total - good if clients else None,
        peak,
        rss,
        round(peak / _AIM_MB, 2),
        measured.p99,
        measured.longest,
    )


def _reset_peak(pid: int) -> None:
    """Have the kernel's high-water mark of a process begin at its present RSS."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _memory_mb(pid: int) -> tuple[float, float]:
    """Peak and present RSS of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return int(status["VmHWM"].split()[0]) / 1024, int(status["VmRSS"].split()[0]) / 1024
