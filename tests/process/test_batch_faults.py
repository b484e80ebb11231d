"""The table of faults with an engine that serves four requests at once: no client notices."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.process.test_faults import client_of, error_code, speak
from tests.support.service import Gate, RunningService, running, script_form

BATCH = {"VOICE_ENGINE_TTS_ENGINE": "tests.support.script_engine:ScriptedBatch"}

WORKING = "print begun; wait {gate}; say 2"
"""A script that tells when it has begun, and goes on when the gate is open."""


@pytest.fixture(params=["fork", "spawn"])
def service(request: pytest.FixtureRequest) -> Iterator[RunningService]:
    with running({**BATCH, "VOICE_ENGINE_START_METHOD": request.param}) as service:
        service.wait_ready()
        yield service


async def begin(
    service: RunningService, client: aiohttp.ClientSession, gate: Gate, count: int
) -> list[asyncio.Task[tuple[int, object]]]:
    """Requests that have begun and wait at the gate."""
    script = WORKING.format(gate=gate)
    tasks = [asyncio.create_task(speak(client, script)) for _ in range(count)]
    await asyncio.to_thread(service.wait_for, "child_output", line="begun", count=count)
    return tasks


async def statuses(tasks: list[asyncio.Task[tuple[int, object]]]) -> list[int]:
    return [status for status, _ in await asyncio.gather(*tasks)]


# Requests together


async def test_one_worker_serves_four_at_once_and_the_fifth_waits(
    service: RunningService, gate: Gate
) -> None:
    async with client_of(service) as client:
        working = await begin(service, client, gate, 4)
        fifth = asyncio.create_task(speak(client, "say 1"))
        health = await asyncio.to_thread(
            service.wait_until, lambda health: health["models"]["tts"]["queued"] == 1
        )
        (worker,) = service.children(model="tts")
        assert (worker["in_flight"], worker["capacity"]) == (4, 4)
        assert (worker["lifecycle"], worker["state"]) == ("READY", "BUSY")
        assert health["models"]["tts"]["in_flight"] == 5
        gate.open()
        assert await statuses([*working, fifth]) == [200] * 5


async def test_a_request_joins_a_running_batch_and_leaves_it_first(
    service: RunningService, gate: Gate
) -> None:
    async with client_of(service) as client:
        working = await begin(service, client, gate, 3)
        assert (await speak(client, "sleep 0.05; say 1"))[0] == 200
        assert not any(task.done() for task in working)
        gate.open()
        assert await statuses(working) == [200] * 3


async def test_what_one_request_says_does_not_depend_on_the_others(
    service: RunningService, gate: Gate
) -> None:
    async with client_of(service) as client:
        alone = (await speak(client, "say 5; sleep 0.02; say 5", seed="7"))[1]
        working = await begin(service, client, gate, 3)
        assert (await speak(client, "say 5; sleep 0.02; say 5", seed="7"))[1] == alone
        gate.open()
        await statuses(working)


# Live streams


@pytest.fixture
def two_live() -> Iterator[RunningService]:
    """Of its four requests at once two may be live streams."""
    with running({**BATCH, "VOICE_ENGINE_TTS_LIVE": "2"}) as service:
        service.wait_ready()
        yield service


async def stream(client: aiohttp.ClientSession, script: str, seed: str = "0") -> bytes:
    """The samples of a live stream."""
    form = script_form(script, seed=seed, stream="true")
    async with client.post("/v1/clone", data=form) as response:
        assert response.status == 200
        return (await response.read())[44:]


async def begin_live(
    service: RunningService, client: aiohttp.ClientSession, gates: list[Gate]
) -> list[asyncio.Task[bytes]]:
    """Live streams that have begun; each waits at its gate."""
    streams = [
        asyncio.create_task(stream(client, f"print live; say 1; wait {gate}; say 1"))
        for gate in gates
    ]
    await asyncio.to_thread(service.wait_for, "child_output", line="live", count=len(gates))
    return streams


def queued(count: int) -> Callable[[Any], bool]:
    return lambda health: bool(health["models"]["tts"]["queued"] == count)


async def test_a_live_stream_too_many_waits_and_a_whole_answer_passes_it(
    two_live: RunningService, tmp_path: Path
) -> None:
    doors = [Gate(tmp_path / "first"), Gate(tmp_path / "second")]
    async with client_of(two_live) as client:
        first, second = await begin_live(two_live, client, doors)
        third = asyncio.create_task(stream(client, "say 1"))
        await asyncio.to_thread(two_live.wait_until, queued(1))
        (worker,) = two_live.children(model="tts")
        assert (worker["in_flight"], worker["live_in_flight"]) == (2, 2)
        assert (worker["capacity"], worker["live"]) == (4, 2)
        assert (await speak(client, "say 1"))[0] == 200
        assert queued(1)(two_live.health())
        doors[0].open()
        assert len(await first) == 2 * 960
        assert len(await third) == 960
        assert not second.done()
        doors[1].open()
        assert len(await second) == 2 * 960
    (after,) = two_live.children(model="tts")
    assert (after["pid"], after["live_in_flight"]) == (worker["pid"], 0)


async def test_a_live_stream_whose_client_leaves_lets_the_next_one_in(
    two_live: RunningService, tmp_path: Path
) -> None:
    doors = [Gate(tmp_path / "first"), Gate(tmp_path / "second")]
    async with client_of(two_live) as client:
        leaving, staying = await begin_live(two_live, client, doors)
        next_one = asyncio.create_task(stream(client, "say 3"))
        await asyncio.to_thread(two_live.wait_until, queued(1))
        leaving.cancel()
        assert len(await next_one) == 3 * 960
        doors[1].open()
        assert len(await staying) == 2 * 960


async def test_whole_answers_may_take_all_slots_and_a_live_stream_then_waits(
    two_live: RunningService, gate: Gate
) -> None:
    async with client_of(two_live) as client:
        working = await begin(two_live, client, gate, 4)
        live = asyncio.create_task(stream(client, "say 1"))
        await asyncio.to_thread(two_live.wait_until, queued(1))
        gate.open()
        assert await statuses(working) == [200] * 4
        assert len(await live) == 960


async def test_a_worker_that_is_faster_than_it_thought_takes_more_live_streams(
    two_live: RunningService, tmp_path: Path
) -> None:
    doors = [Gate(tmp_path / "first"), Gate(tmp_path / "second")]
    async with client_of(two_live) as client:
        streams = await begin_live(two_live, client, doors)
        waiting = [asyncio.create_task(stream(client, "say 3")) for _ in range(2)]
        await asyncio.to_thread(two_live.wait_until, queued(2))
        assert (await speak(client, "live 3; say 1"))[0] == 200
        assert [len(received) for received in await asyncio.gather(*waiting)] == [3 * 960] * 2
        assert not any(task.done() for task in streams)
        for door in doors:
            door.open()
        assert [len(received) for received in await asyncio.gather(*streams)] == [2 * 960] * 2
        assert (await speak(client, "live 1; say 1"))[0] == 200
        await asyncio.to_thread(
            two_live.wait_until, lambda _: two_live.children(model="tts")[0]["live"] == 1
        )


async def test_live_streams_that_are_heard_wait_for_nobody_when_they_are_replayed(
    two_live: RunningService, gate: Gate
) -> None:
    async with client_of(two_live) as client, contextlib.AsyncExitStack() as responses:
        assert (await speak(client, "live 3; say 1"))[0] == 200
        streams = []
        for seed in "123":
            form = script_form(f"say 1; wait {gate}; say 1", seed=seed, stream="true")
            response = await responses.enter_async_context(client.post("/v1/clone", data=form))
            await response.content.readexactly(44 + 960)
            streams.append(response)
        (worker,) = two_live.children(model="tts")
        assert (worker["live"], worker["live_in_flight"]) == (3, 3)
        os.kill(worker["pid"], signal.SIGKILL)

        def all_go_on(_: object) -> bool:
            return [
                (child["live"], child["live_in_flight"])
                for child in two_live.children(model="tts")
                if child["pid"] != worker["pid"]
            ] == [(2, 3)]

        # The successor knows nothing of what the one before has learned.
        await asyncio.to_thread(two_live.wait_until, all_go_on)
        gate.open()
        assert [len(await response.read()) for response in streams] == [960] * 3


async def test_live_streams_and_whole_answers_are_all_replayed(
    two_live: RunningService, gate: Gate
) -> None:
    async with client_of(two_live) as client:
        script = f"say 20; wait {gate}; say 20"
        wholes = [(await speak(client, "say 20; say 20", seed=str(n)))[1] for n in range(3)]
        live = [
            asyncio.create_task(stream(client, f"print live; {script}", str(number)))
            for number in range(2)
        ]
        await asyncio.to_thread(two_live.wait_for, "child_output", line="live", count=2)
        waiting = asyncio.create_task(stream(client, "say 20; say 20", "2"))
        await asyncio.to_thread(two_live.wait_until, queued(1))
        working = await begin(two_live, client, gate, 2)
        (worker,) = two_live.children(model="tts")
        assert (worker["in_flight"], worker["live_in_flight"]) == (4, 2)
        os.kill(worker["pid"], signal.SIGKILL)
        gate.open()
        assert await statuses(working) == [200] * 2
        received = await asyncio.gather(*live, waiting)
    assert received == [whole[44:] for whole in wholes]
    assert two_live.health()["models"]["tts"]["replays"] == 4


async def test_the_settings_say_how_many_requests_a_worker_serves(gate: Gate) -> None:
    settings = {"VOICE_ENGINE_TTS_CAPACITY": "2", "VOICE_ENGINE_TTS_LIVE": "1"}
    with running({**BATCH, **settings}) as service:
        service.wait_ready()
        (worker,) = service.children(model="tts")
        assert (worker["capacity"], worker["live"]) == (2, 1)
        async with client_of(service) as client:
            working = await begin(service, client, gate, 2)
            third = asyncio.create_task(speak(client, "say 1"))
            await asyncio.to_thread(service.wait_until, queued(1))
            gate.open()
            assert await statuses([*working, third]) == [200] * 3


# Deaths


async def test_a_worker_that_is_killed_has_all_its_requests_replayed(
    service: RunningService, gate: Gate
) -> None:
    async with client_of(service) as client:
        working = await begin(service, client, gate, 4)
        (worker,) = service.children(model="tts")
        os.kill(worker["pid"], signal.SIGKILL)
        gate.open()
        assert await statuses(working) == [200] * 4
    assert service.health()["models"]["tts"]["replays"] == 4


async def test_four_streams_go_on_without_a_seam(service: RunningService, gate: Gate) -> None:
    async with client_of(service) as client:
        wholes = [(await speak(client, "say 20; say 20", seed=str(n)))[1] for n in range(4)]

        async def stream(number: int, there: asyncio.Event) -> bytes:
            form = script_form(f"say 20; wait {gate}; say 20", seed=str(number), stream="true")
            async with client.post("/v1/clone", data=form) as response:
                received = await response.content.readexactly(44 + 20 * 960)
                there.set()
                return received + await response.read()

        there = [asyncio.Event() for _ in range(4)]
        streams = [asyncio.create_task(stream(n, event)) for n, event in enumerate(there)]
        await asyncio.gather(*(event.wait() for event in there))
        (worker,) = service.children(model="tts")
        os.kill(worker["pid"], signal.SIGKILL)
        gate.open()
        received = await asyncio.gather(*streams)
    assert [body[44:] for body in received] == [whole[44:] for whole in wholes]


@pytest.mark.parametrize("poison", ["crash", "garbage; sleep 600"])
async def test_a_poisonous_request_takes_none_of_its_neighbours_with_it(
    service: RunningService, gate: Gate, poison: str
) -> None:
    async with client_of(service) as client:
        working = await begin(service, client, gate, 3)
        guilty = asyncio.create_task(speak(client, poison))
        # Each of them has shared two workers with it by then, and is alone from then on.
        await asyncio.to_thread(service.wait_for, "worker_died", count=2)
        gate.open()
        assert error_code(await guilty) == (500, "worker_crashed")
        assert await statuses(working) == [200] * 3
        assert error_code(await speak(client, poison)) == (422, "quarantined")
        assert (await speak(client, "say 1"))[0] == 200


async def test_requests_that_have_not_begun_bear_no_blame(gate: Gate) -> None:
    # The first blocks the worker's thread, so that the others are in its hands but not begun.
    with running({**BATCH, "VOICE_ENGINE_MAX_ATTEMPTS": "1"}) as service:
        service.wait_ready()
        async with client_of(service) as client:
            blocking = asyncio.create_task(speak(client, "print blocked; hang"))
            await asyncio.to_thread(service.wait_for, "child_output", line="blocked")
            waiting = [asyncio.create_task(speak(client, "say 1")) for _ in range(3)]

            def all_are_there(_: object) -> bool:
                (worker,) = service.children(model="tts")
                return bool(worker["in_flight"] == 4)

            await asyncio.to_thread(service.wait_until, all_are_there)
            (worker,) = service.children(model="tts")
            os.kill(worker["pid"], signal.SIGSEGV)  # as if by its own fault
            assert error_code(await blocking) == (500, "worker_crashed")
            assert await statuses(waiting) == [200] * 3


@pytest.mark.parametrize("method", ["fork", "spawn"])
async def test_a_model_that_is_loaded_again_has_what_was_chosen(method: str, gate: Gate) -> None:
    engine = "tests.support.script_engine:Choosing"
    settings = {"VOICE_ENGINE_TTS_ENGINE": engine, "VOICE_ENGINE_START_METHOD": method}
    with running(settings) as service:
        service.wait_ready()
        async with client_of(service) as client:
            whole = (await speak(client, "say 20; say 20", seed="0"))[1]
            half = asyncio.create_task(stream(client, f"say 20; print half; wait {gate}; say 20"))
            await asyncio.to_thread(service.wait_for, "child_output", line="half")
            (worker,) = service.children(model="tts")  # it is not replaced because it has chosen
            for child in [*service.children("template", "tts"), worker]:
                os.kill(child["pid"], signal.SIGKILL)
            gate.open()
            assert await half == whole[44:]
            assert service.health()["models"]["tts"]["replays"] == 1


# Hangs and departures


async def test_a_request_that_hangs_ends_at_its_deadline_and_the_others_are_replayed(
    gate: Gate,
) -> None:
    with running({**BATCH, "VOICE_ENGINE_CANCEL_GRACE": "0.5"}) as service:
        service.wait_ready()
        async with client_of(service) as client:
            working = await begin(service, client, gate, 3)
            headers = {"X-Request-Timeout": "3"}
            form = script_form("hang")
            async with client.post("/v1/clone", data=form, headers=headers) as response:
                answer = response.status, await response.json()
            assert error_code(answer) == (504, "deadline_exceeded")
            death = await asyncio.to_thread(service.wait_for, "worker_died")
            assert death["reason"] == "did not stop a cancelled request"
            gate.open()
            assert await statuses(working) == [200] * 3
        lost = [event for event in service.events if event["event"] == "request_lost_worker"]
        assert [event["attempts"] for event in lost] == [0] * 3


async def test_a_worker_that_answers_no_pings_has_all_its_requests_replayed(gate: Gate) -> None:
    with running({**BATCH, "VOICE_ENGINE_PING_TIMEOUT": "4"}) as service:
        service.wait_ready()
        async with client_of(service) as client:
            working = await begin(service, client, gate, 4)
            (worker,) = service.children(model="tts")
            os.kill(worker["pid"], signal.SIGSTOP)
            death = await asyncio.to_thread(service.wait_for, "worker_died")
            assert "unresponsive" in death["reason"]
            gate.open()
            assert await statuses(working) == [200] * 4


async def test_a_client_that_leaves_frees_its_slot_and_disturbs_nobody(
    service: RunningService, gate: Gate
) -> None:
    async with client_of(service) as client:
        working = await begin(service, client, gate, 3)
        leaving = asyncio.create_task(speak(client, "print leaving; sleep 600"))
        await asyncio.to_thread(service.wait_for, "child_output", line="leaving")
        leaving.cancel()

        def has_left(_: object) -> bool:
            (worker,) = service.children(model="tts")
            return bool(worker["in_flight"] == 3)

        (before,) = service.children(model="tts")
        await asyncio.to_thread(service.wait_until, has_left)
        assert (await speak(client, "say 1"))[0] == 200
        gate.open()
        assert await statuses(working) == [200] * 3
        (after,) = service.children(model="tts")
        assert after["pid"] == before["pid"]


# Memory


async def test_a_worker_over_its_soft_limit_finishes_all_it_has(gate: Gate) -> None:
    settings = {
        **BATCH,
        "VOICE_ENGINE_TTS_SOFT_LIMIT_MB": "+40",
        "VOICE_ENGINE_TTS_HARD_LIMIT_MB": "+4000",
        "VOICE_ENGINE_SOFT_SAMPLES": "1",
        "VOICE_ENGINE_MIN_LIFETIME": "0",
    }
    with running(settings) as service:
        service.wait_ready()
        async with client_of(service) as client:
            working = await begin(service, client, gate, 3)
            leaking = asyncio.create_task(speak(client, f"leak 60; wait {gate}; say 1"))
            await asyncio.to_thread(service.wait_for, "worker_ready", child="tts-2")
            (old, new) = service.children(model="tts")
            assert (old["lifecycle"], old["in_flight"]) == ("DRAINING", 4)
            # The old one takes no new requests; the successor does.
            assert (await speak(client, "say 1"))[0] == 200
            assert not any(task.done() for task in (*working, leaking))
            gate.open()
            assert await statuses([*working, leaking]) == [200] * 4
        recycled = await asyncio.to_thread(service.wait_for, "recycled")
        assert (recycled["child"], recycled["successor"]) == (old["name"], new["name"])
        assert service.health()["models"]["tts"]["replays"] == 0


async def test_a_worker_over_its_hard_limit_has_all_its_requests_replayed(gate: Gate) -> None:
    settings = {
        **BATCH,
        "VOICE_ENGINE_TTS_SOFT_LIMIT_MB": "+30",
        "VOICE_ENGINE_TTS_HARD_LIMIT_MB": "+60",
        "VOICE_ENGINE_MIN_LIFETIME": "600",
    }
    with running(settings) as service:
        service.wait_ready()
        async with client_of(service) as client:
            assert (await speak(client, "say 1"))[0] == 200  # from now on nobody is to blame
            working = await begin(service, client, gate, 3)
            leaking = asyncio.create_task(speak(client, "leak 100; sleep 600"))
            await asyncio.to_thread(service.wait_for, "hard_limit")
            gate.open()
            assert await statuses(working) == [200] * 3
            assert error_code(await leaking) == (500, "worker_crashed")


async def test_leaks_of_many_requests_at_once_fail_none() -> None:
    settings = {
        **BATCH,
        "VOICE_ENGINE_TTS_SOFT_LIMIT_MB": "+60",
        "VOICE_ENGINE_TTS_HARD_LIMIT_MB": "+240",
        "VOICE_ENGINE_SOFT_SAMPLES": "1",
        "VOICE_ENGINE_MIN_LIFETIME": "0",
    }
    with running(settings) as service:
        service.wait_ready()
        waiting = iter(range(120))
        answered: list[int] = []

        async def one_client(client: aiohttp.ClientSession) -> None:
            for _ in waiting:
                answered.append((await speak(client, "leak 20; sleep 0.02; say 1"))[0])

        async with client_of(service) as client:
            await asyncio.gather(*(one_client(client) for _ in range(8)))
        assert answered == [200] * 120
        assert sum(service.health()["models"]["tts"]["recycles"].values()) >= 3


# Both start methods, and the end


async def test_a_stop_waits_for_all_requests(gate: Gate) -> None:
    with running(BATCH) as service:
        service.wait_ready()
        async with client_of(service) as client:
            working = await begin(service, client, gate, 4)
            stopping = asyncio.create_task(asyncio.to_thread(service.stop))
            await asyncio.to_thread(service.wait_for, "stopping")
            gate.open()
            assert await statuses(working) == [200] * 4
            assert await stopping == 0
