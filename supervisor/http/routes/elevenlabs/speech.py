"""Speech for ElevenLabs' clients that only change their base URL. Runs in the front.

Fields that are not declared are accepted and ignored, because these clients send many that have no
meaning here. Voices are in `voices.py`, transcription is in `transcription.py`.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import ConfigDict, Field

from ipc.errors import ServiceError
from ipc.formats import OutputFormat
from ipc.operations import Speak, SpeechResult, Voice
from supervisor.dispatch.sentence_buffer import SpokenAudio
from supervisor.http.api.api_model import ApiModel
from supervisor.http.api.operation import (
    JSON,
    JSON_LINES,
    Answer,
    Call,
    Operation,
    Operations,
    operation,
)
from supervisor.http.routes.elevenlabs.voices import ElevenLabsVoiceSettings
from supervisor.http.shared.character_times import (
    CharacterTimes,
    TextAligner,
    align_sentence,
    align_sentences,
    align_text,
    concatenated,
)
from supervisor.http.shared.synthesis import (
    SOUND_HEADERS,
    Seed,
    named,
    sampling,
    sound_answer,
    speak,
    speak_in_json,
    speak_in_sentences,
    text_language,
)
from supervisor.http.shared.voice_names import resolve_voice

TAG = "ElevenLabs"

_HI: Any = {
    "characters": ["H", "i"],
    "character_start_times_seconds": [0.0, 0.21],
    "character_end_times_seconds": [0.21, 0.42],
}


ModelId = Annotated[
    str | None, Field(description="name of an engine; any other name means the default engine")
]
LanguageCode = Annotated[str | None, Field(description="language of the text, for its numbers")]
ApplyTextNormalization = Annotated[
    Literal["auto", "on", "off"] | None,
    Field(description="off: the text goes to the engine as it is"),
]


class TextToSpeechFields(ApiModel):
    """The text and how to speak it; other fields of ElevenLabs are accepted and ignored."""

    model_config = ConfigDict(extra="ignore")

    text: Annotated[
        str, Field(description="the text to speak", examples=["Hello, this is my voice."])
    ]
    model_id: ModelId = None
    language_code: LanguageCode = None
    apply_text_normalization: ApplyTextNormalization = None
    voice_settings: ElevenLabsVoiceSettings | None = None
    seed: Seed | None = None


class TextToSpeechParams(ApiModel):
    """The voice and the output format."""

    voice_id: Annotated[str, Field(examples=["anna"])]
    output_format: Annotated[
        OutputFormat, Field(description="codec, sample rate in Hz, and for some the kbit/s")
    ] = "mp3_44100_128"


class SpeechTimes(ApiModel):
    """When each character of a text is said."""

    alignment: Annotated[
        CharacterTimes, Field(description="times of all characters of the text as it was sent")
    ]
    normalized_alignment: Annotated[
        CharacterTimes, Field(description="times of all characters of the text as it was spoken")
    ]
    alignment_exact: Annotated[
        bool,
        Field(
            description="true: the characters of a word share its exact time; false: those of a "
            "sentence share its time"
        ),
    ]
    alignment_granularity: Annotated[
        Literal["sentence", "word"], Field(description="unit whose times are measured")
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


class TimedAudio(ApiModel):
    """The sound of one sentence, and when each of its characters is said.

    Times count from the start of the response. `alignment` has the characters of the text as it was
    sent, `normalized_alignment` as it was spoken; those of all lines together are the text. Both
    are null in the first lines of a long sentence, whose sound has more than one.
    """

    audio_base64: str
    alignment: CharacterTimes | None
    normalized_alignment: CharacterTimes | None


class _TimedLines:
    """Sound as JSON lines, one for each sentence, or several for a long one."""

    media_type = JSON_LINES

    def __init__(self, text: str) -> None:
        self._aligner = TextAligner(text)
        self._clock: float | None = None

    def item(self, item: SpokenAudio) -> bytes:
        alignment = normalized = None
        if item.sentence is not None:
            time = item.sentence.time
            alignment = self._aligner.next(time)
            if item.sentence.last:
                alignment = concatenated([alignment, self._aligner.rest(time.end)])
            normalized = align_sentence(time, self._clock)
            self._clock = time.end
        line = TimedAudio(
            audio_base64=base64.b64encode(item.audio).decode(),
            alignment=alignment,
            normalized_alignment=normalized,
        )
        return line.model_dump_json().encode() + b"\n"

    def end(self, _: SpeechResult) -> bytes:
        return b""

    def error(self, _: ServiceError) -> bytes:
        return b""  # clients take every line for sound


_TtsCall = Call[TextToSpeechFields, TextToSpeechParams]


async def text_to_speech(call: _TtsCall) -> web.StreamResponse:
    """Speak a text in a built-in or registered voice.

    The sound is sent while it is generated. Only WAV is sent as a whole, because its header has the
    length.
    """
    whole = call.params.output_format.startswith("wav_")
    async with _voice(call) as voice:
        speech = _speech(call, voice, streamed=not whole)
        return await speak(call, speech, model=call.body.model_id)


async def text_to_speech_stream(call: _TtsCall) -> web.StreamResponse:
    """Speak a text in a built-in or registered voice; the sound is sent while it is generated."""
    async with _voice(call) as voice:
        speech = _speech(call, voice, streamed=True)
        return await speak(call, speech, model=call.body.model_id)


async def text_to_speech_with_timestamps(call: _TtsCall) -> web.StreamResponse:
    """Speak a text, and return when each character is said.

    Where the engine knows the exact times of words, the characters of a word share its time, and
    `alignment_exact` is true. Other engines measure when a sentence begins and ends; its characters
    share that time.
    """

    def times(result: SpeechResult) -> SpeechTimes:
        sentences = result.alignment or ()
        return SpeechTimes(
            alignment=align_text(call.body.text, sentences, result.duration),
            normalized_alignment=align_sentences(sentences),
            alignment_exact=result.alignment_exact,
            alignment_granularity="word" if result.alignment_exact else "sentence",
        )

    async with _voice(call) as voice:
        speech = _speech(call, voice, alignment=True)
        return await speak_in_json(call, speech, times, model=call.body.model_id)


async def text_to_speech_stream_with_timestamps(call: _TtsCall) -> web.StreamResponse:
    """Speak a text, and return the sound of each sentence and the times of its characters.

    The response is JSON lines: one for each sentence, as soon as it has been spoken. Of a long
    sentence some sound comes before, in lines without times. Times count from the start of the
    response; the characters of a word or, where the engine does not know words, of a sentence
    share its time.
    """
    async with _voice(call) as voice:
        speech = _speech(call, voice, streamed=True, alignment=True)
        lines = _TimedLines(call.body.text)
        return await speak_in_sentences(call, speech, lines, model=call.body.model_id)


@contextlib.asynccontextmanager
async def _voice(call: _TtsCall) -> AsyncIterator[Voice]:
    """The voice of the request."""
    voice_id = await resolve_voice(call, call.params.voice_id, model=call.body.model_id)
    async with named(call, voice_id) as voice:
        yield voice


def _speech(
    call: _TtsCall, voice: Voice, *, streamed: bool = False, alignment: bool = False
) -> Speak:
    """The operation of this request, with `voice`."""
    fields = call.body
    codec, rate, bit_rate = sound_of(call.params.output_format)
    speed = fields.voice_settings.speed if fields.voice_settings else None
    return Speak(
        fields.text,
        voice,
        sampling(fields.seed),
        response_format=codec,
        streamed=streamed,
        sample_rate=rate,
        bit_rate=bit_rate,
        speed=1.0 if speed is None else speed,
        alignment=alignment,
        normalize=fields.apply_text_normalization != "off",
        language=text_language(fields.language_code),
        silence=True,
    )


def sound_of(output_format: str) -> tuple[str, int, int | None]:
    """The codec in an output format, the sample rate in Hz, and the bits per second if it says."""
    codec, rate, *kbits = output_format.split("_")
    return codec, int(rate), int(kbits[0]) * 1000 if kbits else None


def _speech_operation(
    end: str,
    handler: Callable[[_TtsCall], Awaitable[web.StreamResponse]],
    summary: str,
    answer: Answer,
) -> Operation[TextToSpeechFields, TextToSpeechParams]:
    """One of the operations that take a text and a voice."""
    return operation(
        "POST",
        f"/v1/text-to-speech/{{voice_id}}{end}",
        handler,
        summary=summary,
        tag=TAG,
        body=TextToSpeechFields,
        params=TextToSpeechParams,
        media=(JSON,),
        answers={200: answer},
    )


_SOUND = sound_answer(elevenlabs=True)
_TIMED = Answer("The sound, and the times of its text.", {JSON: SpeechWithTimes}, SOUND_HEADERS)
_TIMED_LINES = Answer(
    "The sound, and the times of its text.",
    {JSON_LINES: "one line for each sentence: audio_base64, alignment, normalized_alignment"},
    SOUND_HEADERS,
)

OPERATIONS: Operations = (
    _speech_operation("", text_to_speech, "Speak", _SOUND),
    _speech_operation("/stream", text_to_speech_stream, "Speak in a stream", _SOUND),
    _speech_operation(
        "/with-timestamps",
        text_to_speech_with_timestamps,
        "Speak, and return when each character is said",
        _TIMED,
    ),
    _speech_operation(
        "/stream/with-timestamps",
        text_to_speech_stream_with_timestamps,
        "Speak in a stream, and return when each character is said",
        _TIMED_LINES,
    ),
)
