"""Sessions that say nothing: two hundred of them cost little memory and no worker."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import aiohttp
import psutil
import pytest

from tests.support.service import NET, RunningService, running

SESSIONS = 200
PATHS = (
    "/v1/tts/stream",
    "/v1/transcribe/stream",
    "/v1/realtime?intent=transcription",
    "/v1/text-to-speech/hum/multi-stream-input?inactivity_timeout=180",
    "/v1/speech-to-text/realtime",
)


@pytest.fixture
def service() -> Iterator[RunningService]:
    settings = {
        "VOICE_ENGINE_TTS_ENGINE": "tests.support.listening_engines:Hum",
        "VOICE_ENGINE_STT_ENGINE": "tests.support.listening_engines:Meter",
    }
    with running(settings) as service:
        service.wait_ready()
        yield service


async def test_idle_sessions_cost_little_memory_and_no_worker(service: RunningService) -> None:
    front = psutil.Process(service.process.pid)
    timeout = aiohttp.ClientTimeout(total=NET)
    connector = aiohttp.TCPConnector(limit=SESSIONS)
    async with aiohttp.ClientSession(service.url, timeout=timeout, connector=connector) as client:
        for path in PATHS:  # what the first session of each kind loads is paid once
            async with client.ws_connect(path):
                pass
        service.wait_until(lambda health: _open(health) == 0 and _at_rest(health))
        service.wait_until(lambda _: service.children(model="vad") != [])
        before = front.memory_info().rss
        children = {child["pid"] for child in service.children()}
        async with contextlib.AsyncExitStack() as stack:
            for number in range(SESSIONS):
                path = PATHS[number % len(PATHS)]
                await stack.enter_async_context(client.ws_connect(path))
            service.wait_until(lambda health: _open(health) == SESSIONS)
            assert front.memory_info().rss - before < 20_000_000
            service.wait_until(_at_rest)
            assert all(child["in_flight"] == 0 for child in service.children())
            assert {child["pid"] for child in service.children()} <= children
        service.wait_until(lambda health: _open(health) == 0)


def _at_rest(health: dict[str, Any]) -> bool:
    """Whether no request is in any worker; a new session has had the model for speech loaded."""
    return not any(model["in_flight"] for model in health["models"].values())


def _open(health: dict[str, Any]) -> int:
    sessions = health["sessions"]
    return int(sessions["speech"] + sessions["transcription"])
