"""Part `memory`: what every process holds, with the weights shared and not."""

from __future__ import annotations

import asyncio
import io
import random
import struct
import wave
from collections.abc import Sequence

import aiohttp
import psutil

from ipc.engines import EngineSpec
from tests.bench.models import CACHE, EMBEDDED, PRODUCTION, models_folder
from tests.bench.report import Cell, Table, step
from tests.support.service import RunningService, running

_MB = 1024 * 1024
_SECONDS = 5
_TEXT = "The quick brown fox jumps over the lazy dog."


def run(*, quick: bool) -> list[Table]:
    """Measure the service with its neural engines, before and after a request to each."""
    folder = models_folder(quick=quick)
    return [_measure(PRODUCTION, str(folder), workers=1), _measure(EMBEDDED, "none", workers=2)]


def _measure(engines: Sequence[EngineSpec], models: str, *, workers: int) -> Table:
    """The service with these engines, and so many workers of each."""
    names = " and ".join(spec.name for spec in engines)
    settings = {"VOICE_ENGINE_MODELS_DIR": models, "VOICE_ENGINE_CACHE_DIR": str(CACHE)}
    for spec in engines:
        settings[f"VOICE_ENGINE_{spec.kind.upper()}_ENGINE"] = spec.name
        settings[f"VOICE_ENGINE_{spec.kind.upper()}_WORKERS"] = str(workers)
    step(f"memory: starting the service with {names}")
    with running(settings) as service:
        service.wait_ready()
        service.wait_for("worker_ready", count=len(engines) * workers)
        rows = _rows(service, "before")
        step("memory: one request to each model")
        asyncio.run(_one_request_each(service))
        rows += _rows(service, "after")
    return Table(
        f"memory: {names}, every process before and after one request to each model, MB",
        ("process", "when", "RSS", "USS", "PSS"),
        rows,
        [
            "RSS counts shared pages in full, PSS in part; USS is what the end of that process "
            "alone gives back",
            f"requests: clone {len(_TEXT)} characters, transcribe {_SECONDS} s",
        ],
    )


def _rows(service: RunningService, when: str) -> list[tuple[Cell, ...]]:
    processes = {"front": service.process.pid}
    processes |= {child["name"]: child["pid"] for child in service.health()["children"]}
    infos = {name: psutil.Process(pid).memory_full_info() for name, pid in processes.items()}
    rows: list[tuple[Cell, ...]] = [
        (name, when, info.rss / _MB, info.uss / _MB, info.pss / _MB) for name, info in infos.items()
    ]
    # RSS cannot be added up: it counts the shared weights in each process.
    rows.append(("all", when, None, None, sum(info.pss for info in infos.values()) / _MB))
    return rows


async def _one_request_each(service: RunningService) -> None:
    speech = aiohttp.FormData({"text": _TEXT, "seed": "1"})
    speech.add_field("reference_audio", _recording(), filename="reference.wav")
    hearing = aiohttp.FormData()
    hearing.add_field("file", _recording(), filename="recording.wav")
    async with aiohttp.ClientSession(service.url) as client:
        for path, form in (("/v1/clone", speech), ("/v1/transcribe", hearing)):
            async with client.post(path, data=form) as response:
                body = await response.read()
                if response.status != 200:
                    raise RuntimeError(f"{path} answered {response.status}: {body[:500]!r}")


def _recording() -> bytes:
    """Noise: to models with random weights as good as speech."""
    noise = random.Random(0)
    samples = [noise.randrange(-3000, 3000) for _ in range(16_000 * _SECONDS)]
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(16_000)
        wav.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return file.getvalue()
