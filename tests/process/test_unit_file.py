"""The systemd unit: systemd reads it, and the service runs under what it allows."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
from pathlib import Path

import aiohttp
import landlockpy
import pytest

from tests.support.confined import FILE, Confinement, allowed_calls, read_unit
from tests.support.programs import needs_program
from tests.support.service import (
    EMBEDDED,
    MINIMAL,
    ROOT,
    RunningService,
    production,
    running,
)

UNIT = ROOT / "ops" / "voice-engine.service"
LAYERS = ["rlimits", "no_new_privs", "landlock", "seccomp"]
HERE = {layer for layer in LAYERS if landlockpy.abi_version() or layer != "landlock"}
"""The layers of a worker's sandbox that this kernel has."""

pytestmark = needs_program("systemd-analyze")


def _analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False
    )


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    # At the places that it names there is something in this checkout alone.
    command = tmp_path / "serve"
    command.touch(mode=0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(
        UNIT.read_text().replace("/opt/voice-engine/.venv/bin/voice-engine", str(command))
    )
    done = _analyze("verify", "--man=no", str(unit))
    assert (done.returncode, done.stderr) == (0, "")


def test_what_the_unit_leaves_open_is_little() -> None:
    done = _analyze("security", "--offline=yes", "--threshold=20", str(UNIT))
    assert done.returncode == 0, done.stdout


def _confined(place: Path, engines: dict[str, str]) -> dict[str, str]:
    """Settings for a service that may do what the unit allows, and write below `place` alone."""
    unit = read_unit(UNIT)
    confinement = Confinement(
        allowed_calls(unit["SystemCallFilter"]), unit["RestrictAddressFamilies"], [str(place)]
    )
    (place / "confinement").write_text(json.dumps(dataclasses.asdict(confinement)))
    for name in ("tmp", "cache", "voices"):
        (place / name).mkdir()
    return {
        "VOICE_ENGINE_MODELS_DIR": str(place / "models"),
        **engines,
        FILE: str(place / "confinement"),
        "TMPDIR": str(place / "tmp"),
        "VOICE_ENGINE_CACHE_DIR": str(place / "cache"),
        "VOICES_DIR": str(place / "voices"),
    }


async def _serve_under_it(service: RunningService) -> None:
    """Both models serve, in sandboxes that are whole, and what dies is replaced."""
    await asyncio.to_thread(service.wait_ready)
    for child in service.children():
        assert child["sandbox"]["refused"] == {}
        assert set(child["sandbox"]["active"]) == HERE
    (worker,) = service.children(model="tts")
    os.kill(worker["pid"], signal.SIGKILL)
    async with aiohttp.ClientSession(service.url) as client:
        form = {"input": "The unit allows this.", "voice": "alloy", "response_format": "wav"}
        async with client.post("/v1/audio/speech", json=form) as response:
            speech = await response.read()
            assert response.status == 200, speech
        recording = aiohttp.FormData()
        recording.add_field("file", speech, filename="speech.wav")
        async with client.post("/v1/transcribe", data=recording) as response:
            assert response.status == 200, await response.text()
    assert await asyncio.to_thread(service.stop) == 0


async def test_the_service_runs_under_what_the_unit_allows(tmp_path: Path) -> None:
    settings = _confined(tmp_path, MINIMAL)
    with running(settings, module="tests.support.confined") as service:
        await _serve_under_it(service)


@pytest.mark.slow
@pytest.mark.neural
async def test_neural_engines_run_under_what_the_unit_allows(tmp_path: Path) -> None:
    settings = _confined(tmp_path, EMBEDDED)
    with running(settings, module="tests.support.confined") as service:
        await _serve_under_it(service)


@pytest.mark.slow
async def test_production_engines_run_under_what_the_unit_allows(
    tmp_path: Path, nano_models: Path
) -> None:
    settings = _confined(tmp_path, production(nano_models))
    with running(settings, module="tests.support.confined") as service:
        await _serve_under_it(service)
