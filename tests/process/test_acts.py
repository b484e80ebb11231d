"""What operators see and do: events, histories of children, acts. The service serves on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.service import Gate, RunningService, running, script_form

KEYS = {"VOICE_ENGINE_API_KEYS": "anna:client-key", "VOICE_ENGINE_ADMIN_KEY": "boss-key"}


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running() as service:
        service.wait_ready()
        yield service


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


async def act(
    service: RunningService, path: str, method: str = "POST", **body: Any
) -> tuple[int, dict[str, Any]]:
    """The status and the body of the response to an act."""
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.request(method, path, json=body or None) as response,
    ):
        return response.status, await response.json()


async def speak(service: RunningService, script: str) -> int:
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post("/v1/clone", data=script_form(script)) as response,
    ):
        await response.read()
        return response.status


async def read(
    client: aiohttp.ClientSession, path: str = "/v1/events", **headers: str
) -> AsyncIterator[dict[str, Any]]:
    """The events of a stream of server-sent events."""
    async with client.get(path, headers=headers) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        id_ = ""
        async for line in response.content:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "id":
                id_ = value
            elif name == "data":
                event: dict[str, Any] = json.loads(value)
                assert event["id"] == id_
                yield event


async def children(service: RunningService, since: float = 0.0) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.get(f"/v1/children?since={since}") as response,
    ):
        assert response.status == 200
        body: dict[str, Any] = await response.json()
        return body


async def ended(service: RunningService, name: str) -> dict[str, Any]:
    """What /v1/children says of a child once it has ended."""
    while True:
        for child in (await children(service))["children"]:
            if child["name"] == name and child["ended"] and child["end_reason"]:
                return dict(child)
        await asyncio.sleep(0.02)


async def test_a_recycle_is_told_with_who_and_why_and_nothing_fails(
    service: RunningService, gate: Gate
) -> None:
    (worker,) = service.children(model="tts")
    request = asyncio.create_task(speak(service, f"print begun; wait {gate}; say 2"))
    await asyncio.to_thread(service.wait_for, "child_output", line="begun", child=worker["name"])
    path = f"/v1/children/{worker['name']}/recycle"
    status, body = await act(service, path, reason="a look at it")
    assert (status, body) == (202, {"status": "recycling", "name": worker["name"]})
    assert (await act(service, path))[0] == 409
    told = await asyncio.to_thread(service.wait_for, "act", target=worker["name"])
    assert (told["act"], told["who"], told["why"]) == ("recycle", "127.0.0.1", "a look at it")
    gate.open()
    assert await request == 200
    recycled = await asyncio.to_thread(service.wait_for, "recycled", child=worker["name"])
    assert recycled["reason"] == "forced by an operator"
    child = await ended(service, worker["name"])
    assert child["end_reason"] == "recycled: forced by an operator"
    assert child["successor"] == recycled["successor"]
    assert child["state"] == "DEAD"
    assert child["started"] <= child["ready"] <= child["ended"]
    assert child["samples"][0][1] > 1


async def test_a_killed_worker_costs_no_request(service: RunningService, gate: Gate) -> None:
    (worker,) = service.children(model="tts")
    before = service.health()["models"]["tts"]["replays"]
    request = asyncio.create_task(speak(service, f"print on; wait {gate}; say 2"))
    await asyncio.to_thread(service.wait_for, "child_output", line="on", child=worker["name"])
    status, body = await act(service, f"/v1/children/{worker['name']}/kill", reason="stuck")
    assert (status, body["status"]) == (202, "killed")
    gate.open()
    assert await request == 200
    died = await asyncio.to_thread(service.wait_for, "worker_died", child=worker["name"])
    assert (died["cause"], died["model"]) == ("killed by an operator", "tts")
    model = service.wait_until(lambda health: health["status"] == "ok")["models"]["tts"]
    assert model["replays"] == before + 1
    assert (await ended(service, worker["name"]))["end_reason"] == "killed by an operator"
    assert (await act(service, f"/v1/children/{worker['name']}/kill"))[0] == 404


async def test_a_killed_template_comes_back(service: RunningService) -> None:
    (template,) = service.children("template", "stt")
    status, _ = await act(service, f"/v1/children/{template['name']}/kill")
    assert status == 202
    died = await asyncio.to_thread(service.wait_for, "template_died", child=template["name"])
    assert died["cause"] == "killed by an operator"
    await asyncio.to_thread(service.wait_for, "recycled", reason="its template died")


async def test_workers_are_kept_from_dying_again_and_again_by_kills_alone() -> None:
    with running({"VOICE_ENGINE_FAILURES_MAX": "2"}) as service:
        for count in range(1, 5):
            health = service.wait_until(lambda health: bool(health["tts_loaded"]))
            (worker,) = [each for each in health["children"] if each["name"].startswith("tts-")][1:]
            assert (await act(service, f"/v1/children/{worker['name']}/kill"))[0] == 202
            await asyncio.to_thread(service.wait_for, "worker_died", count=count)
        assert service.wait_until(lambda health: bool(health["tts_loaded"]))["status"] == "ok"


async def test_a_model_is_scaled_up_and_down(service: RunningService) -> None:
    status, _ = await act(service, "/v1/models/tts/scale", workers=2, reason="a busy day")
    assert status == 202
    scaled = await asyncio.to_thread(service.wait_for, "scaled", model="tts", workers=2)
    assert scaled["workers_before"] == 1

    def serving(health: dict[str, Any], count: int) -> bool:
        states = [
            child["state"]
            for child in health["children"]
            if child["model"] == "tts" and child["role"] == "worker"
        ]
        wanted = health["models"]["tts"]["workers"]
        return states == ["IDLE"] * count and wanted == count

    health = service.wait_until(lambda health: serving(health, 2))
    assert health["models"]["tts"]["free_slots"] == 2
    assert (await act(service, "/v1/models/tts/scale", workers=1))[0] == 202
    service.wait_until(lambda health: serving(health, 1))
    status, body = await act(service, "/v1/models/tts/scale")
    assert (status, body["error"]["code"]) == (415, "unsupported_media_type")
    assert (await act(service, "/v1/models/tts/scale", workers=0))[0] == 400


async def test_more_workers_than_fit_are_refused_and_nothing_changes() -> None:
    with running({"VOICE_ENGINE_MEMORY_LIMIT_MB": "700"}) as service:
        service.wait_ready()
        status, body = await act(service, "/v1/models/tts/scale", workers=30)
        assert (status, body["error"]["code"]) == (409, "conflict")
        assert "MB are needed" in body["detail"]
        assert service.health()["models"]["tts"]["workers"] == 1


async def test_a_paused_model_holds_what_comes_and_goes_on(service: RunningService) -> None:
    assert (await act(service, "/v1/models/tts/pause", reason="new weights"))[0] == 200
    health = service.health()
    assert (health["status"], health["models"]["tts"]["paused"]) == ("degraded", True)
    assert "voice-engine resume tts" in health["models"]["tts"]["hint"]
    request = asyncio.create_task(speak(service, "say 2"))
    await asyncio.to_thread(
        service.wait_until, lambda health: health["models"]["tts"]["queued"] == 1
    )
    async with aiohttp.ClientSession(service.url) as client:
        for query, expected in [("?model=tts", 503), ("?model=stt", 200), ("", 200)]:
            async with client.get(f"/readyz{query}") as response:
                assert response.status == expected, query
        async with client.get("/readyz?model=nobody") as response:
            assert response.status == 404
    assert (await act(service, "/v1/models/tts/resume"))[0] == 200
    assert await request == 200
    assert service.health()["status"] == "ok"


async def test_a_model_is_unloaded_unless_it_is_in_use(service: RunningService, gate: Gate) -> None:
    request = asyncio.create_task(speak(service, f"print busy; wait {gate}; say 2"))
    await asyncio.to_thread(service.wait_for, "child_output", line="busy")
    status, body = await act(service, "/v1/models/tts/unload")
    assert (status, body["error"]["code"]) == (409, "conflict")
    gate.open()
    assert await request == 200
    assert (await act(service, "/v1/models/tts/unload"))[0] == 202
    told = await asyncio.to_thread(service.wait_for, "unloaded", model="tts")
    assert told["reason"] == "asked by an operator"
    assert await speak(service, "say 2") == 200


async def test_a_reload_replaces_the_workers_of_one_model(service: RunningService) -> None:
    service.wait_ready()
    (tts,), (stt,) = service.children(model="tts"), service.children(model="stt")
    # By the name of its engine, too.
    status, body = await act(service, "/v1/models/Script/reload")
    assert (status, body["name"]) == (202, "tts")
    await asyncio.to_thread(service.wait_for, "reloaded", model="tts")
    await asyncio.to_thread(service.wait_for, "recycled", child=tts["name"], reason="reloaded")
    assert service.children(model="stt")[0]["pid"] == stt["pid"]
    status, body = await act(service, "/v1/models/nobody/reload")
    assert (status, body["detail"]) == (
        404,
        "there is no model called nobody; it runs tts, stt, vad",
    )


async def test_the_log_tells_more_when_it_is_asked_to(service: RunningService) -> None:
    async def garbage() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(b"no http\r\n\r\n")
        await reader.read()
        writer.close()

    await garbage()
    status, body = await act(service, "/v1/log-level", "PUT", level="debug", reason="a look")
    assert (status, body) == (200, {"status": "ok", "name": "debug"})
    await garbage()
    await asyncio.to_thread(service.wait_for, "no_http")
    assert (await act(service, "/v1/log-level", "PUT", level="info"))[0] == 200
    assert len([each for each in service.events if each["event"] == "no_http"]) == 1
    assert (await act(service, "/v1/log-level", "PUT", level="loud"))[0] == 400


async def test_events_are_replayed_followed_and_continued(service: RunningService) -> None:
    async with aiohttp.ClientSession(service.url) as client:
        seen = [event async for event in read(client, "/v1/events?follow=false")]
        assert seen[0]["event"] == "listening"
        assert {"engine", "template_ready", "worker_ready"} <= {event["event"] for event in seen}
        assert [event["id"] for event in seen] == list(dict.fromkeys(e["id"] for e in seen))
        stream = read(client, **{"Last-Event-ID": seen[-1]["id"]})
        following: asyncio.Task[dict[str, Any]] = asyncio.create_task(anext(stream))  # type: ignore[arg-type]
        (worker,) = service.children(model="stt")
        await act(service, f"/v1/children/{worker['name']}/recycle", reason="to be seen")
        first = await following
        assert (first["event"], first["why"], first["level"]) == ("act", "to be seen", "info")
        assert first["request_id"]
        async for event in stream:
            if event["event"] == "recycled":
                assert event["child"] == worker["name"]
                break
        await stream.aclose()  # type: ignore[attr-defined]
        after = f"/v1/events?follow=false&last_event_id={seen[-1]['id']}"
        assert first in [event async for event in read(client, after)]


async def test_a_stream_of_events_ends_when_the_service_stops() -> None:
    with running() as service:
        async with aiohttp.ClientSession(service.url) as client:
            stream = read(client)
            assert (await anext(stream))["event"] == "listening"
            assert await asyncio.to_thread(service.stop) == 0
            names = [event["event"] async for event in stream]
            assert names[-1] == "stopping"


async def test_samples_since_a_moment_are_those_after_it(service: RunningService) -> None:
    await speak(service, "say 20")
    whole = await children(service)
    roles = {child["role"] for child in whole["children"]}
    assert roles == {"front", "template", "worker"}
    while True:
        rest = await children(service, whole["now"])
        front = next(child for child in rest["children"] if child["role"] == "front")
        if len(front["samples"]) >= 2:
            break
        await asyncio.sleep(0.02)
    assert all(when > whole["now"] for when, _ in front["samples"])
    assert all(child["ended"] is None for child in rest["children"])
    assert {len(row) for row in rest["models"]["tts"]["samples"]} == {5}
    assert rest["models"]["tts"]["samples"][-1][4] > 0


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/children/tts-1/recycle"),
        ("POST", "/v1/children/tts-1/kill"),
        ("POST", "/v1/models/tts/scale"),
        ("POST", "/v1/models/tts/reload"),
        ("POST", "/v1/models/tts/pause"),
        ("POST", "/v1/models/tts/resume"),
        ("POST", "/v1/models/tts/unload"),
        ("PUT", "/v1/log-level"),
        ("GET", "/v1/events"),
        ("GET", "/v1/children"),
    ],
)
async def test_only_operators_may(locked: RunningService, method: str, path: str) -> None:
    acts = [event for event in locked.events if event["event"] == "act"]
    async with aiohttp.ClientSession(locked.url) as client:
        for headers, expected in [({}, 401), ({"X-API-Key": "client-key"}, 403)]:
            async with client.request(method, path, headers=headers) as response:
                assert response.status == expected
                assert "client-key" not in await response.text()
    assert [event for event in locked.events if event["event"] == "act"] == acts


@pytest.fixture(scope="module")
def locked() -> Iterator[RunningService]:
    with running(KEYS) as service:
        service.wait_ready()
        yield service


async def test_the_event_of_an_act_names_the_key_and_not_its_text(locked: RunningService) -> None:
    async with (
        aiohttp.ClientSession(locked.url, headers={"X-API-Key": "boss-key"}) as client,
        client.put("/v1/log-level", json={"level": "info"}) as response,
    ):
        assert response.status == 200
    told = await asyncio.to_thread(locked.wait_for, "act", act="log-level")
    assert told["who"] == "admin"
    assert "boss-key" not in json.dumps(locked.events)
