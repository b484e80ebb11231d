"""Options of speech that only some engines have, from HTTP to the worker's slots."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.process.test_faults import client_of, speak
from tests.support.service import MINIMAL, Gate, RunningService, running, script_form

OPTIONS = {
    "temperature": "0.5",
    "decode_steps": "2",
    "eos_threshold": "-3",
    "noise_clamp": "0.5",
    "cfg_guidance": "1.0",
}


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    """flite, which has none of the options."""
    with running(MINIMAL) as service:
        service.wait_ready()
        yield service


@pytest.mark.parametrize("name", OPTIONS)
async def test_an_engine_refuses_an_option_that_it_does_not_have(
    service: RunningService, name: str
) -> None:
    asked = {"text": "Hello.", name: json.loads(OPTIONS[name])}
    async with client_of(service) as client, client.post("/v1/tts", json=asked) as response:
        assert response.status == 400
        error = (await response.json())["error"]
    assert error["code"] == "unknown_option"
    assert f"has no option {name}; leave it out" in error["message"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("cfg_guidance", value) for value in ("0.9", "3.1", "nan", "much")],
        *[("noise_clamp", value) for value in ("0", "-1", "11")],
        *[("temperature", value) for value in ("-0.1", "2.1")],
        *[("decode_steps", value) for value in ("0", "65")],
        *[("eos_threshold", value) for value in ("-21", "21")],
    ],
)
async def test_a_value_out_of_range_is_refused_before_a_worker_sees_it(
    service: RunningService, name: str, value: str
) -> None:
    form = script_form("say 1", **{name: value})
    async with client_of(service) as client, client.post("/v1/clone", data=form) as response:
        assert response.status == 400
        error = (await response.json())["error"]
    assert error["code"] == "invalid_option"
    assert name in error["message"]


async def test_ranges_are_in_the_description(service: RunningService) -> None:
    async with client_of(service) as client, client.get("/openapi.json") as response:
        described = json.dumps(await response.json())
    for name in OPTIONS:
        assert f'"{name}"' in described


# Slots


@pytest.fixture
def batch(request: pytest.FixtureRequest) -> Iterator[RunningService]:
    """A worker that serves so many at once, and has guidance."""
    settings = {
        "VOICE_ENGINE_TTS_ENGINE": "tests.support.script_engine:ScriptedBatch",
        "VOICE_ENGINE_TTS_CAPACITY": request.param,
    }
    with running(settings) as service:
        service.wait_ready()
        yield service


async def begin(
    service: RunningService, client: aiohttp.ClientSession, gate: Gate, word: str, guidance: str
) -> asyncio.Task[tuple[int, object]]:
    """A request that has begun, and waits at the gate."""
    script = f"print {word}; wait {gate}; say 1"
    task = asyncio.create_task(speak(client, script, cfg_guidance=guidance))
    await asyncio.to_thread(service.wait_for, "child_output", line=word)
    return task


@pytest.mark.parametrize("batch", ["3"], indirect=True)
async def test_a_guided_request_takes_two_slots(batch: RunningService, tmp_path: Path) -> None:
    gates = [Gate(tmp_path / name) for name in ("one", "two")]
    async with client_of(batch) as client:
        guided = await begin(batch, client, gates[0], "guided", "2.0")
        assert batch.health()["models"]["tts"]["free_slots"] == 1
        usual = await begin(batch, client, gates[1], "usual", "1.0")
        waiting = asyncio.create_task(speak(client, "print third; say 1", cfg_guidance="1.5"))
        await asyncio.to_thread(
            batch.wait_until, lambda health: health["models"]["tts"]["queued"] == 1
        )
        gates[1].open()  # one free slot is not enough
        assert (await usual)[0] == 200
        assert batch.health()["models"]["tts"]["queued"] == 1
        gates[0].open()
        assert (await guided)[0] == 200
        assert (await waiting)[0] == 200


@pytest.mark.parametrize("batch", ["1"], indirect=True)
async def test_where_there_is_one_slot_it_takes_that(batch: RunningService) -> None:
    async with client_of(batch) as client:
        assert (await speak(client, "say 1", cfg_guidance="3.0"))[0] == 200
