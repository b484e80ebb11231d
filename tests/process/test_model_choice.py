"""Several models in one service: which of them a request, a voice or a mix of voices chooses."""

from __future__ import annotations

import asyncio
import io
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from ipc.wav_header import wav_header
from tests.support.service import Gate, RunningService, running

SETTINGS = {
    "VOICE_ENGINE_TTS_ENGINE": "tests.support.listening_engines:Hum,"
    "tests.support.listening_engines:Choir",
    "VOICE_ENGINE_STT_ENGINE": "tests.support.listening_engines:Meter,"
    "tests.support.listening_engines:Gauge",
}


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running(SETTINGS) as service:
        service.wait_until(
            lambda health: all(each["state"] == "SERVING" for each in health["models"].values())
        )
        yield service


@pytest.fixture
async def client(service: RunningService) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(service.url) as client:
        yield client


def recording() -> bytes:
    """A second of a tone."""
    time = np.arange(16_000) / 16_000
    samples = (10_000 * np.sin(2 * np.pi * 200 * time)).astype("<i2")
    return wav_header(16_000, len(samples)) + samples.tobytes()


class Spoken:
    """A response of a speech endpoint."""

    def __init__(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        self.status = response.status
        self.engine = response.headers.get("X-Voice-Engine")
        self.voice = response.headers.get("X-Voice-Id")
        self.warning = response.headers.get("X-Voice-Engine-Warning", "")
        self.error = body.decode() if self.status != 200 else ""
        self._body = body

    @property
    def loudness(self) -> float:
        """Of the sound, in which a voice is a loudness."""
        samples = np.frombuffer(self._body[44:], "<i2")
        return round(float(np.abs(samples).max()) / 32767, 2)


async def native(
    client: aiohttp.ClientSession, voice: str | None = None, model: str | None = None
) -> Spoken:
    """A request of /v1/tts."""
    body = {"text": "One.", "voice_id": voice, "model": model}
    sent = {name: value for name, value in body.items() if value is not None}
    async with client.post("/v1/tts", json=sent) as response:
        return Spoken(response, await response.read())


async def openai(
    client: aiohttp.ClientSession, voice: str | None = None, model: str | None = None
) -> Spoken:
    """The same for OpenAI's endpoint."""
    body = {"input": "One.", "voice": voice, "model": model, "response_format": "wav"}
    async with client.post("/v1/audio/speech", json=body) as response:
        return Spoken(response, await response.read())


async def elevenlabs(
    client: aiohttp.ClientSession, voice: str | None = None, model: str | None = None
) -> Spoken:
    """The same for ElevenLabs'."""
    path = urllib.parse.quote(voice or "hum", safe="+()")
    url = f"/v1/text-to-speech/{path}?output_format=wav_24000"
    async with client.post(url, json={"text": "One.", "model_id": model}) as response:
        return Spoken(response, await response.read())


ENDPOINTS = [native, openai, elevenlabs]


# By the model's name


@pytest.mark.parametrize("ask", ENDPOINTS)
@pytest.mark.parametrize(
    ("model", "engine"),
    [(None, "Hum"), ("Hum", "Hum"), ("tts-1", "Hum"), ("eleven_v3", "Hum"), ("chorus", "Hum")],
)
async def test_a_model_that_is_not_one_of_ours_is_the_default_one(
    client: aiohttp.ClientSession, ask: Any, model: str | None, engine: str
) -> None:
    spoken = await ask(client, model=model)
    assert (spoken.status, spoken.engine, spoken.warning) == (200, engine, "")


@pytest.mark.parametrize("ask", [native, openai])
async def test_a_model_speaks_in_its_own_default_voice(
    client: aiohttp.ClientSession, ask: Any
) -> None:
    spoken = await ask(client, model="Choir")
    assert (spoken.status, spoken.engine, spoken.loudness) == (200, "Choir", 0.2)
    assert spoken.voice == (None if ask is native else "af_bella")


@pytest.mark.parametrize("ask", ENDPOINTS)
async def test_an_engine_of_ours_that_does_not_run_is_replaced_with_a_warning(
    client: aiohttp.ClientSession, ask: Any
) -> None:
    spoken = await ask(client, model="kokoro")
    assert (spoken.status, spoken.engine) == (200, "Hum")
    assert spoken.warning == "no model kokoro for tts runs here; Hum was used"


async def test_a_recording_goes_to_the_model_of_the_request(
    client: aiohttp.ClientSession,
) -> None:
    form = aiohttp.FormData({"text": "One.", "model": "Choir"})
    form.add_field("reference_audio", io.BytesIO(recording()), filename="reference.wav")
    async with client.post("/v1/clone", data=form) as response:
        assert (response.status, response.headers["X-Voice-Engine"]) == (200, "Choir")


@pytest.mark.parametrize(
    ("url", "field", "told"),
    [
        ("/v1/transcribe", "model", "language"),
        ("/v1/audio/transcriptions", "model", "language"),
        ("/v1/speech-to-text", "model_id", "language_code"),
    ],
)
async def test_which_model_listens(
    client: aiohttp.ClientSession, url: str, field: str, told: str
) -> None:
    async def language(model: str) -> tuple[str, str]:
        """The first letter of its code, which may have two or three, and the warning."""
        form = aiohttp.FormData({field: model})
        form.add_field("file", io.BytesIO(recording()), filename="recording.wav")
        async with client.post(url, data=form) as response:
            assert response.status == 200, await response.text()
            warning = response.headers.get("X-Voice-Engine-Warning", "")
            return (await response.json())[told][0], warning

    assert await language("Gauge") == ("j", "")
    for model in ("Meter", "whisper-1", "scribe_v1"):
        assert await language(model) == ("e", "")
    warning = "no model whisper for stt runs here; Meter was used"
    assert await language("whisper") == ("e", warning)


# By a voice


@pytest.mark.parametrize("ask", ENDPOINTS)
async def test_a_built_in_voice_chooses_its_model(client: aiohttp.ClientSession, ask: Any) -> None:
    for model in (None, "tts-1", "Choir"):
        spoken = await ask(client, "JF_alpha", model)
        assert (spoken.status, spoken.engine, spoken.loudness) == (200, "Choir", 0.8)
    assert (await ask(client, "hum")).engine == "Hum"


@pytest.mark.parametrize("ask", ENDPOINTS)
async def test_a_voice_of_another_model_than_that_of_the_request_is_refused(
    client: aiohttp.ClientSession, ask: Any
) -> None:
    spoken = await ask(client, "hum", "Choir")
    assert spoken.status == 404
    assert "the model Choir has no voice 'hum'; it has af_bella, af_nova, jf_alpha" in spoken.error


@pytest.mark.parametrize("ask", ENDPOINTS)
@pytest.mark.parametrize(
    ("voice", "model", "engine", "loudness"),
    [
        ("nova", "Choir", "Choir", 0.4),
        # hpp4J3VqNfWAUOO0d1Us is ElevenLabs' Bella.
        ("hpp4J3VqNfWAUOO0d1Us", "Choir", "Choir", 0.2),
        # The third of OpenAI's voices, and no voice has its name.
        ("ballad", "Choir", "Choir", 0.8),
        ("nova", None, "Hum", 1.0),
    ],
)
async def test_names_of_other_services_mean_voices_of_the_same_name_else_of_their_place(
    client: aiohttp.ClientSession,
    ask: Any,
    *,
    voice: str,
    model: str | None,
    engine: str,
    loudness: float,
) -> None:
    spoken = await ask(client, voice, model)
    assert (spoken.status, spoken.engine, spoken.loudness) == (200, engine, loudness)


# Mixes


@pytest.mark.parametrize("ask", ENDPOINTS)
@pytest.mark.parametrize(
    ("mix", "loudness"),
    [
        ("af_bella+af_nova", 0.3),
        ("af_bella(3)+jf_alpha(1)", 0.35),
        ("AF_Bella + Af_nova", 0.3),
        ("af_nova(2)", 0.4),
        ("af_nova+af_nova", 0.4),
    ],
)
async def test_a_mix_of_voices_is_spoken_by_their_model(
    client: aiohttp.ClientSession, ask: Any, mix: str, loudness: float
) -> None:
    for model in (None, "Choir"):
        spoken = await ask(client, mix, model)
        assert (spoken.status, spoken.engine, spoken.loudness) == (200, "Choir", loudness), (
            spoken.error
        )


@pytest.mark.parametrize("ask", ENDPOINTS)
@pytest.mark.parametrize(
    ("mix", "model", "status", "error"),
    [
        ("af_bella+af_sky", None, 404, "there is no voice 'af_sky' to mix; choir mixes af_bella"),
        ("af_bella+hum", None, 404, "there is no voice 'hum' to mix"),
        ("af_bella+", None, 400, "is no mix of voices; write name+name"),
        ("af_bella(x)", None, 400, "is no mix of voices; write name+name"),
        ("af_bella(0)+af_nova(0)", None, 400, "are all 0"),
        ("af_bella+mine", None, 400, "the registered voice 'mine' cannot be mixed"),
        ("af_bella+af_nova", "Hum", 404, "the model Hum has no voice 'af_bella+af_nova'"),
    ],
)
async def test_what_is_no_mix_is_refused(
    client: aiohttp.ClientSession, ask: Any, *, mix: str, model: str | None, status: int, error: str
) -> None:
    form = aiohttp.FormData({"voice_id": "mine"})
    form.add_field("audio", io.BytesIO(recording()), filename="a")
    async with client.post("/v1/voices/register", data=form) as response:
        assert response.status == 200
    spoken = await ask(client, mix, model)
    assert spoken.status == status, spoken.error
    assert error in spoken.error


async def test_a_mix_needs_a_model_that_mixes() -> None:
    settings = {"VOICE_ENGINE_TTS_ENGINE": "tests.support.listening_engines:Hum"}
    with running(settings) as service:
        async with aiohttp.ClientSession(service.url) as client:
            spoken = await native(client, "hum+hum(2)+other")
    assert spoken.status == 400
    assert "no model that runs here mixes voices" in spoken.error


# Lists


async def test_the_lists_tell_which_voice_belongs_to_which_model(
    client: aiohttp.ClientSession,
) -> None:
    async with client.get("/v1/voices") as response:
        voices = {voice["id"]: voice for voice in (await response.json())["voices"]}
    told = {
        voice["id"]: (voice["model"], voice["language"])
        for voice in voices.values()
        if voice["type"] == "builtin"
    }
    assert told == {
        "hum": ("Hum", "en"),
        "af_bella": ("Choir", "en"),
        "af_nova": ("Choir", "en"),
        "jf_alpha": ("Choir", "ja"),
    }
    assert {each["model"] for each in voices.values() if each["type"] != "builtin"} <= {None}
    async with client.get("/v1/voices/nova") as response:
        assert (await response.json())["id"] == "hum"
    async with client.get("/v1/models") as response:
        models = {model["id"]: model for model in (await response.json())["data"]}
    assert models["Hum"]["options"] == []
    facts = ("kind", "engine", "default", "languages", "state")
    assert {name: tuple(models[name][fact] for fact in facts) for name in models} == {
        "Hum": ("tts", "Hum", True, ["en"], "SERVING"),
        "Choir": ("tts", "Choir", False, ["en", "ja"], "SERVING"),
        "Meter": ("stt", "Meter", True, ["en"], "SERVING"),
        "Gauge": ("stt", "Gauge", False, ["ja"], "SERVING"),
        **dict.fromkeys(
            ("tts-1", "tts-1-hd", "gpt-4o-mini-tts"), ("tts", "Hum", True, ["en"], "SERVING")
        ),
        **dict.fromkeys(
            (
                *("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe"),
                "gpt-4o-transcribe-diarize",
            ),
            ("stt", "Meter", True, ["en"], "SERVING"),
        ),
    }


async def test_what_an_unloaded_model_has_stays_known() -> None:
    settings = {
        **SETTINGS,
        "VOICE_ENGINE_IDLE_UNLOAD": "0.2",
        "VOICE_ENGINE_PING_INTERVAL": "0.1",
    }
    with running(settings) as service:
        for model in ("tts", "Choir"):
            await asyncio.to_thread(service.wait_for, "unloaded", model=model)
        async with aiohttp.ClientSession(service.url) as client:
            async with client.get("/v1/voices") as response:
                voices = [voice["id"] for voice in (await response.json())["voices"]]
            assert voices == ["hum", "af_bella", "af_nova", "jf_alpha"]
            async with client.get("/v1/models/Choir") as response:
                model = await response.json()
            assert (model["state"], model["languages"]) == ("UNLOADED", ["en", "ja"])
            spoken = await native(client, "af_bella+jf_alpha")
            assert (spoken.status, spoken.engine, spoken.loudness) == (200, "Choir", 0.5)
        assert [e["model"] for e in service.events if e["event"] == "loading"] == ["Choir"]


async def test_a_voice_waits_for_the_model_that_may_have_it(tmp_path: Path, gate: Gate) -> None:
    settings = {
        "VOICE_ENGINE_TTS_ENGINE": "tests.support.listening_engines:Hum,"
        "tests.support.listening_engines:LateChoir",
        "VOICE_TEST_HOLD": str(gate),
    }
    with running(settings) as service:
        await asyncio.to_thread(service.wait_ready)
        async with aiohttp.ClientSession(service.url) as client:
            asked = [
                asyncio.create_task(native(client, voice))
                for voice in ("af_nova", "af_nova+af_bella", "nobody", "hum")
            ]
            assert (await asked[3]).engine == "Hum"
            gate.open()
            alone, mixed, nobody, _ = await asyncio.gather(*asked)
    assert (alone.status, alone.engine) == (200, "LateChoir")
    assert (mixed.status, mixed.engine) == (200, "LateChoir")
    assert nobody.status == 404
