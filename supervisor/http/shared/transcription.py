"""Transcription for every kind of client. Runs in the front."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel

from ipc import operations
from ipc.engines import Kind
from ipc.operations import AUTO_LANGUAGE, TRANSCRIPT_SECONDS, Transcribe, Transcript
from ipc.recordings import READABLE
from supervisor.dispatch.cost import Unit, Work
from supervisor.dispatch.job import Job
from supervisor.dispatch.models import Model
from supervisor.dispatch.response_buffer import SegmentBuffer
from supervisor.http.api.operation import Call
from supervisor.http.api.read import FileField
from supervisor.http.shared import subtitles
from supervisor.http.shared.jobs import make_job

_DENSEST = 2_000_000
"""Bytes in a second of a WAV that a header may claim: six channels of 24 bits at 96 kHz."""

RECORDING = FileField(
    "file",
    f"what is to be transcribed: {READABLE}, up to {TRANSCRIPT_SECONDS / 60:.0f} minutes",
    lambda settings: settings.max_audio_mb,
)


class Word(BaseModel):
    """A word and when it is said, in seconds."""

    word: str
    start: float
    end: float

    @classmethod
    def of(cls, word: operations.Word) -> Word:
        """As a worker has found it."""
        return cls(word=word.word, start=word.start, end=word.end)


@dataclass(frozen=True, slots=True)
class Transcription:
    """A recording that is about to be transcribed: by which model, and where its segments go."""

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
) -> Transcription:
    """The transcription of the recording that came with a request.

    `model` is what the client calls the model; `language` is a hint in the engines' codes.
    """
    upload = call.upload
    transcribe = Transcribe(upload.recording, language, itn, words, streamed)
    segments = SegmentBuffer()
    job = make_job(call, transcribe, _work(upload.head, upload.size), segments)
    chosen = call.service.models.resolve(Kind.STT, model=model, language=language)
    return Transcription(chosen, job, segments)


def _work(head: bytes, size: int) -> Work:
    """How much work a recording is: seconds of a WAV, by its header, else bytes.

    The claim may be a lie, and then costs the liar no more than the longest recording.
    """
    place = head.find(b"fmt ")
    bytes_a_second = head[place + 16 : place + 20]
    if head[:4] not in (b"RIFF", b"RF64") or place < 0 or len(bytes_a_second) < 4:
        return Work(Unit.BYTES, size, TRANSCRIPT_SECONDS)
    density = min(max(int.from_bytes(bytes_a_second, "little"), 1), _DENSEST)
    return Work(Unit.SECONDS, min(size / density, TRANSCRIPT_SECONDS), TRANSCRIPT_SECONDS)


PlainForm = Literal["text", "srt", "vtt"]
"""Forms of a transcript that are no JSON: the text alone, and subtitles."""

PLAIN_CONTENT = {
    "text/plain": "the text, or SRT subtitles",
    "text/vtt": "WebVTT subtitles",
}
"""What `plain_answer` answers, for declarations."""


def plain_answer(transcript: Transcript, form: PlainForm) -> web.Response:
    """A transcript in one of these forms."""
    match form:
        case "text":
            return web.Response(text=transcript.text + "\n")
        case "srt":
            return web.Response(text=subtitles.srt(transcript.segments))
        case "vtt":
            text = subtitles.vtt(transcript.segments)
            return web.Response(text=text, content_type="text/vtt")
