"""A real Prometheus, set up by ops/monitoring, scrapes the service while it is used and hurt."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.programs import needs_program, program
from tests.support.proxies import free_port
from tests.support.service import (
    NET,
    ROOT,
    RunningService,
    recording_form,
    running,
    script_form,
)

MONITORING = ROOT / "ops" / "monitoring"
KEY = "open-sesame"
KILLS, RECYCLES = 12, 4
SPOKEN = 2 * 480 / 24_000
"""Seconds of sound of each answer."""

pytestmark = [needs_program("prometheus", "promtool"), pytest.mark.timeout(600)]


class Prometheus:
    """Its HTTP API."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    async def ask(self, query: str) -> dict[str, float]:
        """The value of each series, by its labels; empty while Prometheus starts."""
        with contextlib.suppress(aiohttp.ClientConnectionError):
            async with (
                aiohttp.ClientSession(self.url) as client,
                client.get("/api/v1/query", params={"query": query}) as response,
            ):
                if response.status != 200:
                    return {}
                found = (await response.json())["data"]["result"]
                return {str(each["metric"]): float(each["value"][1]) for each in found}
        return {}

    async def until(self, query: str, value: float) -> None:
        """Wait until a query that has one series has this value."""
        async with asyncio.timeout(NET):
            while list((found := await self.ask(query)).values()) != [pytest.approx(value)]:
                if any(each > value + 1e-6 for each in found.values()):
                    raise AssertionError(f"{query} is {found}, more than {value}")
                await asyncio.sleep(0.2)


@contextlib.contextmanager
def prometheus(folder: Path, target: int) -> Iterator[Prometheus]:
    """One that scrapes the port `target` each second, with our alerts."""
    (folder / "key").write_text(KEY)
    text = (MONITORING / "prometheus.yml").read_text()
    for old, new in (
        ("voice-engine:9464", f"127.0.0.1:{target}"),
        ("_interval: 15s", "_interval: 1s"),
        ("    # authorization:\n    # ", "    authorization:\n    "),
        ("/etc/prometheus/voice-engine.key", str(folder / "key")),
    ):
        assert old in text
        text = text.replace(old, new)
    (folder / "prometheus.yml").write_text(text)
    shutil.copy(MONITORING / "alerts.yml", folder)
    port = free_port()
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            yield Prometheus(port)
        finally:
            process.terminate()


class Traffic:
    """Clients that note what they got, until they are told to stop."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.stopped = asyncio.Event()
        self.answered: Counter[tuple[str, int]] = Counter()

    async def use(self, path: str) -> None:
        """One request after the other."""
        async with aiohttp.ClientSession(self._url) as client:
            while not self.stopped.is_set():
                if path == "/v1/clone":
                    form = script_form("say 2; sleep 0.01")
                else:
                    form = recording_form("segment one; sleep 0.01")
                async with client.post(path, data=form) as response:
                    await response.read()
                    self.answered[path, response.status] += 1


async def hurt(service: RunningService) -> None:
    """Kill workers of speech, and have some recycled, one after the other."""
    for number in range(1, KILLS + 1):
        victim = service.children(model="tts")[0]
        os.kill(victim["pid"], signal.SIGKILL)
        await asyncio.to_thread(service.wait_for, "worker_died", child=victim["name"])
        await asyncio.to_thread(service.wait_until, all_ready)
        if number % (KILLS // RECYCLES) == 0:
            name = service.children(model="tts")[0]["name"]
            async with (
                aiohttp.ClientSession(service.url, headers={"X-API-Key": KEY}) as client,
                client.post(f"/v1/children/{name}/recycle") as response,
            ):
                assert response.status == 202
            await asyncio.to_thread(service.wait_for, "recycled", child=name)
            await asyncio.to_thread(service.wait_until, all_ready)


def all_ready(health: dict[str, object]) -> bool:
    """Both workers of speech are READY, and no other is left."""
    children = health["children"]
    assert isinstance(children, list)
    workers = [each for each in children if (each["role"], each["model"]) == ("worker", "tts")]
    return [each["lifecycle"] for each in workers] == ["READY", "READY"]


async def test_prometheus_counts_what_happened(tmp_path: Path) -> None:
    port = free_port()
    settings = {
        "VOICE_ENGINE_TTS_WORKERS": "2",
        "VOICE_ENGINE_ADMIN_KEY": KEY,
        "VOICE_ENGINE_METRICS_PORT": str(port),
    }
    with running(settings) as service, prometheus(tmp_path, port) as found:
        service.wait_ready()
        # It has seen the zeros, so that it sees an increase.
        await found.until("up", 1)
        await found.until("sum(voice_engine_deaths_total)", 0)
        traffic = Traffic(service.url)
        paths = ("/v1/clone", "/v1/clone", "/v1/clone", "/v1/transcribe")
        clients = [asyncio.create_task(traffic.use(path)) for path in paths]
        await hurt(service)
        await found.until('ALERTS{alertname="RestartStorm", alertstate="firing", model="tts"}', 1)
        traffic.stopped.set()
        await asyncio.gather(*clients)
        assert {status for _, status in traffic.answered} == {200}
        for path, model in (("/v1/clone", "tts"), ("/v1/transcribe", "stt")):
            count = traffic.answered[path, 200]
            assert count > 0
            labels = f'route="{path}", status="200", model="{model}"'
            await found.until(f"sum(voice_engine_requests_total{{{labels}}})", count)
            await found.until(f'voice_engine_request_seconds_count{{route="{path}"}}', count)
            for stage in ("queue", "inference"):
                labels = f'model="{model}", stage="{stage}"'
                await found.until(f"voice_engine_stage_seconds_count{{{labels}}}", count)
        spoken, heard = (traffic.answered[path, 200] for path in ("/v1/clone", "/v1/transcribe"))
        sound = 'voice_engine_sound_seconds_total{direction="%s"}'
        await found.until(f"sum({sound % 'made'})", spoken * SPOKEN)
        await found.until(f"sum({sound % 'heard'})", heard)
        outside = 'cause="killed from outside", role="worker", model="tts"'
        await found.until(f"voice_engine_deaths_total{{{outside}}}", KILLS)
        await found.until("sum(voice_engine_deaths_total)", KILLS)
        await found.until("sum(voice_engine_recycles_total)", RECYCLES)
        await found.until('voice_engine_recycle_seconds_count{model="tts"}', RECYCLES)
        for event in ("worker_died", "recycled", "worker_ready"):
            logged = sum(each["event"] == event for each in service.events)
            await found.until(f'voice_engine_events_total{{event="{event}"}}', logged)
        replays = service.health()["models"]["tts"]["replays"]
        await found.until('voice_engine_replays_total{model="tts"}', replays)
        # Nothing else is wrong: no request failed.
        firing = await found.ask('ALERTS{alertstate="firing"}')
        assert sorted(re.findall(r"'alertname': '(\w+)'", str(firing))) == [
            "RestartStorm",
            "WorkersDying",
        ]
        (rate,) = (await found.ask("sum(rate(voice_engine_requests_total[1m]))")).values()
        assert rate > 0
        async with (
            aiohttp.ClientSession(headers={"X-API-Key": KEY}) as client,
            client.get(f"http://127.0.0.1:{port}/metrics") as response,
        ):
            text = await response.read()
    checked = await asyncio.to_thread(
        subprocess.run, [program("promtool"), "check", "metrics"], input=text, capture_output=True
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
