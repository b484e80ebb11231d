"""The requests of Open WebUI and LibreChat, as these programs send them, over plain HTTP.

Both are whole applications. What is here was read in their code: which addresses, which headers,
which fields in which form, and what they take from the answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from tests.support.formats import encode
from tests.support.recordings import spoken
from tests.support.service import MINIMAL, RunningService, running

VERSIONS = {"Open WebUI": "0.12.4", "LibreChat": "0.8.1-rc2"}
"""Those whose code was read."""

KEY = "sesame"
TEXT = "Hello world, how are you today?"
HEARD = "hello world"


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    settings = {"VOICE_ENGINE_API_KEY": KEY, "VOICE_ENGINE_PUBLIC_LISTS": "true"}
    with running({**MINIMAL, **settings}) as it:
        it.wait_ready()
        yield it


@pytest.fixture
async def session(service: RunningService) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(service.url) as it:
        yield it


@pytest.fixture(scope="module")
def recording() -> bytes:
    """What a browser records: Opus in WebM."""
    return encode(spoken(TEXT), "webm")


async def body_of(answer: aiohttp.ClientResponse) -> Any:
    assert answer.status == 200, await answer.text()
    return await answer.json()


async def sound_of(answer: aiohttp.ClientResponse) -> bytes:
    assert answer.status == 200, await answer.text()
    assert answer.content_type == "audio/mpeg"
    sound = await answer.read()
    assert len(sound) > 5_000
    return sound


# Open WebUI: api_base_url is http://localhost:8000/v1

BEARER = {"Authorization": f"Bearer {KEY}"}
ABOUT_THE_USER = {
    "X-OpenWebUI-User-Name": "J%C3%BCrgen",
    "X-OpenWebUI-User-Id": "7e3c",
    "X-OpenWebUI-User-Email": "j@example.org",
    "X-OpenWebUI-User-Role": "user",
}


async def test_open_webui_lists_models_and_voices(session: aiohttp.ClientSession) -> None:
    async with session.get("/v1/audio/models") as answer:
        models = (await body_of(answer))["models"]
    assert models
    assert all(model["id"] for model in models)
    async with session.get("/v1/audio/voices") as answer:
        voices = (await body_of(answer))["voices"]
    named = {voice["id"]: voice["name"] for voice in voices}
    assert {"slt", "rms", "awb", "kal16"} <= named.keys()
    assert all(isinstance(name, str) and name for name in named.values())
    # Each of them can be chosen.
    for voice in named:
        request = {"input": "Hi there, all of you.", "model": models[0]["id"], "voice": voice}
        async with session.post("/v1/audio/speech", json=request, headers=BEARER) as answer:
            await sound_of(answer)


@pytest.mark.parametrize("more", [{}, ABOUT_THE_USER])
async def test_open_webui_speaks(session: aiohttp.ClientSession, more: dict[str, str]) -> None:
    headers = {"Content-Type": "application/json", **BEARER, **more}
    request = {"input": TEXT, "voice": "alloy", "model": "tts-1"}
    async with session.post("/v1/audio/speech", json=request, headers=headers) as answer:
        await sound_of(answer)


@pytest.mark.parametrize("language", [None, "en", "en-US"])
async def test_open_webui_listens(
    session: aiohttp.ClientSession, recording: bytes, language: str | None
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(recording), 4096):
            yield recording[start : start + 4096]

    form = aiohttp.FormData()
    form.add_field("model", "whisper-1")
    if language is not None:
        form.add_field("language", language)
    form.add_field("file", pieces(), filename="0f6b2c9e.webm")  # the part has no length
    async with session.post("/v1/audio/transcriptions", data=form, headers=BEARER) as answer:
        assert HEARD in (await body_of(answer))["text"]


async def test_open_webui_says_why_a_key_is_wrong(session: aiohttp.ClientSession) -> None:
    request = {"input": TEXT, "voice": "alloy", "model": "tts-1"}
    headers = {"Authorization": "Bearer wrong"}
    async with session.post("/v1/audio/speech", json=request, headers=headers) as answer:
        assert answer.status == 401
        assert "API key" in (await answer.json())["error"]["message"]


async def test_open_webui_with_its_engine_elevenlabs(session: aiohttp.ClientSession) -> None:
    headers = {"xi-api-key": KEY, "Content-Type": "application/json"}
    async with session.get("/v1/models", headers=headers) as answer:
        models = {model["model_id"]: model["name"] for model in await body_of(answer)}
    assert models
    async with session.get("/v1/voices", headers=headers) as answer:
        voices = {voice["voice_id"]: voice["name"] for voice in (await body_of(answer))["voices"]}
    assert "slt" in voices
    request = {
        "text": TEXT,
        "model_id": "eleven_multilingual_v2",
        "voice_settings": {"stability": 0.5, "similarity_boost": 0.5},
    }
    headers["Accept"] = "audio/mpeg"
    async with session.post("/v1/text-to-speech/slt", json=request, headers=headers) as answer:
        await sound_of(answer)


# LibreChat: the url of a provider is a whole address, and axios sends what is defined

AXIOS = {"Accept": "application/json, text/plain, */*", "User-Agent": "axios/1.12.1"}


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"model": "tts-1", "voice": "nova"}, id="openai"),
        pytest.param({"model": "tts-1", "voice": "nova", "backend": "flite"}, id="backend"),
        pytest.param({"model": "tts-1"}, id="openai without voices"),
        pytest.param({"model": "slt", "backend": "flite"}, id="localai"),
        pytest.param({"backend": "flite"}, id="localai without voices"),
    ],
)
async def test_librechat_speaks(session: aiohttp.ClientSession, fields: dict[str, str]) -> None:
    request = {"input": TEXT, **fields}
    headers = {**AXIOS, **BEARER}
    async with session.post("/v1/audio/speech", json=request, headers=headers) as answer:
        await sound_of(answer)


@pytest.mark.parametrize("end", ["", "/stream"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {
            "voice_settings": {
                "similarity_boost": 0.75,
                "stability": 0.5,
                "style": 0.0,
                "use_speaker_boost": True,
            }
        },
    ],
)
async def test_librechat_speaks_with_elevenlabs(
    session: aiohttp.ClientSession, end: str, settings: dict[str, Any]
) -> None:
    headers = {**AXIOS, "xi-api-key": KEY, "Accept": "audio/mpeg"}
    request = {"model_id": "eleven_multilingual_v2", "text": TEXT, **settings}
    path = f"/v1/text-to-speech/21m00Tcm4TlvDq8ikWAM{end}"
    async with session.post(path, json=request, headers=headers) as answer:
        await sound_of(answer)


@pytest.mark.parametrize("language", [None, "en"])
async def test_librechat_listens(
    session: aiohttp.ClientSession, recording: bytes, language: str | None
) -> None:
    form = aiohttp.FormData()
    form.add_field("file", recording, filename="audio.webm", content_type="audio/webm")
    form.add_field("model", "whisper-1")
    if language is not None:
        form.add_field("language", language)
    headers = {**AXIOS, **BEARER}
    async with session.post("/v1/audio/transcriptions", data=form, headers=headers) as answer:
        assert HEARD in (await body_of(answer))["text"].strip()


async def test_librechat_gets_an_error_for_a_wrong_key(session: aiohttp.ClientSession) -> None:
    headers = {**AXIOS, "Authorization": "Bearer wrong"}
    async with session.post("/v1/audio/speech", json={"input": TEXT}, headers=headers) as answer:
        assert answer.status == 401
