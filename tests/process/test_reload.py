"""Reloads at bad moments: of settings that cannot be read, and of models that are in trouble."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from tests.support.service import NET, running, script_form


def _damage(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\xff\xfe\n")


@pytest.mark.parametrize("spoil", [Path.unlink, _damage])
async def test_keys_stay_when_the_settings_cannot_be_read(
    spoil: Callable[[Path], None], tmp_path: Path
) -> None:
    file = tmp_path / "settings.env"
    file.write_text("VOICE_ENGINE_API_KEY=old\n")
    with running({}, ["--env-file", str(file)]) as service:
        async with aiohttp.ClientSession(service.url) as client:

            async def status(key: str) -> int:
                async with client.get("/v1/models", headers={"X-API-Key": key}) as response:
                    return response.status

            spoil(file)
            service.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(service.wait_for, "reload_refused")
            assert [await status("old"), await status("")] == [200, 401]
            file.write_text("VOICE_ENGINE_API_KEY=new\n")
            service.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(service.wait_for, "reloaded", model="stt")
            assert [await status("old"), await status("new")] == [401, 200]


# Models


async def test_workers_are_replaced_while_the_new_model_loads(tmp_path: Path) -> None:
    load = tmp_path / "load"
    load.write_text("")
    with running({"VOICE_TEST_LOAD": f"@{load}"}) as service:
        service.wait_ready()
        (worker,) = service.children(model="tts")
        load.write_text("hang")
        service.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(service.wait_for, "reloading")
        os.kill(worker["pid"], signal.SIGKILL)
        await asyncio.to_thread(service.wait_for, "worker_ready", child="tts-2")
        async with (
            aiohttp.ClientSession(service.url) as client,
            client.post("/v1/clone", data=script_form("say 1")) as response,
        ):
            assert response.status == 200
        assert [event for event in service.events if event["event"] == "reloaded"] == []


async def test_a_reload_that_works_ends_the_pause_of_a_failed_model(tmp_path: Path) -> None:
    load = tmp_path / "load"
    load.write_text("raise no weights")
    settings = {
        "VOICE_TEST_LOAD": f"@{load}",
        "VOICE_ENGINE_FAILURES_MAX": "2",
        "VOICE_ENGINE_BACKOFF_BASE": "10000",
        "VOICE_ENGINE_BACKOFF_MAX": "10000",
    }
    with running(settings) as service:
        await asyncio.to_thread(
            service.wait_until, lambda health: health["models"]["tts"]["state"] == "FAILED"
        )
        load.write_text("")
        service.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(service.wait_ready)
        async with (
            aiohttp.ClientSession(service.url) as client,
            client.post("/v1/clone", data=script_form("say 1")) as response,
        ):
            assert response.status == 200
        assert service.health()["models"]["tts"]["message"] is None


async def test_the_queue_goes_by_the_new_settings(tmp_path: Path) -> None:
    file, gate = tmp_path / "settings.env", tmp_path / "gate"
    file.write_text("VOICE_ENGINE_QUEUE_SIZE=64\n")
    with running({}, ["--env-file", str(file)]) as service:
        service.wait_ready()
        file.write_text("VOICE_ENGINE_QUEUE_SIZE=1\n")
        service.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(service.wait_for, "reloaded", model="tts")
        async with aiohttp.ClientSession(service.url) as client:

            async def speak() -> int:
                form = script_form(f"wait {gate}; say 1")
                async with client.post("/v1/clone", data=form) as response:
                    return response.status

            asking = {asyncio.create_task(speak()) for _ in range(4)}
            refused, admitted = await asyncio.wait(
                asking, timeout=NET, return_when=asyncio.FIRST_COMPLETED
            )
            assert [task.result() for task in refused][:1] == [503]
            gate.touch()
            assert 200 in await asyncio.gather(*admitted)
