"""Part `first_byte`: how soon a stream begins over HTTP, against the engine alone."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.bench.models import models_folder
from tests.bench.report import Cell, Table, step
from tests.bench.varied import Varied
from tests.support.service import NET, ROOT, running

_AIM_MS = 20
_TEXT = "The quick brown fox jumps over the lazy dog."
_WARM = 3


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds from asking for a stream to its first sound and to its end, one a round."""

    first: list[float]
    last: list[float]


def run(*, quick: bool) -> list[Table]:
    """The same text in the same known voice, many times, with tiny weights and with full ones."""
    rounds = 10 if quick else 40
    return [
        Table(
            "first_byte: from the request to the first sound of a stream "
            f"(aim: within {_AIM_MS} ms of the engine alone, with tiny weights)",
            (
                *("weights", "engine p50 ms", "HTTP p50 ms", "HTTP p95 ms", "difference p50 ms"),
                *("last byte p50 ms", "first / last"),
            ),
            [_row(size, rounds) for size in (["nano"] if quick else ["nano", "full"])],
            [
                f"{rounds} streams of {_TEXT!r} as wav, in a voice that is known",
                "engine: its generator called in a process of its own, until the first piece",
                "HTTP: with the recording uploaded (144 KB), until the first byte after the header",
            ],
        )
    ]


def _row(size: str, rounds: int) -> tuple[Cell, ...]:
    folder = models_folder(quick=size == "nano")
    reference = Varied(0).wav(3.0)
    step(f"first_byte: {size}, the engine alone")
    alone = _engine_alone(folder, rounds)
    step(f"first_byte: {size}, over HTTP")
    environment = {
        "VOICE_ENGINE_TTS_ENGINE": "pocket",
        "VOICE_ENGINE_MODELS_DIR": str(folder),
    }
    with running(environment) as service:
        service.wait_ready()
        http = asyncio.run(_over_http(service.url, reference, rounds))
    engine, first, last = (
        statistics.median(times) * 1000 for times in (alone.first, http.first, http.last)
    )
    p95 = statistics.quantiles(http.first, n=20)[-1] * 1000
    return (size, engine, first, p95, first - engine, last, round(first / last, 3))


def _engine_alone(folder: Path, rounds: int) -> Times:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.first_byte_engine", str(folder), str(rounds), _TEXT],
        check=True,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    measured = json.loads(done.stdout)
    return Times(measured["first"], measured["last"])


async def _over_http(url: str, reference: bytes, rounds: int) -> Times:
    times = Times([], [])
    timeout = aiohttp.ClientTimeout(total=NET)
    async with aiohttp.ClientSession(url, timeout=timeout) as session:
        for number in range(_WARM + rounds):
            first, last = await _stream(session, reference)
            if number >= _WARM:
                times.first.append(first)
                times.last.append(last)
    return times


async def _stream(session: aiohttp.ClientSession, reference: bytes) -> tuple[float, float]:
    form = aiohttp.FormData({"text": _TEXT, "seed": "0", "stream": "true"})
    form.add_field("reference_audio", reference, filename="reference.wav")
    sent = time.perf_counter()
    first = 0.0
    received = 0
    async with session.post("/v1/clone", data=form) as response:
        response.raise_for_status()
        async for data in response.content.iter_any():
            received += len(data)
            if not first and received > 44:  # the WAV's header is no sound
                first = time.perf_counter() - sent
    return first, time.perf_counter() - sent
