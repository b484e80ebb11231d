"""What clients call the languages of recordings: the same at each of the three endpoints."""

from __future__ import annotations

import io
from collections.abc import Iterator

import aiohttp
import pytest

from ipc.wav_header import wav_header
from tests.support.service import MINIMAL, RunningService, running

SILENCE = wav_header(16_000, 8_000) + bytes(16_000)


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running(MINIMAL) as service:
        service.wait_ready()
        yield service


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/transcribe", "language"),
        ("/v1/audio/transcriptions", "language"),
        ("/v1/audio/transcriptions", "languages[]"),
        ("/v1/speech-to-text", "language_code"),
    ],
)
@pytest.mark.parametrize(
    ("given", "status"), [("en-US", 200), ("eng", 200), ("english", 200), ("", 200), ("fr-FR", 400)]
)
async def test_every_endpoint_takes_them(
    service: RunningService, path: str, field: str, given: str, status: int
) -> None:
    form = aiohttp.FormData({field: given} | ({"model": "whisper-1"} if "audio" in path else {}))
    form.add_field("file", io.BytesIO(SILENCE), filename="silence.wav")
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post(path, data=form) as response,
    ):
        assert response.status == status
        assert ("'fr'" in await response.text()) == (status == 400)
