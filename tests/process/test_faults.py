"""A model that leaks, crashes, hangs or writes nonsense: no client notices."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import operator
import os
import random
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import pytest

from supervisor.http.shared.synthesis import cached_id
from tests.support import uncollected
from tests.support.script_engine import PIECE
from tests.support.service import (
    NET,
    PATIENT,
    SCRIPTED,
    Gate,
    RunningService,
    recording_form,
    running,
    script_form,
)

MB = 1024 * 1024


async def speak(client: aiohttp.ClientSession, script: str, **options: str) -> tuple[int, Any]:
    """Status of a /v1/clone request, with its bytes or its JSON."""
    async with client.post("/v1/clone", data=script_form(script, **options)) as response:
        if response.status == 200:
            return 200, await response.read()
        return response.status, await response.json()


async def hear(client: aiohttp.ClientSession, script: str) -> tuple[int, Any]:
    """Status of a /v1/transcribe request, and its JSON."""
    async with client.post("/v1/transcribe", data=recording_form(script)) as response:
        return response.status, await response.json()


def error_code(answer: tuple[int, Any]) -> tuple[int, str]:
    status, body = answer
    return status, body["error"]["code"]


@contextlib.asynccontextmanager
async def client_of(service: RunningService) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(service.url) as client:
        yield client


@pytest.fixture(params=["fork", "spawn"])
def method(request: pytest.FixtureRequest) -> str:
    parameter: str = request.param
    return parameter


@pytest.fixture
def service(method: str) -> Iterator[RunningService]:
    with running({"VOICE_ENGINE_START_METHOD": method}) as service:
        service.wait_ready()
        yield service


# Memory


@pytest.mark.alone
async def test_a_leaking_model_fails_no_request(method: str) -> None:
    """300 requests of 8 clients, each leaking 20 MB, against limits of 60 and 120 MB of growth."""
    settings = {
        "VOICE_ENGINE_START_METHOD": method,
        "VOICE_ENGINE_TTS_SOFT_LIMIT_MB": "+60",
        "VOICE_ENGINE_TTS_HARD_LIMIT_MB": "+120",
        "VOICE_ENGINE_SOFT_SAMPLES": "1",
        "VOICE_ENGINE_MIN_LIFETIME": "0",
    }
    with running(settings) as service:
        service.wait_ready()
        waiting = iter(range(300))

        statuses: list[int] = []

        async def one_client() -> None:
            for _ in waiting:
                statuses.append((await speak(client, "leak 20; say 1"))[0])

        async with client_of(service) as client:
            await asyncio.gather(*(one_client() for _ in range(8)))
        assert statuses == [200] * 300
        recycles = service.health()["models"]["tts"]["recycles"]
        assert sum(recycles.values()) >= 5
        # How many get that far before a successor is ready depends on the machine.
        excess = [
            event["rss_mb"] - event["limit_mb"]
            for event in service.events
            if event["event"] == "hard_limit"
        ]
        assert max(excess, default=0) < 2 * 20  # nobody answers another request over the limit


async def test_the_successor_is_ready_before_the_old_worker_drains(gate: Gate) -> None:
    settings = {
        "VOICE_ENGINE_TTS_SOFT_LIMIT_MB": "+40",
        "VOICE_ENGINE_TTS_HARD_LIMIT_MB": "+4000",
        "VOICE_ENGINE_SOFT_SAMPLES": "1",
        "VOICE_ENGINE_MIN_LIFETIME": "0",
    }
    with running(settings) as service:
        service.wait_ready()
        (first,) = service.children(model="tts")
        async with client_of(service) as client:
            # Its request outlasts the whole replacement: it must be finished by the old worker.
            slow = asyncio.create_task(speak(client, f"leak 60; wait {gate}; say 2"))
            await asyncio.to_thread(service.wait_for, "worker_ready", child="tts-2")
            assert not slow.done()
            # While the old one still works on it, the successor serves.
            assert (await speak(client, "say 1"))[0] == 200
            assert not slow.done()
            gate.open()
            status, body = await slow
        assert (status, len(body)) == (200, 44 + 2 * 960)
        recycled = await asyncio.to_thread(service.wait_for, "recycled")
        assert (recycled["child"], recycled["successor"]) == (first["name"], "tts-2")
        (second,) = service.children(model="tts")
        assert second["restarts"] == 1
        assert second["last_exit"] == "recycled: soft memory limit"


async def test_a_killed_worker_is_remembered_by_its_successor() -> None:
    with running({}) as service:
        service.wait_ready()
        async with client_of(service) as client:
            for restarts in (1, 2, 3):
                (worker,) = service.children(model="tts")
                os.kill(worker["pid"], signal.SIGKILL)

                def succeeded(_: Any, killed: int = worker["pid"], count: int = restarts) -> bool:
                    return any(
                        (child["restarts"], child["last_exit"]) == (count, "SIGKILL")
                        for child in service.children(model="tts")
                        if child["pid"] != killed and child["state"] == "IDLE"
                    )

                await asyncio.to_thread(service.wait_until, succeeded)
                assert (await speak(client, "say 1"))[0] == 200


async def test_one_request_over_the_hard_limit_does_not_loop() -> None:
    settings = {
        "VOICE_ENGINE_TTS_SOFT_LIMIT_MB": "+30",
        "VOICE_ENGINE_TTS_HARD_LIMIT_MB": "+60",
    }
    with running(settings) as service:
        service.wait_ready()
        async with client_of(service) as client:
            answer = await speak(client, "leak 100; sleep 600")
            assert error_code(answer) == (500, "worker_crashed")
            assert (await speak(client, "say 1"))[0] == 200


# Deaths


async def test_a_whole_answer_comes_from_one_worker(service: RunningService, gate: Gate) -> None:
    async with client_of(service) as client:
        asking = asyncio.create_task(speak(client, f"own 3; print begun; wait {gate}; own 2"))
        await asyncio.to_thread(service.wait_for, "child_output", line="begun")
        (first,) = service.children(model="tts")
        os.kill(first["pid"], signal.SIGKILL)
        # What the first had handed over does not count: the second has the same to say anew.
        await asyncio.to_thread(service.wait_for, "child_output", line="begun", count=2)
        gate.open()
        status, body = await asking
    assert status == 200
    (second,) = service.children(model="tts")
    samples = np.frombuffer(body[:-44], "<i2")  # its header comes last
    assert len(samples) == 5 * PIECE
    assert set(samples) == {second["pid"] % 2**15}


async def test_kills_at_random_under_load_fail_no_request() -> None:
    """SIGKILL to the busy worker, the idle one and the template, 20 times each, under load."""
    rng = random.Random(20)
    with running() as service:
        service.wait_ready()
        done = asyncio.Event()
        answered = asyncio.Condition()
        statuses: list[list[int]] = [[] for _ in range(4)]

        async def load(number: int, request: Callable[[], Awaitable[tuple[int, Any]]]) -> None:
            while not done.is_set():
                status, _ = await request()
                async with answered:
                    statuses[number].append(status)
                    answered.notify_all()

        async def all_are_answered() -> None:
            before = [len(of_client) for of_client in statuses]
            async with answered:
                await answered.wait_for(lambda: all(map(operator.gt, map(len, statuses), before)))

        async with client_of(service) as client:
            clients = [
                asyncio.create_task(load(number, lambda: speak(client, "sleep 0.02; say 5")))
                for number in range(3)
            ] + [asyncio.create_task(load(3, lambda: hear(client, "sleep 0.01")))]
            victims = ["BUSY"] * 20 + ["IDLE"] * 20 + ["template"] * 20
            rng.shuffle(victims)
            for victim in victims:
                # Each kill meets a service that has recovered from the one before, and no request
                # that the one before has met.
                await asyncio.to_thread(service.wait_ready)
                await all_are_answered()
                await asyncio.to_thread(kill_one, service, victim, rng)
            await asyncio.to_thread(service.wait_ready)
            done.set()
            await asyncio.gather(*clients)
        assert {status for of_client in statuses for status in of_client} == {200}


def kill_one(service: RunningService, victim: str, rng: random.Random) -> None:
    """Kill a child of that kind; an IDLE one may have become BUSY by then, which is as good."""
    found: list[dict[str, Any]] = []

    def present(health: dict[str, Any]) -> bool:
        found[:] = [
            child
            for child in health["children"]
            if (child["role"] if victim == "template" else child["state"]) == victim
            and child["state"] != "STARTING"
        ]
        return bool(found)

    service.wait_until(present)
    with contextlib.suppress(ProcessLookupError):
        os.kill(rng.choice(found)["pid"], signal.SIGKILL)


@pytest.mark.quick
async def test_a_worker_killed_in_mid_stream_is_replaced_without_a_seam(
    service: RunningService, gate: Gate
) -> None:
    async with client_of(service) as client:
        whole = (await speak(client, "say 20; say 20", seed="5"))[1]
        form = script_form(f"say 20; wait {gate}; say 20", seed="5", stream="true")
        async with client.post("/v1/clone", data=form) as response:
            received = await response.content.readexactly(44 + 20 * 960)
            (worker,) = service.children(model="tts")
            os.kill(worker["pid"], signal.SIGKILL)
            gate.open()
            received += await response.read()
    assert received[44:] == whole[44:]


@pytest.mark.parametrize("after", ["a mark", "half a sentence"])
async def test_lines_with_times_survive_a_kill(
    service: RunningService, gate: Gate, after: str
) -> None:
    """Each sentence comes once, with its own bytes and times, whenever the worker dies."""
    before, rest = ("", "say 3") if after == "a mark" else ("say 1; ", "say 2")
    script = f"say 2; mark One; {before}print there; wait {gate}; {rest}; mark Two; say 1; mark End"
    path = f"/v1/text-to-speech/{cached_id('0' * 64)}/stream/with-timestamps"
    sent = {"text": script, "seed": 5}
    lines: list[bytes] = []
    async with client_of(service) as client:
        async with client.post(path, json=sent) as response:
            assert response.content_type == "application/x-ndjson"
            lines.append(await response.content.readline())
            service.wait_for("child_output", line="there")
            os.kill(service.children(model="tts")[0]["pid"], signal.SIGKILL)
            service.wait_for("child_output", line="there", count=2)
            gate.open()
            lines += [line async for line in response.content]
        async with client.post(path, json=sent) as again:
            undisturbed = [line async for line in again.content]
    assert lines == undisturbed
    told = [json.loads(line) for line in lines]
    assert [len(base64.b64decode(line["audio_base64"])) for line in told] == [
        44 + 2 * 2 * PIECE,
        3 * 2 * PIECE,
        2 * PIECE,
    ]
    assert ["".join(line["normalized_alignment"]["characters"]) for line in told] == [
        *("One", " Two", " End"),
    ]


@pytest.mark.quick
async def test_a_poisonous_request_costs_three_workers_and_no_more(
    service: RunningService,
) -> None:
    async with client_of(service) as client:
        assert error_code(await speak(client, "crash")) == (500, "worker_crashed")
        assert (await speak(client, "say 1"))[0] == 200
    await asyncio.to_thread(service.wait_for, "worker_died", count=3)
    deaths = [event for event in service.events if event["event"] == "worker_died"]
    assert [event["reason"] for event in deaths] == ["SIGSEGV"] * 3


async def test_garbage_on_the_pipe_ends_that_worker_only(service: RunningService) -> None:
    (ears,) = service.children(model="stt")
    async with client_of(service) as client:
        assert error_code(await speak(client, "garbage; say 1")) == (500, "worker_crashed")
        assert (await speak(client, "say 1"))[0] == 200
        status, transcript = await hear(client, "pid")
    assert (status, json.loads(transcript["raw"])["pid"]) == (200, ears["pid"])
    death = await asyncio.to_thread(service.wait_for, "worker_died")
    assert "protocol" in death["reason"]


async def test_a_stream_that_cannot_be_finished_has_no_valid_end(
    service: RunningService,
) -> None:
    async with client_of(service) as client:
        form = script_form("say 3; crash", stream="true")
        async with client.post("/v1/clone", data=form) as response:
            assert response.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()


# Hangs


@pytest.mark.parametrize("how", ["hang", "spin"])
async def test_a_hanging_model_ends_at_the_deadline(method: str, how: str) -> None:
    settings = {"VOICE_ENGINE_START_METHOD": method, "VOICE_ENGINE_CANCEL_GRACE": "0.5"}
    with running(settings) as service:
        service.wait_ready()
        (before,) = service.children(model="tts")
        async with client_of(service) as client:
            # Time enough to reach the worker.
            deadline = {"X-Request-Timeout": "4"}
            form = script_form(how)
            async with client.post("/v1/clone", data=form, headers=deadline) as response:
                answer = response.status, await response.json()
            assert error_code(answer) == (504, "deadline_exceeded")
            # The hung worker is killed after the grace for a cancelled request.
            await asyncio.to_thread(service.wait_for, "worker_died", child=before["name"])
            assert (await speak(client, "say 1"))[0] == 200


@pytest.mark.parametrize("how", ["spin", "stop"])
async def test_a_worker_that_does_not_answer_pings_is_replaced(method: str, how: str) -> None:
    settings = {"VOICE_ENGINE_START_METHOD": method, "VOICE_ENGINE_PING_TIMEOUT": "4"}
    with running(settings) as service:
        service.wait_ready()
        (worker,) = service.children(model="tts")
        async with client_of(service) as client:
            if how == "stop":
                os.kill(worker["pid"], signal.SIGSTOP)
                assert (await speak(client, "say 1"))[0] == 200
            else:
                assert error_code(await speak(client, "spin")) == (500, "worker_crashed")
        death = await asyncio.to_thread(service.wait_for, "worker_died", child=worker["name"])
        assert "unresponsive" in death["reason"]


async def test_a_client_that_leaves_frees_the_worker(service: RunningService) -> None:
    async with client_of(service) as client:
        leaving = asyncio.create_task(speak(client, "print begun; sleep 600"))
        await asyncio.to_thread(service.wait_for, "child_output", line="begun")
        leaving.cancel()
        (worker,) = service.children(model="tts")
        status, _ = await speak(client, "say 1")
        assert status == 200
        # It stopped by itself: nobody had to kill it.
        assert [c["pid"] for c in service.children(model="tts")] == [worker["pid"]]


# Models that cannot start


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        ("raise no weights here", "no weights here"),
        ("crash", "SIGSEGV"),
        ("exit 3", "exit code 3"),
        ("thread", "threads after loading"),
    ],
)
async def test_a_model_that_cannot_load_is_reported_and_tried_again(
    tmp_path: Path, trouble: str, told: str
) -> None:
    script = tmp_path / "load"
    script.write_text(trouble)
    settings = {
        "VOICE_TEST_LOAD": f"@{script}",
        "VOICE_ENGINE_FAILURES_MAX": "3",
        "VOICE_ENGINE_BACKOFF_MAX": "1",
    }
    with running(settings) as service:
        health = await asyncio.to_thread(
            service.wait_until, lambda health: health["models"]["tts"]["state"] == "FAILED"
        )
        assert told in health["models"]["tts"]["message"]
        health = await asyncio.to_thread(service.wait_until, lambda h: bool(h["asr_loaded"]))
        assert health["status"] == "degraded"
        async with client_of(service) as client:
            asking = asyncio.create_task(speak(client, "say 1"))
            await asyncio.to_thread(
                service.wait_until, lambda health: health["models"]["tts"]["queued"] == 1
            )
            assert not asking.done()  # it is held while its deadline allows
            script.write_text("")
            assert (await asking)[0] == 200
        health = service.health()
        assert health["status"] == "ok"
        assert health["models"]["tts"]["message"] is None


@pytest.mark.parametrize(("failures_max", "state"), [("2", "FAILED"), ("5", "BACKOFF")])
async def test_a_request_that_the_next_start_would_be_too_late_for_is_refused_at_once(
    failures_max: str, state: str
) -> None:
    settings = {
        "VOICE_TEST_LOAD": "raise no weights here",
        "VOICE_ENGINE_FAILURES_MAX": failures_max,
        "VOICE_ENGINE_BACKOFF_BASE": "10000",
        "VOICE_ENGINE_BACKOFF_MAX": "10000",
    }
    with running(settings) as service:
        await asyncio.to_thread(service.wait_for, "start_failed", count=2)
        assert service.health()["models"]["tts"]["state"] == state
        async with (
            client_of(service) as client,
            client.post("/v1/clone", data=script_form("say 1")) as response,
        ):
            assert response.status == 503
            assert int(response.headers["Retry-After"]) > 1000
            body = await response.json()
        assert body["error"]["code"] == "model_unavailable"
        assert "no weights here" in body["detail"]


async def test_a_request_that_waits_is_refused_when_the_next_start_comes_too_late(
    gate: Gate,
) -> None:
    settings = {
        "VOICE_TEST_LOAD": f"wait {gate}; raise no weights here",
        "VOICE_ENGINE_BACKOFF_BASE": "10000",
        "VOICE_ENGINE_BACKOFF_MAX": "10000",
    }
    with running(settings) as service:
        async with client_of(service) as client:
            asking = asyncio.create_task(speak(client, "say 1"))
            await asyncio.to_thread(
                service.wait_until, lambda health: health["models"]["tts"]["queued"] == 1
            )
            gate.open()
            answer = await asking
        assert error_code(answer) == (503, "model_unavailable")


async def test_a_request_is_held_no_longer_than_its_deadline() -> None:
    settings = {
        "VOICE_TEST_LOAD": "raise no weights here",
        "VOICE_ENGINE_FAILURES_MAX": "2",
        "VOICE_ENGINE_BACKOFF_MAX": "0.1",
    }
    with running(settings) as service:
        await asyncio.to_thread(service.wait_for, "start_failed", count=2)
        async with (
            client_of(service) as client,
            client.post(
                "/v1/clone", data=script_form("say 1"), headers={"X-Request-Timeout": "1"}
            ) as response,
        ):
            assert response.status == 503  # not that it took too long, but why
            body = await response.json()
        assert body["error"]["code"] == "model_unavailable"
        assert "no weights here" in body["detail"]


async def test_a_worker_that_stands_still_before_it_is_ready_is_replaced(tmp_path: Path) -> None:
    script = tmp_path / "warm_up"
    script.write_text("")
    settings = {"VOICE_TEST_WARM_UP": f"@{script}", "VOICE_ENGINE_WARM_UP_TIMEOUT": "4"}
    with running(settings) as service:
        service.wait_ready()
        script.write_text("hang")
        (worker,) = service.children(model="tts")
        os.kill(worker["pid"], signal.SIGKILL)
        late = "a worker was not READY within 4 s"
        await asyncio.to_thread(service.wait_for, "start_failed", error=late)
        script.write_text("")
        async with client_of(service) as client:
            assert (await speak(client, "say 1"))[0] == 200


async def test_a_worker_that_cannot_warm_up_is_reported(method: str, tmp_path: Path) -> None:
    script = tmp_path / "warm_up"
    script.write_text("raise it is too cold")
    settings = {
        "VOICE_ENGINE_START_METHOD": method,
        "VOICE_TEST_WARM_UP": f"@{script}",
        "VOICE_ENGINE_FAILURES_MAX": "2",
        "VOICE_ENGINE_BACKOFF_MAX": "1",
    }
    with running(settings) as service:
        health = await asyncio.to_thread(
            service.wait_until, lambda health: health["models"]["tts"]["state"] == "FAILED"
        )
        assert "it is too cold" in health["models"]["tts"]["message"]
        script.write_text("")
        await asyncio.to_thread(service.wait_ready)


async def test_a_model_that_hangs_at_load_is_killed_and_tried_again() -> None:
    settings = {"VOICE_TEST_LOAD": "hang", "VOICE_ENGINE_LOAD_TIMEOUT": "0.5"}
    with running(settings) as service:
        failure = await asyncio.to_thread(service.wait_for, "start_failed", model="tts", count=2)
        assert "did not load within" in failure["error"]
        assert service.health()["status"] == "degraded"


def wake_ups(pid: int) -> int:
    """How often a process has begun to wait for something: of the busiest of its threads."""
    statuses = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/status")]
    found = (re.search(r"^voluntary_ctxt_switches:\s+(\d+)", text, re.M) for text in statuses)
    return max(int(match[1]) for match in found if match)


async def test_nothing_spins_while_a_model_is_down() -> None:
    settings = {
        "VOICE_TEST_LOAD": "exit 1",
        "VOICE_ENGINE_FAILURES_MAX": "2",
        "VOICE_ENGINE_BACKOFF_BASE": "600",
        "VOICE_ENGINE_BACKOFF_MAX": "600",
    }
    with running(settings) as service:
        await asyncio.to_thread(
            service.wait_until,
            lambda health: bool(
                health["models"]["tts"]["state"] == "FAILED" and health["asr_loaded"]
            ),
        )
        front = psutil.Process(service.process.pid)
        (other,) = service.children(model="stt")
        before = sum(front.cpu_times()[:2])
        starts = len([e for e in service.events if e["event"] == "start_failed"])
        # Ten ticks of the watch: each has a ping to the other model's worker, which wakes it.
        woken = wake_ups(other["pid"]) + 10
        async with asyncio.timeout(NET):
            while wake_ups(other["pid"]) < woken:  # noqa: ASYNC110 - nothing to wait on
                await asyncio.sleep(0.1)
        assert sum(front.cpu_times()[:2]) - before < 1
        assert len([e for e in service.events if e["event"] == "start_failed"]) == starts


# Overload


async def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    with running({"VOICE_ENGINE_QUEUE_SIZE": "2"}) as service:
        service.wait_ready()
        async with client_of(service) as client:
            busy = asyncio.create_task(speak(client, "print busy; sleep 600"))
            await asyncio.to_thread(service.wait_for, "child_output", line="busy")
            queued = [asyncio.create_task(speak(client, "say 1")) for _ in range(2)]
            await asyncio.to_thread(
                service.wait_until, lambda health: health["models"]["tts"]["queued"] == 2
            )
            async with client.post("/v1/clone", data=script_form("say 1")) as response:
                assert response.status == 503
                assert int(response.headers["Retry-After"]) >= 1
                assert (await response.json())["error"]["code"] == "overloaded"
            # The other model has a queue of its own.
            assert (await hear(client, "pid"))[0] == 200
            busy.cancel()
            assert [status for status, _ in await asyncio.gather(*queued)] == [200, 200]


async def test_deaths_and_departures_leave_no_large_blocks_in_the_front(tmp_path: Path) -> None:
    """20 each of killed and recycled workers and of clients that leave, with 200 KB to hold.

    The front's collector of cycles is off: it comes so seldom that what it must find counts.
    """
    gates = [Gate(tmp_path / str(number)) for number in range(25)]
    settings = {
        **PATIENT,
        **SCRIPTED,
        "VOICE_ENGINE_SPOOL_THRESHOLD_KB": "1024",
        "VOICE_ENGINE_CANCEL_GRACE": "0.5",  # for which a cancelled request is kept
    }
    service = RunningService(settings, module="tests.support.uncollected")
    try:
        await asyncio.to_thread(service.wait_ready)
        async with client_of(service) as client:
            for _ in range(5):
                await _lose_worker(service, client, gates.pop())
            before = await _large_blocks(service)
            for _ in range(20):
                await _lose_worker(service, client, gates.pop())
                await _leave(client)
                await _recycle(service, client)
            # The last ones that left have their grace yet; what only the collector frees stays.
            for _ in range(60):
                grown = await _large_blocks(service) - before
                if grown < MB:
                    break
                await asyncio.sleep(0.5)
        assert grown < MB  # 8 MB when each is kept
    finally:
        service.end()


async def _large_blocks(service: RunningService) -> int:
    """How many bytes the front holds in large blocks."""
    told = sum(event["event"] == uncollected.EVENT for event in service.events)
    service.process.send_signal(uncollected.SIGNAL)
    event = await asyncio.to_thread(service.wait_for, uncollected.EVENT, count=told + 1)
    held: int = event["bytes"]
    return held


def _large_form(script: str, **options: str) -> aiohttp.FormData:
    form = aiohttp.FormData({"text": script, **options})
    form.add_field("reference_audio", io.BytesIO(bytes(200_000)), filename="reference.wav")
    return form


async def _lose_worker(service: RunningService, client: aiohttp.ClientSession, gate: Gate) -> None:
    """A request whose worker is killed, and which is answered all the same."""
    form = _large_form(f"say 1; wait {gate}", stream="true")
    async with client.post("/v1/clone", data=form) as response:
        await response.content.readexactly(44)
        (worker,) = await asyncio.to_thread(service.children, "worker", "tts")
        os.kill(worker["pid"], signal.SIGKILL)
        gate.open()
        assert response.status == 200
        await response.read()


async def _leave(client: aiohttp.ClientSession) -> None:
    async with client.post("/v1/clone", data=_large_form("say 1; sleep 60", stream="true")) as left:
        await left.content.readexactly(44)
        left.close()


async def _recycle(service: RunningService, client: aiohttp.ClientSession) -> None:
    def idle(health: dict[str, Any]) -> bool:
        return [c["state"] for c in _speakers(health)] == ["IDLE"]

    health = await asyncio.to_thread(service.wait_until, idle)
    (worker,) = _speakers(health)
    async with client.post(f"/v1/children/{worker['name']}/recycle") as response:
        assert response.status == 202
    await asyncio.to_thread(service.wait_for, "recycled", child=worker["name"])


def _speakers(health: dict[str, Any]) -> list[dict[str, Any]]:
    return [c for c in health["children"] if (c["role"], c["model"]) == ("worker", "tts")]
