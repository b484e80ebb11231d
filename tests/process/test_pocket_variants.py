"""Pocket TTS in several languages and sizes: loaded when asked for, unloaded for others."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from model_procs.weights.synthetic.pocket import write_variant
from tests.support.service import RunningService, running

SMALL = "english_2m_2026-10"
SETTINGS = {
    "VOICE_ENGINE_TTS_ENGINE": "pocket",
    "VOICE_ENGINE_MEMORY_LIMIT_MB": "4096",
    "VOICE_ENGINE_PING_INTERVAL": "0.2",
}


@pytest.fixture(scope="module")
def models(nano_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model, two languages and a small size."""
    folder = tmp_path_factory.mktemp("variants")
    shutil.copytree(nano_models / "pocket-tts", folder / "pocket-tts")
    for variant in ("french", "german", SMALL):
        write_variant(folder, variant, "nano")
    return folder


@pytest.fixture
def service(request: pytest.FixtureRequest, models: Path) -> Iterator[RunningService]:
    changed = getattr(request, "param", {})
    with running({**SETTINGS, "VOICE_ENGINE_MODELS_DIR": str(models), **changed}) as service:
        service.wait_ready()
        yield service


async def speak(service: RunningService, **fields: Any) -> aiohttp.ClientResponse:
    """The answer to a short request, whose sound has been read."""
    asked = {"text": "Bonjour.", "seed": 1, **fields}
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post("/v1/tts", json=asked) as response,
    ):
        assert len(await response.read()) > 1000
        return response


async def spoken_by(service: RunningService, **fields: Any) -> str:
    response = await speak(service, **fields)
    assert response.status == 200
    return response.headers["X-Voice-Engine"]


def states(service: RunningService) -> dict[str, str]:
    """Of the models for speech, without `pocket-`."""
    return {
        name.removeprefix("pocket-"): model["state"]
        for name, model in service.health()["models"].items()
        if model["kind"] == "tts"
    }


def told(service: RunningService, event: str) -> list[tuple[str, str]]:
    """The model and the reason of each such event."""
    return [(e["model"], e["reason"]) for e in service.events if e["event"] == event]


async def test_in_four_gigabytes_each_is_loaded_when_it_is_asked_for(
    service: RunningService,
) -> None:
    """By model, by the library's name, by language; one at a time, because only one fits."""
    at_first = {"tts": "SERVING", "french": "UNLOADED", "german": "UNLOADED", SMALL: "UNLOADED"}
    assert states(service) == at_first
    health = service.health()
    assert (health["status"], health["tts_loaded"]) == ("ok", True)
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.get("/v1/models") as response,
    ):
        listed = {entry["id"]: entry for entry in (await response.json())["data"]}
    assert listed["pocket-french"]["languages"] == ["fr"]
    assert listed[f"pocket-{SMALL}"]["state"] == "UNLOADED"
    assert told(service, "loading") == []

    assert await spoken_by(service) == "pocket"
    assert await spoken_by(service, language="fr") == "pocket-french"
    assert states(service) == {**at_first, "french": "SERVING"}
    assert await spoken_by(service, model="pocket-german") == "pocket-german"
    assert await spoken_by(service, model=SMALL) == f"pocket-{SMALL}"
    assert await spoken_by(service, voice_id="alba") == "pocket"
    assert told(service, "loading") == [
        (f"pocket-{name}", "a request") for name in ("french", "german", SMALL)
    ]
    assert told(service, "unloaded") == [
        (f"pocket-{name}", "another model needs its memory") for name in ("french", "german")
    ]
    # The default model has been left alone.
    assert states(service) == {**at_first, SMALL: "SERVING"}

    # All of them at once: they take turns.
    wanted = ("pocket-french", "pocket", f"pocket-{SMALL}") * 3
    found = await asyncio.gather(*(spoken_by(service, model=name) for name in wanted))
    assert found == [*wanted]
    assert [e for e in service.events if e["event"] in ("worker_died", "start_failed")] == []


@pytest.mark.parametrize(
    ("service", "watched"),
    [
        ({"VOICE_ENGINE_ON_DEMAND_UNLOAD": "0.5", "VOICE_ENGINE_WATCH_MODELS": pause}, pause != "0")
        for pause in ("0", "0.2")
    ],
    indirect=["service"],
    ids=["a reload", "the watch"],
)
async def test_an_idle_one_is_unloaded_and_new_ones_are_found(
    service: RunningService, models: Path, watched: bool
) -> None:
    first = await speak(service, language="fr")
    await asyncio.to_thread(service.wait_for, "unloaded", model="pocket-french")
    assert told(service, "unloaded") == [("pocket-french", "no request for 0.5 s")]
    assert {child["model"] for child in service.children("template")} == {"tts", "stt"}
    again = await speak(service, language="fr")
    assert again.headers["X-Audio-Duration"] == first.headers["X-Audio-Duration"]
    await asyncio.to_thread(service.wait_for, "unloaded", model="pocket-french", count=2)

    # What is missing is told, and taken up when it comes; nothing is loaded that nobody wants.
    response = await speak(service, language="it")
    assert response.headers["X-Voice-Engine"] == "pocket"
    assert "pocket-tts/italian" in response.headers["X-Voice-Engine-Warning"]
    response = await speak(service, model="pocket-italian")
    assert "no model pocket-italian" in response.headers["X-Voice-Engine-Warning"]
    write_variant(models, "italian", "nano")
    try:
        if watched:
            await asyncio.to_thread(service.wait_for, "weights_found", model="pocket-italian")
        else:
            service.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(service.wait_for, "reloaded", model="tts")
        assert states(service)["italian"] == "UNLOADED"
        assert len(told(service, "loading")) == 2
        assert await spoken_by(service, language="it") == "pocket-italian"
    finally:
        shutil.rmtree(models / "pocket-tts/italian")
