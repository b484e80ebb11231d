"""Speech for ElevenLabs' clients, who change nothing but their base URL. Runs in the front.

Fields that are not declared are accepted and ignored, as these clients send more than any service
needs. Their voices are in `elevenlabs_voices.py`, transcription in `elevenlabs_transcription.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from ipc.formats import FORMATS
from ipc.messages import Json
from supervisor.http.api.operation import JSON, Answer, Call, Operations, operation
from supervisor.http.routes.elevenlabs.voices import ElevenLabsVoiceSettings
from supervisor.http.shared.character_times import CharacterTimes, align_sentences, align_text
from supervisor.http.shared.synthesis import (
    SOUND_HEADERS,
    Order,
    Seed,
    VoiceSource,
    named,
    sound_answer,
    speak,
    speak_in_json,
)

TAG = "ElevenLabs"

OutputFormat = Literal[
    "mp3_22050_32",
    "mp3_24000_48",
    "mp3_44100_32",
    "mp3_44100_64",
    "mp3_44100_96",
    "mp3_44100_128",
    "mp3_44100_192",
    "pcm_8000",
    "pcm_16000",
    "pcm_22050",
    "pcm_24000",
    "pcm_32000",
    "pcm_44100",
    "pcm_48000",
    "wav_8000",
    "wav_16000",
    "wav_22050",
    "wav_24000",
    "wav_32000",
    "wav_44100",
    "wav_48000",
    "opus_48000_32",
    "opus_48000_64",
    "opus_48000_96",
    "opus_48000_128",
    "opus_48000_192",
    "ulaw_8000",
    "alaw_8000",
]

_CODECS = {str(name): name for name in FORMATS}

_HI: Any = {
    "characters": ["H", "i"],
    "character_start_times_seconds": [0.0, 0.21],
    "character_end_times_seconds": [0.21, 0.42],
}


class TextToSpeechFields(BaseModel):
    """What to say, and how; further fields of ElevenLabs' are accepted without effect."""

    model_config = ConfigDict(extra="ignore")

    text: Annotated[str, Field(description="what to say", examples=["Hello, this is my voice."])]
    model_id: Annotated[
        str | None, Field(description="any: the service speaks with the model it has")
    ] = None
    language_code: Annotated[str | None, Field(description="any: the text tells")] = None
    voice_settings: ElevenLabsVoiceSettings | None = None
    seed: Seed | None = None


class TextToSpeechParams(BaseModel):
    """Which voice, and in which format."""

    voice_id: Annotated[str, Field(examples=["anna"])]
    output_format: Annotated[
        OutputFormat, Field(description="codec, rate in Hz, and for some kbit/s")
    ] = "mp3_44100_128"


class SpeechTimes(BaseModel):
    """When each character of a text is said."""

    alignment: Annotated[
        CharacterTimes, Field(description="of all characters of the text as it was sent")
    ]
    normalized_alignment: Annotated[
        CharacterTimes, Field(description="of the text as it was spoken")
    ]
    alignment_exact: Annotated[
        bool, Field(description="false: the characters share the time of their sentence evenly")
    ]
    alignment_granularity: Annotated[
        Literal["sentence", "character"], Field(description="of what the times are measured")
    ]


class SpeechWithTimes(SpeechTimes):
    """Speech, and when each of its characters is said."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "audio_base64": "SUQzBAAAAAA=",
                    "alignment": _HI,
                    "normalized_alignment": _HI,
                    "alignment_exact": False,
                    "alignment_granularity": "sentence",
                }
            ]
        }
    )

    audio_base64: str


_TtsCall = Call[TextToSpeechFields, TextToSpeechParams]


async def text_to_speech(call: _TtsCall) -> web.StreamResponse:
    """Speak a text in a built-in or registered voice.

    The sound comes while it is made, but for WAV, which comes whole: its header has the length.
    """
    whole = call.params.output_format.startswith("wav_")
    async with named(call.service, call.params.voice_id) as voice:
        return await speak(call.request, call.service, _order(call, voice, stream=not whole))


async def text_to_speech_stream(call: _TtsCall) -> web.StreamResponse:
    """Speak a text in a built-in or registered voice; the sound comes while it is made."""
    async with named(call.service, call.params.voice_id) as voice:
        return await speak(call.request, call.service, _order(call, voice, stream=True))


async def text_to_speech_with_timestamps(call: _TtsCall) -> web.StreamResponse:
    """Speak a text and tell when each character is said.

    Engines measure when a sentence begins and ends; its characters share that time evenly, and
    `alignment_exact` is false.
    """

    def times(result: Json) -> SpeechTimes:
        sentences = result["alignment"]
        return SpeechTimes(
            alignment=align_text(call.body.text, sentences, result["duration"]),
            normalized_alignment=align_sentences(sentences),
            alignment_exact=result["alignment_exact"],
            alignment_granularity="character" if result["alignment_exact"] else "sentence",
        )

    service = call.service
    async with named(service, call.params.voice_id) as voice:
        order = _order(call, voice, stream=False, alignment=True)
        return await speak_in_json(call.request, service, order, times)


def _order(call: _TtsCall, voice: VoiceSource, *, stream: bool, alignment: bool = False) -> Order:
    fields = call.body
    codec, rate, *kbits = call.params.output_format.split("_")
    return Order(
        text=fields.text,
        voice=voice,
        response_format=_CODECS[codec],
        sample_rate=int(rate),
        bit_rate=int(kbits[0]) * 1000 if kbits else None,
        speed=fields.voice_settings.speed if fields.voice_settings else None,
        seed=fields.seed,
        stream=stream,
        alignment=alignment,
    )


_SPEECH = "/v1/text-to-speech/{voice_id}"
_SOUND = sound_answer(formats=("mp3", "pcm", "wav", "opus", "ulaw", "alaw"))

OPERATIONS: Operations = (
    operation(
        "POST",
        _SPEECH,
        text_to_speech,
        summary="Speak",
        tag=TAG,
        body=TextToSpeechFields,
        params=TextToSpeechParams,
        media=(JSON,),
        answers={200: _SOUND},
    ),
    operation(
        "POST",
        f"{_SPEECH}/stream",
        text_to_speech_stream,
        summary="Speak in a stream",
        tag=TAG,
        body=TextToSpeechFields,
        params=TextToSpeechParams,
        media=(JSON,),
        answers={200: _SOUND},
    ),
    operation(
        "POST",
        f"{_SPEECH}/with-timestamps",
        text_to_speech_with_timestamps,
        summary="Speak, and tell when each character is said",
        tag=TAG,
        body=TextToSpeechFields,
        params=TextToSpeechParams,
        media=(JSON,),
        answers={200: Answer("The sound and its times.", {JSON: SpeechWithTimes}, SOUND_HEADERS)},
    ),
)
