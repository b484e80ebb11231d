"""The service as its users have it: the minimal engines, and the real ones on random weights."""

from __future__ import annotations

import asyncio
import contextlib
import io
import math
import os
import random
import signal
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import jiwer
import numpy as np
import psutil
import pytest
import pytest_asyncio

from tests.support.formats import FORMATS, encode
from tests.support.recordings import spoken
from tests.support.sentences import SENTENCES
from tests.support.service import MINIMAL, NET, RunningService, read_wav, running
from tests.support.service import production as production_settings
from tests.support.spoken import word_error_rate

SAID = " ".join(SENTENCES[2:4])


@pytest.fixture(scope="module")
def recording() -> bytes:
    """Somebody's voice, as a WAV."""
    return spoken(
        "The birch canoe slid on the smooth planks. Glue the sheet to the dark blue background."
    )


@pytest.fixture(scope="module")
def said() -> bytes:
    """A WAV of `SAID`."""
    return spoken(SAID)


@pytest.fixture(scope="module")
def minimal() -> Iterator[RunningService]:
    with running(MINIMAL) as service:
        service.wait_ready()
        yield service


@pytest.fixture(scope="module")
def understanding() -> Iterator[RunningService]:
    """A service that understands what is said, whichever bits a codec loses."""
    with running(MINIMAL | {"VOICE_ENGINE_STT_ENGINE": "whisper"}) as service:
        service.wait_ready()
        yield service


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def duration(understanding: RunningService, said: bytes) -> float:
    """Seconds of that WAV."""
    async with aiohttp.ClientSession(understanding.url) as client:
        _, transcript = await transcribe(client, said)
    return float(transcript["duration"])


@pytest.fixture(scope="module")
def production(nano_models: Path) -> Iterator[RunningService]:
    with running(production_settings(nano_models)) as service:
        service.wait_ready()
        yield service


@pytest.fixture(params=["minimal", "production"])
def service(request: pytest.FixtureRequest) -> RunningService:
    found: RunningService = request.getfixturevalue(request.param)
    return found


async def clone(
    client: aiohttp.ClientSession, text: str, reference: bytes, **options: str
) -> tuple[aiohttp.ClientResponse, bytes]:
    form = aiohttp.FormData({"text": text, **options})
    form.add_field("reference_audio", io.BytesIO(reference), filename="me.wav")
    async with client.post("/v1/clone", data=form) as response:
        return response, await response.read()


async def transcribe(
    client: aiohttp.ClientSession, recording: bytes, **options: str
) -> tuple[int, Any]:
    form = aiohttp.FormData(options)
    form.add_field("file", io.BytesIO(recording), filename="recording.wav")
    async with client.post("/v1/transcribe", data=form) as response:
        return response.status, await response.json()


def words(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalpha() or c in " '").strip()


async def test_what_is_spoken_is_understood(minimal: RunningService, recording: bytes) -> None:
    heard = []
    async with aiohttp.ClientSession(minimal.url) as client:
        for sentence in SENTENCES:
            response, wav = await clone(client, sentence, recording)
            assert response.status == 200
            status, transcript = await transcribe(client, wav)
            assert status == 200
            heard.append(words(transcript["text"]))
    assert len(SENTENCES) == 10
    assert jiwer.wer([words(sentence) for sentence in SENTENCES], heard) < 0.25


async def test_a_whole_answer_is_a_wav_with_its_length(
    service: RunningService, recording: bytes
) -> None:
    async with aiohttp.ClientSession(service.url) as client:
        response, body = await clone(client, "Hello there.", recording)
    assert response.status == 200
    assert response.content_type == "audio/wav"
    assert response.headers["Content-Length"] == str(len(body))
    rate, pcm = read_wav(body)
    assert response.headers["X-Sample-Rate"] == str(rate)
    assert len(pcm) > rate // 10
    seconds = len(pcm) / 2 / rate
    assert float(response.headers["X-Audio-Duration"]) == pytest.approx(seconds, abs=0.001)


async def test_a_stream_is_the_same_sound(service: RunningService, recording: bytes) -> None:
    text = "One sentence. And another one, which is longer."
    async with aiohttp.ClientSession(service.url) as client:
        _, whole = await clone(client, text, recording, seed="3")
        response, streamed = await clone(client, text, recording, seed="3", stream="true")
    assert response.headers["Transfer-Encoding"] == "chunked"
    assert streamed[44:] == whole[44:]


async def test_a_stream_survives_the_death_of_its_worker(
    service: RunningService, recording: bytes
) -> None:
    text = "This is a long text. " * 10
    async with aiohttp.ClientSession(service.url) as client:
        _, whole = await clone(client, text, recording, seed="3")
        form = aiohttp.FormData({"text": text, "seed": "3", "stream": "true"})
        form.add_field("reference_audio", recording, filename="me.wav")
        async with client.post("/v1/clone", data=form) as response:
            streamed = await response.content.readexactly(1000)
            (worker,) = service.children(model="tts")
            os.kill(worker["pid"], signal.SIGKILL)
            streamed += await response.read()
    assert streamed[44:] == whole[44:]


async def test_the_program_that_speaks_dies_with_its_worker(recording: bytes) -> None:
    with running(MINIMAL) as service:
        service.wait_ready()
        (worker,) = service.children(model="tts")
        async with aiohttp.ClientSession(service.url) as client:
            speaking: list[psutil.Process] = []
            while not speaking:
                # One sentence of several thousand words keeps flite busy for a while.
                long = asyncio.create_task(clone(client, "many words " * 450, recording))
                while not speaking and not long.done():
                    await asyncio.sleep(0)
                    speaking = stopped_children(worker["pid"])
            # It does not end by itself any more.
            service.process.kill()
            gone, alive = await asyncio.to_thread(psutil.wait_procs, speaking, timeout=NET)
            assert (len(gone), alive) == (1, [])
            with pytest.raises(aiohttp.ClientError):
                await long


def stopped_children(pid: int) -> list[psutil.Process]:
    """Those of a process, after SIGSTOP; none that have left before it."""
    children = []
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            child.suspend()
            if child.status() != psutil.STATUS_ZOMBIE:
                children.append(child)
    return children


async def test_a_transcript_has_its_fields(service: RunningService, recording: bytes) -> None:
    async with aiohttp.ClientSession(service.url) as client:
        status, transcript = await transcribe(client, recording)
    assert status == 200
    assert set(transcript) >= {"text", "language", "emotion", "events", "raw", "duration"}
    assert transcript["emotion"] in ("HAPPY", "SAD", "ANGRY", "NEUTRAL", "EMO_UNKNOWN")
    assert transcript["raw"].startswith(f"<|{transcript['language']}|>")
    assert "<|" not in transcript["text"]
    with wave.open(io.BytesIO(recording)) as wav:
        seconds = wav.getnframes() / wav.getframerate()
    assert transcript["duration"] == pytest.approx(seconds, abs=0.01)


async def test_health_names_the_engines(service: RunningService) -> None:
    models = service.health()["models"]
    profile = models["tts"]["profile"]
    engines = (models["tts"]["engine"], models["stt"]["engine"])
    assert (
        engines
        == {
            "minimal": ("flite", "sphinx"),
            "production": ("pocket", "sensevoice"),
        }[profile]
    )


async def test_an_approximation_says_so(minimal: RunningService, recording: bytes) -> None:
    async with aiohttp.ClientSession(minimal.url) as client:
        response, _ = await clone(client, "Hello.", recording)
    assert "approximate" in response.headers["X-Voice-Approximation"]
    assert any("approximate" in note for note in minimal.health()["models"]["tts"]["notes"])


def sine(seconds: float, rate: int = 16_000) -> bytes:
    """A WAV header and samples, of a tone."""
    time = np.arange(int(seconds * rate)) / rate
    samples = (0.3 * np.sin(2 * math.pi * 220 * time) * 32767).astype("<i2").tobytes()
    header = b"RIFF" + (36 + len(samples)).to_bytes(4, "little") + b"WAVEfmt \x10\0\0\0\1\0\1\0"
    header += rate.to_bytes(4, "little") + (2 * rate).to_bytes(4, "little") + b"\2\0\x10\0data"
    return header + len(samples).to_bytes(4, "little") + samples


BAD_RECORDINGS = {
    "text named .wav": (b"This is a letter, not a recording.", "invalid_audio"),
    "truncated": (sine(2)[:20_000], "invalid_audio"),
    "cut in the header": (sine(2)[:30], "invalid_audio"),
    "lying about its length": (sine(1) + b"\x80\x7f" * 25_000, "invalid_audio"),
    "no samples": (sine(0), "empty_audio"),
    "claim of much more": (sine(20)[:44] + sine(1)[44:], "invalid_audio"),
    "noise behind a good magic": (b"fLaC" + random.Random(0).randbytes(5000), "invalid_audio"),
    "playlist": (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "invalid_audio"),
}


@pytest.mark.parametrize("name", BAD_RECORDINGS)
async def test_a_bad_recording_is_refused_and_costs_no_worker(
    minimal: RunningService, name: str
) -> None:
    data, code = BAD_RECORDINGS[name]
    before = {child["name"]: child["pid"] for child in minimal.children()}
    async with aiohttp.ClientSession(minimal.url) as client:
        status, error = await transcribe(client, data)
        assert (status, error["error"]["code"]) == (400, code)
        assert "; " in error["detail"]  # what is wrong; what to do
        response, body = await clone(client, "Hello.", data)
        assert response.status == 400
        assert code.encode() in body
    assert {child["name"]: child["pid"] for child in minimal.children()} == before


async def test_twelve_minutes_are_the_limit(minimal: RunningService) -> None:
    async with aiohttp.ClientSession(minimal.url) as client:
        status, error = await transcribe(client, sine(725))
        assert (status, error["error"]["code"]) == (400, "audio_too_long")
        # For a reference the rest is left out instead.
        response, _ = await clone(client, "Hello.", sine(60))
        assert response.status == 200


async def test_an_option_of_another_engine_is_refused(
    minimal: RunningService, recording: bytes
) -> None:
    async with aiohttp.ClientSession(minimal.url) as client:
        response, body = await clone(client, "Hi.", recording, temperature="0.5")
        assert response.status == 400
        assert b"pocket" in body
        status, error = await transcribe(client, recording, language="zh")
        assert (status, error["error"]["code"]) == (400, "invalid_option")


async def test_punctuation_alone_cannot_be_spoken(
    minimal: RunningService, recording: bytes
) -> None:
    async with aiohttp.ClientSession(minimal.url) as client:
        response, body = await clone(client, "... !?", recording)
    assert response.status == 400
    assert b"empty_text" in body


@pytest.mark.neural
@pytest.mark.parametrize("name", FORMATS)
async def test_every_format_is_understood(
    understanding: RunningService, said: bytes, duration: float, name: str
) -> None:
    async with aiohttp.ClientSession(understanding.url) as client:
        converted = encode(said, name)
        status, transcript = await transcribe(client, converted)
        assert status == 200
        response, _ = await clone(client, "Hi there.", converted)
        assert response.status == 200
    assert transcript["duration"] == pytest.approx(duration, abs=0.15)
    assert word_error_rate([SAID], [transcript["text"]]) < 0.1
