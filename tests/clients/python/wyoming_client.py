"""wyoming-openai: the proxy that gives Home Assistant voices, asked as Home Assistant asks it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import tempfile
from collections.abc import AsyncIterator

from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.tts import (
    Synthesize,
    SynthesizeChunk,
    SynthesizeStart,
    SynthesizeStop,
    SynthesizeStopped,
    SynthesizeVoice,
)

from tests.clients.python.common import (
    HEARD,
    KEY,
    TEXT,
    URL,
    recording,
    samples,
    seconds,
)

MODELS = ["--stt-models", "whisper-1", "--tts-models", "tts-1"]


@contextlib.asynccontextmanager
async def proxy(*arguments: str, key: str = KEY) -> AsyncIterator[str]:
    """The address of a proxy that runs meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        uri = f"unix://{folder}/socket"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.clients.python.wyoming_openai_main", "--uri", uri),
            *("--stt-openai-url", f"{URL}/v1", "--stt-openai-key", key),
            *("--tts-openai-url", f"{URL}/v1", "--tts-openai-key", key),
            *arguments,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        printed: list[str] = []
        try:
            while not (printed and "Starting server at" in printed[-1]):
                line = await process.stderr.readline()
                assert line, "".join(printed)
                printed.append(line.decode())
            rest = asyncio.create_task(process.stderr.read())
            yield uri
        finally:
            process.terminate()
            await process.wait()
        await rest


@contextlib.asynccontextmanager
async def connection(uri: str) -> AsyncIterator[AsyncClient]:
    """A connection to a proxy that has said that it starts, so that it listens at any moment."""
    client = AsyncClient.from_uri(uri)
    while True:
        try:
            await client.connect()
            break
        except (FileNotFoundError, ConnectionRefusedError):
            await asyncio.sleep(0.01)
    try:
        yield client
    finally:
        await client.disconnect()


@contextlib.asynccontextmanager
async def connected(*arguments: str) -> AsyncIterator[AsyncClient]:
    """A connection to a proxy that runs meanwhile."""
    async with proxy(*arguments) as uri, connection(uri) as client:
        yield client


async def until(client: AsyncClient, *kinds: str) -> list[Event]:
    """The events up to the first of one of these kinds."""
    events: list[Event] = []
    while not (events and events[-1].type in kinds):
        event = await client.read_event()
        assert event is not None, f"the proxy hung up after {[each.type for each in events]}"
        events.append(event)
    return events


def sound(events: list[Event]) -> tuple[bytes, int]:
    """The samples in these events, and their rate in Hz."""
    chunks = [AudioChunk.from_event(each) for each in events if AudioChunk.is_type(each.type)]
    assert {(chunk.width, chunk.channels) for chunk in chunks} == {(2, 1)}
    (rate,) = {chunk.rate for chunk in chunks}
    return b"".join(chunk.audio for chunk in chunks), rate


async def hear(client: AsyncClient, pcm: bytes, rate: int = 16_000) -> list[Event]:
    """What the proxy answers to a recording."""
    await client.write_event(Transcribe(language="en").event())
    await client.write_event(AudioStart(rate, 2, 1).event())
    for start in range(0, len(pcm), 2048):
        await client.write_event(AudioChunk(rate, 2, 1, pcm[start : start + 2048]).event())
    await client.write_event(AudioStop().event())
    return await until(client, "transcript", "error")


async def test_speech_is_understood() -> None:
    async with connected(*MODELS, "--tts-voices", "slt", "nova") as client:
        await client.write_event(Describe().event())
        info = Info.from_event((await until(client, "info"))[-1])
        names = [voice.name for program in info.tts for voice in program.voices]
        assert sorted(names) == ["nova", "slt"]
        await client.write_event(Synthesize(TEXT, SynthesizeVoice("slt")).event())
        pcm, rate = sound(await until(client, "audio-stop", "error"))
        assert seconds(pcm, rate) > 1
        heard = Transcript.from_event((await hear(client, samples(recording())))[-1])
        assert re.search(HEARD, heard.text)


async def test_streams() -> None:
    streaming = ["--stt-streaming-models", "whisper-1", "--tts-streaming-models", "tts-1"]
    async with connected(*streaming, "--tts-voices", "slt") as client:
        await client.write_event(SynthesizeStart(SynthesizeVoice("slt")).event())
        for piece in ("Hello world, how are", " you today? ", "I am fine, ", "thank you."):
            await client.write_event(SynthesizeChunk(piece).event())
        await client.write_event(SynthesizeStop().event())
        events = await until(client, "synthesize-stopped", "error")
        assert SynthesizeStopped.is_type(events[-1].type)
        pcm, rate = sound(events)
        assert seconds(pcm, rate) > 1
        events = await hear(client, samples(recording()))
        assert [event.type for event in events].count("transcript-chunk") > 0
        assert re.search(HEARD, Transcript.from_event(events[-1]).text)


async def test_live_transcription() -> None:
    async with connected("--stt-realtime-models", "whisper-1", "--tts-voices", "slt") as client:
        events = await hear(client, samples(recording()))
        assert re.search(HEARD, Transcript.from_event(events[-1]).text)


async def test_the_list_of_voices() -> None:
    async with connected(*MODELS, "--tts-backend", "KOKORO_FASTAPI") as client:
        await client.write_event(Describe().event())
        info = Info.from_event((await until(client, "info"))[-1])
        names = {voice.name for program in info.tts for voice in program.voices}
        assert {"slt", "rms", "awb", "kal16"} <= names


async def test_a_wrong_key() -> None:
    async with proxy(*MODELS, "--tts-voices", "slt", key="wrong") as uri:
        async with connection(uri) as client:
            events = await hear(client, samples(recording()))
            assert [event.type for event in events] == ["error"]
        async with connection(uri) as client:
            await client.write_event(Synthesize(TEXT, SynthesizeVoice("slt")).event())
            events = await until(client, "audio-stop", "error")
            assert [event.type for event in events] == ["error"]
