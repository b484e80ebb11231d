"""Several transcriptions at once in one worker of SenseVoice: as alone, also after a death."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from ipc.wav_header import wav_header
from model_procs.audio.pcm import pcm16
from tests.process.test_faults import client_of
from tests.support.listening_engines import HOLD
from tests.support.service import Gate, RunningService, running

RATE = 16_000
SECONDS = (0.4, 3.0, 7.5, 40.0)
"""The last is recognized in two clips."""


@pytest.fixture
def service(nano_models: Path, gate: Gate) -> Iterator[RunningService]:
    settings = {
        "VOICE_ENGINE_STT_ENGINE": "tests.support.listening_engines:GatedSenseVoice",
        "VOICE_ENGINE_MODELS_DIR": str(nano_models),
        "VOICE_ENGINE_THREADS": "2",
        HOLD: str(gate.path),
    }
    with running(settings) as service:
        service.wait_ready()
        yield service


def recording(seconds: float) -> bytes:
    noise = np.random.default_rng(int(seconds * 10)).standard_normal(int(seconds * RATE)) * 0.1
    return wav_header(RATE, len(noise)) + pcm16(noise.astype(np.float32))


async def transcribe(client: aiohttp.ClientSession, seconds: float) -> dict[str, Any]:
    form = aiohttp.FormData()
    form.add_field("file", io.BytesIO(recording(seconds)), filename="recording.wav")
    async with client.post("/v1/transcribe", data=form) as response:
        assert response.status == 200
        transcript: dict[str, Any] = await response.json()
        return transcript


async def held(service: RunningService, count: int) -> None:
    """Wait until a worker holds, with `count` transcriptions in it."""
    await asyncio.to_thread(service.wait_for, "child_output", line="held")
    await asyncio.to_thread(
        service.wait_until, lambda _: service.children(model="stt")[0]["in_flight"] == count
    )


async def test_four_transcriptions_survive_a_kill_and_are_as_alone(
    service: RunningService, gate: Gate
) -> None:
    async with client_of(service) as client:
        tasks = [asyncio.create_task(transcribe(client, seconds)) for seconds in SECONDS]
        await held(service, 4)
        (worker,) = service.children(model="stt")
        assert worker["capacity"] == 4
        os.kill(worker["pid"], signal.SIGKILL)
        gate.open()
        together = await asyncio.gather(*tasks)
        assert service.health()["models"]["stt"]["replays"] == 4
        alone = [await transcribe(client, seconds) for seconds in SECONDS]
    assert together == alone
    assert [transcript["duration"] for transcript in together] == list(SECONDS)
    assert all(transcript["text"] for transcript in together)
    assert len({transcript["text"] for transcript in together}) == 4


async def test_a_client_that_leaves_costs_the_others_nothing(
    service: RunningService, gate: Gate
) -> None:
    async with client_of(service) as client:
        tasks = [asyncio.create_task(transcribe(client, seconds)) for seconds in SECONDS]
        await held(service, 4)
        tasks.pop(1).cancel()
        await held(service, 3)
        (worker,) = service.children(model="stt")
        gate.open()
        others = await asyncio.gather(*tasks)
        alone = [await transcribe(client, SECONDS[index]) for index in (0, 2, 3)]
    assert others == alone
    assert service.children(model="stt")[0]["pid"] == worker["pid"]
    assert service.health()["models"]["stt"]["replays"] == 0
