"""Named voices over HTTP: ids, downloads, and many clients that change one voice at a time."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import aiohttp
import numpy as np
import pytest
import soundfile

from supervisor.http.shared.synthesis import cached_id
from tests.support.service import RunningService, running

pytestmark = pytest.mark.quick

HUM = {"VOICE_ENGINE_TTS_ENGINE": "tests.support.listening_engines:Hum"}


def recording(form: str = "WAV", pitch: float = 200.0) -> bytes:
    time = np.arange(16_000) / 16_000
    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * pitch * time), 16_000, format=form)
    return file.getvalue()


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running(HUM) as service:
        service.wait_ready()
        yield service


@pytest.fixture
async def client(service: RunningService) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(service.url) as client:
        yield client


async def register(client: aiohttp.ClientSession, voice_id: str, data: bytes) -> tuple[int, str]:
    """Status and, of an error, what it says."""
    form = aiohttp.FormData({"voice_id": voice_id})
    form.add_field("audio", io.BytesIO(data), filename="a")
    async with client.post("/v1/voices/register", data=form) as response:
        return response.status, (await response.json()).get("detail", "")


@pytest.mark.parametrize("voice_id", ["", "a b", "../a", "ä", "a" * 65, "a\n"])
async def test_what_an_id_may_be_is_said_in_words(
    client: aiohttp.ClientSession, voice_id: str
) -> None:
    status, detail = await register(client, voice_id, recording())
    assert status == 400
    assert detail.endswith("is 1 to 64 of the letters a to z and A to Z, digits, - and _")


async def test_no_voice_takes_the_id_of_another_kind(client: aiohttp.ClientSession) -> None:
    for voice_id in ("hum", cached_id("0" * 64)):
        status, detail = await register(client, voice_id, recording())
        assert status == 409
        assert detail.endswith("use another id")


@pytest.mark.parametrize(("form", "name"), [("WAV", "a.wav"), ("MP3", "a.mp3"), ("OGG", "a.ogg")])
async def test_a_recording_is_saved_under_a_name_that_programs_know(
    client: aiohttp.ClientSession, form: str, name: str
) -> None:
    data = recording(form)
    assert (await register(client, "a", data))[0] == 200
    async with client.get("/v1/voices/a/audio") as response:
        assert response.headers["Content-Disposition"] == f'attachment; filename="{name}"'
        assert await response.read() == data
    async with client.get("/v1/voices/a/audio", headers={"Range": "bytes=4-7"}) as response:
        assert (response.status, await response.read()) == (206, data[4:8])


async def test_one_voice_that_many_change_is_whole_or_not_there(
    client: aiohttp.ClientSession,
) -> None:
    sent = [recording(pitch=pitch) for pitch in (100.0, 200.0, 300.0)]
    seen: Counter[tuple[str, int]] = Counter()

    async def change(number: int) -> None:
        if number % 2:
            async with client.delete("/v1/voices/shared") as response:
                seen["delete", response.status] += 1
        else:
            status, _ = await register(client, "shared", sent[number % 3])
            seen["register", status] += 1

    async def use() -> None:
        async with client.get("/v1/voices/shared/audio") as response:
            seen["audio", response.status] += 1
            assert response.status == 404 or await response.read() in sent
        order = {"text": "Hello.", "voice_id": "shared"}
        async with client.post("/v1/tts", json=order) as response:
            seen["tts", response.status] += 1
            await response.read()

    await asyncio.gather(*(change(number) for number in range(20)), *(use() for _ in range(20)))
    assert seen["register", 200] == 10
    assert set(seen) <= {
        (what, status)
        for what in ("delete", "audio", "tts", "register")
        for status in ((200,) if what == "register" else (200, 404))
    }
