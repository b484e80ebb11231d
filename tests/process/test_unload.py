"""Models that are unloaded while nobody uses them, and come back with the next request."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from ops.status import judge
from tests.support.service import (
    NET,
    Gate,
    RunningService,
    recording_form,
    running,
    script_form,
)

IDLE = {"VOICE_ENGINE_IDLE_UNLOAD": "0.3", "VOICE_ENGINE_PING_INTERVAL": "0.1"}


@pytest.fixture
def load(tmp_path: Path) -> Path:
    """The script that every load of the speech model obeys."""
    file = tmp_path / "load"
    loads(file, "")
    return file


def loads(file: Path, script: str) -> None:
    """From now on processes obey this script as they load."""
    file.write_text(script)


@pytest.fixture
def service(load: Path) -> Iterator[RunningService]:
    with running({**IDLE, "VOICE_TEST_LOAD": f"@{load}"}) as service:
        yield service


async def unloaded(service: RunningService, count: int = 1, model: str = "tts") -> None:
    """Wait until the model has been unloaded so often."""
    await asyncio.to_thread(service.wait_for, "unloaded", count=count, model=model)


async def speak(service: RunningService, script: str = "say 2") -> tuple[int, str]:
    """A request for the speech model: its status, and the error if there is one."""
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post("/v1/clone", data=script_form(script)) as response,
    ):
        return response.status, "" if response.status == 200 else await response.text()


async def transcribe(service: RunningService) -> int:
    """A request for the other model: its status."""
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post("/v1/transcribe", data=recording_form("any")) as response,
    ):
        return response.status


def get(url: str) -> Any:
    """The JSON of a response that must have the status 200."""
    with urllib.request.urlopen(url, timeout=NET) as response:
        return json.load(response)


def state(service: RunningService, model: str = "tts") -> Any:
    """What /health says of a model."""
    return service.health()["models"][model]["state"]


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
async def test_an_idle_model_leaves_nothing_behind_and_comes_back(start_method: str) -> None:
    settings = {**IDLE, "VOICE_ENGINE_START_METHOD": start_method, "VOICE_ENGINE_TTS_WORKERS": "2"}
    with running(settings) as service:
        await unloaded(service, model="stt")
        await unloaded(service)
        assert [process.pid for process in service.processes()] == [service.process.pid]
        health = get(f"{service.url}/health")
        assert {name: model["state"] for name, model in health["models"].items()} == {
            "tts": "UNLOADED",
            "stt": "UNLOADED",
        }
        assert health["children"] == []
        assert (health["status"], health["tts_loaded"], health["asr_loaded"]) == ("ok", True, True)
        assert judge(200, health) == 0
        assert get(f"{service.url}/readyz") == {"status": "ok"}
        assert await speak(service) == (200, "")
        assert service.wait_for("loading")["reason"] == "a request"
        assert await transcribe(service) == 200
        await unloaded(service, 2)
        reasons = [event["reason"] for event in service.events if event["event"] == "unloaded"]
        assert set(reasons) == {"no request for 0.3 s"}
        assert [event for event in service.events if event["event"] == "worker_died"] == []
        assert service.stop() == 0


async def test_a_model_with_a_request_in_flight_stays(service: RunningService, gate: Gate) -> None:
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(speak(service, f"print begun; wait {gate}; say 1"))
        await asyncio.to_thread(service.wait_for, "child_output", line="begun")
        # It gets a request later than this one.
        await other_model_unloaded(service)
        assert state(service) == "SERVING"
        assert not [e for e in service.events if e["event"] == "unloaded" and e["model"] == "tts"]
        gate.open()
    assert asked.result() == (200, "")
    await unloaded(service)


async def test_a_request_that_comes_while_the_model_ends_waits_for_the_next_load(
    service: RunningService,
) -> None:
    ending: list[str] = []
    while not ending:  # a slow machine may miss that moment
        # For this thread the worker does not exit until it is killed, after two seconds.
        assert await speak(service, "thread; say 1") == (200, "")
        health = await asyncio.to_thread(
            service.wait_until, lambda health: health["models"]["tts"]["state"] == "UNLOADED"
        )
        ending = [child["name"] for child in health["children"] if child["model"] == "tts"]
    assert await asyncio.gather(*(speak(service) for _ in range(8))) == [(200, "")] * 8
    told = [e["event"] for e in service.events if e.get("model") == "tts"]
    assert [name for name in told if name in ("unloaded", "loading")][-2:] == [
        *("unloaded", "loading")
    ]


async def test_no_request_fails_around_the_moment_of_the_unload() -> None:
    settings = {
        "VOICE_ENGINE_IDLE_UNLOAD": "0.05",
        "VOICE_ENGINE_PING_INTERVAL": "0.01",
        "VOICE_ENGINE_QUEUE_SIZE": "200",
    }
    drawn = random.Random(1)
    with running(settings) as service:
        async with aiohttp.ClientSession(service.url) as client:

            async def one(number: int) -> int:
                if number % 2:
                    await asyncio.sleep(drawn.uniform(0.0, 0.1))
                async with client.post("/v1/clone", data=script_form("say 1")) as response:
                    await response.read()
                    return response.status

            while sum(event["event"] == "loading" for event in service.events) < 5:
                assert await asyncio.gather(*map(one, range(50))) == [200] * 50
                await asyncio.sleep(drawn.uniform(0.03, 0.12))


async def test_a_template_that_is_killed_as_it_loads_again_costs_no_request(
    service: RunningService, load: Path, gate: Gate
) -> None:
    await unloaded(service)
    loads(load, f"wait {gate}")
    asked = [asyncio.create_task(speak(service)) for _ in range(3)]
    for number in (1, 2):
        health = await asyncio.to_thread(
            service.wait_until,
            lambda health: any(child["name"] == "tts-template" for child in health["children"]),
        )
        assert health["models"]["tts"]["state"] in ("LOADING", "BACKOFF")
        (template,) = service.children("template", "tts")
        os.kill(template["pid"], signal.SIGKILL)
        await asyncio.to_thread(service.wait_for, "start_failed", count=number)
    gate.open()
    assert await asyncio.gather(*asked) == [(200, "")] * 3


async def test_a_load_that_fails_after_an_unload_is_tried_again(load: Path) -> None:
    settings = {**IDLE, "VOICE_TEST_LOAD": f"@{load}", "VOICE_ENGINE_FAILURES_MAX": "2"}
    with running(settings) as service:
        await unloaded(service)
        loads(load, "raise no weights")
        asked = asyncio.create_task(speak(service))
        health = await asyncio.to_thread(
            service.wait_until, lambda health: health["models"]["tts"]["state"] == "FAILED"
        )
        assert health["status"] == "degraded"
        assert "no weights" in health["models"]["tts"]["message"]
        loads(load, "")
        assert await asked == (200, "")
        await unloaded(service, 2)
        assert await speak(service) == (200, "")


async def test_a_reload_loads_an_unloaded_model(service: RunningService, load: Path) -> None:
    await unloaded(service)
    loads(load, "raise no weights")
    service.process.send_signal(signal.SIGHUP)
    await asyncio.to_thread(service.wait_for, "reload_failed", model="tts")
    assert state(service) == "UNLOADED"
    loads(load, "")
    service.process.send_signal(signal.SIGHUP)
    await asyncio.to_thread(service.wait_for, "reloaded", model="tts")
    await asyncio.to_thread(service.wait_for, "loading", model="tts", reason="a reload")
    await unloaded(service, 2)
    assert await speak(service) == (200, "")


async def test_a_reload_while_the_model_ends(service: RunningService) -> None:
    assert await speak(service, "thread; say 1") == (200, "")
    await asyncio.to_thread(
        service.wait_until, lambda health: health["models"]["tts"]["state"] == "UNLOADED"
    )
    service.process.send_signal(signal.SIGHUP)
    assert await speak(service) == (200, "")
    await asyncio.to_thread(service.wait_for, "reloaded", model="tts")
    assert await speak(service) == (200, "")


async def recycle(service: RunningService) -> str:
    """Have the worker of the speech model replaced; its name."""
    children = service.children(model="tts")
    (worker,) = [child for child in children if child["lifecycle"] == "READY"]
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post(f"/v1/children/{worker['name']}/recycle") as response,
    ):
        assert response.status == 202
    return str(worker["name"])


async def other_model_unloaded(service: RunningService) -> None:
    """Wait until the other model has had a request, and is unloaded after that."""
    await unloaded(service, model="stt")
    assert await transcribe(service) == 200
    await unloaded(service, 2, model="stt")


@pytest.fixture
def warm_up(tmp_path: Path) -> Path:
    """The script that every worker of the speech model obeys at its start."""
    file = tmp_path / "warm_up"
    loads(file, "")
    return file


async def test_a_worker_that_is_being_replaced_is_not_unloaded(
    warm_up: Path, gate: Gate, tmp_path: Path
) -> None:
    successor = Gate(tmp_path / "successor")
    with running({**IDLE, "VOICE_TEST_WARM_UP": f"@{warm_up}"}) as service:
        async with asyncio.TaskGroup() as group:
            group.create_task(speak(service, f"print begun; wait {gate}; say 1"))
            await asyncio.to_thread(service.wait_for, "child_output", line="begun")
            loads(warm_up, f"wait {successor}")
            worker = await recycle(service)
            gate.open()
        await other_model_unloaded(service)
        assert state(service) == "SERVING"
        successor.open()
        await asyncio.to_thread(service.wait_for, "recycled", child=worker)
        await unloaded(service)
        assert len(service.processes()) == 1


async def test_a_model_whose_starts_fail_keeps_the_worker_that_it_has(
    warm_up: Path, gate: Gate
) -> None:
    settings = {
        **IDLE,
        "VOICE_TEST_WARM_UP": f"@{warm_up}",
        "VOICE_ENGINE_BACKOFF_BASE": "10000",
        "VOICE_ENGINE_BACKOFF_MAX": "10000",
    }
    with running(settings) as service:
        async with asyncio.TaskGroup() as group:
            group.create_task(speak(service, f"print begun; wait {gate}; say 1"))
            await asyncio.to_thread(service.wait_for, "child_output", line="begun")
            loads(warm_up, "raise no weights")
            for number in (1, 2):
                await recycle(service)
                await asyncio.to_thread(service.wait_for, "start_failed", count=number)
            gate.open()
        await other_model_unloaded(service)
        assert state(service) == "SERVING"
        assert await speak(service) == (200, "")


async def test_the_service_stops_while_a_model_ends_or_loads(load: Path, gate: Gate) -> None:
    settings = {**IDLE, "VOICE_TEST_LOAD": f"@{load}", "VOICE_ENGINE_DRAIN_TIMEOUT": "0"}
    with running(settings) as service:
        assert await speak(service, "thread; say 1") == (200, "")
        await asyncio.to_thread(
            service.wait_until, lambda health: health["models"]["tts"]["state"] == "UNLOADED"
        )
        children = service.processes()[1:]
        assert await asyncio.to_thread(service.stop) == 0
        assert psutil.wait_procs(children, NET)[1] == []
    with running(settings) as service:
        await unloaded(service)
        loads(load, f"wait {gate}")
        asked = asyncio.create_task(speak(service))
        await asyncio.to_thread(
            service.wait_until,
            lambda health: any(child["name"] == "tts-template" for child in health["children"]),
        )
        children = service.processes()[1:]
        assert await asyncio.to_thread(service.stop) == 0
        assert psutil.wait_procs(children, NET)[1] == []
        await asyncio.gather(asked, return_exceptions=True)
