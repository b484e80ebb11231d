"""The service with scripted engines, forked and spawned: answers, streaming, health, logging."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator

import aiohttp
import psutil
import pytest

from tests.support.service import (
    NET,
    Gate,
    RunningService,
    read_wav,
    recording_form,
    running,
    script_form,
)


@pytest.fixture(scope="module", params=["fork", "spawn"])
def service(request: pytest.FixtureRequest) -> Iterator[RunningService]:
    with running({"VOICE_ENGINE_START_METHOD": request.param}) as service:
        service.wait_ready()
        yield service


@pytest.mark.quick
async def test_a_whole_answer_has_its_length(service: RunningService) -> None:
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post("/v1/clone", data=script_form("say 10")) as response,
    ):
        body = await response.read()
        assert response.status == 200
        assert response.content_type == "audio/wav"
        assert response.headers["Content-Length"] == str(len(body))
        assert response.headers["X-Audio-Duration"] == "0.200"
    rate, pcm = read_wav(body)
    assert (rate, len(pcm)) == (24_000, 2 * 480 * 10)


@pytest.mark.quick
async def test_the_same_seed_gives_the_same_samples(service: RunningService) -> None:
    async with aiohttp.ClientSession(service.url) as client:
        bodies = []
        for seed in ("7", "7", "8"):
            async with client.post("/v1/clone", data=script_form("say 3", seed=seed)) as response:
                bodies.append(await response.read())
    assert bodies[0] == bodies[1] != bodies[2]


@pytest.mark.quick
async def test_a_stream_arrives_while_it_is_made(service: RunningService) -> None:
    # The script hangs after its third piece: what arrives was sent before the answer was complete.
    form = script_form("say 3; sleep 600", stream="true")
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post("/v1/clone", data=form) as response,
    ):
        assert response.status == 200
        assert response.headers["Transfer-Encoding"] == "chunked"
        data = await response.content.readexactly(44 + 3 * 960)
        assert data[:4] == b"RIFF"
    # The client has left; the worker is free again although its script was not at its end.
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post("/v1/clone", data=script_form("say 1")) as response,
    ):
        assert response.status == 200


async def http_1_0(service: RunningService, text: str) -> bytes:
    """All that a client of HTTP/1.0, such as an old proxy, gets until the connection ends."""
    body = json.dumps({"model": "tts-1", "voice": "alloy", "input": text}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(
        b"POST /v1/audio/speech HTTP/1.0\r\nContent-Type: application/json\r\n"
        b"Expect: 100-continue\r\n"
        b"Connection: keep-alive\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    try:
        async with asyncio.timeout(NET):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.quick
async def test_a_stream_to_http_1_0_ends_with_its_connection(service: RunningService) -> None:
    head, _, sound = (await http_1_0(service, "say 3")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 ")
    assert b"transfer-encoding" not in head.lower()
    assert b"keep-alive" not in head.lower()
    assert len(sound) == 44 + 3 * 960


@pytest.mark.quick
async def test_a_stream_to_http_1_0_that_fails_is_reset(service: RunningService) -> None:
    with pytest.raises(ConnectionResetError):
        await http_1_0(service, "say 3; raise no such tensor")


@pytest.mark.quick
async def test_streamed_samples_are_those_of_the_whole_answer(service: RunningService) -> None:
    async with aiohttp.ClientSession(service.url) as client:
        async with client.post("/v1/clone", data=script_form("say 50", seed="1")) as response:
            whole = await response.read()
        form = script_form("say 50", seed="1", stream="true")
        async with client.post("/v1/clone", data=form) as response:
            streamed = await response.read()
    assert streamed[44:] == whole[44:]


@pytest.mark.quick
@pytest.mark.parametrize("size", [100, 100_000, 1_000_000, 5_000_000])
async def test_uploads_of_any_size_reach_the_worker_whole(
    service: RunningService, size: int
) -> None:
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post("/v1/transcribe", data=recording_form("pid", size)) as response,
    ):
        assert response.status == 200
        assert json.loads((await response.json())["raw"])["bytes"] == size


@pytest.mark.quick
async def test_what_a_model_prints_is_logged_and_harms_nothing(service: RunningService) -> None:
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post("/v1/clone", data=script_form("print chatter of a model; say 1")) as response,
    ):
        assert response.status == 200
    event = await asyncio.to_thread(service.wait_for, "child_output", line="chatter of a model")
    assert event["child"].startswith("tts-")


@pytest.mark.quick
async def test_a_bug_in_a_model_is_an_error_and_no_death(service: RunningService) -> None:
    before = service.children(model="tts")
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post("/v1/clone", data=script_form("raise no such tensor")) as response,
    ):
        assert response.status == 500
        error = (await response.json())["error"]
    assert error["code"] == "engine_error"
    assert "no such tensor" in error["message"]
    assert [c["pid"] for c in service.children(model="tts")] == [c["pid"] for c in before]


@pytest.mark.quick
async def test_requests_wait_their_turn(service: RunningService) -> None:
    async with aiohttp.ClientSession(service.url) as client:

        async def one(index: int) -> int:
            form = script_form(f"sleep 0.01; say {index + 1}")
            async with client.post("/v1/clone", data=form) as response:
                assert response.status == 200
                return len(await response.read())

        sizes = await asyncio.gather(*(one(index) for index in range(12)))
    assert sizes == [44 + 960 * (index + 1) for index in range(12)]


@pytest.mark.quick
def test_health_lists_every_child(service: RunningService) -> None:
    health = service.health()
    assert health["status"] == "ok"
    assert health["asr_loaded"] is True
    assert health["tts_loaded"] is True
    workers = [child for child in health["children"] if child["role"] == "worker"]
    assert {child["model"] for child in workers} == {"tts", "stt"}
    for child in workers:
        assert psutil.pid_exists(child["pid"])
        assert 0 < child["baseline_mb"] < child["soft_limit_mb"] < child["hard_limit_mb"]
        assert child["state"] in ("IDLE", "BUSY")


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nobody_is_left_behind(method: str, number: signal.Signals) -> None:
    with running({"VOICE_ENGINE_START_METHOD": method}) as service:
        service.wait_ready()
        processes = service.processes()
        # A stopped worker cannot notice anything by itself.
        os.kill(service.children()[0]["pid"], signal.SIGSTOP)
        code = service.stop(number)
        _, alive = psutil.wait_procs(processes, timeout=NET)
        assert alive == []
        assert code == (0 if number != signal.SIGKILL else -signal.SIGKILL)


@pytest.mark.quick
async def test_a_stop_lets_requests_finish_and_refuses_new_ones(gate: Gate) -> None:
    with running({"VOICE_ENGINE_DRAIN_TIMEOUT": "300"}) as service:
        service.wait_ready()
        async with aiohttp.ClientSession(service.url) as client:
            form = script_form(f"print started; wait {gate}; say 5")
            in_flight = asyncio.create_task(client.post("/v1/clone", data=form))
            await asyncio.to_thread(service.wait_for, "child_output", line="started")
            service.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(service.wait_for, "stopping")
            async with client.post("/v1/clone", data=script_form("say 1")) as refused:
                assert refused.status == 503
                assert (await refused.json())["error"]["code"] == "shutting_down"
                assert "Retry-After" in refused.headers
            gate.open()
            response = await in_flight
            assert response.status == 200
            assert len(await response.read()) == 44 + 5 * 960
        assert await asyncio.to_thread(service.process.wait, NET) == 0
