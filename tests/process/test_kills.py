"""Children that somebody kills: no failure of the model, no fault of a request."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ipc.operations import Sampling, Speak, Voice
from supervisor.workers.handle import Call, WorkerDied
from tests.process.test_supervision import launch_config, pool_of, until
from tests.support.service import Gate, RunningService, running, script_form


async def speak(client: aiohttp.ClientSession, script: str) -> int:
    """Status of a /v1/clone request."""
    async with client.post("/v1/clone", data=script_form(script)) as response:
        await response.read()
        return response.status


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("method", ["fork", "spawn"])
async def test_a_request_whose_workers_are_killed_is_at_fault_for_none(
    method: str, gate: Gate
) -> None:
    with running({"VOICE_ENGINE_START_METHOD": method}) as service:
        service.wait_ready()
        async with aiohttp.ClientSession(service.url) as client:
            script = f"print begun; wait {gate}; say 1"
            asking = asyncio.create_task(speak(client, script))
            for count in range(1, 6):
                await asyncio.to_thread(service.wait_for, "child_output", line="begun", count=count)
                (worker,) = service.children(model="tts")
                kill(worker["pid"])
                await asyncio.to_thread(service.wait_for, "worker_died", child=worker["name"])
            gate.open()
            assert await asking == 200
            assert await speak(client, script) == 200  # it is not in quarantine
        model = service.health()["models"]["tts"]
        assert (model["state"], model["replays"]) == ("SERVING", 5)


async def test_templates_killed_while_they_load_do_not_make_a_model_failed(
    tmp_path: Path, gate: Gate
) -> None:
    script = tmp_path / "load"
    script.write_text("")
    settings = {"VOICE_TEST_LOAD": f"@{script}", "VOICE_ENGINE_FAILURES_MAX": "2"}
    with running(settings) as service:
        service.wait_ready()
        script.write_text(f"print loading; wait {gate}")
        async with aiohttp.ClientSession(service.url) as client:
            (worker,) = service.children(model="tts")
            kill(template(service)["pid"])
            kill(worker["pid"])
            await asyncio.to_thread(service.wait_for, "worker_died", child=worker["name"])
            asking = asyncio.create_task(speak(client, "say 1"))
            for count in range(1, 6):
                await asyncio.to_thread(
                    service.wait_for, "child_output", line="loading", count=count
                )
                assert template(service)["state"] == "STARTING"
                kill(template(service)["pid"])
                await asyncio.to_thread(service.wait_for, "start_failed", error=DIED, count=count)
                # The first of these may have been a fork, before the death of the worker was told.
                await asyncio.to_thread(service.wait_until, holds_off)
            gate.open()
            assert await asking == 200
        assert service.health()["models"]["tts"]["message"] is None


DIED = "the template died: SIGKILL"


def holds_off(health: dict[str, Any]) -> bool:
    """Whether speech waits after the death of a template."""
    model = health["models"]["tts"]
    return bool((model["state"], model["message"]) == ("BACKOFF", DIED))


def template(service: RunningService) -> dict[str, Any]:
    """The template of speech in /health, be it READY or still loading."""
    (found,) = service.children("template", "tts")
    return found


async def test_a_template_that_dies_again_and_again_is_loaded_when_it_is_needed() -> None:
    settings = {"VOICE_ENGINE_BACKOFF_BASE": "10000", "VOICE_ENGINE_BACKOFF_MAX": "10000"}
    with running(settings) as service:
        service.wait_ready()
        kill(template(service)["pid"])
        # The first time it is loaded anew at once, and workers get to share its memory.
        await asyncio.to_thread(service.wait_for, "recycled", reason="its template died")
        kill(template(service)["pid"])
        await asyncio.to_thread(service.wait_for, "template_died", count=2)
        (worker,) = service.children(model="tts")
        async with aiohttp.ClientSession(service.url) as client:
            assert await speak(client, "say 1") == 200
            assert service.children("template", "tts") == []
            kill(worker["pid"])  # so that one is needed
            assert await speak(client, "say 1") == 200
        assert len(service.children("template", "tts")) == 1


async def test_a_worker_that_cannot_be_forked_is_a_message_not_the_end_of_the_template(
    tmp_path: Path,
) -> None:
    forbidden = tmp_path / "forbidden"
    forbidden.touch()
    with running({"VOICE_TEST_LOAD": f"nofork {forbidden}"}) as service:
        failed = await asyncio.to_thread(service.wait_for, "start_failed", count=2)
        assert "cannot be forked" in failed["error"]
        before = template(service)["pid"]
        forbidden.unlink()
        await asyncio.to_thread(service.wait_ready)
        assert template(service)["pid"] == before
        async with aiohttp.ClientSession(service.url) as client:
            assert await speak(client, "say 1") == 200
        assert [event for event in service.events if event["event"] == "template_died"] == []


async def test_a_worker_killed_while_it_writes_has_not_broken_the_protocol(
    tmp_path: Path, gate: Gate
) -> None:
    once = tmp_path / "once"
    once.touch()
    with running() as service:
        service.wait_ready()
        (worker,) = service.children(model="tts")
        async with aiohttp.ClientSession(service.url) as client:
            script = f"half {once}; print begun; wait {gate}; say 1"
            asking = asyncio.create_task(speak(client, script))
            await asyncio.to_thread(service.wait_for, "child_output", line="begun")
            kill(worker["pid"])
            gate.open()
            assert await asking == 200
        died = await asyncio.to_thread(service.wait_for, "worker_died", child=worker["name"])
        assert died["reason"] == "SIGKILL"


@pytest.mark.parametrize(
    ("kernel_killed", "blame", "reason"),
    [
        (False, False, "SIGKILL"),
        (True, True, "killed by the kernel: the container is out of memory"),
        (None, True, "SIGKILL"),  # where the kernel does not tell
    ],
)
async def test_a_request_may_be_at_fault_for_a_lack_of_memory(
    kernel_killed: bool | None, blame: bool, reason: str
) -> None:
    async with launch_config() as config:
        pool = pool_of(config, kernel_killed)
        pool.start()
        await pool.known_info()
        await until(lambda: pool.free_worker() is not None)
        worker = pool.free_worker()
        assert worker is not None
        outcome = asyncio.get_running_loop().create_future()
        operation = Speak("hang", Voice(), Sampling(seed=1))
        worker.submit(Call(1, operation, 0, lambda _: None, outcome))
        kill(worker.pid)
        with pytest.raises(WorkerDied) as death:
            await outcome
        assert (death.value.blame, str(death.value)) == (blame, reason)
        await pool.close()
