"""Compute threads: none in a template, which forks; as many as set in its workers."""

from __future__ import annotations

import asyncio

import psutil
import pytest

from tests.process.test_faults import client_of, speak
from tests.support.service import RunningService, running

ENGINE = {"VOICE_ENGINE_TTS_ENGINE": "tests.support.script_engine:Multiplying"}


def threads(service: RunningService, role: str) -> int:
    (pid,) = [child["pid"] for child in service.children(model="tts", role=role)]
    return psutil.Process(pid).num_threads()


@pytest.mark.parametrize(("setting", "reading"), [("2", 2), ("1", 1)])
async def test_a_forked_worker_computes_with_all_its_threads(setting: str, reading: int) -> None:
    with running({**ENGINE, "VOICE_ENGINE_THREADS": setting}) as service:
        service.wait_ready()
        assert service.health()["models"]["tts"]["threads"] == reading
        async with client_of(service) as client:
            for worker in ("tts-1", "tts-2"):
                await asyncio.to_thread(service.wait_for, "worker_ready", child=worker)
                await asyncio.to_thread(
                    service.wait_until, lambda _: len(service.children(model="tts")) == 1
                )
                # One thread reads the pipe.
                assert threads(service, "worker") == 2
                for _ in range(3):
                    assert (await speak(client, "say 1"))[0] == 200
                assert threads(service, "worker") == 1 + reading
                assert threads(service, "template") == 1
                if worker == "tts-1":
                    async with client.post("/v1/children/tts-1/recycle") as response:
                        assert response.status < 300
