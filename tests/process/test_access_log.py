"""One line for each request: who, what, how long; never what was said, never a key."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from supervisor.workers.child_log import level_of
from tests.support.service import (
    NET,
    ROOT,
    SCRIPTED,
    Gate,
    RunningService,
    recording_form,
    running,
    script_form,
)

KEYS = {"VOICE_ENGINE_API_KEYS": "anna:anna-s3cret"}
AS_ANNA = {"X-API-Key": "anna-s3cret"}


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running(KEYS) as service:
        service.wait_ready()
        yield service


@pytest.fixture
async def client(service: RunningService) -> Any:
    async with aiohttp.ClientSession(service.url, headers=AS_ANNA) as client:
        yield client


async def line(service: RunningService, id_: str, event: str = "request") -> dict[str, Any]:
    """The line of the request with this id."""
    return await asyncio.to_thread(service.wait_for, event, request_id=id_)


async def test_speech_has_its_characters_its_seconds_and_its_times(
    service: RunningService, client: aiohttp.ClientSession
) -> None:
    script = "say 3; say 2"
    async with client.post(
        "/v1/clone", data=script_form(script), headers={"X-Request-Id": "speech"}
    ) as response:
        size = len(await response.read())
    told = await line(service, "speech")
    assert (told["method"], told["route"], told["status"]) == ("POST", "/v1/clone", 200)
    assert (told["client"], told["model"], told["level"]) == ("anna", "tts", "info")
    assert (told["bytes_out"], told["characters"]) == (size, len(script))
    assert told["bytes_in"] > len(script)
    assert told["sound_s"] == pytest.approx(0.1)
    assert 0 <= told["queue_s"] <= told["duration_s"]
    assert 0 < told["inference_s"] <= told["duration_s"]
    assert 0 < told["first_byte_s"] <= told["duration_s"]
    assert "error" not in told


async def test_a_stream_has_its_bytes_and_the_time_of_the_first(
    service: RunningService, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    form = script_form(f"say 1; wait {gate}; say 1", stream="true", response_format="pcm")
    async with client.post("/v1/clone", data=form, headers={"X-Request-Id": "live"}) as response:
        size = len(await response.content.readany())
        gate.open()
        size += len(await response.read())
    told = await line(service, "live")
    assert told["first_byte_s"] < told["duration_s"]
    assert told["bytes_out"] >= size > 0


async def test_a_transcription_has_the_seconds_it_heard(
    service: RunningService, client: aiohttp.ClientSession
) -> None:
    form = recording_form("segment spoken words")
    async with client.post(
        "/v1/transcribe", data=form, headers={"X-Request-Id": "heard"}
    ) as response:
        assert response.status == 200
    told = await line(service, "heard")
    assert (told["model"], told["sound_s"] > 0) == ("stt", True)
    assert "characters" not in told


async def test_errors_have_their_code(
    service: RunningService, client: aiohttp.ClientSession
) -> None:
    for id_, form, code in [
        ("failed", script_form("raise a bug"), "engine_error"),
        ("blank", script_form(" "), "empty_text"),
        ("no-body", None, "unsupported_media_type"),
    ]:
        headers = {"X-Request-Id": id_}
        async with client.post("/v1/clone", headers=headers, data=form) as response:
            told = await line(service, id_)
            assert told["status"] == response.status >= 400
            assert (told["error"], told["route"]) == (code, "/v1/clone")
    async with client.get("/nowhere/secret", headers={"X-Request-Id": "lost"}):
        told = await line(service, "lost")
        assert (told["status"], told["route"], told["error"]) == (404, "", "not_found")
    async with (
        aiohttp.ClientSession(service.url) as stranger,
        stranger.get("/v1/voices", headers={"X-Request-Id": "denied", "X-API-Key": "wr0ng"}),
    ):
        told = await line(service, "denied")
        assert (told["status"], told["error"]) == (401, "unauthorized")
        assert told["client"] == "127.0.0.1"


async def test_a_client_that_goes_away_is_told_as_499(
    service: RunningService, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    form = script_form(f"print going; wait {gate}; say 1")
    request = asyncio.create_task(
        client.post("/v1/clone", data=form, headers={"X-Request-Id": "gone"})
    )
    await asyncio.to_thread(service.wait_for, "child_output", line="going")
    request.cancel()
    told = await line(service, "gone")
    assert (told["status"], told["error"], told["bytes_out"]) == (499, "cancelled", 0)
    gate.open()


async def test_what_is_no_http_has_a_line_too(service: RunningService) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(b"anna-s3cret nonsense\r\n\r\n")
    assert b" 400 " in await reader.read()
    writer.close()
    told = await asyncio.to_thread(service.wait_for, "request", method="OTHER", status=400)
    assert (told["route"], told["error"]) == ("", "invalid_request")


async def test_a_file_has_its_size(service: RunningService, client: aiohttp.ClientSession) -> None:
    async with client.get("/docs", headers={"X-Request-Id": "page"}) as response:
        size = len(await response.read())
    # A probe, or a page: told at the level "debug".
    assert not [each for each in service.events if each.get("request_id") == "page"]
    async with client.put("/v1/log-level", json={"level": "debug"}) as response:
        assert response.status == 200
    async with client.get("/docs", headers={"X-Request-Id": "page2"}):
        told = await line(service, "page2", "probe")
    assert (told["bytes_out"], told["status"], told["level"]) == (size, 200, "debug")
    async with client.put("/v1/log-level", json={"level": "info"}):
        pass


async def test_no_text_and_no_key_is_in_the_log(
    service: RunningService, client: aiohttp.ClientSession
) -> None:
    form = script_form("say 2; mark Zanzibar", voice_id="Timbuktu")
    async with client.post(
        "/v1/clone", data=form, headers={"X-Request-Id": "quiet", "Authorization": "Bearer t0ken"}
    ):
        await line(service, "quiet")
    log = json.dumps(service.events)
    for secret in ("Zanzibar", "anna-s3cret", "wr0ng", "t0ken", "spoken words", "secret"):
        assert secret not in log, secret


@pytest.mark.parametrize("form", ["auto", "human", "json"])
def test_people_read_text_and_programs_read_json(form: str) -> None:
    parent, child = pty.openpty()
    environment = {**os.environ, **SCRIPTED, "VOICE_ENGINE_LOG_FORMAT": form}
    command = [sys.executable, "-m", "supervisor.cli", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=child, cwd=ROOT, env=environment) as process:
        os.close(child)
        with os.fdopen(parent, "rb", buffering=0) as terminal:
            first = b""
            while b"\n" not in first:
                first += terminal.read(4096)
            process.send_signal(signal.SIGTERM)
            try:
                while terminal.read(4096):
                    pass
            except OSError:  # the terminal has no other end any more
                pass
        assert process.wait(NET) == 0
    text = first.partition(b"\n")[0].decode()
    assert "listening" in text
    if form == "json":
        assert json.loads(text)["event"] == "listening"
    else:
        assert "\x1b[" in text


@pytest.mark.parametrize(
    ("line", "level", "told"),
    [
        ("<3>it broke", "error", "it broke"),
        ("<4>weights look odd", "warning", "weights look odd"),
        ("<7>details", "debug", "details"),
        ("<9>no priority", "info", "<9>no priority"),
        ("plain words", "info", "plain words"),
        ("2026-11-29 10:00:00.1 [W:onnxruntime:, graph.cc:1] odd", "warning", None),
        ("[E:onnxruntime:Default, x.cc:2] broken", "error", None),
        ("W1129 10:00:00.123 42 tensor.cpp:7] slow", "warning", None),
        ("WARNING: no such file", "warning", None),
        ("error: it broke", "error", None),
        ("[info] all well", "info", None),
        ("debugging is fun", "info", None),
        ("Errors are none", "info", None),
        ("Error in cpuinfo: failed to parse /proc/cpuinfo", "info", None),
    ],
)
def test_the_level_of_what_children_write(line: str, level: str, told: str | None) -> None:
    assert level_of(line) == (level, line if told is None else told)


def test_pythons_own_warnings_of_children_are_warnings() -> None:
    with running({"VOICE_TEST_LOAD": "warn this will change"}) as service:
        told = service.wait_for("child_output", level="warning")
        assert "this will change" in told["line"]
        assert not told["line"].startswith("<")
