"""Transcription for ElevenLabs' clients (their model is called Scribe). Runs in the front."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from aiohttp import web
from pydantic import ConfigDict, Field, model_validator

from ipc.operations import Segment, Transcript, Word
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
from supervisor.http.context import warn
from supervisor.http.shared.character_times import evenly
from supervisor.http.shared.jobs import timing
from supervisor.http.shared.languages import ISO_639_3, language_hint
from supervisor.http.shared.transcription import (
    ONE_SPEAKER,
    RECORDING,
    Emotions,
    EventProbabilities,
    LanguageProbabilities,
    transcription,
)

TAG = "ElevenLabs"

_WANT_NOTHING = ("", "null", "none", "undefined", "false", "0", "other", "[]", "{}")
"""Values that mean the same as a field that is left out."""

_REFUSED = {
    "cloud_storage_url": "the service fetches no URL; send the recording in 'file'",
    "source_url": "the service fetches no URL; send the recording in 'file'",
    "webhook": "the service calls no webhook; leave webhook out and wait for the response",
    "use_multi_channel": "the service mixes all channels into one; send one file per channel",
    "file_format": "the service takes no samples without a header; send a WAV and leave "
    "file_format out",
    "additional_formats": "the response has one format; leave additional_formats out, and send the "
    "recording to /v1/transcribe for subtitles",
    "transcript_edit": "the service does not edit transcripts; leave transcript_edit out",
    "entity_detection": "the service does not detect entities; leave entity_detection out",
    "entity_redaction": "the service does not redact entities; leave entity_redaction out",
}
"""Options we reject, because ignoring them would return a wrong result."""


class SpeechToTextFields(ApiModel):
    """How to transcribe; other fields of ElevenLabs are accepted and ignored.

    Fields that must be left out are declared, because requests with them are refused.
    """

    model_config = ConfigDict(extra="ignore")

    model_id: Annotated[
        str | None,
        Field(
            description="name of an engine; any other name means the default engine",
            examples=["scribe_v1"],
        ),
    ] = None
    language_code: Annotated[
        str | None, Field(max_length=32, description="a hint: ISO 639-1 or 639-3", examples=["en"])
    ] = None
    timestamps_granularity: Annotated[
        Literal["none", "word", "character"],
        Field(description="characters share the time of their word evenly"),
    ] = "word"
    tag_audio_events: Annotated[
        bool, Field(description="words also has laughter, applause, music and the like")
    ] = True
    cloud_storage_url: Annotated[str | None, Field(description="must be left out")] = None
    source_url: Annotated[str | None, Field(description="must be left out")] = None
    webhook: Annotated[str | None, Field(description="must be false or left out")] = None
    diarize: Annotated[
        bool,
        Field(
            description="the words have a speaker_id; it is always speaker_0, because the service "
            "does not tell speakers apart"
        ),
    ] = False
    use_multi_channel: Annotated[str | None, Field(description="must be false or left out")] = None
    file_format: Annotated[str | None, Field(description="must be other or left out")] = None
    additional_formats: Annotated[str | None, Field(description="must be left out")] = None
    transcript_edit: Annotated[str | None, Field(description="must be left out")] = None
    entity_detection: Annotated[str | None, Field(description="must be left out")] = None
    entity_redaction: Annotated[str | None, Field(description="must be left out")] = None

    @model_validator(mode="after")
    def _refuse(self) -> SpeechToTextFields:
        for name, reason in _REFUSED.items():
            given: str | None = getattr(self, name)
            if given is not None and given.strip().lower() not in _WANT_NOTHING:
                raise ValueError(reason)
        return self


class ScribeCharacter(ApiModel):
    """A character of a word and when it is said, in seconds."""

    text: str
    start: float
    end: float


class ScribeWord(ApiModel):
    """A word, the text between two words, or a sound event; times are in seconds."""

    text: str
    start: float
    end: float
    type: Literal["word", "spacing", "audio_event"]
    speaker_id: Annotated[
        Literal["speaker_0"] | None, Field(description="with diarize: always the same speaker")
    ] = None
    logprob: Annotated[
        float,
        Field(
            le=0,
            description="logarithm of the probability of a word; 0 for the rest, and with an "
            "engine that has none",
        ),
    ] = 0.0
    characters: list[ScribeCharacter] | None = None


class ScribeTranscript(ApiModel):
    """The transcript of a recording.

    The words and spacings, joined in their order, are the text.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "language_code": "eng",
                    "language_probability": 0.98,
                    "text": "Hello there.",
                    "words": [
                        {
                            "text": "Hello",
                            "start": 0.3,
                            "end": 0.62,
                            "type": "word",
                            "logprob": -0.04,
                        },
                        {"text": " ", "start": 0.62, "end": 0.66, "type": "spacing"},
                        {"text": "there.", "start": 0.66, "end": 1.0, "type": "word"},
                    ],
                    "audio_duration_secs": 1.4,
                    "emotion": "NEUTRAL",
                    "emotion_probability": 0.87,
                    "events": ["Speech"],
                    "language_probabilities": {"eng": 0.98, "zho": 0.02},
                    "emotions": {"NEUTRAL": 0.87, "HAPPY": 0.13},
                    "event_probabilities": {"Speech": 1.0},
                }
            ]
        }
    )

    language_code: Annotated[str, Field(description="ISO 639-3; zxx without speech")]
    language_probability: Annotated[
        float, Field(ge=0, le=1, description="0 with an engine that has none")
    ]
    text: str
    words: Annotated[list[ScribeWord], Field(description="empty with granularity none")]
    audio_duration_secs: float
    emotion: Annotated[str, Field(description="HAPPY, SAD, ANGRY, NEUTRAL, EMO_UNKNOWN, ...")]
    emotion_probability: float | None
    events: Annotated[list[str], Field(description="Speech, BGM, Laughter, Applause, ...")]
    language_probabilities: LanguageProbabilities
    emotions: Emotions
    event_probabilities: EventProbabilities


async def speech_to_text(call: Call[SpeechToTextFields, Nothing]) -> web.StreamResponse:
    """Transcribe a recording, with the times of its words, its language and its emotion."""
    fields = call.body
    timed = fields.timestamps_granularity != "none"
    if fields.diarize:
        warn(call.request, ONE_SPEAKER)
    asked = transcription(
        call,
        model=fields.model_id,
        language=language_hint(call.request, fields.language_code),
        words=timed,
    )
    transcript = await asked.run()
    words: list[ScribeWord] = []
    if timed:
        characters = fields.timestamps_granularity == "character"
        words = scribe_words(transcript, characters=characters, events=fields.tag_audio_events)
    for word in words if fields.diarize else ():
        word.speaker_id = "speaker_0"
    told = transcript.paralinguistics
    answer = ScribeTranscript(
        language_code=ISO_639_3.get(told.language, told.language),
        language_probability=told.language_probability or 0.0,
        text=transcript.text,
        words=words,
        audio_duration_secs=transcript.duration,
        emotion=told.emotion,
        emotion_probability=told.emotion_probability,
        events=list(told.events),
        language_probabilities=told.language_probabilities
        and {ISO_639_3.get(code, code): each for code, each in told.language_probabilities.items()},
        emotions=told.emotions,
        event_probabilities=told.event_probabilities,
    )
    return json_answer(answer, headers={"Server-Timing": timing(asked.job)})


def scribe_words(transcript: Transcript, *, characters: bool, events: bool) -> list[ScribeWord]:
    """The words of a transcript, the text between them, and with `events` the sound events."""
    said = [word for segment in transcript.segments for word in segment.words or ()]
    words = list(_words(transcript.text, said, characters=characters))
    for event in _events(transcript) if events else ():
        later = (
            place
            for place, word in enumerate(words)
            if word.type == "word" and word.start >= event.start
        )
        words.insert(next(later, len(words)), event)
    return words


def _words(text: str, said: Sequence[Word], *, characters: bool) -> Iterator[ScribeWord]:
    """The words of `text` and the text between them."""
    cursor, clock = 0, 0.0
    for word in said:
        place = text.find(word.word, cursor)
        if place < 0:
            continue
        if place > cursor:
            start, end = sorted((clock, word.start))  # words may overlap by a little
            yield ScribeWord(text=text[cursor:place], start=start, end=end, type="spacing")
        yield _word(word, characters=characters)
        cursor, clock = place + len(word.word), word.end
    if cursor < len(text):
        yield ScribeWord(text=text[cursor:], start=clock, end=clock, type="spacing")


def _word(word: Word, *, characters: bool) -> ScribeWord:
    times = evenly(len(word.word), word.start, word.end)
    return ScribeWord(
        text=word.word,
        start=word.start,
        end=word.end,
        type="word",
        logprob=word.logprob or 0.0,
        characters=[
            ScribeCharacter(text=character, start=round(start, 3), end=round(end, 3))
            for character, (start, end) in zip(word.word, times, strict=True)
        ]
        if characters
        else None,
    )


def _events(transcript: Transcript) -> Iterator[ScribeWord]:
    """Sound events besides speech; an event in consecutive segments is one event."""
    # Without speech there are no segments, but there may be music.
    whole = Segment(0, 0.0, transcript.duration, "", transcript.paralinguistics)
    going: dict[str, ScribeWord] = {}
    for segment in transcript.segments or (whole,):
        events = [event for event in segment.paralinguistics.events if event != "Speech"]
        for event in [event for event in going if event not in events]:
            yield going.pop(event)
        for event in events:
            if event in going:
                going[event].end = segment.end
            else:
                going[event] = ScribeWord(
                    text=f"({event.lower()})",
                    start=segment.start,
                    end=segment.end,
                    type="audio_event",
                )
    yield from going.values()


OPERATIONS: Operations = (
    operation(
        "POST",
        "/v1/speech-to-text",
        speech_to_text,
        summary="Transcribe a recording",
        tag=TAG,
        body=SpeechToTextFields,
        media=(FORM,),
        file=RECORDING,
        answers={200: Answer("The transcript.", {JSON: ScribeTranscript})},
    ),
)
