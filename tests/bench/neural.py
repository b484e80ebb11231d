"""Part `neural`: Kokoro and Whisper behind the service, against their libraries alone.

Both are loaded all the time and measured in turns, so that the machine's moods hit both.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import aiohttp

from tests.bench.models import CACHE
from tests.bench.report import Cell, Table, step
from tests.support.human import HUMAN, human_file
from tests.support.service import NET, ROOT, RunningService, running
from tests.support.spoken import SENTENCES

_AIM = 0.95


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is measured with one engine: `items` are texts or paths of recordings."""

    engine: Literal["kokoro", "whisper"]
    what: str
    items: Sequence[str]
    clients: tuple[int, ...]


def run(*, quick: bool) -> list[Table]:
    """Seconds of sound per second at several numbers of clients, and the first sound."""
    rounds = 1 if quick else 3
    texts = SENTENCES[20:32]
    files = [str(human_file(name)) for name in HUMAN]
    plans = (
        _Plan("kokoro", "sentences", texts, (1, 2, 4)),
        _Plan("kokoro", "one text", (" ".join(texts),), (1,)),
        _Plan("whisper", "recordings", files, (1, 2)),
    )
    settings = {
        "VOICE_ENGINE_TTS_ENGINE": "kokoro",
        "VOICE_ENGINE_STT_ENGINE": "whisper",
        "VOICE_ENGINE_CACHE_DIR": str(CACHE),
    }
    step("neural: starting the service")
    with running(settings) as service:
        service.wait_ready()
        rows: list[tuple[Cell, ...]] = []
        for plan in plans:
            with alone(plan.engine) as library_round:
                rows += asyncio.run(_compare(plan, library_round, service, rounds))
    return [
        Table(
            f"neural: seconds of sound per second, against the library alone (aim: {_AIM})",
            (
                *("engine", "what", "clients", "library", "service", "service / library"),
                *("real-time factor", "first sound p50 ms"),
            ),
            rows,
            [
                f"medians of {rounds} rounds in turns: {len(texts)} sentences, one by one or as "
                f"one text; {len(files)} recordings of people",
                "library: kokoro-onnx and faster-whisper (int8) with their defaults and all "
                "cores, one caller",
                "first sound: from the request to the first byte of sound of its stream",
            ],
        )
    ]


@contextmanager
def alone(engine: str) -> Iterator[Callable[[Sequence[str]], float]]:
    """A function that does one round in the library and returns seconds of sound per second."""
    command = [sys.executable, "-m", "tests.bench.neural_alone", engine, str(CACHE)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        # The library's own defaults: as many threads as it wants.
        env={name: value for name, value in os.environ.items() if "NUM_THREADS" not in name},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()

        def one_round(items: Sequence[str]) -> float:
            assert process.stdin is not None
            assert process.stdout is not None
            print(json.dumps(items), file=process.stdin, flush=True)
            done = json.loads(process.stdout.readline())
            return float(done["sound"] / done["seconds"])

        yield one_round
        process.stdin.close()


async def _compare(
    plan: _Plan,
    library_round: Callable[[Sequence[str]], float],
    service: RunningService,
    rounds: int,
) -> list[tuple[Cell, ...]]:
    call = _speak if plan.engine == "kokoro" else _transcribe
    library: list[float] = []
    served: dict[int, list[float]] = {clients: [] for clients in plan.clients}
    first: dict[int, list[float]] = {clients: [] for clients in plan.clients}
    timeout = aiohttp.ClientTimeout(total=NET)
    async with aiohttp.ClientSession(service.url, timeout=timeout) as session:
        for number in range(rounds + 1):  # the first one warms both up
            step(f"neural: {plan.engine}, {plan.what}, round {number} of {rounds}")
            speeds = [await asyncio.to_thread(library_round, plan.items)]
            for clients in plan.clients:
                begins: list[float] = []
                speeds.append(await _round(session, call, plan.items, clients, begins))
                if number:
                    served[clients].append(speeds[-1])
                    first[clients] += begins
            if number:
                library.append(speeds[0])
    base = statistics.median(library)
    rows: list[tuple[Cell, ...]] = []
    for clients in plan.clients:
        speed = statistics.median(served[clients])
        begin = statistics.median(first[clients]) * 1000 if first[clients] else None
        row = (plan.engine, plan.what, clients, base, speed, speed / base, 1 / speed, begin)
        rows.append(row)
    return rows


async def _round(
    session: aiohttp.ClientSession,
    call: Callable[[aiohttp.ClientSession, str, list[float]], Awaitable[float]],
    items: Sequence[str],
    clients: int,
    begins: list[float],
) -> float:
    """Seconds of sound per second, when so many clients take what is left of `items`."""
    left = list(items)
    sound = 0.0

    async def client() -> None:
        nonlocal sound
        while left:
            seconds = await call(session, left.pop(), begins)
            sound += seconds  # not in one line: it would add to what `sound` was before the wait

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return sound / (time.perf_counter() - started)


async def _speak(session: aiohttp.ClientSession, text: str, begins: list[float]) -> float:
    """Stream one sentence; its seconds of sound."""
    asked = {"text": text, "voice_id": "jm_kumo", "stream": True, "response_format": "pcm"}
    sent = time.perf_counter()
    received = 0
    async with session.post("/v1/tts", json=asked) as response:
        response.raise_for_status()
        async for data in response.content.iter_any():
            if not received:
                begins.append(time.perf_counter() - sent)
            received += len(data)
        rate = int(response.headers["X-Sample-Rate"])
    return received / 2 / rate


async def _transcribe(session: aiohttp.ClientSession, path: str, _: list[float]) -> float:
    form = aiohttp.FormData()
    recording = await asyncio.to_thread(Path(path).read_bytes)
    form.add_field("file", io.BytesIO(recording), filename="human.wav")
    async with session.post("/v1/transcribe", data=form) as response:
        response.raise_for_status()
        return float((await response.json())["duration"])
