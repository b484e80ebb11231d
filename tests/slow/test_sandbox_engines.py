"""The engines in their sandbox: all formats, large uploads, registered voices, recycling."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from ipc.formats import FORMATS
from tests.support.mutations import recordings
from tests.support.recordings import spoken
from tests.support.sentences import SENTENCES
from tests.support.service import EMBEDDED, MINIMAL, RunningService, production, running

TEXT = "The quick brown fox jumps over the lazy dog."
LARGE = " ".join(SENTENCES[:3])
"""Spoken, it is larger than what stays in memory. What repeats itself, Whisper tries many times."""


@pytest.fixture(scope="module", params=["minimal", "production"])
def service(request: pytest.FixtureRequest, nano_models: Path) -> Iterator[RunningService]:
    """Both models of one profile, with the sandbox that they have without any setting."""
    profiles = {"minimal": MINIMAL, "embedded": EMBEDDED, "production": production(nano_models)}
    with running(profiles[request.param]) as service:
        service.wait_ready()
        yield service
        assert all(child["sandbox"]["active"] for child in service.children())
        ends = [entry for entry in service.events if entry["event"] == "worker_died"]
        denied = [entry for entry in service.events if "ermission" in str(entry.get("line"))]
        assert (ends, denied) == ([], [])


async def clone(service: RunningService, reference: bytes, **options: str) -> bytes:
    """Speech in the voice of `reference`."""
    form = aiohttp.FormData({"text": "Hello world.", **options})
    form.add_field("reference_audio", io.BytesIO(reference), filename="reference")
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post("/v1/clone", data=form) as response,
    ):
        assert response.status == 200, await response.text()
        return await response.read()


async def transcribe(service: RunningService, recording: bytes) -> str:
    """What was heard."""
    form = aiohttp.FormData()
    form.add_field("file", io.BytesIO(recording), filename="recording")
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post("/v1/transcribe", data=form) as response,
    ):
        assert response.status == 200, await response.text()
        return str((await response.json())["text"])


@pytest.mark.parametrize("name", [name for name, each in FORMATS.items() if each.everywhere])
async def test_every_format_is_made(service: RunningService, name: str) -> None:
    made = await clone(service, spoken(TEXT), response_format=name, speed="1.25")
    assert len(made) > 1000
    if name != "pcm":
        await transcribe(service, made)


@pytest.mark.parametrize("name", sorted(recordings()))
async def test_every_kind_of_recording_is_read(service: RunningService, name: str) -> None:
    recording = recordings()[name]
    await transcribe(service, recording)
    await clone(service, recording)


def encoded(service: RunningService) -> list[Path]:
    """The encoded voices that its workers have written."""
    return list(Path(f"{service.folder.name}/voices/.encoded").rglob("*.voice"))


@pytest.mark.parametrize(
    "service",
    ["minimal", pytest.param("embedded", marks=pytest.mark.neural), "production"],
    indirect=True,
)
async def test_large_uploads_voices_and_successors(service: RunningService) -> None:
    large = spoken(LARGE)
    assert len(large) > 128 * 1024
    form = aiohttp.FormData({"voice_id": "large"})
    form.add_field("audio", io.BytesIO(large), filename="large.wav")
    async with aiohttp.ClientSession(service.url) as client:
        async with client.post("/v1/voices/register", data=form) as response:
            assert response.status == 200, await response.text()
        for _ in range(2):
            await transcribe(service, large)
            await clone(service, large)
            async with client.post(
                "/v1/tts", json={"text": "Hello.", "voice_id": "large"}
            ) as response:
                assert response.status == 200, await response.text()
                assert len(await response.read()) > 1000
            assert encoded(service)
            for child in service.children():
                async with client.post(f"/v1/children/{child['name']}/recycle") as response:
                    assert response.status < 300
                await asyncio.to_thread(service.wait_for, "recycled", child=child["name"])
