"""Transcripts in OpenAI's schemas, with emotion and events in addition. Runs in the front."""

from __future__ import annotations

import zlib
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, RootModel

from ipc.engines import Json
from ipc.operations import NO_LANGUAGE, Paralinguistics, Segment, Transcript
from supervisor.http.api.api_model import ApiModel
from supervisor.http.shared.languages import ENGLISH_NAMES
from supervisor.http.shared.transcription import (
    Emotions,
    EventProbabilities,
    LanguageProbabilities,
    Word,
)


class DetectedLanguage(ApiModel):
    """A language that is spoken in the recording."""

    code: str


class UsageDuration(ApiModel):
    """The transcribed sound, in seconds."""

    type: Literal["duration"] = "duration"
    seconds: float


class Told(ApiModel):
    """How something is said; probabilities are null where the engine has none."""

    language_probability: float | None = None
    emotion: str
    emotion_probability: float | None = None
    events: list[str]
    language_probabilities: LanguageProbabilities = None
    emotions: Emotions = None
    event_probabilities: EventProbabilities = None


class PlainTranscription(Told):
    """A transcript: OpenAI's `json`, and how it is said."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "text": "Hello there.",
                    "languages": [{"code": "en"}],
                    "language": "en",
                    "language_probability": 0.98,
                    "emotion": "NEUTRAL",
                    "emotion_probability": 0.87,
                    "events": ["Speech"],
                    "usage": {"type": "duration", "seconds": 1.4},
                }
            ]
        }
    )

    text: str
    languages: Annotated[list[DetectedLanguage], Field(description="empty without speech")]
    language: Annotated[str, Field(description="code of the language; nospeech without speech")]
    usage: UsageDuration


class TimedSegment(Told):
    """A sentence, or the speech between two pauses: OpenAI's fields, and how it is said.

    Only Whisper has `tokens`, a `temperature` and a `compression_ratio` of its own; `seek` is
    always the same.
    """

    id: int
    seek: Literal[0] = 0
    start: float
    end: float
    text: str
    tokens: list[int] = []
    temperature: float = 0
    avg_logprob: Annotated[
        float,
        Field(
            le=0,
            description="mean of the logarithms of the probabilities of its tokens; 0 with an "
            "engine that has none",
        ),
    ]
    compression_ratio: Annotated[
        float, Field(description="bytes of the text, divided by its bytes compressed with zlib")
    ]
    no_speech_prob: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="probability that there is no speech; 0 with an engine that has none",
        ),
    ]
    language: Annotated[str, Field(description="code of the language")]


class VerboseTranscription(Told):
    """A transcript with times: OpenAI's `verbose_json`, and how it is said."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "task": "transcribe",
                    "language": "english",
                    "language_code": "en",
                    "duration": 1.4,
                    "text": "Hello there.",
                    "emotion": "NEUTRAL",
                    "emotion_probability": 0.87,
                    "language_probability": 0.98,
                    "events": ["Speech"],
                    "segments": [
                        {
                            "id": 0,
                            "seek": 0,
                            "start": 0.3,
                            "end": 1.0,
                            "text": "Hello there.",
                            "tokens": [],
                            "temperature": 0,
                            "avg_logprob": -0.12,
                            "compression_ratio": 0.6,
                            "no_speech_prob": 0.01,
                            "language": "en",
                            "language_probability": 0.98,
                            "emotion": "NEUTRAL",
                            "emotion_probability": 0.87,
                            "events": ["Speech"],
                        }
                    ],
                    "usage": {"type": "duration", "seconds": 1.4},
                }
            ]
        }
    )

    task: Literal["transcribe", "translate"] = "transcribe"
    language: Annotated[str, Field(description="name of the text's language: english, ...")]
    language_code: Annotated[str, Field(description="code of the spoken language")]
    duration: Annotated[float, Field(description="duration of the recording in seconds")]
    text: str
    segments: list[TimedSegment] | None = None
    words: list[Word] | None = None
    usage: UsageDuration


class DiarizedSegment(ApiModel):
    """A segment with its speaker; engines do not tell speakers apart, so that there is only A."""

    type: Literal["transcript.text.segment"] = "transcript.text.segment"
    id: str
    start: float
    end: float
    text: str
    speaker: Literal["A"] = "A"

    @classmethod
    def of(cls, segment: Segment) -> DiarizedSegment:
        """From the worker's result."""
        return cls(id=f"seg_{segment.id}", start=segment.start, end=segment.end, text=segment.text)


class DiarizedTranscription(Told):
    """A transcript with speakers: OpenAI's `diarized_json`, and how it is said."""

    task: Literal["transcribe"] = "transcribe"
    language: Annotated[str, Field(description="code of the language; nospeech without speech")]
    duration: Annotated[float, Field(description="duration of the recording in seconds")]
    text: str
    segments: list[DiarizedSegment]
    usage: UsageDuration


class OpenAITranscription(
    RootModel[VerboseTranscription | DiarizedTranscription | PlainTranscription]
):
    """A transcript in the schema that `response_format` selects."""


def plain(transcript: Transcript) -> PlainTranscription:
    """A transcript as OpenAI's `json`."""
    code = transcript.paralinguistics.language
    return PlainTranscription(
        text=transcript.text,
        languages=[] if code == NO_LANGUAGE else [DetectedLanguage(code=code)],
        language=code,
        usage=UsageDuration(seconds=transcript.duration),
        **told(transcript.paralinguistics),
    )


def verbose(transcript: Transcript, *, translated: bool = False) -> VerboseTranscription:
    """A transcript as OpenAI's `verbose_json`; a translation is in English."""
    code = transcript.paralinguistics.language
    return VerboseTranscription(
        task="translate" if translated else "transcribe",
        language="english" if translated else ENGLISH_NAMES.get(code, code),
        language_code=code,
        duration=transcript.duration,
        text=transcript.text,
        segments=[_segment(segment) for segment in transcript.segments],
        words=[Word.of(word) for segment in transcript.segments for word in segment.words or ()],
        usage=UsageDuration(seconds=transcript.duration),
        **told(transcript.paralinguistics),
    )


def diarized(transcript: Transcript) -> DiarizedTranscription:
    """A transcript as OpenAI's `diarized_json`."""
    return DiarizedTranscription(
        language=transcript.paralinguistics.language,
        duration=transcript.duration,
        text=transcript.text,
        segments=[DiarizedSegment.of(segment) for segment in transcript.segments],
        usage=UsageDuration(seconds=transcript.duration),
        **told(transcript.paralinguistics),
    )


def _segment(segment: Segment) -> TimedSegment:
    data = segment.text.encode()
    return TimedSegment(
        id=segment.id,
        start=segment.start,
        end=segment.end,
        text=segment.text,
        avg_logprob=segment.avg_logprob or 0.0,
        tokens=list(segment.tokens),
        temperature=segment.temperature or 0,
        compression_ratio=round(len(data) / len(zlib.compress(data)), 4)
        if segment.compression_ratio is None
        else segment.compression_ratio,
        no_speech_prob=segment.no_speech or 0.0,
        language=segment.paralinguistics.language,
        **told(segment.paralinguistics),
    )


def told(source: Paralinguistics) -> Json:
    """The fields in addition to OpenAI's, with the same names in every response."""
    return {
        "language_probability": source.language_probability,
        "emotion": source.emotion,
        "emotion_probability": source.emotion_probability,
        "events": list(source.events),
        "language_probabilities": source.language_probabilities,
        "emotions": source.emotions,
        "event_probabilities": source.event_probabilities,
    }
