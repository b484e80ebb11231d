"""LiteLLM: speech and transcription through its `openai/` and `elevenlabs/` providers."""

from __future__ import annotations

import re

import litellm
import openai
import pytest
from litellm.llms.elevenlabs.common_utils import ElevenLabsException
from litellm.llms.elevenlabs.text_to_speech.transformation import ElevenLabsTextToSpeechConfig

from tests.clients.python.common import HEARD, KEY, TEXT, URL, as_wav, recording

OPENAI = {"api_base": f"{URL}/v1", "api_key": KEY, "max_retries": 0}
ELEVENLABS = {"api_base": URL, "api_key": KEY, "max_retries": 0}
FILE = ("recording.wav", recording(), "audio/wav")


def test_openai_speech_is_understood() -> None:
    answer = litellm.speech(
        model="openai/tts-1", voice="alloy", input=TEXT, response_format="pcm", **OPENAI
    )
    file = ("speech.wav", as_wav(answer.content, 24_000), "audio/wav")
    heard = litellm.transcription(model="openai/whisper-1", file=file, **OPENAI)
    assert re.search(HEARD, heard.text)


async def test_openai_speech_with_options() -> None:
    options = {"instructions": "Be calm.", "speed": 1.5}
    answer = await litellm.aspeech(
        model="openai/gpt-4o-mini-tts", voice="nova", input=TEXT, **options, **OPENAI
    )
    assert len(answer.content) > 5_000


async def test_openai_transcription() -> None:
    heard = await litellm.atranscription(
        model="openai/gpt-4o-transcribe", file=FILE, language="en", temperature=0, **OPENAI
    )
    assert re.search(HEARD, heard.text)


def test_openai_verbose_transcription() -> None:
    heard = litellm.transcription(
        model="openai/whisper-1",
        file=FILE,
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
        **OPENAI,
    )
    assert " ".join(word["word"] for word in heard.words) == heard.text
    assert 0.5 < heard.segments[-1]["end"] < heard.duration + 0.01


def test_openai_with_a_wrong_key() -> None:
    wrong = {**OPENAI, "api_key": "wrong"}
    with pytest.raises(openai.AuthenticationError):
        litellm.speech(model="openai/tts-1", voice="alloy", input=TEXT, **wrong)
    with pytest.raises(openai.AuthenticationError):
        litellm.transcription(model="openai/whisper-1", file=FILE, **wrong)


@pytest.mark.parametrize("voice", ElevenLabsTextToSpeechConfig.VOICE_MAPPINGS)
def test_elevenlabs_speech_in_each_voice_that_it_maps(voice: str) -> None:
    answer = litellm.speech(
        model="elevenlabs/eleven_multilingual_v2", voice=voice, input="Hi there.", **ELEVENLABS
    )
    assert len(answer.content) > 1_000


@pytest.mark.parametrize(
    ("form", "begins"), [("mp3", (b"ID3", b"\xff")), ("opus", (b"OggS",)), ("wav", (b"RIFF",))]
)
def test_elevenlabs_formats(form: str, begins: tuple[bytes, ...]) -> None:
    options = {"response_format": form, "speed": 1.1}
    answer = litellm.speech(
        model="elevenlabs/eleven_turbo_v2_5", voice="slt", input=TEXT, **options, **ELEVENLABS
    )
    assert answer.content.startswith(begins)


def test_elevenlabs_speech_is_understood() -> None:
    answer = litellm.speech(
        model="elevenlabs/eleven_v3", voice="slt", input=TEXT, response_format="pcm", **ELEVENLABS
    )
    file = ("speech.wav", as_wav(answer.content, 24_000), "audio/wav")
    heard = litellm.transcription(model="elevenlabs/scribe_v1", file=file, **ELEVENLABS)
    assert re.search(HEARD, heard.text)


def test_elevenlabs_transcription() -> None:
    options = {"language": "en", "temperature": 0.0, "diarize": True}
    heard = litellm.transcription(
        model="elevenlabs/scribe_v1",
        file=FILE,
        timestamps_granularity="word",
        **options,
        **ELEVENLABS,
    )
    assert re.search(HEARD, heard.text)
    assert " ".join(word["word"] for word in heard.words) == heard.text
    assert all(word["start"] <= word["end"] for word in heard.words)


def test_elevenlabs_with_a_wrong_key() -> None:
    wrong = {**ELEVENLABS, "api_key": "wrong"}
    with pytest.raises(ElevenLabsException) as caught:
        litellm.speech(model="elevenlabs/eleven_v3", voice="slt", input=TEXT, **wrong)
    assert caught.value.status_code == 401
    with pytest.raises(ElevenLabsException) as caught:
        litellm.transcription(model="elevenlabs/scribe_v1", file=FILE, **wrong)
    assert caught.value.status_code == 401
