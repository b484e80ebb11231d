"""Who gets in, how often, from which pages; and what each request and its answer carry along."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.service import ROOT, Gate, RunningService, recording_form, running, script_form

ANNA, BEN, ADMIN = "k-anna-2f81", "k-ben-77d0", "k-admin-03c9"
PAGE = "https://app.example"


@pytest.fixture(scope="module")
def locked() -> Iterator[RunningService]:
    settings = {
        "VOICE_ENGINE_API_KEYS": f"anna:{ANNA}, ben:{BEN}",
        "VOICE_ENGINE_ADMIN_KEY": ADMIN,
        "VOICE_ENGINE_CORS_ORIGINS": f"{PAGE}, http://localhost:5173",
        "VOICE_ENGINE_LOG_LEVEL": "debug",
    }
    with running(settings) as service:
        service.wait_ready()
        yield service
        log = str(service.events)
        assert not [key for key in (ANNA, BEN, ADMIN) if key in log]


async def ask(
    service: RunningService, method: str, path: str, headers: dict[str, str], **kwargs: Any
) -> tuple[aiohttp.ClientResponse, bytes]:
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.request(method, path, headers=headers, **kwargs) as response,
    ):
        return response, await response.read()


# Keys


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Authorization": f"Bearer {ANNA}"}, 200, ""),
        ({"Authorization": f"bearer  {ANNA}"}, 200, ""),
        ({"X-API-Key": BEN}, 200, ""),
        ({"xi-api-key": ANNA}, 200, ""),
        ({"X-API-Key": ADMIN}, 200, ""),
        ({"Authorization": "Bearer of-a-library", "X-API-Key": BEN}, 200, ""),
        ({}, 401, "unauthorized"),
        ({"Authorization": ANNA}, 401, "unauthorized"),
        ({"Authorization": f"Basic {ANNA}"}, 401, "unauthorized"),
        ({"Authorization": "Bearer "}, 401, "unauthorized"),
        ({"X-API-Key": ANNA[:-1]}, 401, "unauthorized"),
        ({"X-API-Key": ANNA + "1"}, 401, "unauthorized"),
        ({"X-API-Key": f"anna:{ANNA}"}, 401, "unauthorized"),
        ({"X-API-Key": "\u00fc"}, 401, "unauthorized"),
    ],
)
async def test_a_key_lets_in(
    locked: RunningService, headers: dict[str, str], status: int, code: str
) -> None:
    response, body = await ask(
        locked, "POST", "/v1/transcribe", headers, data=recording_form("pid")
    )
    assert response.status == status
    if code:
        error = (await response.json())["error"]
        assert (error["code"], error["type"]) == (code, "authentication_error")
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert not [key for key in (ANNA, BEN, ADMIN) if key.encode() in body]


@pytest.mark.parametrize(
    ("method", "path", "key", "status"),
    [
        ("GET", "/health", "", 200),
        ("GET", "/livez", "", 200),
        ("GET", "/readyz", "", 200),
        ("HEAD", "/livez", "", 200),
        ("GET", "/livez", "wrong", 200),
        ("GET", "/", "", 200),
        ("GET", "/page/app.js", "", 200),
        ("GET", "/nothing", "", 401),
        ("GET", "/nothing", ANNA, 404),
        ("GET", "/livez/", "", 401),
        ("GET", "/v1/clone", "", 401),
        ("POST", "/v1/children/none/recycle", "", 401),
        ("POST", "/v1/children/none/recycle", "wrong", 401),
        ("POST", "/v1/children/none/recycle", ANNA, 403),
        ("POST", "/v1/%63hildren/none/recycle", ANNA, 403),
        ("POST", "/v1/children/none/recycle", ADMIN, 404),
    ],
)
async def test_what_is_open_and_what_is_the_operators(
    locked: RunningService, method: str, path: str, key: str, status: int
) -> None:
    response, _ = await ask(locked, method, path, {"X-API-Key": key} if key else {})
    assert response.status == status
    if status == 403:
        assert (await response.json())["error"]["type"] == "permission_error"


async def raw(service: RunningService, *lines: str) -> bytes:
    """What the service answers to a head of these lines until it closes; the body never comes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write("\r\n".join([*lines, "Host: x", "", ""]).encode())
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize("path", ["/v1/clone", "/v1/transcribe", "/v1/children/none/recycle"])
async def test_an_upload_without_a_key_is_neither_invited_nor_awaited(
    locked: RunningService, path: str
) -> None:
    answer = await raw(
        locked, f"POST {path} HTTP/1.1", "Content-Length: 1000", "Expect: 100-continue"
    )
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"Connection: close" in answer


async def test_an_upload_with_a_key_is_invited(locked: RunningService) -> None:
    headers = {"X-API-Key": ANNA}
    response, _ = await ask(
        locked, "POST", "/v1/transcribe", headers, data=recording_form("pid"), expect100=True
    )
    assert response.status == 200


async def test_without_keys_all_may_come_in_but_operators_may_need_theirs() -> None:
    with running({"VOICE_ENGINE_ADMIN_KEY": ADMIN}) as service:
        path = "/v1/children/none/recycle"
        for headers, status in (({}, 401), ({"X-API-Key": ADMIN}, 404)):
            assert (await ask(service, "POST", path, headers))[0].status == status
        assert (await ask(service, "GET", "/nothing", {}))[0].status == 404


async def test_without_an_operators_key_any_key_is_good_for_them() -> None:
    with running({"VOICE_ENGINE_API_KEY": ANNA}) as service:
        path = "/v1/children/none/recycle"
        for headers, status in (({}, 401), ({"X-API-Key": ANNA}, 404)):
            assert (await ask(service, "POST", path, headers))[0].status == status


async def test_keys_and_limits_are_read_again_on_sighup(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# clients\n\nanna:{ANNA}\n")
    with running({"VOICE_ENGINE_API_KEYS_FILE": str(file)}) as service:

        async def statuses() -> list[int]:
            answers = [
                await ask(service, "GET", "/nothing", {"X-API-Key": key}) for key in (ANNA, BEN)
            ]
            return [response.status for response, _ in answers]

        service.wait_ready()
        assert await statuses() == [404, 401]
        file.write_text(f"ben:{BEN}\n")
        service.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(service.wait_for, "reloaded", model="tts")
        assert await statuses() == [401, 404]
        # What cannot be taken over leaves everything as it was, and is told without the key.
        file.write_text(f"anna:{ANNA}\nben {BEN}\n")
        service.process.send_signal(signal.SIGHUP)
        refused = await asyncio.to_thread(service.wait_for, "reload_refused")
        assert f"line 2 of {file} has no valid name" in refused["error"]
        assert await statuses() == [401, 404]
        assert not [key for key in (ANNA, BEN) if key in str(service.events)]


def test_an_empty_key_refuses_to_start_with_one_sentence() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "supervisor.cli", "serve"],
        env={**os.environ, "VOICE_ENGINE_API_KEY": ""},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert finished.returncode == 2
    assert "VOICE_ENGINE_API_KEY has an empty key" in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1


# Rate limits


async def test_each_key_has_its_own_limit() -> None:
    settings = {
        "VOICE_ENGINE_API_KEYS": f"anna:{ANNA},anna:{ADMIN},ben:{BEN}",
        "VOICE_ENGINE_RATE_LIMIT_PER_MINUTE": "2",
    }
    with running(settings) as service:

        async def status(key: str, path: str = "/nothing") -> int:
            return (await ask(service, "GET", path, {"X-API-Key": key}))[0].status

        assert [await status(key) for key in (ANNA, "wrong", "wrong", ADMIN)] == [
            404,
            401,
            401,
            404,
        ]
        response, _ = await ask(service, "GET", "/nothing", {"X-API-Key": ANNA})
        assert response.status == 429
        assert (await response.json())["error"]["code"] == "rate_limited"
        assert 1 <= int(response.headers["Retry-After"]) <= 30
        # Other clients and those who watch the service go on.
        assert await status(BEN) == 404
        assert await status(ANNA, "/livez") == 200


# Pages of other sites


async def test_a_listed_page_may_call(locked: RunningService) -> None:
    preflight = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,x-api-key,x-library-version",
    }
    response, _ = await ask(locked, "OPTIONS", "/v1/clone", preflight)
    assert response.status == 204
    assert response.headers["Access-Control-Allow-Origin"] == PAGE
    assert "POST" in response.headers["Access-Control-Allow-Methods"]
    allowed = response.headers["Access-Control-Allow-Headers"]
    assert allowed == "authorization,x-api-key,x-library-version"
    del preflight["Access-Control-Request-Headers"]
    response, _ = await ask(locked, "OPTIONS", "/v1/clone", preflight)
    for header in ("Authorization", "X-API-Key", "xi-api-key"):
        assert header in response.headers["Access-Control-Allow-Headers"]
    # It may read refusals too.
    response, _ = await ask(locked, "GET", "/nothing", {"Origin": PAGE})
    assert response.status == 401
    assert response.headers["Access-Control-Allow-Origin"] == PAGE
    assert response.headers["Vary"] == "Origin"
    assert "X-Request-Id" in response.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "https://app.example.evil.example", "null", "*"]
)
async def test_another_page_may_not(locked: RunningService, origin: str) -> None:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    for method in ("OPTIONS", "GET"):
        response, _ = await ask(locked, method, "/v1/clone", headers)
        assert response.status == 401
        assert not [name for name in response.headers if name.startswith("Access-Control")]


async def test_pages_are_off_unless_listed() -> None:
    headers = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    with running() as service:
        response, _ = await ask(service, "OPTIONS", "/v1/clone", headers)
        assert response.status == 405
        assert not [name for name in response.headers if name.startswith("Access-Control")]
    with running({"VOICE_ENGINE_CORS_ORIGINS": "*"}) as service:
        response, _ = await ask(service, "OPTIONS", "/v1/clone", headers)
        assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (204, "*")


# Ids, times, deadlines


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("trace-1.a_b:c/d=", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("", False),
        ("a b", False),
        ('a"b', False),
        ("\u00fc", False),
    ],
)
async def test_a_safe_request_id_comes_back(locked: RunningService, given: str, kept: bool) -> None:
    response, _ = await ask(locked, "GET", "/nowhere", {"X-Request-Id": given})
    assert response.status == 401
    answered = response.headers["X-Request-Id"]
    assert answered == given if kept else re.fullmatch("[0-9a-f]{32}", answered)


async def test_the_id_is_in_streams_and_in_the_log_of_its_request_alone() -> None:
    with running() as service:
        service.wait_ready()
        async with aiohttp.ClientSession(service.url) as client:
            ids = []
            # In turn on one connection, whose task all of them share.
            for number, script in enumerate(["say 1", "crash", "crash 2", "say 1"]):
                headers = {"X-Request-Id": f"id-{number}"}
                form = script_form(script, stream=str(script == "say 1"))
                async with client.post("/v1/clone", data=form, headers=headers) as response:
                    ids.append(response.headers["X-Request-Id"])
                    await response.read()
            assert ids == ["id-0", "id-1", "id-2", "id-3"]
            for number in (1, 2):
                await asyncio.to_thread(
                    service.wait_for, "request_lost_worker", request_id=f"id-{number}", count=3
                )
            lost = [event for event in service.events if event["event"] == "request_lost_worker"]
            assert {event["request_id"] for event in lost} == {"id-1", "id-2"}
        # What came out of those requests does not keep their ids.
        (worker,) = service.children(model="tts")
        os.kill(worker["pid"], signal.SIGKILL)
        died = await asyncio.to_thread(service.wait_for, "worker_died", child=worker["name"])
        assert "request_id" not in died


async def test_where_the_time_went(locked: RunningService, gate: Gate) -> None:
    def send(path: str, form: aiohttp.FormData) -> asyncio.Task[Any]:
        return asyncio.create_task(ask(locked, "POST", path, {"X-API-Key": ANNA}, data=form))

    first = send("/v1/clone", script_form(f"print timed; wait {gate}; say 1"))
    await asyncio.to_thread(locked.wait_for, "child_output", line="timed")
    second = send("/v1/clone", script_form("say 1"))
    await asyncio.to_thread(
        locked.wait_until, lambda health: health["models"]["tts"]["queued"] == 1
    )
    # While the first computes and the second waits, a third has its whole turn elsewhere.
    begun = time.monotonic()
    third = send("/v1/transcribe", recording_form("sleep 0.1; pid"))
    await third
    lasted = (time.monotonic() - begun) * 1000
    gate.open()
    times = []
    for response, _ in await asyncio.gather(first, second, third):
        assert response.status == 200
        match = re.fullmatch(
            r"queue;dur=([0-9.]+), inference;dur=([0-9.]+)(?:, encode;dur=[0-9.]+)?",
            response.headers["Server-Timing"],
        )
        assert match
        times.append((float(match[1]), float(match[2])))
    assert times[0][1] >= lasted
    assert times[1][0] >= lasted
    # The worker may begin to sleep a moment before the front takes the time.
    assert 50 <= times[2][1] <= lasted


@pytest.mark.parametrize("value", ["0", "-1", "", "nan", "inf", "1e9", "5 s", "1_0", "0.0"])
async def test_a_timeout_that_is_none(locked: RunningService, value: str) -> None:
    headers = {"X-API-Key": ANNA, "X-Request-Timeout": value}
    response, body = await ask(
        locked, "POST", "/v1/transcribe", headers, data=recording_form("pid")
    )
    assert response.status == 400
    assert b"X-Request-Timeout" in body


async def test_a_client_sets_its_own_deadline(locked: RunningService) -> None:
    headers = {"X-API-Key": ANNA, "X-Request-Timeout": "3"}
    form = script_form("sleep 600")
    response, body = await ask(locked, "POST", "/v1/clone", headers, data=form)
    assert (response.status, (await response.json())["error"]["code"]) == (504, "deadline_exceeded")
    # Some of it may have gone by before the request was whole.
    told = re.search(rb"within ([0-9.]+) s", body)
    assert told
    assert 0 < float(told[1]) <= 3
    # It holds for the upload too, and the service's own is the longest.
    answer = await raw(
        locked,
        "POST /v1/clone HTTP/1.1",
        f"X-API-Key: {ANNA}",
        "X-Request-Timeout: 0.1",
        "Content-Type: multipart/form-data; boundary=x",
        "Content-Length: 1000",
    )
    assert answer.startswith(b"HTTP/1.1 408 ")
    with running({"VOICE_ENGINE_REQUEST_TIMEOUT": "3"}) as service:
        service.wait_ready()
        headers = {"X-Request-Timeout": "600"}
        response, _ = await ask(
            service, "POST", "/v1/clone", headers, data=script_form("sleep 600")
        )
        assert response.status == 504


async def test_readyz_tells_when_nothing_serves() -> None:
    broken = {
        "VOICE_ENGINE_TTS_ENGINE": "tests.support.script_engine:Nothing",
        "VOICE_ENGINE_STT_ENGINE": "tests.support.script_engine:Nothing",
    }
    with running(broken) as service:
        response, _ = await ask(service, "GET", "/readyz", {})
        assert response.status == 503
        assert (await response.json())["error"]["code"] == "model_unavailable"
        assert (await ask(service, "GET", "/livez", {}))[0].status == 200


def test_children_do_not_have_the_keys(
    locked: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization={ADMIN}")
    with running({"VOICE_ENGINE_API_KEY": ANNA}) as service:
        service.wait_ready()
        for each in (locked, service):
            front, *children = each.processes()
            assert ANNA in str(front.environ())
            assert len(children) == 4
            for child in children:
                environment = str(child.environ())
                assert "PATH" in environment
                assert not [key for key in (ANNA, BEN, ADMIN) if key in environment]


async def test_readyz_tells_when_the_service_stops() -> None:
    with running() as service:
        service.wait_ready()
        async with aiohttp.ClientSession(service.url) as client:
            form = script_form("print busy; sleep 600")
            busy = asyncio.create_task(client.post("/v1/clone", data=form))
            await asyncio.to_thread(service.wait_for, "child_output", line="busy")
            service.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(service.wait_for, "stopping")
            async with client.get("/readyz") as response:
                assert response.status == 503
                assert (await response.json())["error"]["code"] == "shutting_down"
            busy.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await busy


async def test_lists_may_be_open_to_everyone() -> None:
    settings = {"VOICE_ENGINE_API_KEY": "k-anna", "VOICE_ENGINE_PUBLIC_LISTS": "true"}
    with running(settings) as service:
        for path in ("/v1/audio/voices", "/v1/audio/models"):
            for headers in ({}, {"X-API-Key": "wrong"}, {"X-API-Key": "k-anna"}):
                response, _ = await ask(service, "GET", path, headers)
                assert response.status == 200
        for path in ("/v1/voices", "/v1/models", "/v1/user"):
            response, _ = await ask(service, "GET", path, {})
            assert response.status == 401
