"""Kokoro in the service: forked from a template, in the sandbox, killed in the middle."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.process.test_faults import client_of
from tests.support.recordings import spoken
from tests.support.service import RunningService, running

pytestmark = pytest.mark.neural

TEXT = "First this, slowly. Then that comes. And at last there is the end of it all."


@pytest.fixture(scope="module", params=["fork", "spawn"])
def service(request: pytest.FixtureRequest, packaged_weights: Path) -> Iterator[RunningService]:
    settings = {
        "VOICE_ENGINE_TTS_ENGINE": "kokoro",
        "VOICE_ENGINE_CACHE_DIR": str(packaged_weights),
        "VOICE_ENGINE_THREADS": "2",
        "VOICE_ENGINE_START_METHOD": request.param,
    }
    with running(settings) as service:
        service.wait_ready()
        yield service
        assert all(child["sandbox"]["active"] for child in service.children(model="tts"))
        denied = [entry for entry in service.events if "ermission" in str(entry.get("line"))]
        assert denied == []


def body(**fields: Any) -> dict[str, Any]:
    return {"text": TEXT, "stream": True, "response_format": "pcm", **fields}


async def test_a_stream_whose_worker_is_killed_goes_on_with_the_same_bytes(
    service: RunningService,
) -> None:
    async with client_of(service) as client:
        async with client.post("/v1/tts", json=body()) as response:
            assert response.status == 200, await response.text()
            expected = await response.read()
        replays = service.health()["models"]["tts"]["replays"]
        async with client.post("/v1/tts", json=body()) as response:
            received = await response.content.readany()
            for child in service.children(model="tts"):
                os.kill(child["pid"], signal.SIGKILL)
            received += await response.content.read()
    assert received == expected
    assert service.health()["models"]["tts"]["replays"] == replays + 1


async def test_languages_and_clones_work_in_the_sandbox(service: RunningService) -> None:
    async with client_of(service) as client:

        async def speak(**fields: Any) -> int:
            async with client.post("/v1/tts", json=body(stream=False, **fields)) as response:
                assert response.status == 200, await response.text()
                return len(await response.read())

        sizes = await asyncio.gather(
            speak(text="Sí.", language="es"),
            speak(text="Oui.", language="fr"),
            speak(text="はい。"),
            speak(text="Yes.", voice_id="jf_nezumi"),
        )
        assert min(sizes) > 1000
        form = aiohttp.FormData({"text": "Yes.", "response_format": "pcm"})
        form.add_field("reference_audio", spoken("Hello there."), filename="reference.wav")
        async with client.post("/v1/clone", data=form) as response:
            assert response.status == 200, await response.text()
            assert "cannot clone" in response.headers["X-Voice-Approximation"]
