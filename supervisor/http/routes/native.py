"""The service's own operations: clone, tts, transcribe. Runs in the front."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from ipc import operations
from ipc.errors import ErrorCode, ServiceError
from ipc.formats import FormatName
from ipc.operations import AUTO_LANGUAGE, Speak, Voice
from supervisor.http.api.api_model import ApiModel
from supervisor.http.api.operation import (
    FORM,
    JSON,
    Answer,
    Call,
    Nothing,
    Operations,
    json_answer,
    operation,
)
from supervisor.http.routes.voices import SAMPLE
from supervisor.http.shared.jobs import timing
from supervisor.http.shared.languages import language_hint
from supervisor.http.shared.models import ModelName
from supervisor.http.shared.synthesis import (
    CfgGuidance,
    DecodeSteps,
    EosThreshold,
    Loudness,
    NoiseClamp,
    Rate,
    Seed,
    Speed,
    Temperature,
    TextLanguage,
    TextNormalization,
    Trim,
    named,
    sampling,
    sound_answer,
    speak,
    text_language,
)
from supervisor.http.shared.transcription import (
    PLAIN_CONTENT,
    RECORDING,
    Emotions,
    EventProbabilities,
    Hotwords,
    HotwordWeight,
    LanguageProbabilities,
    Word,
    plain_answer,
    transcription,
)
from supervisor.http.shared.voice_names import VoiceChoice, resolve_voice

TAG = "Speech"

_REFERENCE = replace(SAMPLE, name="reference_audio")
_OPTIONAL_REFERENCE = replace(_REFERENCE, required=False)


class CloneFields(ApiModel):
    """What to say, and how."""

    model_config = ConfigDict(extra="forbid")

    text: Annotated[
        str, Field(description="the text to speak", examples=["Hello, this is my voice."])
    ]
    stream: Annotated[bool, Field(description="send the sound while it is generated")] = False
    response_format: Annotated[FormatName, Field(description="format of the sound")] = "wav"
    sample_rate: Rate | None = None
    speed: Speed | None = None
    seed: Seed | None = None
    temperature: Temperature | None = None
    decode_steps: DecodeSteps | None = None
    eos_threshold: EosThreshold | None = None
    noise_clamp: NoiseClamp | None = None
    cfg_guidance: CfgGuidance | None = None
    loudness: Loudness | None = None
    trim: Trim = False
    text_normalization: TextNormalization = "auto"
    language: TextLanguage | None = None
    model: ModelName | None = None

    def speech(self, voice: Voice) -> Speak:
        """The operation of this request, with `voice`."""
        return Speak(
            self.text,
            voice,
            sampling(
                self.seed,
                temperature=self.temperature,
                decode_steps=self.decode_steps,
                eos_threshold=self.eos_threshold,
                noise_clamp=self.noise_clamp,
                cfg_guidance=self.cfg_guidance,
            ),
            self.response_format,
            self.stream,
            self.sample_rate,
            speed=1.0 if self.speed is None else self.speed,
            normalize=self.text_normalization == "auto",
            language=text_language(self.language),
            loudness=self.loudness,
            trim=self.trim,
        )


class TtsFields(CloneFields):
    """What to say, in which voice, and how."""

    voice_id: Annotated[
        VoiceChoice | None,
        Field(
            description="a built-in, registered or cached voice, or a mix of built-in voices; "
            "default: the engine's own"
        ),
    ] = None


class TranscribeFields(ApiModel):
    """How to transcribe."""

    model_config = ConfigDict(extra="forbid")

    language: Annotated[
        str,
        Field(
            max_length=32,
            description="a hint: auto, zh, en, yue, ja, ko; whisper knows a hundred",
        ),
    ] = AUTO_LANGUAGE
    task: Annotated[
        Literal["transcribe", "translate"],
        Field(description="translate: to English; needs the engine whisper"),
    ] = "transcribe"
    prompt: Annotated[
        str | None,
        Field(
            description="whisper: a text before the recording, for its spelling and style; other "
            "engines ignore it"
        ),
    ] = None
    temperature: Annotated[
        float | None,
        Field(
            ge=0,
            le=1,
            description="whisper: how random recognition is, left out = as the engine finds best; "
            "other engines ignore it",
        ),
    ] = None
    hotwords: Hotwords = []
    hotword_weight: HotwordWeight | None = None
    itn: Annotated[bool, Field(description="write punctuation, and numbers as digits")] = True
    timestamps: Annotated[
        bool, Field(description="the response has segments: start, end, text, emotion, ...")
    ] = False
    words: Annotated[bool, Field(description="the segments have words with their times")] = False
    response_format: Annotated[
        Literal["json", "text", "srt", "vtt"], Field(description="srt and vtt are subtitles")
    ] = "json"
    model: ModelName | None = None


class ScoredWord(Word):
    """A word, when it is said, and how sure the model is."""

    logprob: Annotated[
        float | None,
        Field(description="logarithm of its probability; null with an engine that has none"),
    ]

    @classmethod
    def of(cls, word: operations.Word) -> ScoredWord:
        """From the worker's result."""
        return cls(word=word.word, start=word.start, end=word.end, logprob=word.logprob)


class Segment(ApiModel):
    """A sentence, or the speech between two pauses; times are in seconds."""

    id: int
    start: float
    end: float
    text: str
    language: str
    language_probability: float | None
    emotion: str
    emotion_probability: float | None
    events: list[str]
    event_probability: float | None
    language_probabilities: LanguageProbabilities
    emotions: Emotions
    event_probabilities: EventProbabilities
    avg_logprob: Annotated[
        float | None,
        Field(
            description="mean of the logarithms of the probabilities of its tokens; null with an "
            "engine that has none"
        ),
    ]
    no_speech_probability: Annotated[
        float | None,
        Field(
            description="how likely there is no speech in it; null with an engine that does not "
            "know"
        ),
    ]
    words: list[ScoredWord] | None = None

    @classmethod
    def of(cls, segment: operations.Segment) -> Segment:
        """From the worker's result."""
        told = segment.paralinguistics
        return cls(
            id=segment.id,
            start=segment.start,
            end=segment.end,
            text=segment.text,
            language=told.language,
            language_probability=told.language_probability,
            emotion=told.emotion,
            emotion_probability=told.emotion_probability,
            events=list(told.events),
            event_probability=told.event_probability,
            language_probabilities=told.language_probabilities,
            emotions=told.emotions,
            event_probabilities=told.event_probabilities,
            avg_logprob=segment.avg_logprob,
            no_speech_probability=segment.no_speech,
            words=None
            if segment.words is None
            else [ScoredWord.of(word) for word in segment.words],
        )


class Transcript(ApiModel):
    """The transcript of a recording, with its language and emotion."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "text": "Hello, this is my voice.",
                    "language": "en",
                    "emotion": "NEUTRAL",
                    "events": ["Speech"],
                    "emotions": {"NEUTRAL": 0.91, "HAPPY": 0.08, "EMO_UNKNOWN": 0.01},
                    "raw": "<|en|><|NEUTRAL|><|Speech|><|withitn|>Hello, this is my voice.",
                    "duration": 2.1,
                }
            ]
        }
    )

    text: str
    language: str
    language_probability: float | None = None
    emotion: Annotated[
        str,
        Field(
            description="HAPPY, SAD, ANGRY, NEUTRAL, FEARFUL, DISGUSTED, SURPRISED, OTHER or "
            "EMO_UNKNOWN"
        ),
    ]
    emotion_probability: float | None = None
    events: Annotated[list[str], Field(description="Speech, BGM, Laughter, Applause, ...")]
    language_probabilities: LanguageProbabilities = None
    emotions: Emotions = None
    event_probabilities: EventProbabilities = None
    raw: Annotated[str, Field(description="the text with the model's own tags")]
    duration: Annotated[float, Field(description="duration of the recording in seconds")]
    segments: list[Segment] | None = None

    @classmethod
    def of(cls, transcript: operations.Transcript, *, segments: bool) -> Transcript:
        """From the worker's result, with or without its segments."""
        told = transcript.paralinguistics
        return cls(
            text=transcript.text,
            language=told.language,
            language_probability=told.language_probability,
            emotion=told.emotion,
            emotion_probability=told.emotion_probability,
            events=list(told.events),
            language_probabilities=told.language_probabilities,
            emotions=told.emotions,
            event_probabilities=told.event_probabilities,
            raw=transcript.raw,
            duration=transcript.duration,
            segments=[Segment.of(each) for each in transcript.segments] if segments else None,
        )

    @model_serializer(mode="wrap")
    def _leave_out(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out missing values: probabilities that the engine does not have, segments."""
        dumped = {name: value for name, value in dump(self).items() if value is not None}
        for segment in dumped.get("segments", ()):
            if segment["words"] is None:
                del segment["words"]
        return dumped


async def clone(call: Call[CloneFields, Nothing]) -> web.StreamResponse:
    """Speak a text in the voice of a recording.

    With `stream` the sound is sent in chunks while it is generated. Otherwise it is sent as a whole
    and with its Content-Length.
    """
    voice = Voice(recording=call.upload.recording)
    return await speak(call, call.body.speech(voice), model=call.body.model)


async def tts(call: Call[TtsFields, Nothing]) -> web.StreamResponse:
    """Speak a text in a voice that the service knows, or in the voice of an uploaded recording.

    The request is a form or JSON; only a form can have a recording.
    """
    asked, model = call.body.voice_id, call.body.model
    if call.upload.size and asked is not None:
        raise ServiceError(
            ErrorCode.invalid_option,
            f"the request has both voice_id and {_REFERENCE.name}; send only one of them",
        )
    if call.upload.size:
        voice = Voice(recording=call.upload.recording)
        return await speak(call, call.body.speech(voice), model=model)
    async with named(call, await resolve_voice(call, asked, model=model)) as voice:
        return await speak(call, call.body.speech(voice), model=model)


async def transcribe(call: Call[TranscribeFields, Nothing]) -> web.StreamResponse:
    """Transcribe a recording, with its language and emotion."""
    fields = call.body
    asked = transcription(
        call,
        model=fields.model,
        language=language_hint(call.request, fields.language),
        itn=fields.itn,
        words=fields.words,
        prompt=fields.prompt,
        temperature=fields.temperature,
        translate=fields.task == "translate",
        hotwords=fields.hotwords,
        hotword_weight=fields.hotword_weight,
    )
    transcript = await asked.run()
    if fields.response_format == "json":
        segments = fields.timestamps or fields.words
        response = json_answer(Transcript.of(transcript, segments=segments))
    else:
        response = plain_answer(transcript, fields.response_format)
    response.headers["Server-Timing"] = timing(asked.job)
    return response


OPERATIONS: Operations = (
    operation(
        "POST",
        "/v1/clone",
        clone,
        summary="Speak in the voice of a recording",
        tag=TAG,
        body=CloneFields,
        media=(FORM,),
        file=_REFERENCE,
        answers={200: sound_answer()},
    ),
    operation(
        "POST",
        "/v1/tts",
        tts,
        summary="Speak in a known voice",
        tag=TAG,
        body=TtsFields,
        media=(JSON, FORM),
        file=_OPTIONAL_REFERENCE,
        answers={200: sound_answer()},
        errors=(ErrorCode.not_found,),
    ),
    operation(
        "POST",
        "/v1/transcribe",
        transcribe,
        summary="Transcribe a recording",
        tag=TAG,
        body=TranscribeFields,
        media=(FORM,),
        file=RECORDING,
        answers={200: Answer("The transcript.", {JSON: Transcript, **PLAIN_CONTENT})},
    ),
)
