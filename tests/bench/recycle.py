"""Part `recycle`: forced replacements of a full-size speech worker under load."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from dataclasses import dataclass, field

import aiohttp

from tests.bench.models import models_folder
from tests.bench.report import Cell, Table, step
from tests.bench.varied import Varied
from tests.support.service import NET, RunningService, read_wav, running

_CLIENTS = 2
_AFTER_SECONDS = 1.0
_REFERENCES = 4
_READY_AIM_MS = 100
_LATENCY_AIM = 1.2


@dataclass(slots=True)
class _Seen:
    """Requests as (sent, seconds); replacements as (decided, READY) on the same clock."""

    requests: list[tuple[float, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    replaced: list[tuple[float, float]] = field(default_factory=list)


def run(*, quick: bool) -> list[Table]:
    """Two clients, and 200 replacements at moments that have nothing to do with them."""
    count = 10 if quick else 200
    environment = {
        "VOICE_ENGINE_TTS_ENGINE": "pocket",
        "VOICE_ENGINE_MODELS_DIR": str(models_folder(quick=quick)),
    }
    seen = _Seen()
    with running(environment) as service:
        service.wait_ready()
        step(f"recycle: {count} replacements")
        asyncio.run(_load(service, count, seen))
        recycled = [event for event in service.events if event["event"] == "recycled"]
        health = service.health()
    ready = sorted(event["ready_ms"] for event in recycled)
    after = _latencies(seen, after=True)
    elsewhere = _latencies(seen, after=False)
    return [
        Table(
            f"recycle: {count} forced replacements of the speech worker, {_CLIENTS} clients "
            f"(aims: no failure, READY within {_READY_AIM_MS} ms in the median)",
            (
                *("requests", "failed", "replaced", "READY p50 ms", "READY p95 ms"),
                *("READY longest ms", "drained p50 ms", "gaps", "replays"),
            ),
            [
                (
                    *(len(seen.requests) + len(seen.failures), len(seen.failures), len(recycled)),
                    *(statistics.median(ready), _percentile(ready, 95), ready[-1]),
                    statistics.median(event["drain_ms"] for event in recycled),
                    sum(event["gap"] for event in recycled),
                    health["models"]["tts"]["replays"],
                )
            ],
            [
                "READY: from the decision until the successor is READY; the old worker serves on",
                *seen.failures[:5],
            ],
        ),
        Table(
            "recycle: latency in the second after a replacement, and elsewhere "
            f"(aim: p99 within {_LATENCY_AIM} times)",
            ("requests sent", "requests", "p50 ms", "p95 ms", "p99 ms", "of elsewhere"),
            [_row("elsewhere", elsewhere, elsewhere), _row("in that second", after, elsewhere)],
            [
                "in that second: between the decision and one second after READY",
                "each request speaks one short sentence in one of a few voices, heard before",
            ],
        ),
    ]


def _row(name: str, taken: list[float], elsewhere: list[float]) -> tuple[Cell, ...]:
    p50, p95, p99 = (_percentile(taken, percent) for percent in (50, 95, 99))
    return (name, len(taken), p50, p95, p99, round(p99 / _percentile(elsewhere, 99), 2))


def _percentile(ordered: list[float], percent: int) -> float:
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def _latencies(seen: _Seen, *, after: bool) -> list[float]:
    """Milliseconds, in order, of the requests that were sent near a replacement, or were not."""
    return sorted(
        seconds * 1000
        for sent, seconds in seen.requests
        if any(decided <= sent <= ready + _AFTER_SECONDS for decided, ready in seen.replaced)
        is after
    )


async def _load(service: RunningService, count: int, seen: _Seen) -> None:
    varied = Varied(0)
    references = [varied.wav(3.0) for _ in range(_REFERENCES)]
    async with aiohttp.ClientSession(service.url) as session:
        for reference in references:  # the voices are known before anything is measured
            await _speak(session, reference, 0)
        clients = [
            asyncio.create_task(_client(session, references, number, seen))
            for number in range(_CLIENTS)
        ]
        chance = random.Random(0)
        for number in range(count):
            await asyncio.sleep(chance.uniform(1.2, 1.8))
            (worker,) = [
                child
                for child in await asyncio.to_thread(service.children, model="tts")
                if child["state"] in ("IDLE", "BUSY")
            ]
            decided = time.monotonic()
            async with session.post(f"/v1/children/{worker['name']}/recycle") as response:
                if response.status != 202:
                    raise RuntimeError(f"{response.status}: {await response.text()}")
            event = await asyncio.to_thread(service.wait_for, "recycled", count=number + 1)
            seen.replaced.append((decided, decided + event["ready_ms"] / 1000))
        await asyncio.sleep(_AFTER_SECONDS)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


async def _client(
    session: aiohttp.ClientSession, references: list[bytes], number: int, seen: _Seen
) -> None:
    chance = random.Random(number + 1)
    while True:
        sent = time.monotonic()
        try:
            await _speak(session, chance.choice(references), chance.randrange(1000))
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            seen.failures.append(f"{type(error).__name__}: {error}")
        else:
            seen.requests.append((sent, time.monotonic() - sent))


async def _speak(session: aiohttp.ClientSession, reference: bytes, seed: int) -> None:
    # The threshold has weights without a sense of sentences end one where real ones would.
    form = aiohttp.FormData({"text": "Hello there.", "seed": str(seed), "eos_threshold": "-20"})
    form.add_field("reference_audio", reference, filename="reference.wav")
    timeout = aiohttp.ClientTimeout(total=NET)
    async with session.post("/v1/clone", data=form, timeout=timeout) as response:
        body = await response.read()
        if response.status != 200:
            raise ValueError(f"{response.status}: {body[:200]!r}")
    _, pcm = read_wav(body)
    if not pcm:
        raise ValueError("an answer without sound")
