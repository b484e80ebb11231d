"""OpenAI's endpoint for transcription, for clients that only change their base URL. In the front.

The schemas of transcripts are in `transcripts.py`. All names are those of the openai SDKs
(https://github.com/openai/openai-python).
"""

from __future__ import annotations

from typing import Annotated, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ipc.errors import ServiceError
from ipc.operations import Segment, Transcript
from ipc.spacing import seam
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
from supervisor.http.routes.openai.transcripts import (
    OpenAITranscription,
    plain,
    told,
    verbose,
)
from supervisor.http.shared.jobs import timing
from supervisor.http.shared.languages import language_code
from supervisor.http.shared.streaming import server_sent, server_sent_error, stream
from supervisor.http.shared.transcription import (
    PLAIN_CONTENT,
    RECORDING,
    plain_answer,
    transcription,
)

_STREAMED = ("json", "text")


class TranscriptionFields(BaseModel):
    """How to transcribe. Other fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    model: Annotated[
        str,
        Field(
            description="name of an engine; any other name means the default engine",
            examples=["whisper-1"],
        ),
    ]
    language: Annotated[
        str | None, Field(max_length=32, description="a hint: en, zh, ja, ko, yue", examples=["en"])
    ] = None
    languages: Annotated[
        list[Annotated[str, Field(max_length=32)]],
        Field(description="a hint if there is one entry; several entries are ignored"),
    ] = []
    prompt: Annotated[str | None, Field(description="accepted and ignored")] = None
    response_format: Annotated[
        Literal["json", "text", "srt", "verbose_json", "vtt"],
        Field(description="srt and vtt are subtitles; verbose_json has segments"),
    ] = "json"
    temperature: Annotated[
        float | None, Field(description="accepted and ignored: recognition is not random")
    ] = None
    timestamp_granularities: Annotated[
        list[Literal["segment", "word"]],
        Field(description="which times verbose_json has; default segments"),
    ] = ["segment"]
    include: Annotated[
        list[str], Field(description="accepted and ignored: no engine gives logprobs")
    ] = []
    chunking_strategy: Annotated[
        str | None, Field(description="accepted and ignored: recordings are cut at silence")
    ] = None
    stream: Annotated[
        bool, Field(description="events transcript.text.delta, then transcript.text.done")
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

    def __init__(self) -> None:
        self._text = ""

    def item(self, item: Segment) -> bytes:
        delta = seam(self._text, item.text) + item.text
        self._text += delta
        return server_sent(
            {
                "type": "transcript.text.delta",
                "delta": delta,
                "start": item.start,
                "end": item.end,
                "language": item.paralinguistics.language,
                **told(item.paralinguistics),
            }
        )

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
    words = "word" in fields.timestamp_granularities
    asked = transcription(
        call,
        model=fields.model,
        language=_hint(fields),
        words=words,
        streamed=fields.stream,
    )
    if fields.stream:
        head = {"Content-Type": SERVER_SENT}
        return await stream(
            call.request,
            asked.model.backend,
            asked.job,
            source=asked.segments,
            framing=_TranscriptionEvents(),
            headers=lambda: head,
        )
    response = _answer(await asked.run(), fields)
    response.headers["Server-Timing"] = timing(asked.job)
    return response


def _answer(transcript: Transcript, fields: TranscriptionFields) -> web.Response:
    match fields.response_format:
        case "json":
            return json_answer(plain(transcript))
        case "verbose_json":
            wanted = fields.timestamp_granularities
            left_out = {f"{name}s" for name in ("segment", "word") if name not in wanted}
            text = verbose(transcript).model_dump_json(exclude=left_out)
            return web.Response(text=text, content_type=JSON)
        case form:
            return plain_answer(transcript, form)


def _hint(fields: TranscriptionFields) -> str:
    """The language hint for the engine, which takes one; several languages give no hint."""
    if not fields.language and len(fields.languages) == 1:
        return language_code(fields.languages[0])
    return language_code(fields.language)


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
                SERVER_SENT: "transcript.text.delta and transcript.text.done",
            },
        )
    },
)
