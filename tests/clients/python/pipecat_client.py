"""pipecat: its OpenAI and ElevenLabs services, each in a pipeline of its own."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import pytest
from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSTextFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.worker import PipelineParams
from pipecat.services.elevenlabs.stt import ElevenLabsSTTService
from pipecat.services.elevenlabs.tts import ElevenLabsHttpTTSService, ElevenLabsTTSService
from pipecat.services.openai.stt import OpenAISTTService
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.services.tts_service import TextAggregationMode
from pipecat.tests.utils import SleepFrame, run_test

from tests.clients.python.common import HEARD, KEY, TEXT, URL, recording, samples, seconds

RATE = 16_000
WORDLESS = ("...", "\N{SMILING FACE WITH SMILING EYES}")
"""Sentences that language models write, without a word in them."""


async def through(service: Any, frames: Sequence[Frame], rate: int = 24_000) -> list[Frame]:
    """What comes out of a service on both sides when these frames go in."""
    down, up = await run_test(
        service,
        frames_to_send=frames,
        pipeline_params=PipelineParams(audio_in_sample_rate=RATE, audio_out_sample_rate=rate),
        start_timeout=300,
    )
    return [*down, *up]


def sound(frames: Sequence[Frame]) -> bytes:
    return b"".join(frame.audio for frame in frames if isinstance(frame, TTSAudioRawFrame))


def errors(frames: Sequence[Frame]) -> list[str]:
    return [frame.error for frame in frames if isinstance(frame, ErrorFrame)]


def transcript(frames: Sequence[Frame]) -> Any:
    assert errors(frames) == []
    (found,) = [frame for frame in frames if isinstance(frame, TranscriptionFrame)]
    return found


@pytest.fixture(scope="module")
def spoken() -> list[Frame]:
    """A user who says `SAID`."""
    data = samples(recording())
    step = RATE // 50 * 2
    pieces = [data[start : start + step] for start in range(0, len(data), step)]
    return [
        VADUserStartedSpeakingFrame(),
        *(InputAudioRawFrame(piece, RATE, 1) for piece in pieces),
        VADUserStoppedSpeakingFrame(),
    ]


# OpenAI


def openai_speech(key: str = KEY, **settings: Any) -> Any:
    chosen = OpenAITTSService.Settings(**settings)
    return OpenAITTSService(base_url=f"{URL}/v1", api_key=key, settings=chosen)


def openai_transcription(key: str = KEY, metrics: bool = False, **settings: Any) -> Any:
    return OpenAISTTService(
        base_url=f"{URL}/v1",
        api_key=key,
        settings=OpenAISTTService.Settings(**settings),
        include_prob_metrics=metrics,
    )


@pytest.mark.parametrize(
    "settings",
    [{}, {"model": "tts-1", "voice": "nova", "instructions": "Be calm.", "speed": 1.1}],
)
async def test_openai_speech(settings: dict[str, Any]) -> None:
    frames = await through(openai_speech(**settings), [TTSSpeakFrame(TEXT)])
    assert errors(frames) == []
    assert seconds(sound(frames), 24_000) > 1


@pytest.mark.parametrize("text", WORDLESS)
async def test_openai_sentences_without_words(text: str) -> None:
    frames = await through(openai_speech(), [TTSSpeakFrame(text), TTSSpeakFrame(TEXT)])
    assert errors(frames) == []
    assert seconds(sound(frames), 24_000) > 1


@pytest.mark.parametrize(
    "settings", [{}, {"model": "whisper-1", "prompt": "A greeting.", "temperature": 0.0}]
)
async def test_openai_transcription(spoken: list[Frame], settings: dict[str, Any]) -> None:
    heard = transcript(await through(openai_transcription(**settings), spoken))
    assert re.search(HEARD, heard.text)


async def test_openai_transcription_with_probabilities(spoken: list[Frame]) -> None:
    service = openai_transcription(metrics=True, model="whisper-1")
    heard = transcript(await through(service, spoken))
    assert re.search(HEARD, heard.text)
    assert all(segment.avg_logprob <= 0 for segment in heard.result.segments)


async def test_openai_with_a_wrong_key(spoken: list[Frame]) -> None:
    assert "401" in errors(await through(openai_transcription("wrong"), spoken))[0]
    assert "401" in errors(await through(openai_speech("wrong"), [TTSSpeakFrame(TEXT)]))[0]


# ElevenLabs


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as it:
        yield it


def elevenlabs_speech(session: aiohttp.ClientSession, key: str = KEY, **settings: Any) -> Any:
    chosen = {"voice": "21m00Tcm4TlvDq8ikWAM", **settings}
    return ElevenLabsHttpTTSService(
        api_key=key,
        base_url=URL,
        aiohttp_session=session,
        settings=ElevenLabsHttpTTSService.Settings(**chosen),
    )


def elevenlabs_transcription(
    session: aiohttp.ClientSession, key: str = KEY, **settings: Any
) -> Any:
    return ElevenLabsSTTService(
        api_key=key,
        base_url=URL,
        aiohttp_session=session,
        settings=ElevenLabsSTTService.Settings(**settings),
    )


async def test_elevenlabs_speech_with_the_times_of_words(session: aiohttp.ClientSession) -> None:
    frames = await through(elevenlabs_speech(session), [TTSSpeakFrame(TEXT)])
    assert errors(frames) == []
    assert seconds(sound(frames), 24_000) > 1
    words = [frame.text.strip() for frame in frames if isinstance(frame, TTSTextFrame)]
    assert " ".join(words) == TEXT


async def test_elevenlabs_sentences_with_all_settings(session: aiohttp.ClientSession) -> None:
    service = elevenlabs_speech(
        session,
        stability=0.5,
        similarity_boost=0.75,
        style=0.0,
        use_speaker_boost=True,
        speed=1.1,
        apply_text_normalization="auto",
        optimize_streaming_latency=3,
    )
    texts = ["One.", WORDLESS[0], "Two.", WORDLESS[1], "Three."]
    frames = await through(service, [TTSSpeakFrame(text) for text in texts], 16_000)
    assert errors(frames) == []
    assert seconds(sound(frames), 16_000) > 1


@pytest.mark.parametrize("settings", [{}, {"model": "scribe_v1", "tag_audio_events": True}])
async def test_elevenlabs_transcription(
    session: aiohttp.ClientSession, spoken: list[Frame], settings: dict[str, Any]
) -> None:
    heard = transcript(await through(elevenlabs_transcription(session, **settings), spoken))
    assert re.search(HEARD, heard.text)
    assert heard.language in ("en", "eng")


async def test_elevenlabs_with_a_wrong_key(
    session: aiohttp.ClientSession, spoken: list[Frame]
) -> None:
    frames = await through(elevenlabs_speech(session, "wrong"), [TTSSpeakFrame(TEXT)])
    assert re.search("(?i)API key", errors(frames)[0])
    frames = await through(elevenlabs_transcription(session, "wrong"), spoken)
    assert "401" in errors(frames)[0]


def elevenlabs_live(key: str = KEY, **options: Any) -> Any:
    chosen = {"voice": "21m00Tcm4TlvDq8ikWAM", **options.pop("settings", {})}
    return ElevenLabsTTSService(
        api_key=key,
        url=URL.replace("http", "ws", 1),
        settings=ElevenLabsTTSService.Settings(**chosen),
        **options,
    )


def written(text: str) -> list[Frame]:
    """A response of a language model, word by word."""
    words = [LLMTextFrame(word) for word in re.split(r"(?<= )", text)]
    return [LLMFullResponseStartFrame(), *words, LLMFullResponseEndFrame()]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"text_aggregation_mode": TextAggregationMode.TOKEN},
        {"settings": {"speed": 1.1, "stability": 0.5, "apply_text_normalization": "auto"}},
    ],
    ids=["sentences", "words", "settings"],
)
async def test_elevenlabs_speech_while_the_text_is_written(options: dict[str, Any]) -> None:
    frames = await through(elevenlabs_live(**options), written(TEXT))
    assert errors(frames) == []
    assert seconds(sound(frames), 24_000) > 2
    words = [frame.text.strip() for frame in frames if isinstance(frame, TTSTextFrame)]
    assert " ".join(words) == TEXT


async def test_elevenlabs_speech_that_is_interrupted() -> None:
    frames = await through(
        elevenlabs_live(),
        [*written(f"{TEXT} " * 20), SleepFrame(), InterruptionFrame(), *written("Yes?")],
    )
    assert errors(frames) == []
    words = [frame.text.strip() for frame in frames if isinstance(frame, TTSTextFrame)]
    assert words[-1] == "Yes?"


async def test_elevenlabs_live_with_a_wrong_key() -> None:
    frames = await through(elevenlabs_live("wrong"), written(TEXT))
    assert "401" in errors(frames)[0]
