"""Transcription, for all APIs. Runs in the front."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import Field

from ipc import operations
from ipc.engines import Kind
from ipc.errors import ErrorCode, ServiceError
from ipc.operations import (
    AUTO_LANGUAGE,
    MAX_HOTWORD,
    MAX_HOTWORDS,
    TRANSCRIPT_SECONDS,
    Transcribe,
    Transcript,
)
from ipc.recordings import READABLE
from supervisor.dispatch.cost import Unit, Work
from supervisor.dispatch.job import Job
from supervisor.dispatch.models import Model
from supervisor.dispatch.response_buffer import SegmentBuffer
from supervisor.http.api.api_model import ApiModel
from supervisor.http.api.operation import Call
from supervisor.http.api.read import FileField
from supervisor.http.shared import subtitles
from supervisor.http.shared.jobs import make_job
from supervisor.http.shared.models import choose

_DENSEST = 2_000_000
"""Highest bytes per second taken from a WAV header: six channels of 24 bits at 96 kHz."""

ONE_SPEAKER = "the service does not tell speakers apart: all of the transcript has one speaker"
"""The warning for requests that ask who speaks."""

RECORDING = FileField(
    "file",
    f"the recording to transcribe: {READABLE}, up to {TRANSCRIPT_SECONDS / 60:.0f} minutes",
    lambda settings: settings.max_audio_mb,
)


_WHOLE = (
    "the likeliest first, without those below 0.001; of the whole it is the mean of the pieces "
    "that were recognized at once, weighted by their seconds"
)

Hotwords = Annotated[
    list[str],
    Field(
        description="words and phrases that are likelier than usual, each in a field of its own or "
        f"divided by commas: at most {MAX_HOTWORDS}, each of at most {MAX_HOTWORD} characters. "
        "sensevoice and whisper obey, other engines refuse them",
        examples=[["Kyutai"]],
    ),
]
HotwordWeight = Annotated[
    float,
    Field(
        gt=0,
        le=10,
        description="sensevoice: how much likelier a hotword is, as a logarithm for each of its "
        "tokens; default 2. Other engines refuse it",
    ),
]

LanguageProbabilities = Annotated[
    dict[str, float] | None,
    Field(
        description=f"how likely each language is, and nospeech: {_WHOLE}. Pieces without speech "
        "count only if there are no others. null with an engine that does not know"
    ),
]
Emotions = Annotated[
    dict[str, float] | None,
    Field(
        description=f"how likely each emotion is: {_WHOLE}. Pieces with EMO_UNKNOWN count only if "
        "there are no others. null with an engine that does not know",
        examples=[{"HAPPY": 0.71, "NEUTRAL": 0.27, "SURPRISED": 0.02}],
    ),
]
EventProbabilities = Annotated[
    dict[str, float] | None,
    Field(
        description=f"how likely each sound event is the main one: {_WHOLE}. null with an engine "
        "that does not know"
    ),
]


class Word(ApiModel):
    """A word and when it is said, in seconds."""

    word: str
    start: float
    end: float

    @classmethod
    def of(cls, word: operations.Word) -> Word:
        """From the worker's result."""
        return cls(word=word.word, start=word.start, end=word.end)


@dataclass(frozen=True, slots=True)
class Transcription:
    """A transcription that can run: the model, the job, and the buffer for the segments."""

    model: Model
    job: Job[Transcript]
    segments: SegmentBuffer

    async def run(self) -> Transcript:
        """The transcript. Raises `ServiceError`."""
        try:
            return await self.model.backend.run(self.job)
        finally:
            self.segments.close()


def transcription(
    call: Call[Any, Any],
    *,
    model: str | None = None,
    language: str = AUTO_LANGUAGE,
    itn: bool = True,
    words: bool = False,
    streamed: bool = False,
    prompt: str | None = None,
    temperature: float | None = None,
    translate: bool = False,
    hotwords: Sequence[str] = (),
    hotword_weight: float | None = None,
) -> Transcription:
    """The transcription of the recording in a request, or with `translate` its translation.

    `model` is the model's name in the request; `language` is a hint, one of the engines' codes.
    Raises `ServiceError` when no model can translate.
    """
    if translate:
        chosen = call.service.models.translator(model)
    else:
        chosen = choose(call, Kind.STT, model=model, language=language)
    upload = call.upload
    transcribe = Transcribe(
        upload.recording,
        language,
        itn,
        words,
        streamed,
        prompt or None,
        temperature,
        translate,
        read_hotwords(hotwords),
        hotword_weight,
    )
    segments = SegmentBuffer()
    job = make_job(call, chosen, transcribe, _work(upload.head, upload.size), segments)
    return Transcription(chosen, job, segments)


def read_hotwords(given: Sequence[str]) -> tuple[str, ...]:
    """The hotwords of a request, each once. Raises `ServiceError` for too many or too long ones."""
    found = dict.fromkeys(
        " ".join(word.split()) for each in given for word in re.split(r"[,\n，、]", each)
    )
    found.pop("", None)
    if len(found) > MAX_HOTWORDS:
        raise ServiceError(
            ErrorCode.invalid_option,
            f"the request has {len(found)} hotwords; send at most {MAX_HOTWORDS}",
        )
    for word in found:
        if len(word) > MAX_HOTWORD:
            raise ServiceError(
                ErrorCode.invalid_option,
                f"the hotword '{word[:MAX_HOTWORD]}...' has {len(word)} characters; send at most "
                f"{MAX_HOTWORD}",
            )
        if not any(letter.isalnum() for letter in word):
            raise ServiceError(
                ErrorCode.invalid_option, f"the hotword '{word}' has no letter; leave it out"
            )
    return tuple(found)


def _work(head: bytes, size: int) -> Work:
    """The work for a recording: the seconds of a WAV, from its header; otherwise the bytes.

    The header may be wrong; the estimate is never above that for the longest recording.
    """
    place = head.find(b"fmt ")
    bytes_a_second = head[place + 16 : place + 20]
    if head[:4] not in (b"RIFF", b"RF64") or place < 0 or len(bytes_a_second) < 4:
        return Work(Unit.BYTES, size, TRANSCRIPT_SECONDS)
    density = min(max(int.from_bytes(bytes_a_second, "little"), 1), _DENSEST)
    return Work(Unit.SECONDS, min(size / density, TRANSCRIPT_SECONDS), TRANSCRIPT_SECONDS)


PlainForm = Literal["text", "srt", "vtt"]
"""Formats of a transcript that are not JSON: the text alone, and subtitles."""

PLAIN_CONTENT = {
    "text/plain": "the text, or SRT subtitles",
    "text/vtt": "WebVTT subtitles",
}
"""The responses of `plain_answer`, for declarations."""


def plain_answer(transcript: Transcript, form: PlainForm) -> web.Response:
    """A transcript in one of these formats."""
    match form:
        case "text":
            return web.Response(text=transcript.text + "\n")
        case "srt":
            return web.Response(text=subtitles.srt(transcript.segments))
        case "vtt":
            text = subtitles.vtt(transcript.segments)
            return web.Response(text=text, content_type="text/vtt")
