"""/metrics of the running service: what traffic, faults and operators leave in it; who may look."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.metrics_table import DOCUMENT, Scraped, in_document
from tests.support.service import (
    NET,
    Gate,
    RunningService,
    recording_form,
    running,
    script_form,
)

KEYS = {"VOICE_ENGINE_API_KEYS": "anna:client-key", "VOICE_ENGINE_ADMIN_KEY": "boss-key"}
TTS = {"model": "tts"}


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running({"VOICE_ENGINE_QUEUE_SIZE": "2"}) as service:
        service.wait_ready()
        yield service


async def text_of(url: str, **headers: str) -> tuple[int, str]:
    """The status and the text of /metrics."""
    async with (
        aiohttp.ClientSession(url, headers=headers) as client,
        client.get("/metrics") as response,
    ):
        return response.status, await response.text()


async def scrape(service: RunningService) -> Scraped:
    status, text = await text_of(service.url)
    assert status == 200
    return Scraped(text)


async def speak(service: RunningService, script: str) -> int:
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post("/v1/clone", data=script_form(script)) as response,
    ):
        await response.read()
        return response.status


async def hear(service: RunningService, script: str) -> int:
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post("/v1/transcribe", data=recording_form(script)) as response,
    ):
        await response.read()
        return response.status


async def recycle(service: RunningService) -> None:
    """Replace the speech worker, and wait until the old one is gone."""
    (worker,) = await asyncio.to_thread(service.children, "worker", "tts")
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post(f"/v1/children/{worker['name']}/recycle") as response,
    ):
        assert response.status == 202
    await asyncio.to_thread(service.wait_for, "recycled", child=worker["name"])


def promtool(*arguments: str, told: str = "") -> subprocess.CompletedProcess[str]:
    """Run Prometheus' own checker."""
    return subprocess.run(
        ["promtool", *arguments],
        input=told,
        capture_output=True,
        text=True,
        timeout=NET,
        check=False,
    )


def grown(after: Scraped, before: Scraped, name: str, **labels: str) -> float:
    """By how much a series has grown; one that was not there was 0."""
    value = after.value(name, **labels)
    assert value is not None, (name, labels)
    return value - (before.value(name, **labels) or 0)


async def test_requests_are_counted_and_timed_by_stage(service: RunningService) -> None:
    before = await scrape(service)
    for _ in range(3):
        assert await speak(service, "say 50") == 200
    assert await hear(service, "segment a; segment b") == 200
    after = await scrape(service)
    clone = {"method": "POST", "route": "/v1/clone", "status": "200", **TTS}
    assert grown(after, before, "requests_total", **clone) == 3
    hearing = {**clone, "route": "/v1/transcribe", "model": "stt"}
    assert grown(after, before, "requests_total", **hearing) == 1
    assert grown(after, before, "request_seconds_count", route="/v1/clone") == 3
    assert grown(after, before, "http_bytes_total", direction="in") > 4 * 100
    assert grown(after, before, "http_bytes_total", direction="out") > 3 * 48_000
    for stage in ("queue", "inference"):
        assert grown(after, before, "stage_seconds_count", stage=stage, **TTS) == 3
        assert grown(after, before, "stage_seconds_count", stage=stage, model="stt") == 1
    assert grown(after, before, "real_time_factor_count", **TTS) == 3
    assert grown(after, before, "sound_seconds_total", direction="made", **TTS) == 3
    assert grown(after, before, "sound_seconds_total", direction="heard", model="stt") > 0
    assert after.value("sound_seconds_total", direction="heard", **TTS) is None


async def test_a_stream_is_timed_until_its_first_byte(service: RunningService) -> None:
    before = await scrape(service)
    form = script_form("say 5", stream="true")
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post("/v1/clone", data=form) as response,
    ):
        await response.read()
    clone = {"method": "POST", "route": "/v1/clone", "status": "200", **TTS}
    # The client has everything before the request has ended.
    counted = before.value("requests_total", **clone)
    while (after := await scrape(service)).value("requests_total", **clone) == counted:
        pass
    assert grown(after, before, "stage_seconds_count", stage="first_byte", **TTS) == 1


async def test_what_clients_make_up_makes_no_series(service: RunningService) -> None:
    before = await scrape(service)
    async with aiohttp.ClientSession(service.url) as client:
        for number in range(5):
            for method, path in [
                ("GET", f"/nowhere/{number}"),
                ("GET", f"/v1/voices/{number}"),
                (f"BREW{number}", "/livez"),
            ]:
                async with client.request(method, path) as response:
                    assert 400 <= response.status < 500
    after = await scrape(service)
    for method, route, status in [
        ("GET", "", "404"),
        ("GET", "/v1/voices/{voice_id}", "404"),
        ("OTHER", "", "400"),
    ]:
        labels = {"method": method, "route": route, "status": status, "model": ""}
        assert grown(after, before, "requests_total", **labels) == 5
    assert not [r for r in after.label_values("requests_total", "route") if r.endswith("4")]


async def test_a_recycle_counts_for_its_reason_and_its_time(service: RunningService) -> None:
    before = await scrape(service)
    await recycle(service)
    after = await scrape(service)
    reason = "forced by an operator"
    assert grown(after, before, "recycles_total", reason=reason, **TTS) == 1
    assert grown(after, before, "recycles_total", reason="soft memory limit", **TTS) == 0
    assert grown(after, before, "recycle_seconds_count", **TTS) == 1
    assert grown(after, before, "events_total", event="recycled", level="info") == 1


async def test_many_recycles_make_no_new_series(service: RunningService) -> None:
    processes = set()
    for _ in range(8):
        await recycle(service)
        found = await scrape(service)
        processes |= found.label_values("process_memory_bytes", "process")
    assert {name for name in processes if not name.startswith("stt")} <= {
        *("front", "tts-template", "tts-worker-1", "tts-worker-2")
    }
    assert {"front", "tts-template"} < processes
    assert (found.value("process_memory_bytes", process="front", model="", type="rss") or 0) > 1e6


async def test_deaths_replays_and_quarantines_are_counted(service: RunningService) -> None:
    before = await scrape(service)
    assert await speak(service, "crash") == 500
    assert await speak(service, "crash") == 422
    after = await scrape(service)
    assert grown(after, before, "deaths_total", role="worker", cause="signal", **TTS) == 3
    assert grown(after, before, "replays_total", **TTS) == 2
    assert grown(after, before, "quarantines_total", **TTS) == 1
    assert grown(after, before, "refusals_total", reason="quarantined", **TTS) == 1
    await asyncio.to_thread(service.wait_ready)
    (worker,) = await asyncio.to_thread(service.children, "worker", "tts")
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post(f"/v1/children/{worker['name']}/kill") as response,
    ):
        assert response.status == 202
    await asyncio.to_thread(service.wait_for, "worker_died", child=worker["name"])
    killed = {"role": "worker", "cause": "killed by an operator"}
    assert grown(await scrape(service), after, "deaths_total", **killed, **TTS) == 1


async def test_the_queue_is_seen_while_a_gate_holds_it(service: RunningService, gate: Gate) -> None:
    def waiting(number: int) -> Any:
        return lambda health: health["models"]["tts"]["queued"] == number

    await asyncio.to_thread(service.wait_ready)
    before = await scrape(service)
    runs = [asyncio.create_task(speak(service, f"print held; wait {gate}"))]
    await asyncio.to_thread(service.wait_for, "child_output", line="held")
    for number in (1, 2):
        runs.append(asyncio.create_task(speak(service, "say 1")))
        await asyncio.to_thread(service.wait_until, waiting(number))
    assert await speak(service, "say 1") == 503
    found = await scrape(service)
    assert found.value("queue_length", **TTS) == 2
    assert found.value("in_flight", **TTS) == 3
    assert found.value("free_slots", **TTS) == 0
    assert (found.value("queue_seconds", **TTS) or 0) > 0
    assert found.value("queue_length", model="stt") == 0
    assert grown(found, before, "refusals_total", reason="overloaded", **TTS) == 1
    gate.open()
    assert await asyncio.gather(*runs) == [200, 200, 200]
    found = await scrape(service)
    assert found.value("queue_length", **TTS) == 0
    assert found.value("in_flight", **TTS) == 0


async def test_a_paused_model_is_seen(service: RunningService) -> None:
    async with aiohttp.ClientSession(service.url) as client:
        for act, paused in (("pause", 1), ("resume", 0)):
            async with client.post(f"/v1/models/tts/{act}") as response:
                assert response.status == 200
            assert (await scrape(service)).value("model_paused", **TTS) == paused


async def test_connections_are_counted(service: RunningService) -> None:
    found = await scrape(service)
    assert (found.value("connections") or 0) >= 1
    assert found.value("connections_limit") == 512
    assert found.value("connections_refused_total") == 0


async def test_promtool_finds_no_fault(service: RunningService) -> None:
    await speak(service, "say 1")
    _, text = await text_of(service.url)
    checked = await asyncio.to_thread(promtool, "check", "metrics", told=text)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_promtool_understands_the_queries_of_the_document(tmp_path: Path) -> None:
    section = DOCUMENT.read_text().partition("## Queries\n")[2].partition("\n## ")[0]
    queries = re.findall(r"(?:^    .+\n)+", section, re.MULTILINE)
    assert len(queries) >= 3
    rules = [{"record": f"q:{n}", "expr": textwrap.dedent(q)} for n, q in enumerate(queries)]
    file = tmp_path / "rules.json"  # which is YAML, too
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    checked = promtool("check", "rules", str(file))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    used = set(re.findall(r"voice_engine_\w+?(?=_bucket\b|\b)", section))
    assert used <= set(re.findall(r"^\| `(\w+)`", in_document(), re.MULTILINE))


async def test_the_answer_is_in_the_format_that_is_asked_for(service: RunningService) -> None:
    async with aiohttp.ClientSession(service.url) as client:
        for accept, expected in [
            ("*/*", "text/plain"),
            ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text"),
        ]:
            async with client.get("/metrics", headers={"Accept": accept}) as response:
                assert response.content_type == expected
                assert (await response.text()).endswith("# EOF\n") == (expected != "text/plain")
        async with client.head("/metrics") as response:
            assert (response.status, await response.read()) == (200, b"")


# Who may look, and where


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


async def test_metrics_on_a_port_of_their_own_need_the_operators_key() -> None:
    port = free_port()
    with running({**KEYS, "VOICE_ENGINE_METRICS_PORT": str(port)}) as service:
        assert service.wait_for("listening")["metrics_port"] == port
        url = f"http://127.0.0.1:{port}"
        assert (await text_of(url))[0] == 401
        assert (await text_of(url, Authorization="Bearer client-key"))[0] == 403
        status, text = await text_of(url, Authorization="Bearer boss-key")
        assert status == 200
        assert Scraped(text).value("connections_limit") == 512
        status, text = await text_of(service.url, Authorization="Bearer boss-key")
        assert status == 404
        assert f"the metrics are on port {port}, at /metrics" in text
        async with aiohttp.ClientSession(url, headers={"X-API-Key": "boss-key"}) as client:
            for path, expected in [("/livez", 200), ("/health", 404), ("/v1/audio/voices", 404)]:
                async with client.get(path) as response:
                    assert response.status == expected, path
        assert await asyncio.to_thread(service.stop) == 0


async def test_public_metrics_need_no_key_and_open_nothing_else() -> None:
    with running({**KEYS, "VOICE_ENGINE_PUBLIC_METRICS": "true"}) as service:
        assert (await text_of(service.url))[0] == 200
        assert (await text_of(service.url, **{"X-API-Key": "client-key"}))[0] == 200
        async with (
            aiohttp.ClientSession(service.url) as client,
            client.get("/v1/children") as response,
        ):
            assert response.status == 401
