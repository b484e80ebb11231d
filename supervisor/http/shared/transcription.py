"""Transcription requests of every kind of client. Runs in the front."""

from __future__ import annotations

from typing import Literal

from aiohttp import web
from pydantic import BaseModel

from ipc.messages import Json
from ipc.recordings import READABLE
from supervisor.dispatch.cost import SOUND
from supervisor.dispatch.dispatcher import Job
from supervisor.dispatch.upload import Upload
from supervisor.http.api.read import FileField
from supervisor.http.shared import subtitles
from supervisor.http.shared.jobs import make_job
from supervisor.service import Service

LONGEST_SECONDS = 720.0
"""What engines hear of a recording at most; a longer one is refused."""

_DENSEST = 2_000_000
"""Bytes in a second of a WAV that a header may claim: six channels of 24 bits at 96 kHz."""

RECORDING = FileField(
    "file",
    f"what is to be transcribed: {READABLE}, up to 12 minutes",
    lambda settings: settings.max_audio_mb,
)


class Word(BaseModel):
    """A word and when it is said, in seconds."""

    word: str
    start: float
    end: float


def transcription_job(
    request: web.Request,
    service: Service,
    upload: Upload,
    *,
    language: str = "auto",
    itn: bool = True,
    words: bool = False,
    stream: bool = False,
) -> Job:
    """The job that has `upload` transcribed."""
    params = {"language": language, "itn": itn, "words": words, "stream": stream}
    kind, size = _work(upload.head, upload.size)
    return make_job(
        request,
        service,
        "transcribe",
        params,
        kind=kind,
        size=size,
        longest=LONGEST_SECONDS,
        audio=upload.data,
        audio_path=upload.path,
        digest=upload.digest,
    )


def _work(head: bytes, size: int) -> tuple[str, float]:
    """How much work a recording is: seconds of a WAV, by its header, else bytes.

    The claim may be a lie, and then costs the liar no more than the longest recording.
    """
    place = head.find(b"fmt ")
    bytes_a_second = head[place + 16 : place + 20]
    if head[:4] not in (b"RIFF", b"RF64") or place < 0 or len(bytes_a_second) < 4:
        return "bytes", size
    density = min(max(int.from_bytes(bytes_a_second, "little"), 1), _DENSEST)
    return SOUND, min(size / density, LONGEST_SECONDS)


PlainForm = Literal["text", "srt", "vtt"]
"""Forms of a transcript that are no JSON: the text alone, and subtitles."""

PLAIN_CONTENT = {
    "text/plain": "the text, or SRT subtitles",
    "text/vtt": "WebVTT subtitles",
}
"""What `plain_answer` answers, for declarations."""


def plain_answer(result: Json, form: PlainForm) -> web.Response:
    """A worker's transcript in one of these forms."""
    match form:
        case "text":
            return web.Response(text=result["text"] + "\n")
        case "srt":
            return web.Response(text=subtitles.srt(result["segments"]))
        case "vtt":
            text = subtitles.vtt(result["segments"])
            return web.Response(text=text, content_type="text/vtt")


async def transcribed(service: Service, job: Job) -> Json:
    """Run `job` for its transcript."""
    try:
        return await service.dispatchers["stt"].run(job)
    finally:
        job.answer.close()
