"""What operators and the machine do to a service: recycle, reload, limits, pressure, overload."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import soundfile

from ipc.engines import Kind
from supervisor.dispatch.backend import LocalBackend
from supervisor.memory.cgroup import Container
from supervisor.service import Service
from supervisor.settings import Settings
from tests.support.service import (
    NET,
    ROOT,
    Gate,
    RunningService,
    recording_form,
    running,
    script_form,
)

MB = 1024 * 1024


async def speak(client: aiohttp.ClientSession, script: str) -> int:
    async with client.post("/v1/clone", data=script_form(script)) as response:
        await response.read()
        return response.status


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until `condition` holds; the test's own timeout is the net."""
    while not condition():  # noqa: ASYNC110 - nothing to wait on: the pool has no listeners
        await asyncio.sleep(0.01)


# Recycling by hand


@pytest.mark.quick
async def test_a_worker_is_replaced_on_demand_while_it_serves(gate: Gate) -> None:
    with running() as service:
        service.wait_ready()
        (worker,) = service.children(model="tts")
        async with aiohttp.ClientSession(service.url) as client:
            in_flight = asyncio.create_task(speak(client, f"print begun; wait {gate}; say 1"))
            await asyncio.to_thread(service.wait_for, "child_output", line="begun")
            path = f"/v1/children/{worker['name']}/recycle"
            async with client.post(path) as response:
                assert response.status == 202
            async with client.post(path) as response:
                assert response.status == 409
            assert await speak(client, "say 1") == 200
            gate.open()
            assert await in_flight == 200
        recycled = await asyncio.to_thread(service.wait_for, "recycled")
        assert recycled["reason"] == "forced by an operator"
        (successor,) = service.children(model="tts")
        assert successor["restarts"] == 1
        assert successor["name"] == recycled["successor"]


async def test_only_workers_can_be_recycled() -> None:
    with running() as service:
        service.wait_ready()
        async with aiohttp.ClientSession(service.url) as client:
            for name in ("tts-99", "tts-template", "%2e%2e"):
                async with client.post(f"/v1/children/{name}/recycle") as response:
                    assert response.status == 404


async def test_fifty_recycles_under_load_fail_no_request() -> None:
    with running({"VOICE_ENGINE_TTS_WORKERS": "2"}) as service:
        service.wait_ready()
        done = asyncio.Event()
        statuses: list[int] = []

        async with aiohttp.ClientSession(service.url) as client:

            async def load() -> None:
                while not done.is_set():
                    statuses.append(await speak(client, "sleep 0.01; say 5"))

            clients = [asyncio.create_task(load()) for _ in range(4)]
            accepted = 0
            while accepted < 50:
                worker = (await asyncio.to_thread(service.children, model="tts"))[0]
                async with client.post(f"/v1/children/{worker['name']}/recycle") as response:
                    # Between the two calls it may have left, or be about to.
                    assert response.status in (202, 404, 409)
                if response.status == 202:
                    accepted += 1
                    await asyncio.to_thread(service.wait_for, "recycled", child=worker["name"])
            done.set()
            await asyncio.gather(*clients)
        assert set(statuses) == {200}
        assert service.health()["models"]["tts"]["recycles"] == {"forced by an operator": 50}


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"VOICE_ENGINE_MAX_REQUESTS": "3"}, "number of requests"),
        ({"VOICE_ENGINE_MAX_AGE": "0.3"}, "age"),
    ],
)
async def test_workers_are_replaced_by_count_and_age(setting: dict[str, str], reason: str) -> None:
    with running({**setting, "VOICE_ENGINE_MIN_LIFETIME": "0"}) as service:
        service.wait_ready()
        async with aiohttp.ClientSession(service.url) as client:
            assert [await speak(client, "say 1") for _ in range(12)] == [200] * 12
        recycled = await asyncio.to_thread(service.wait_for, "recycled", count=2, reason=reason)
        assert recycled["reason"] == reason


# Limits and pressure


async def test_a_limit_below_a_fresh_worker_is_reported_once_and_does_not_loop() -> None:
    settings = {
        "VOICE_ENGINE_TTS_SOFT_LIMIT_MB": "1",
        "VOICE_ENGINE_TTS_HARD_LIMIT_MB": "2",
        "VOICE_ENGINE_MIN_LIFETIME": "0",
        "VOICE_ENGINE_SOFT_SAMPLES": "1",
    }
    with running(settings) as service:
        service.wait_ready()
        (worker,) = service.children(model="tts")
        # The second worker breaks it too; that is not told again.
        async with aiohttp.ClientSession(service.url) as client:
            async with client.post(f"/v1/children/{worker['name']}/recycle") as response:
                assert response.status == 202
            await asyncio.to_thread(service.wait_for, "recycled")
            assert [await speak(client, "say 1") for _ in range(5)] == [200] * 5
        await asyncio.to_thread(
            service.wait_until,
            lambda health: all(
                c["uptime_s"] > 1 for c in health["children"] if c["role"] == "worker"
            ),
        )
        told = [event for event in service.events if event["event"] == "limit_too_low"]
        assert len(told) == 1
        assert "VOICE_ENGINE_TTS_SOFT_LIMIT_MB" in told[0]["message"]
        assert service.health()["models"]["tts"]["recycles"] == {"forced by an operator": 1}


def test_limits_that_cannot_fit_refuse_to_start_in_one_sentence() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "supervisor.cli", "serve", "--port", "0"],
        env={**os.environ, "VOICE_ENGINE_MEMORY_LIMIT_MB": "200"},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert finished.returncode == 1
    last = finished.stderr.strip().splitlines()[-1]
    assert last.startswith("voice-engine: the memory limits cannot fit: ")
    assert "of 200 MB can be used" in last


async def test_a_full_container_is_relieved_and_no_request_fails() -> None:
    # With the leak, whatever the service holds by itself, 200 MB are exceeded; the worker's own
    # limits are not.
    settings = {
        "VOICE_ENGINE_MEMORY_LIMIT_MB": "800",
        "VOICE_ENGINE_TTS_SOFT_LIMIT_MB": "+230",
        "VOICE_ENGINE_TTS_HARD_LIMIT_MB": "+240",
        "VOICE_ENGINE_STT_SOFT_LIMIT_MB": "+40",
        "VOICE_ENGINE_STT_HARD_LIMIT_MB": "+50",
        "VOICE_ENGINE_PRESSURE": "0.25",
        "VOICE_ENGINE_SOFT_SAMPLES": "1000",
        "VOICE_ENGINE_MIN_LIFETIME": "0",
    }
    with running(settings) as service:
        service.wait_ready()
        async with aiohttp.ClientSession(service.url) as client:
            assert await speak(client, "leak 200; say 1") == 200
            await asyncio.to_thread(service.wait_for, "memory_pressure")
            assert await speak(client, "say 1") == 200
        recycled = await asyncio.to_thread(
            service.wait_for, "recycled", reason="memory of the container"
        )
        # There was no room for two: the old one went before the new one came.
        assert recycled["gap"] is True
        # How much depends on how far the leak was when the clock looked.
        assert recycled["child"].startswith("tts-")
        assert recycled["given_back_mb"] > 0


async def test_with_no_room_for_two_the_queue_holds(gate: Gate) -> None:
    settings = {
        "VOICE_ENGINE_MEMORY_LIMIT_MB": "600",
        "VOICE_ENGINE_PRESSURE": "0.05",
    }
    with running(settings) as service:
        service.wait_ready()
        await asyncio.to_thread(
            service.wait_until, lambda health: health["memory"]["usage_mb"] > 30
        )
        (worker,) = service.children(model="tts")
        async with aiohttp.ClientSession(service.url) as client:
            requests = [
                asyncio.create_task(speak(client, f"print begun; wait {gate}; say 1"))
                for _ in range(3)
            ]
            await asyncio.to_thread(service.wait_for, "child_output", line="begun")
            async with client.post(f"/v1/children/{worker['name']}/recycle") as response:
                assert response.status == 202
            gate.open()
            assert await asyncio.gather(*requests) == [200, 200, 200]
        recycled = await asyncio.to_thread(service.wait_for, "recycled", child=worker["name"])
        assert recycled["gap"] is True


def test_workers_offer_themselves_to_the_kernel() -> None:
    with running() as service:
        service.wait_ready()
        front = Path(f"/proc/{service.process.pid}/oom_score_adj").read_text()
        for worker in service.children():
            score = Path(f"/proc/{worker['pid']}/oom_score_adj").read_text()
            assert int(score) > int(front)


async def test_a_kill_by_the_kernel_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = tmp_path / "memory.events"
    events.write_text("oom_kill 0\n")
    container = Container(4096 * MB, "cgroup v2", tmp_path, 2)
    monkeypatch.setattr("supervisor.local.find_container", lambda _: container)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    service = Service(
        Settings(
            tts_engine="tests.support.script_engine:Script",
            stt_engine="tests.support.script_engine:ScriptedRecognizer",
            spool_dir=tmp_path,
            voices_dir=tmp_path / "voices",
        )
    )
    service.start()
    try:
        backend = service.models.default(Kind.TTS).backend
        assert isinstance(backend, LocalBackend)
        pool = backend.pool
        await until(pool.replaceable)
        for killed_by_kernel in (False, True):
            (slot,) = pool.replaceable()
            if killed_by_kernel:
                events.write_text("oom_kill 1\n")
            os.kill(slot.worker.pid, signal.SIGKILL)
            await slot.worker.exited
            told = slot.worker.last_exit
            assert told == (
                "killed by the kernel: the container is out of memory"
                if killed_by_kernel
                else "SIGKILL"
            )
            await until(pool.replaceable)
    finally:
        await service.close()


# Reloading


async def test_sighup_takes_new_settings_and_weights_and_loses_no_request(tmp_path: Path) -> None:
    file = tmp_path / "settings.env"
    file.write_text("VOICE_ENGINE_TTS_WORKERS=1\nVOICE_ENGINE_MAX_TEXT_CHARS=100\n")
    with running({}, ["--env-file", str(file)]) as service:
        service.wait_ready()
        (old_template,) = service.children("template", "tts")
        done = asyncio.Event()
        statuses: list[int] = []

        async with aiohttp.ClientSession(service.url) as client:

            async def load() -> None:
                while not done.is_set():
                    statuses.append(await speak(client, "sleep 0.01; say 2"))

            clients = [asyncio.create_task(load()) for _ in range(3)]
            file.write_text("VOICE_ENGINE_TTS_WORKERS=2\nVOICE_ENGINE_MAX_TEXT_CHARS=10\n")
            service.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(service.wait_for, "reloaded", model="tts")
            await asyncio.to_thread(
                service.wait_until,
                lambda health: (
                    [c["name"] for c in health["children"] if c["model"] == "tts"].count("tts-1")
                    == 0
                    and sum(c["model"] == "tts" for c in health["children"]) == 3
                ),
            )
            done.set()
            await asyncio.gather(*clients)
            assert set(statuses) <= {200, 400}
            assert await speak(client, "say 1; say 1; say 1") == 400
        (new_template,) = service.children("template", "tts")
        assert new_template["pid"] != old_template["pid"]
        assert len(service.children(model="tts")) == 2


async def test_a_reload_that_fails_changes_nothing(tmp_path: Path) -> None:
    load = tmp_path / "load"
    load.write_text("")
    with running({"VOICE_TEST_LOAD": f"@{load}"}) as service:
        service.wait_ready()
        before = [child["pid"] for child in service.children(model="tts")]
        load.write_text("raise the new weights are broken")
        service.process.send_signal(signal.SIGHUP)
        failed = await asyncio.to_thread(service.wait_for, "reload_failed", model="tts")
        assert "the new weights are broken" in failed["error"]
        assert [child["pid"] for child in service.children(model="tts")] == before
        async with aiohttp.ClientSession(service.url) as client:
            assert await speak(client, "say 1") == 200


async def test_settings_that_make_no_sense_are_refused_and_it_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "settings.env"
    file.write_text("")
    with running({}, ["--env-file", str(file)]) as service:
        service.wait_ready()
        file.write_text("VOICE_ENGINE_TTS_WORKERS=none\n")
        service.process.send_signal(signal.SIGHUP)
        refused = await asyncio.to_thread(service.wait_for, "reload_refused")
        assert "tts_workers" in refused["error"].lower()
        async with aiohttp.ClientSession(service.url) as client:
            assert await speak(client, "say 1") == 200


# systemd


def test_systemd_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(NET)
        with running({"NOTIFY_SOCKET": str(tmp_path / "notify")}) as service:
            assert manager.recv(4096).startswith(b"READY=1\n")
            assert service.health()["status"] in ("ok", "starting")
            service.process.send_signal(signal.SIGHUP)
            assert manager.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert manager.recv(4096) == b"READY=1"
            service.process.send_signal(signal.SIGTERM)
            assert manager.recv(4096) == b"STOPPING=1"


async def test_the_watchdog_is_fed_until_the_last_request_is_finished(
    tmp_path: Path, gate: Gate
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(NET)

        def await_messages(wanted: bytes, count: int = 1) -> None:
            while count:
                count -= manager.recv(4096).startswith(wanted)

        watchdog = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "20000"}
        with running(watchdog) as service:
            await asyncio.to_thread(await_messages, b"READY=1")
            await asyncio.to_thread(await_messages, b"WATCHDOG=1", 5)
            async with aiohttp.ClientSession(service.url) as client:
                script = f"print begun; wait {gate}; say 1"
                request = asyncio.create_task(speak(client, script))
                await asyncio.to_thread(service.wait_for, "child_output", line="begun")
                service.process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(await_messages, b"STOPPING=1")
                await asyncio.to_thread(await_messages, b"WATCHDOG=1", 5)
                gate.open()
                assert await request == 200


# Overload and poison


async def test_what_killed_three_workers_is_refused_at_once_the_next_time() -> None:
    with running() as service:
        service.wait_ready()
        async with aiohttp.ClientSession(service.url) as client:
            assert await speak(client, "crash") == 500
            await asyncio.to_thread(service.wait_for, "worker_died", count=3)
            deaths = len([e for e in service.events if e["event"] == "worker_died"])
            async with client.post("/v1/clone", data=script_form("crash", seed="9")) as response:
                assert response.status == 422
                assert (await response.json())["error"]["code"] == "quarantined"
            assert await speak(client, "say 1") == 200
        assert len([e for e in service.events if e["event"] == "worker_died"]) == deaths == 3


async def speak_from(service: RunningService, address: str, script: str) -> int:
    """A request of a client with another address of this machine."""
    connector = aiohttp.TCPConnector(local_addr=(address, 0))
    async with aiohttp.ClientSession(service.url, connector=connector) as client:
        return await speak(client, script)


async def test_one_client_does_not_starve_another(gate: Gate) -> None:
    def queued(number: int) -> Callable[[dict[str, Any]], bool]:
        return lambda health: bool(health["models"]["tts"]["queued"] == number)

    with running() as service:
        service.wait_ready()
        script = f"print blocked; wait {gate}; say 1"
        requests = [asyncio.create_task(speak_from(service, "127.0.0.9", script))]
        await asyncio.to_thread(service.wait_for, "child_output", line="blocked")
        requests += [
            asyncio.create_task(speak_from(service, "127.0.0.2", "print greedy; say 1"))
            for _ in range(30)
        ]
        await asyncio.to_thread(service.wait_until, queued(30))
        modest = speak_from(service, "127.0.0.3", "print modest; say 1")
        requests.append(asyncio.create_task(modest))
        await asyncio.to_thread(service.wait_until, queued(31))
        gate.open()
        assert await asyncio.gather(*requests) == [200] * 32
        await asyncio.to_thread(service.wait_for, "child_output", line="greedy", count=30)
    order = [event["line"] for event in service.events if event["event"] == "child_output"]
    assert order.index("modest") <= 3  # behind the blocker and two of the thirty


async def test_a_request_that_cannot_meet_its_deadline_is_refused_at_once() -> None:
    with running({"VOICE_ENGINE_REQUEST_TIMEOUT": "30"}) as service:
        service.wait_ready()
        async with aiohttp.ClientSession(service.url) as client:
            # 4,000 characters are more than a minute's work by any estimate.
            form = script_form("say 1" + ";" * 4000)
            async with client.post("/v1/clone", data=form) as response:
                assert response.status == 503
                body = await response.json()
                # Some of its time may have gone by before it was judged.
                allowed = re.search(r"time limit is ([0-9.]+) s", body["detail"])
                assert allowed
                assert 0 < float(allowed[1]) <= 30
                assert "busy" not in body["detail"]  # nothing else is being done
                assert int(response.headers["Retry-After"]) >= 1


@pytest.mark.parametrize(("form", "subtype"), [("WAV", "FLOAT"), ("FLAC", "PCM_16")])
async def test_a_recording_is_judged_by_its_seconds_and_not_by_its_bytes(
    form: str, subtype: str
) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (48_000 * 90, 2))
    file = io.BytesIO()
    soundfile.write(file, noise, 48_000, subtype, format=form)
    data = file.getvalue()
    settings = {
        "VOICE_ENGINE_STT_ENGINE": "tests.support.listening_engines:Meter",
        # By its bytes either would take longer.
        "VOICE_ENGINE_REQUEST_TIMEOUT": "300",
    }
    with running(settings) as service:
        service.wait_ready()
        # The second one is judged by what the first has taught.
        for _ in range(2):
            async with (
                aiohttp.ClientSession(service.url) as client,
                client.post("/v1/transcribe", data={"file": io.BytesIO(data)}) as response,
            ):
                assert response.status == 200
                assert (await response.json())["duration"] == 90


async def test_a_client_that_leaves_the_queue_costs_nothing() -> None:
    with running() as service:
        service.wait_ready()
        async with aiohttp.ClientSession(service.url) as client:
            busy = asyncio.create_task(speak(client, "print busy; sleep 600"))
            await asyncio.to_thread(service.wait_for, "child_output", line="busy")
            waiting = [asyncio.create_task(speak(client, "crash")) for _ in range(5)]
            await asyncio.to_thread(
                service.wait_until, lambda health: health["models"]["tts"]["queued"] == 5
            )
            for task in waiting:
                task.cancel()
            await asyncio.to_thread(
                service.wait_until, lambda health: health["models"]["tts"]["queued"] == 0
            )
            busy.cancel()
            assert await speak(client, "say 1") == 200
        assert not [event for event in service.events if event["event"] == "worker_died"]


def request_for_stream(script: str) -> bytes:
    """The bytes of a /v1/clone request with stream=true."""
    body = (
        b'--x\r\nContent-Disposition: form-data; name="text"\r\n\r\n' + script.encode() + b"\r\n"
        b'--x\r\nContent-Disposition: form-data; name="stream"\r\n\r\ntrue\r\n'
        b'--x\r\nContent-Disposition: form-data; name="reference_audio"; filename="a"\r\n\r\n'
        b"x\r\n--x--\r\n"
    )
    return (
        b"POST /v1/clone HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body
    )


async def test_a_slow_reader_holds_no_worker() -> None:
    with running() as service:
        service.wait_ready()
        # Nobody reads this answer of a megabyte: it is more than the sockets hold.
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port, limit=1024)
        writer.write(request_for_stream("say 3000"))
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        async with aiohttp.ClientSession(service.url) as client:
            assert await speak(client, "say 1") == 200
            async with client.post("/v1/transcribe", data=recording_form("pid")) as response:
                assert response.status == 200
        # It comes back to an answer that is still whole.
        rest = await reader.read()
        assert rest.endswith(b"0\r\n\r\n")
        writer.close()


async def test_a_client_that_stops_reading_is_cut_off() -> None:
    with running({"VOICE_ENGINE_SEND_TIMEOUT": "0.5"}) as service:
        service.wait_ready()
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port, limit=1024)
        writer.write(request_for_stream("say 20000"))
        await asyncio.to_thread(service.wait_for, "client_stopped_reading")
        # What the sockets held may still be read, or not; it has no valid end.
        received = b""
        with contextlib.suppress(ConnectionResetError):
            received = await reader.read()
        assert not received.endswith(b"0\r\n\r\n")
        assert len(received) < 20_000 * 960
        writer.close()
