"""livekit-agents: its OpenAI and ElevenLabs plugins."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from livekit import rtc
from livekit.agents import APIStatusError
from livekit.agents.tokenize.blingfire import SentenceTokenizer
from livekit.agents.tts import StreamAdapter
from livekit.agents.types import USERDATA_TIMED_TRANSCRIPT, APIConnectOptions
from livekit.plugins import elevenlabs, openai

from tests.clients.python.common import HEARD, KEY, TEXT, URL, recording, samples

ONCE = APIConnectOptions(max_retry=0, timeout=300)

Make = Callable[..., Any]
"""Makes a plugin with options of its own."""


async def spoken(tts: Any, text: str = TEXT) -> rtc.AudioFrame:
    """The whole sound that a plugin makes of a text."""
    async with tts.synthesize(text, conn_options=ONCE) as stream:
        return await stream.collect()


async def heard(stt: Any) -> Any:
    """What a plugin understands of `SAID`."""
    data = samples(recording())
    frame = rtc.AudioFrame(data, 16_000, 1, len(data) // 2)
    event = await stt.recognize(frame, conn_options=ONCE)
    return event.alternatives[0]


async def refused(tts: Any, stt: Any) -> None:
    """Asserts that both report that their key is wrong."""
    with pytest.raises(APIStatusError) as caught:
        await spoken(tts)
    assert caught.value.status_code == 401
    with pytest.raises(APIStatusError) as caught:
        await heard(stt)
    assert caught.value.status_code == 401


# OpenAI


@pytest.fixture
async def of_openai() -> AsyncIterator[Make]:
    made: list[Any] = []

    def make(plugin: Make, **options: Any) -> Any:
        made.append(plugin(**{"base_url": f"{URL}/v1", "api_key": KEY, **options}))
        return made[-1]

    yield make
    for plugin in made:
        await plugin.aclose()


async def test_openai_speech_as_events(of_openai: Make) -> None:
    assert (await spoken(of_openai(openai.TTS))).duration > 1


@pytest.mark.parametrize("form", ["mp3", "wav", "opus", "pcm"])
async def test_openai_speech_as_sound(of_openai: Make, form: str) -> None:
    options = {"model": "tts-1", "voice": "nova", "speed": 1.1, "response_format": form}
    assert (await spoken(of_openai(openai.TTS, **options))).duration > 1


async def test_openai_sentences_of_a_language_model(of_openai: Make) -> None:
    adapter = StreamAdapter(tts=of_openai(openai.TTS), sentence_tokenizer=SentenceTokenizer())
    duration = 0.0
    async with adapter.stream(conn_options=ONCE) as stream:
        for piece in ("Hello world, how", " are you today? ... ", "\N{GRINNING FACE}", " Fine."):
            stream.push_text(piece)
        stream.end_input()
        async for event in stream:
            duration += event.frame.duration
    assert duration > 1


@pytest.mark.parametrize("text", ["...", "\N{GRINNING FACE}"])
async def test_openai_sentences_without_words(of_openai: Make, text: str) -> None:
    assert 0 < (await spoken(of_openai(openai.TTS), text)).duration < 1


@pytest.mark.parametrize(
    "options", [{}, {"model": "whisper-1"}, {"detect_language": True, "temperature": 0.0}]
)
async def test_openai_transcription(of_openai: Make, options: dict[str, Any]) -> None:
    assert re.search(HEARD, (await heard(of_openai(openai.STT, **options))).text)


async def test_openai_with_a_wrong_key(of_openai: Make) -> None:
    await refused(of_openai(openai.TTS, api_key="wrong"), of_openai(openai.STT, api_key="wrong"))


# ElevenLabs


@pytest.fixture
async def of_elevenlabs() -> AsyncIterator[Make]:
    async with aiohttp.ClientSession() as session:
        own = {"base_url": f"{URL}/v1", "api_key": KEY, "http_session": session}
        yield lambda plugin, **options: plugin(**{**own, **options})


async def test_elevenlabs_speech_in_the_default_voice(of_elevenlabs: Make) -> None:
    assert (await spoken(of_elevenlabs(elevenlabs.TTS))).duration > 1


async def test_elevenlabs_speech_with_settings(of_elevenlabs: Make) -> None:
    settings = elevenlabs.VoiceSettings(
        stability=0.5, similarity_boost=0.75, style=0.0, speed=1.1, use_speaker_boost=True
    )
    options = {"voice_id": "slt", "encoding": "pcm_24000", "language": "en"}
    tts = of_elevenlabs(elevenlabs.TTS, voice_settings=settings, **options)
    frame = await spoken(tts)
    assert frame.sample_rate == 24_000
    assert frame.duration > 1


@pytest.mark.parametrize(
    "options", [{}, {"encoding": "pcm_24000"}, {"auto_mode": False}], ids=["mp3", "pcm", "not auto"]
)
async def test_elevenlabs_speech_while_the_text_is_written(
    of_elevenlabs: Make, options: dict[str, Any]
) -> None:
    tts = of_elevenlabs(elevenlabs.TTS, **options)
    for turn in range(2):  # both over one WebSocket, one after the other
        words, duration = "", 0.0
        ends: list[float] = []
        async with tts.stream(conn_options=ONCE) as stream:
            for piece in re.split(r"(?<= )", f"{TEXT} Turn {turn}."):
                stream.push_text(piece)
            stream.end_input()
            async for event in stream:
                duration += event.frame.duration
                for timed in event.frame.userdata.get(USERDATA_TIMED_TRANSCRIPT, []):
                    words += timed
                    ends.append(timed.end_time)
        assert duration > 2
        assert words.split() == [*TEXT.split(), "Turn", ["zero", "one"][turn] + "."]
        assert 0 < max(ends) <= duration
    await tts.aclose()


async def test_elevenlabs_speech_that_is_interrupted(of_elevenlabs: Make) -> None:
    tts = of_elevenlabs(elevenlabs.TTS, encoding="pcm_24000")
    async with tts.stream(conn_options=ONCE) as stream:
        stream.push_text(f"{TEXT} " * 20)
        stream.flush()
        assert (await anext(stream)).frame.duration > 0
    async with tts.stream(conn_options=ONCE) as stream:
        stream.push_text("Yes?")
        stream.end_input()
        duration = sum([event.frame.duration async for event in stream])
        assert 0.2 < duration < 3
    await tts.aclose()


async def test_elevenlabs_list_of_voices(of_elevenlabs: Make) -> None:
    voices = await of_elevenlabs(elevenlabs.TTS).list_voices()
    assert "slt" in [voice.id for voice in voices]


@pytest.mark.parametrize(
    "options", [{}, {"model": "scribe_v2", "language_code": "en", "no_verbatim": True}]
)
async def test_elevenlabs_transcription(of_elevenlabs: Make, options: dict[str, Any]) -> None:
    alternative = await heard(of_elevenlabs(elevenlabs.STT, **options))
    assert re.search(HEARD, alternative.text)
    assert alternative.end_time > 0.5
    assert 0 < alternative.confidence <= 1


async def test_elevenlabs_with_a_wrong_key(of_elevenlabs: Make) -> None:
    tts = of_elevenlabs(elevenlabs.TTS, api_key="wrong")
    await refused(tts, of_elevenlabs(elevenlabs.STT, api_key="wrong"))
