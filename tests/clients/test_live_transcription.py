"""Live transcription by Whisper, through the clients of OpenAI and ElevenLabs, and our own way."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import aiohttp
import elevenlabs
import pytest
import soundfile
import soxr
from elevenlabs.realtime.connection import RealtimeEvents
from elevenlabs.realtime.scribe import AudioFormat, CommitStrategy
from openai import AsyncOpenAI
from openai.types.realtime import (
    ConversationItemInputAudioTranscriptionCompletedEvent,
    ConversationItemInputAudioTranscriptionDeltaEvent,
    InputAudioBufferSpeechStartedEvent,
    SessionCreatedEvent,
    SessionUpdatedEvent,
)

from tests.support.formats import encode
from tests.support.human import HUMAN, human
from tests.support.service import MINIMAL, RunningService, running
from tests.support.spoken import word_error_rate

KEY = "sesame"
NAME = "beckett.wav"
SAID = HUMAN[NAME]
PIECE = 4800
"""Bytes that are sent at once: 100 ms at 24 kHz."""


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    settings = {"VOICE_ENGINE_STT_ENGINE": "whisper", "VOICE_ENGINE_API_KEY": KEY}
    with running({**MINIMAL, **settings}) as it:
        it.wait_ready()
        yield it


def pcm(rate: int) -> bytes:
    """What a person said, and two seconds of silence."""
    samples, own = soundfile.read(io.BytesIO(human(NAME)), dtype="float32")
    sound = soxr.resample(samples, own, rate) * 32767
    return bytes(sound.astype("<i2").tobytes() + bytes(4 * rate))


def pieces(sound: bytes) -> list[bytes]:
    return [sound[at : at + PIECE] for at in range(0, len(sound), PIECE)]


async def test_openai_typed_client(service: RunningService) -> None:
    client = AsyncOpenAI(base_url=f"{service.url}/v1", api_key=KEY)
    texts: list[str] = []
    deltas: dict[str, str] = {}
    async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        assert isinstance(await connection.recv(), SessionCreatedEvent)
        await connection.session.update(
            session={
                "type": "transcription",
                "audio": {
                    "input": {
                        "format": {"type": "audio/pcm", "rate": 24_000},
                        "transcription": {"model": "gpt-4o-transcribe", "language": "en"},
                        "turn_detection": {"type": "server_vad", "silence_duration_ms": 900},
                    }
                },
            }
        )
        updated = await connection.recv()
        assert isinstance(updated, SessionUpdatedEvent)

        async def send() -> None:
            for piece in pieces(pcm(24_000)):
                await connection.input_audio_buffer.append(audio=base64.b64encode(piece).decode())
            await connection.input_audio_buffer.commit()

        sending = asyncio.create_task(send())
        started = 0
        async for event in connection:
            assert event.type != "error", event
            match event:
                case InputAudioBufferSpeechStartedEvent():
                    started += 1
                case ConversationItemInputAudioTranscriptionDeltaEvent():
                    told = deltas.get(event.item_id, "")
                    deltas[event.item_id] = told + (event.delta or "")
                case ConversationItemInputAudioTranscriptionCompletedEvent():
                    assert event.usage.type == "duration"
                    texts.append(event.transcript)
                    if not event.transcript:  # of the commit, after all that was said
                        break
        await sending
    assert started >= 2
    assert word_error_rate([SAID], [" ".join(texts)]) < 0.25
    assert word_error_rate([SAID], [" ".join(deltas.values())]) < 0.35


@pytest.mark.parametrize("strategy", [CommitStrategy.MANUAL, CommitStrategy.VAD])
async def test_elevenlabs_python(service: RunningService, strategy: CommitStrategy) -> None:
    client = elevenlabs.AsyncElevenLabs(base_url=service.url, api_key=KEY)
    connection = await client.speech_to_text.realtime.connect(
        {
            "model_id": "scribe_v2_realtime",
            "audio_format": AudioFormat.PCM_24000,
            "sample_rate": 24_000,
            "commit_strategy": strategy,
            "include_timestamps": True,
            "language_code": "en",
            "vad_silence_threshold_secs": 0.9,
        }
    )
    told: dict[str, list[Any]] = {}
    finished = asyncio.Event()

    def note(kind: RealtimeEvents) -> None:
        def noted(message: Any) -> None:
            told.setdefault(kind.value, []).append(message)
            # In the end nothing is left to commit.
            last = strategy is CommitStrategy.MANUAL or not message.get("text")
            committed = kind is RealtimeEvents.COMMITTED_TRANSCRIPT_WITH_TIMESTAMPS
            if kind is RealtimeEvents.ERROR or (committed and last):
                finished.set()

        connection.on(kind.value, noted)

    for kind in (
        RealtimeEvents.SESSION_STARTED,
        RealtimeEvents.PARTIAL_TRANSCRIPT,
        RealtimeEvents.COMMITTED_TRANSCRIPT,
        RealtimeEvents.COMMITTED_TRANSCRIPT_WITH_TIMESTAMPS,
        RealtimeEvents.ERROR,
    ):
        note(kind)
    for piece in pieces(pcm(24_000)):
        await connection.send({"audio_base_64": base64.b64encode(piece).decode()})
    await connection.commit()
    await finished.wait()
    await connection.close()
    assert "error" not in told
    texts = [message["text"] for message in told["committed_transcript"]]
    assert word_error_rate([SAID], [" ".join(texts)]) < 0.25
    words = [
        word
        for message in told["committed_transcript_with_timestamps"]
        for word in message["words"]
        if word["type"] == "word"
    ]
    assert word_error_rate([SAID], [" ".join(word["text"] for word in words)]) < 0.25
    times = [word["start"] for word in words]
    assert times == sorted(times)


async def test_what_a_browser_records(service: RunningService) -> None:
    data = encode(human(NAME), "webm")
    async with (
        aiohttp.ClientSession(service.url) as session,
        session.ws_connect("/v1/transcribe/stream", headers={"X-API-Key": KEY}) as socket,
    ):
        await socket.send_json(
            {
                "type": "start",
                "format": "auto",
                "interim": False,
                "vad": {"silence_duration_ms": 900},
            }
        )
        for at in range(0, len(data), 1000):
            await socket.send_bytes(data[at : at + 1000])
        await socket.send_json({"type": "end"})
        told = [json.loads(message.data) async for message in socket]
    assert told[-1] == {"type": "done"}
    texts = [message["text"] for message in told if message["type"] == "final"]
    assert word_error_rate([SAID], [" ".join(texts)]) < 0.25
