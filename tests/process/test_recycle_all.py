"""ops/recycle_all.py against the real service under load; without site-packages, as elsewhere."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.support.proxies import free_port
from tests.support.service import (
    NET,
    ROOT,
    Gate,
    RunningService,
    recording_form,
    running,
    script_form,
)

WORKERS = {"VOICE_ENGINE_TTS_WORKERS": "3", "VOICE_ENGINE_STT_WORKERS": "2"}


def recycle_all(
    url: str, *arguments: str, folder: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-S", ROOT / "ops" / "recycle_all.py", "--url", url, *arguments],
        env=os.environ | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=NET,
        check=False,
    )


class Load:
    """Clients that send one request after the other, whole answers, streams and transcriptions."""

    def __init__(self, service: RunningService) -> None:
        self._service = service
        self._stopped = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.statuses: list[int] = []

    async def __aenter__(self) -> Load:
        kinds = ("clone", "stream", "transcribe") * 2
        self._tasks = [asyncio.create_task(self._use(kind)) for kind in kinds]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._stopped.set()
        await asyncio.gather(*self._tasks)

    async def _use(self, kind: str) -> None:
        async with aiohttp.ClientSession(self._service.url) as client:
            while not self._stopped.is_set():
                if kind == "transcribe":
                    path, form = "/v1/transcribe", recording_form("segment one; sleep 0.02")
                else:
                    stream = str(kind == "stream").lower()
                    path, form = "/v1/clone", script_form("say 2; sleep 0.02", stream=stream)
                async with client.post(path, data=form) as response:
                    await response.read()  # raises when a stream is cut off
                    self.statuses.append(response.status)


@pytest.mark.quick
async def test_every_worker_is_another_one_and_no_request_fails(tmp_path: Path) -> None:
    with running(WORKERS | {"VOICE_ENGINE_ADMIN_KEY": "open-sesame"}) as service:
        before = {child["pid"] for child in service.children()}
        async with Load(service) as load:
            done = await asyncio.to_thread(
                recycle_all,
                service.url,
                *("--reason", "new glibc"),
                folder=tmp_path,  # any folder
                VOICE_ENGINE_ADMIN_KEY="open-sesame",
            )
        assert (done.returncode, done.stderr) == (0, "")
        assert len(load.statuses) > 10
        assert set(load.statuses) == {200}
        after = {child["pid"] for child in service.children()}
        assert len(after) == 5
        assert not before & after
        service.wait_for("act", act="recycle", why="new glibc", count=5)
    lines = done.stdout.splitlines()
    assert lines[-1] == "all 5 workers are replaced"
    for number, line in enumerate(lines[:-1], 1):
        assert re.fullmatch(rf"{number}/5  (tts|stt)-\d+ -> \1-\d+  \d+\.\d s", line)


async def test_it_waits_for_a_worker_that_is_busy_and_gives_up_in_time(gate: Gate) -> None:
    with running() as service:
        service.wait_ready()
        async with aiohttp.ClientSession(service.url) as client:
            script = f"print begun; wait {gate}; say 1"
            request = asyncio.create_task(_status(client, script))
            await asyncio.to_thread(service.wait_for, "child_output", line="begun")
            (worker,) = service.children(model="tts")
            done = await asyncio.to_thread(recycle_all, service.url, "--patience", "0.5")
            assert done.returncode == 1
            assert f"{worker['name']} is not replaced after" in done.stderr
            gate.open()
            assert await request == 200
        assert (await asyncio.to_thread(recycle_all, service.url)).returncode == 0


async def _status(client: aiohttp.ClientSession, script: str) -> int:
    async with client.post("/v1/clone", data=script_form(script)) as response:
        await response.read()
        return response.status


def test_without_the_key_nothing_is_replaced() -> None:
    with running({"VOICE_ENGINE_ADMIN_KEY": "open-sesame"}) as service:
        service.wait_ready()
        before = service.children()
        done = recycle_all(service.url, VOICE_ENGINE_ADMIN_KEY="guessed")
        assert done.returncode == 1
        assert "cannot be recycled (401)" in done.stderr
        assert [child["pid"] for child in service.children()] == [c["pid"] for c in before]


def test_nobody_there_is_down() -> None:
    done = recycle_all(f"http://127.0.0.1:{free_port()}", "--patience", "0")
    assert done.returncode == 2
    assert "no response from" in done.stderr


def test_wrong_usage_has_a_code_of_its_own() -> None:
    assert recycle_all("http://127.0.0.1", "--never").returncode == 64
