"""OpenAI's endpoint for transcription, for clients that only change their base URL. In the front.

The schemas of transcripts are in `transcripts.py`. All names are those of the openai SDKs
(https://github.com/openai/openai-python).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from aiohttp import web
from pydantic import ConfigDict, Field, model_validator

from ipc.engines import Json
from ipc.errors import ServiceError
from ipc.operations import Segment, Transcript
from ipc.spacing import seam
from supervisor.http.api.api_model import ApiModel
from supervisor.http.api.operation import (
    FORM,
    JSON,
    SERVER_SENT,
    Answer,
    Call,
    Nothing,
    json_answer,
    operation,
)
from supervisor.http.context import warn
from supervisor.http.routes.openai.transcripts import (
    DiarizedSegment,
    OpenAITranscription,
    diarized,
    plain,
    told,
    verbose,
)
from supervisor.http.shared.jobs import timing
from supervisor.http.shared.languages import language_hint
from supervisor.http.shared.streaming import server_sent, server_sent_error, stream
from supervisor.http.shared.transcription import (
    ONE_SPEAKER,
    PLAIN_CONTENT,
    RECORDING,
    Hotwords,
    HotwordWeight,
    PlainForm,
    Transcription,
    Word,
    plain_answer,
    transcription,
)

_STREAMED = ("json", "text", "diarized_json")


_MODEL = Field(
    description="name of an engine; any other name means the default engine",
    examples=["whisper-1"],
)
_PROMPT = Field(
    description="whisper: a text before the recording, for its spelling and style; other engines "
    "ignore it"
)
_TEMPERATURE = Field(
    ge=0,
    le=1,
    description="whisper: how random recognition is, 0 = as the engine finds best; other engines "
    "ignore it",
)


class TranscriptionFields(ApiModel):
    """How to transcribe. Other fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    model: Annotated[str | None, _MODEL] = None
    language: Annotated[
        str | None,
        Field(
            max_length=32,
            description="a hint: en, zh, ja, ko, yue; whisper knows a hundred",
            examples=["en"],
        ),
    ] = None
    languages: Annotated[
        list[Annotated[str, Field(max_length=32)]],
        Field(description="a hint if there is one entry; several entries are ignored"),
    ] = []
    prompt: Annotated[str | None, _PROMPT] = None
    hotwords: Hotwords = []
    hotword_weight: HotwordWeight | None = None
    response_format: Annotated[
        Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"],
        Field(
            description="srt and vtt are subtitles; verbose_json has segments; diarized_json has "
            "segments, all with the same speaker"
        ),
    ] = "json"
    temperature: Annotated[float | None, _TEMPERATURE] = None
    timestamp_granularities: Annotated[
        list[Literal["segment", "word"]],
        Field(
            description="which times verbose_json has; default segments. With word, each delta of "
            "a stream has words"
        ),
    ] = ["segment"]
    include: Annotated[
        list[str], Field(description="accepted and ignored: no engine gives logprobs")
    ] = []
    chunking_strategy: Annotated[
        str | None, Field(description="accepted and ignored: recordings are cut at silence")
    ] = None
    stream: Annotated[
        bool,
        Field(
            description="events transcript.text.delta, with diarized_json also "
            "transcript.text.segment, then transcript.text.done"
        ),
    ] = False

    @model_validator(mode="after")
    def _streams_text_alone(self) -> TranscriptionFields:
        if self.stream and self.response_format not in _STREAMED:
            raise ValueError(
                f"a stream cannot have response_format {self.response_format}; use json, or "
                "leave stream out"
            )
        return self


class _TranscriptionEvents:
    """A transcript as OpenAI's server-sent events, segment by segment."""

    media_type = SERVER_SENT

    def __init__(self, *, diarized: bool) -> None:
        self._text = ""
        self._diarized = diarized

    def item(self, item: Segment) -> bytes:
        delta = seam(self._text, item.text) + item.text
        self._text += delta
        event: Json = {
            "type": "transcript.text.delta",
            "delta": delta,
            "start": item.start,
            "end": item.end,
            "language": item.paralinguistics.language,
            **told(item.paralinguistics),
        }
        if item.words is not None:
            event["words"] = [Word.of(word).model_dump() for word in item.words]
        if not self._diarized:
            return server_sent(event)
        spoken = DiarizedSegment.of(item)
        return server_sent(event | {"segment_id": spoken.id}) + server_sent(spoken.model_dump())

    def end(self, result: Transcript) -> bytes:
        return server_sent(
            {"type": "transcript.text.done", **plain(result).model_dump(exclude={"usage"})}
            | {"duration": result.duration}
        )

    def error(self, error: ServiceError) -> bytes:
        return server_sent_error(error)


async def openai_transcription(call: Call[TranscriptionFields, Nothing]) -> web.StreamResponse:
    """Transcribe a recording.

    Every JSON response also has emotion, sound events and language, with their probabilities.
    """
    fields = call.body
    by_speaker = fields.response_format == "diarized_json"
    if by_speaker:
        warn(call.request, ONE_SPEAKER)
    words = "word" in fields.timestamp_granularities
    asked = transcription(
        call,
        model=fields.model,
        language=_hint(call),
        words=words,
        streamed=fields.stream,
        hotwords=fields.hotwords,
        hotword_weight=fields.hotword_weight,
        prompt=fields.prompt,
        temperature=fields.temperature or None,
    )
    if fields.stream:
        head = {"Content-Type": SERVER_SENT}
        return await stream(
            call.request,
            asked.model.backend,
            asked.job,
            source=asked.segments,
            framing=_TranscriptionEvents(diarized=by_speaker),
            headers=lambda: head,
        )
    return await _answer(asked, fields.response_format, fields.timestamp_granularities)


async def _answer(
    asked: Transcription,
    response_format: Literal["json", "diarized_json", "verbose_json"] | PlainForm,
    times: Sequence[str] = ("segment",),
    *,
    translated: bool = False,
) -> web.Response:
    """The whole response, once it is known; `times` are those that verbose_json has."""
    transcript = await asked.run()
    match response_format:
        case "json":
            response = json_answer(plain(transcript))
        case "diarized_json":
            response = json_answer(diarized(transcript))
        case "verbose_json":
            left_out = {f"{name}s" for name in ("segment", "word") if name not in times}
            text = verbose(transcript, translated=translated).model_dump_json(exclude=left_out)
            response = web.Response(text=text, content_type=JSON)
        case form:
            response = plain_answer(transcript, form)
    response.headers["Server-Timing"] = timing(asked.job)
    return response


def _hint(call: Call[TranscriptionFields, Nothing]) -> str:
    """The language hint for the engine, which takes one; several languages give no hint."""
    fields = call.body
    given = fields.language
    if not given and len(fields.languages) == 1:
        (given,) = fields.languages
    return language_hint(call.request, given)


class TranslationFields(ApiModel):
    """How to translate. Other fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    model: Annotated[
        str | None,
        Field(
            description="name of an engine; any other name means the first that translates",
            examples=["whisper-1"],
        ),
    ] = None
    prompt: Annotated[str | None, _PROMPT] = None
    response_format: Annotated[
        Literal["json", "text", "srt", "verbose_json", "vtt"],
        Field(description="srt and vtt are subtitles; verbose_json has segments"),
    ] = "json"
    temperature: Annotated[float | None, _TEMPERATURE] = None


async def openai_translation(call: Call[TranslationFields, Nothing]) -> web.StreamResponse:
    """Translate a recording to English.

    Only whisper translates; a service without it answers with 400 and how to get it.
    """
    fields = call.body
    asked = transcription(
        call,
        model=fields.model,
        prompt=fields.prompt,
        temperature=fields.temperature or None,
        translate=True,
    )
    return await _answer(asked, fields.response_format, translated=True)


TRANSLATION = operation(
    "POST",
    "/v1/audio/translations",
    openai_translation,
    summary="Translate to English",
    tag="OpenAI",
    body=TranslationFields,
    media=(FORM,),
    file=RECORDING,
    answers={200: Answer("The translation.", {JSON: OpenAITranscription, **PLAIN_CONTENT})},
)

TRANSCRIPTION = operation(
    "POST",
    "/v1/audio/transcriptions",
    openai_transcription,
    summary="Transcribe",
    tag="OpenAI",
    body=TranscriptionFields,
    media=(FORM,),
    file=RECORDING,
    answers={
        200: Answer(
            "The transcript.",
            {
                JSON: OpenAITranscription,
                **PLAIN_CONTENT,
                SERVER_SENT: "transcript.text.delta, transcript.text.segment, transcript.text.done",
            },
        )
    },
)
