"""Part `overload`: many times more requests than the workers can answer."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

import aiohttp

from tests.bench.report import Cell, Table, step
from tests.support.service import RunningService, running, script_form

_TIMES = 20
_REQUEST_SECONDS = 0.25
"""What the scripted engine takes for a request; it sleeps, so that the load has the processor."""
_QUEUE_SECONDS = 4.0
_DEADLINE_SECONDS = 6.0
_DEFAULT_DEADLINE_SECONDS = 300.0
_SHORT_QUEUE = {
    "VOICE_ENGINE_QUEUE_SECONDS": f"{_QUEUE_SECONDS}",
    "VOICE_ENGINE_REQUEST_TIMEOUT": f"{_DEADLINE_SECONDS}",
}
_FOUR_AT_ONCE = {
    **_SHORT_QUEUE,
    "VOICE_ENGINE_TTS_ENGINE": "tests.support.script_engine:ScriptedBatch",
}
"""An engine whose requests share a machine: four of them at once take 2.5 times as long as one."""
_REFUSAL_AIM_MS = 20
_EMPTY_AIM_SECONDS = 5.0
_CLIENTS = 16
"""Addresses that the load comes from, so that no one client's share of the queue is the limit."""


@dataclass(slots=True)
class _Seen:
    statuses: Counter[int] = field(default_factory=Counter)
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    retry_after: list[int] = field(default_factory=list)
    late: float = 0.0
    """How far the load fell behind its own schedule, in seconds."""
    empty_after: float = 0.0
    deepest: int = 0


def run(*, quick: bool) -> list[Table]:
    """Twenty times the capacity of one worker, from sixteen addresses."""
    seconds = 5 if quick else 60
    rows: list[tuple[Cell, ...]] = []
    notes: list[str] = []
    for name, deadline, environment in (
        ("4 s", _DEADLINE_SECONDS, _SHORT_QUEUE),
        ("4 s, four requests at once", _DEADLINE_SECONDS, _FOUR_AT_ONCE),
        ("64 requests (default)", _DEFAULT_DEADLINE_SECONDS, {}),
    ):
        step(f"overload: queue of {name}, {seconds} s")
        with running(environment) as service:
            service.wait_ready()
            seen = asyncio.run(_load(service, seconds))
        rows.append(_row(name, deadline, seen, seconds))
        notes.append(
            f"{name}: answers by status {dict(sorted(seen.statuses.items()))}; the load fell at "
            f"most {seen.late * 1000:.0f} ms behind its schedule"
        )
    return [
        Table(
            f"overload: {_TIMES} times what the worker can answer, for {seconds} s (aims: refused "
            f"within {_REFUSAL_AIM_MS} ms, queue empty {_EMPTY_AIM_SECONDS:.0f} s after the end)",
            (
                *("queue bound", "sent/s", "accepted", "in time", "accepted longest s"),
                *("refused", "refused p50 ms", "refused p99 ms", "refused longest ms"),
                *("Retry-After s", "longest queue", "queue empty after s"),
            ),
            rows,
            [
                f"a request takes the worker {_REQUEST_SECONDS} s; four at once take 2.5 times as "
                "long, 1.6 times as many are answered then; queue of 4 s: "
                + ", ".join(f"{name}={value}" for name, value in _SHORT_QUEUE.items()),
                "sent at a fixed rate on new connections, timed from the sending to the last byte; "
                "the load generator shares the cores with the service",
                *notes,
            ],
        )
    ]


def _row(name: str, deadline: float, seen: _Seen, seconds: int) -> tuple[Cell, ...]:
    accepted, refused = sorted(seen.accepted), sorted(seen.refused)
    in_time = sum(taken <= deadline for taken in accepted)
    shortest, longest = min(seen.retry_after, default=0), max(seen.retry_after, default=0)
    return (
        name,
        sum(seen.statuses.values()) / seconds,
        len(accepted),
        in_time,
        accepted[-1] if accepted else None,
        len(refused),
        refused[len(refused) // 2] * 1000 if refused else None,
        refused[len(refused) * 99 // 100] * 1000 if refused else None,
        refused[-1] * 1000 if refused else None,
        f"{shortest} to {longest}",
        seen.deepest,
        seen.empty_after,
    )


async def _load(service: RunningService, seconds: int) -> _Seen:
    seen = _Seen()
    rate = _TIMES / _REQUEST_SECONDS
    async with asyncio.TaskGroup() as group:
        sessions = [_session(service, number) for number in range(_CLIENTS)]
        try:
            await _one(sessions[0], _Seen())  # measures the speed of the engine
            watcher = asyncio.create_task(_watch(service, seen))
            start = time.monotonic()
            pending = []
            for number in range(int(rate * seconds)):
                due = start + number / rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                seen.late = max(seen.late, time.monotonic() - due)
                pending.append(group.create_task(_one(sessions[number % _CLIENTS], seen)))
            ended = time.monotonic()
            await asyncio.to_thread(
                service.wait_until, lambda health: health["models"]["tts"]["in_flight"] == 0
            )
            seen.empty_after = time.monotonic() - ended
            await asyncio.gather(*pending)
            watcher.cancel()
        finally:
            for session in sessions:
                await session.close()
    return seen


def _session(service: RunningService, number: int) -> aiohttp.ClientSession:
    """A client with an address of its own."""
    connector = aiohttp.TCPConnector(limit=0, local_addr=(f"127.0.0.{number + 2}", 0))
    return aiohttp.ClientSession(service.url, connector=connector)


async def _watch(service: RunningService, seen: _Seen) -> None:
    while True:
        health = await asyncio.to_thread(service.health)
        seen.deepest = max(seen.deepest, health["models"]["tts"]["queued"])
        await asyncio.sleep(0.5)


async def _one(session: aiohttp.ClientSession, seen: _Seen) -> None:
    started = time.monotonic()
    form = script_form(f"work {_REQUEST_SECONDS}; say 1")
    async with session.post("/v1/clone", data=form) as response:
        await response.read()
        taken = time.monotonic() - started
        seen.statuses[response.status] += 1
        if response.status == 200:
            seen.accepted.append(taken)
        elif response.status == 503:
            seen.refused.append(taken)
            seen.retry_after.append(int(response.headers["Retry-After"]))
