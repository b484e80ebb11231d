"""5,000 spoilt recordings through the whole service: each is answered, and none ends a worker."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import numpy as np
import pytest
import soundfile

from tests.support.mutations import recordings, spoil
from tests.support.service import RunningService, read_wav, running

BLOCKS, BLOCK = 10, 500
CONNECTIONS = 8
REFUSED = {"invalid_audio", "empty_audio", "audio_too_long"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    spool = tmp_path_factory.mktemp("spool")
    settings = {
        "VOICE_ENGINE_TTS_ENGINE": "tests.support.listening_engines:Hum",
        "VOICE_ENGINE_STT_ENGINE": "tests.support.listening_engines:Meter",
        "VOICE_ENGINE_SPOOL_DIR": str(spool),
        "VOICE_ENGINE_SPOOL_THRESHOLD_KB": "8",  # so that some come as files and some do not
    }
    with running(settings) as service:
        service.wait_ready()
        before = service.children()
        yield service
        after = service.children()
        assert [child["pid"] for child in after] == [child["pid"] for child in before]
        assert [event for event in service.events if event["event"] == "worker_died"] == []
        assert [event for event in service.events if event.get("level") == "error"] == []
        # What a header claims is never allocated.
        assert max(child["rss_mb"] for child in after) < 200
        assert [path.name for path in Path(spool).rglob("*") if path.is_file()] == ["lock"]


@pytest.mark.parametrize("block", range(BLOCKS))
async def test_spoilt_recordings(service: RunningService, block: int) -> None:
    seeds = iter(range(block * BLOCK, (block + 1) * BLOCK))
    statuses: Counter[int] = Counter()

    async def send_all(client: aiohttp.ClientSession) -> None:
        for seed in seeds:
            what, data = spoil(recordings(), seed)
            status = await (clone if seed % 2 else transcribe)(client, data, what)
            statuses[status] += 1
            if seed % 10 == 0:
                # Those that are sent between them do not suffer.
                assert await transcribe(client, recordings()["opus"], "whole") == 200

    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(service.url, connector=connector) as client:
        await asyncio.gather(*(send_all(client) for _ in range(CONNECTIONS)))
    assert statuses.total() == BLOCK
    assert min(statuses[200], statuses[400]) > BLOCK // 10


@pytest.mark.parametrize("container", ["FLAC", "OGG"])
async def test_hours_of_silence_in_a_small_file(service: RunningService, container: str) -> None:
    """Behind a second of sound, because silence is no voice."""
    file = io.BytesIO()
    codec = {"FLAC": "PCM_16", "OGG": "OPUS"}[container]
    with soundfile.SoundFile(file, "w", 8_000, 1, codec, format=container) as sound:
        sound.write((3_000 * np.sin(np.arange(8_000) / 5)).astype(np.int16))
        for _ in range(20):
            sound.write(np.zeros(8_000 * 60, np.int16))
    data = file.getvalue()
    assert len(data) < 1_000_000
    async with aiohttp.ClientSession(service.url) as client:
        assert await clone(client, data, "silence") == 200  # the beginning is enough
        assert await transcribe(client, data, "silence") == 400


async def clone(client: aiohttp.ClientSession, data: bytes, what: str) -> int:
    form = aiohttp.FormData({"text": "Hm."})
    form.add_field("reference_audio", data, filename="recording")
    async with client.post("/v1/clone", data=form) as response:
        if response.status == 200:
            assert read_wav(await response.read())[0] == 24_000
        else:
            await assert_refused(response, what)
        return response.status


async def transcribe(client: aiohttp.ClientSession, data: bytes, what: str) -> int:
    form = aiohttp.FormData()
    form.add_field("file", data, filename="recording")
    async with client.post("/v1/transcribe", data=form) as response:
        if response.status == 200:
            assert (await response.json())["duration"] > 0
        else:
            await assert_refused(response, what)
        return response.status


async def assert_refused(response: aiohttp.ClientResponse, what: str) -> None:
    assert response.status == 400, what
    assert (await response.json())["error"]["code"] in REFUSED, what
