"""Traces for OpenTelemetry, as a collector gets them; and what they cost those who want none."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from yarl import URL

from supervisor.app import start_tracing
from tests.support.collector import Collector, attributes, collecting
from tests.support.encoding_engine import ENCODE_SECONDS, VOICE
from tests.support.service import (
    Gate,
    RunningService,
    recording_form,
    running,
    script_form,
)

KEY = "key-of-anna"
PARENT = "00f067aa0ba902b7"
IMPORTS = {"PYTHONPROFILEIMPORTTIME": "1"}
"""The front writes a line to its log for each module that it imports."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def service(collector: Collector) -> Iterator[RunningService]:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=tests",
        "OTEL_BSP_SCHEDULE_DELAY": "20",
        "VOICE_ENGINE_TTS_ENGINE": "tests.support.encoding_engine:Encoding",
        "VOICE_ENGINE_API_KEYS": f"anna:{KEY}",
        "VOICE_ENGINE_MAX_ATTEMPTS": "2",
    }
    with running(environment) as service:
        service.wait_ready()
        yield service


async def send(
    service: RunningService,
    path: str,
    data: Any,
    *,
    flags: str = "01",
    headers: dict[str, str] | None = None,
) -> tuple[int, str, str]:
    """The status of the response, the id of the trace that the caller begins, our span's id."""
    trace = secrets.token_hex(16)
    sent = {"X-API-Key": KEY, "traceparent": f"00-{trace}-{PARENT}-{flags}", **(headers or {})}
    async with (
        aiohttp.ClientSession(service.url, headers=sent) as client,
        client.post(path, data=data) as response,
    ):
        await response.read()
        version, answered, span, answered_flags = response.headers["traceparent"].split("-")
    assert (version, answered, answered_flags) == ("00", trace, flags)
    return response.status, trace, span


def names(spans: list[Span]) -> list[str]:
    return [span.name for span in spans]


def check_times(root: Span, parts: list[Span]) -> None:
    """Each part lies within the request; what follows another begins at its end or later."""
    for part in parts:
        assert part.parent_span_id == root.span_id
        assert part.trace_id == root.trace_id
    moments = [root.start_time_unix_nano]
    for part in parts:
        moments += [part.start_time_unix_nano, part.end_time_unix_nano]
    moments.append(root.end_time_unix_nano)
    assert moments == sorted(moments)


def seconds(span: Span) -> float:
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


async def test_speech_is_a_trace(service: RunningService, collector: Collector) -> None:
    script = "print my-secret-text; sleep 0.05; say 10"
    status, trace, span = await send(
        service, "/v1/clone?seed=7", script_form(script), headers={"X-Request-Id": "call-1"}
    )
    root, parts = collector.trace(trace)
    assert (status, root.name, root.kind) == (200, "POST /v1/clone", Span.SPAN_KIND_SERVER)
    assert (root.span_id.hex(), root.parent_span_id.hex()) == (span, PARENT)
    assert root.status.code == Status.STATUS_CODE_UNSET
    told = attributes(root)
    assert {
        "http.request.method": "POST",
        "http.route": "/v1/clone",
        "http.response.status_code": 200,
        "url.path": "/v1/clone",
        "voice_engine.client": "anna",
        "voice_engine.request_id": "call-1",
    }.items() <= told.items()
    assert "error.type" not in told

    assert names(parts) == ["upload", "queue", "inference", "encode"]
    check_times(root, parts)
    *_, inference, encode = parts
    assert seconds(inference) > 0.04
    assert seconds(encode) == pytest.approx(ENCODE_SECONDS, abs=1e-5)
    (worker,) = service.children(model="tts")
    assert attributes(inference) == {
        "voice_engine.model": "tts",
        "voice_engine.engine": "Encoding",
        "voice_engine.worker": worker["name"],
        "voice_engine.attempt": 1,
        "voice_engine.characters": len(script),
        "voice_engine.sound_seconds": 0.2,
    }
    assert collector.resource["service.name"] == "voice-engine"
    assert collector.resource["deployment.environment.name"] == "tests"
    sent = b"".join(collector.bodies)
    assert b"my-secret-text" not in sent
    assert KEY.encode() not in sent
    assert b"seed" not in sent


async def test_the_voice_is_told(service: RunningService, collector: Collector) -> None:
    body = {"input": "say 1", "voice": VOICE, "model": "tts-1"}
    status, trace, _ = await send(service, "/v1/audio/speech", aiohttp.JsonPayload(body))
    assert status == 200
    _, parts = collector.trace(trace)
    assert names(parts) == ["upload", "queue", "inference", "encode"]
    assert attributes(parts[2])["voice_engine.voice"] == VOICE


async def test_transcription_is_a_trace(service: RunningService, collector: Collector) -> None:
    form = recording_form("segment my-secret-words")
    status, trace, _ = await send(service, "/v1/transcribe", form)
    root, parts = collector.trace(trace)
    assert (status, root.name) == (200, "POST /v1/transcribe")
    assert names(parts) == ["upload", "queue", "inference"]
    check_times(root, parts)
    told = attributes(parts[-1])
    assert told["voice_engine.model"] == "stt"
    assert told["voice_engine.sound_seconds"] > 0
    sent = b"".join(collector.bodies)
    assert b"my-secret-words" not in sent
    assert b"recording.wav" not in sent


async def test_the_wait_for_a_worker_is_a_span(
    service: RunningService, collector: Collector, gate: Gate
) -> None:
    first = asyncio.create_task(send(service, "/v1/clone", script_form(f"wait {gate}; say 1")))
    await asyncio.to_thread(
        service.wait_until, lambda health: health["models"]["tts"]["in_flight"] == 1
    )
    second = asyncio.create_task(send(service, "/v1/clone", script_form("say 1")))
    await asyncio.to_thread(
        service.wait_until, lambda health: health["models"]["tts"]["queued"] == 1
    )
    gate.open()
    (_, held, _), (_, waited, _) = await first, await second
    holding = next(part for part in collector.trace(held)[1] if part.name == "inference")
    root, parts = collector.trace(waited)
    assert names(parts) == ["upload", "queue", "inference", "encode"]
    check_times(root, parts)
    queue = parts[1]
    assert queue.start_time_unix_nano < holding.end_time_unix_nano
    assert queue.end_time_unix_nano >= holding.end_time_unix_nano
    assert attributes(queue)["voice_engine.model"] == "tts"


async def test_a_replay_is_an_event(
    service: RunningService, collector: Collector, gate: Gate
) -> None:
    script = f"print replayed; wait {gate}; say 1"
    request = asyncio.create_task(send(service, "/v1/clone", script_form(script)))
    await asyncio.to_thread(service.wait_for, "child_output", line="replayed")
    (worker,) = service.children(model="tts")
    os.kill(worker["pid"], signal.SIGKILL)
    gate.open()
    status, trace, _ = await request
    root, parts = collector.trace(trace)
    assert (status, root.status.code) == (200, Status.STATUS_CODE_UNSET)
    assert names(parts) == ["upload", "queue", "inference", "queue", "inference", "encode"]
    check_times(root, parts)
    (replay,) = [event for event in root.events if event.name == "replay"]
    assert attributes(replay) == {
        "voice_engine.worker": worker["name"],
        "voice_engine.attempt": 1,
    }
    assert replay.time_unix_nano == parts[3].start_time_unix_nano
    lost, finished = parts[2], parts[4]
    assert lost.status.code == Status.STATUS_CODE_ERROR
    assert attributes(lost)["voice_engine.worker"] == worker["name"]
    assert attributes(finished)["voice_engine.worker"] != worker["name"]
    assert attributes(finished)["voice_engine.attempt"] == 2


async def test_errors_have_their_code_and_no_text(
    service: RunningService, collector: Collector
) -> None:
    status, trace, _ = await send(service, "/v1/clone", script_form("raise my-hidden-text"))
    root, parts = collector.trace(trace)
    assert (status, root.status.code) == (500, Status.STATUS_CODE_ERROR)
    assert attributes(root)["http.response.status_code"] == 500
    assert names(parts) == ["upload", "queue", "inference"]
    assert parts[1].status.code == Status.STATUS_CODE_UNSET
    assert parts[2].status.code == Status.STATUS_CODE_ERROR
    assert attributes(root)["error.type"] == attributes(parts[2])["error.type"] == "engine_error"

    # What the client did wrong is no failure of ours.
    status, trace, _ = await send(service, "/v1/clone", script_form(""))
    root, parts = collector.trace(trace)
    assert (status, root.status.code) == (400, Status.STATUS_CODE_UNSET)
    assert attributes(root)["error.type"] == "empty_text"
    assert names(parts) == ["upload"]

    status, trace, _ = await send(service, "/nowhere", None, headers={"X-API-Key": "wrong-key"})
    root, parts = collector.trace(trace)
    assert (status, root.name, parts) == (401, "POST", [])
    assert "http.route" not in attributes(root)
    sent = b"".join(collector.bodies)
    assert b"my-hidden-text" not in sent
    assert b"wrong-key" not in sent


async def test_the_span_of_a_stream_ends_with_it(
    service: RunningService, collector: Collector, gate: Gate
) -> None:
    trace = secrets.token_hex(16)
    headers = {"X-API-Key": KEY, "traceparent": f"00-{trace}-{PARENT}-01"}
    form = script_form(f"say 1; wait {gate}; say 1", stream="true")
    async with (
        aiohttp.ClientSession(service.url, headers=headers) as client,
        client.post("/v1/clone", data=form) as response,
    ):
        assert response.headers["traceparent"].startswith(f"00-{trace}-")
        await response.content.readexactly(44)
        gate.open()
        await response.read()
    root, parts = collector.trace(trace)
    (first,) = root.events
    assert first.name == "first_byte"
    assert names(parts) == ["upload", "queue", "inference", "encode"]
    check_times(root, parts)
    inference = parts[2]
    assert inference.start_time_unix_nano < first.time_unix_nano < inference.end_time_unix_nano


async def test_a_client_that_leaves_ends_the_span(
    service: RunningService, collector: Collector, gate: Gate
) -> None:
    trace = secrets.token_hex(16)
    headers = {"X-API-Key": KEY, "traceparent": f"00-{trace}-{PARENT}-01"}
    form = script_form(f"say 1; wait {gate}", stream="true")
    async with (
        aiohttp.ClientSession(service.url, headers=headers) as client,
        client.post("/v1/clone", data=form) as response,
    ):
        await response.content.readexactly(44)
    root, parts = collector.trace(trace)
    assert attributes(root)["error.type"] == "cancelled"
    assert attributes(root)["http.response.status_code"] == 200
    assert root.status.code == Status.STATUS_CODE_UNSET
    assert names(parts) == ["upload", "queue", "inference"]
    check_times(root, parts)


async def test_a_caller_that_samples_not_gets_no_span(
    service: RunningService, collector: Collector
) -> None:
    _, unwanted, _ = await send(service, "/v1/clone", script_form("say 1"), flags="00")
    _, wanted, _ = await send(service, "/v1/clone", script_form("say 1"))
    collector.trace(wanted)
    assert unwanted not in {span.trace_id.hex() for span in collector.spans}


async def test_a_query_is_in_no_span(service: RunningService, collector: Collector) -> None:
    # The path is no UTF-8 either.
    path = "/v1/voices/%FF?secret=my-query"
    trace = secrets.token_hex(16)
    headers = {"X-API-Key": KEY, "traceparent": f"00-{trace}-{PARENT}-01"}
    async with (
        aiohttp.ClientSession(headers=headers) as client,
        client.get(URL(service.url + path, encoded=True)) as response,
    ):
        assert response.status == 404
    root, parts = collector.trace(trace)
    assert (root.name, parts) == ("GET /v1/voices/{voice_id}", [])
    assert attributes(root)["url.path"] == "/v1/voices/%FF"
    assert b"my-query" not in b"".join(collector.bodies)


def imported(service: RunningService) -> set[str]:
    """The packages that the front has imported, by their names."""
    lines = [event["line"] for event in service.events if event["event"] == "not_json"]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


async def test_without_a_collector_nothing_is_imported() -> None:
    with running(IMPORTS) as service:
        service.wait_ready()
        async with (
            aiohttp.ClientSession(service.url) as client,
            client.post("/v1/clone", data=script_form("say 1")) as response,
        ):
            assert response.status == 200
            assert "traceparent" not in response.headers
        assert service.stop() == 0
        packages = imported(service)
    assert "aiohttp" in packages
    assert not packages & {"opentelemetry", "google", "requests"}


@pytest.mark.parametrize(
    "off",
    [
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_traces_can_be_switched_off(off: dict[str, str]) -> None:
    assert start_tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", **off}) is None


async def test_variables_that_cannot_be_obeyed_do_not_stop_the_service() -> None:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "-1",
    }
    with running(environment) as service:
        problem = service.wait_for("tracing_failed")
        assert problem["level"] == "error"
        service.wait_ready()


async def test_a_shutdown_sends_what_waits() -> None:
    with collecting() as collector:
        environment = {
            **IMPORTS,
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces",
            "OTEL_BSP_SCHEDULE_DELAY": "3600000",
            "OTEL_SERVICE_NAME": "mouth",
        }
        with running(environment) as service:
            service.wait_ready()
            _, trace, _ = await send(service, "/v1/clone", script_form("say 1"))
            assert collector.bodies == []
            assert service.stop() == 0
            assert "opentelemetry" in imported(service)
        _, parts = collector.trace(trace)
        assert names(parts) == ["upload", "queue", "inference"]
        assert collector.resource["service.name"] == "mouth"


def test_what_the_sdk_repeats_is_for_debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    from supervisor import tracing

    told: list[tuple[str, str]] = []

    def log_as(level: str) -> Callable[..., None]:
        return lambda event, **_: told.append((level, event))

    levels = ("debug", "info", "warning", "error")
    monkeypatch.setattr(
        tracing, "logger", SimpleNamespace(**{level: log_as(level) for level in levels})
    )
    sdk_log = tracing.SdkLog()

    def emit(level: int, message: str, module: str = "opentelemetry.sdk") -> None:
        sdk_log.handle(logging.LogRecord(module, level, "", 0, message, ("Span",), None))

    for message in ("dropping %s", "dropping %s", "ignoring %s"):
        emit(logging.WARNING, message)
    for _ in range(2):
        emit(logging.ERROR, "cannot send %s", OTLPSpanExporter.__module__)
    emit(logging.WARNING, "no room for %s")
    sdk_log.sent()
    sdk_log.sent()
    emit(logging.ERROR, "cannot send %s", OTLPSpanExporter.__module__)
    assert told == [
        ("warning", "tracing"),
        ("debug", "tracing"),
        ("warning", "tracing"),
        ("warning", "traces_not_sent"),
        ("debug", "traces_not_sent"),
        ("debug", "tracing"),
        ("info", "traces_sent_again"),
        ("warning", "traces_not_sent"),
    ]


async def test_a_collector_that_is_away_costs_one_warning() -> None:
    collector = Collector()
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_TIMEOUT": "0.5",  # shorter than its first pause, so it tries once
        "OTEL_BSP_SCHEDULE_DELAY": "20",
        "VOICE_ENGINE_LOG_LEVEL": "debug",
    }
    with running(environment) as service:
        service.wait_ready()
        for batch in range(1, 4):
            status, _, _ = await send(service, "/v1/clone", script_form("say 1"))
            assert status == 200
            await asyncio.to_thread(service.wait_for, "traces_not_sent", count=batch)
        collector.listen()
        try:
            _, trace, _ = await send(service, "/v1/clone", script_form("say 1"))
            collector.trace(trace)
            await asyncio.to_thread(service.wait_for, "traces_sent_again")
        finally:
            collector.close()
        assert service.stop() == 0
        told = [event for event in service.events if event["event"] != "not_json"]
    levels = [event["level"] for event in told if event["event"] == "traces_not_sent"]
    assert levels[0] == "warning"
    assert set(levels[1:]) == {"debug"}
    assert [event for event in service.events if event["event"] == "not_json"] == []
