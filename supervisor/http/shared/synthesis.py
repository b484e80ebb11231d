"""Speech requests of every kind of client: the order, the voice, the answer. Runs in the front."""

from __future__ import annotations

import base64
import contextlib
import math
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, get_args

from aiohttp import web
from pydantic import BaseModel, Field

from ipc.errors import ErrorCode, ServiceError
from ipc.formats import (
    FORMATS,
    MAX_RATE,
    MAX_SPEED,
    MIN_RATE,
    MIN_SPEED,
    AnyFormat,
    FormatName,
    content_type,
)
from ipc.messages import Json
from supervisor.dispatch.dispatcher import Dispatcher, Job
from supervisor.dispatch.upload import Upload
from supervisor.http.api.operation import JSON, Answer
from supervisor.http.shared.jobs import MAX_SEED, make_job, timing
from supervisor.http.shared.streaming import Framing, send, stream
from supervisor.service import Service

Rate = Annotated[
    int, Field(ge=MIN_RATE, le=MAX_RATE, description="Hz; the next higher one the format has")
]
Speed = Annotated[
    float, Field(ge=MIN_SPEED, le=MAX_SPEED, description="2 takes half as long; the pitch stays")
]
Seed = Annotated[
    int, Field(ge=0, lt=MAX_SEED, description="the same request gives the same speech")
]
Temperature = Annotated[float, Field(ge=0, le=2, description="for engines that have it")]
DecodeSteps = Annotated[int, Field(ge=1, le=64, description="for engines that have it")]
EosThreshold = Annotated[float, Field(ge=-20, le=20, description="for engines that have it")]

SOUND_HEADERS = {
    "X-Sample-Rate": "Hz",
    "X-Voice-Engine": "the engine that spoke",
    "X-Voice-Approximation": "what the engine can only approximate; absent when nothing",
    "X-Voice-Cache": "hit or miss: whether the voice was known; not in streams",
    "X-Audio-Duration": "seconds; not in streams",
}
"""Of answers with sound, in declarations."""

_FORMAT_NAMES: tuple[FormatName, ...] = get_args(FormatName)
_CACHED_ID = re.compile(r"cached-([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class VoiceSource:
    """Where a worker finds the voice: parameters for it, and a recording where it needs one."""

    params: Json
    audio: bytes | None = None
    audio_path: str | None = None


def uploaded(upload: Upload) -> VoiceSource:
    """The voice of a recording that came with the request."""
    return VoiceSource({"voice_key": upload.digest.hex()}, upload.data, upload.path)


@contextlib.asynccontextmanager
async def named(service: Service, voice_id: str | None) -> AsyncIterator[VoiceSource]:
    """The voice that clients call `voice_id`, or the engine's default one; it stays meanwhile.

    Raises `ServiceError` (not_found) when there is none, as far as the front can know.
    """
    voice = None if voice_id is None else service.voices.get(voice_id)
    if voice is not None:
        async with service.voices.hold(voice.key):
            recording = str(service.voices.recording_path(voice))
            yield VoiceSource({"voice_key": voice.key, "keep_voice": True}, audio_path=recording)
    else:
        yield _unregistered(service, voice_id)


def _unregistered(service: Service, voice_id: str | None) -> VoiceSource:
    if voice_id is None:
        return VoiceSource({})
    if cached := _CACHED_ID.fullmatch(voice_id):
        return VoiceSource({"voice_key": base64.urlsafe_b64decode(cached[1] + "=").hex()})
    builtin = [voice["id"] for voice in service.builtin_voices]
    # Before the model has loaded nobody knows its voices: the worker will.
    if service.pools["tts"].info and voice_id not in builtin:
        raise ServiceError(
            ErrorCode.not_found,
            f"there is no voice '{voice_id[:64]}'; GET /v1/voices lists them, and "
            "POST /v1/voices/register adds one",
        )
    return VoiceSource({"voice": voice_id})


def is_cached_id(voice_id: str) -> bool:
    """Whether `cached_id` may have made it."""
    return _CACHED_ID.fullmatch(voice_id) is not None


def cached_id(key: str) -> str:
    """The id of a voice that is only cached: its key, as short as an id must be."""
    return "cached-" + base64.urlsafe_b64encode(bytes.fromhex(key)).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class Order:
    """One text to be spoken; None leaves a choice to the engine or the format."""

    text: str
    voice: VoiceSource
    response_format: AnyFormat = "wav"
    stream: bool = False
    sample_rate: int | None = None
    bit_rate: int | None = None
    speed: float | None = None
    seed: int | None = None
    temperature: float | None = None
    decode_steps: int | None = None
    eos_threshold: float | None = None
    alignment: bool = False


def _speech_job(request: web.Request, service: Service, order: Order) -> Job:
    """The job of `order`. Raises `ServiceError` for a text that cannot be spoken."""
    _check_text(order.text, service.settings.max_text_chars)
    choices = ("sample_rate", "bit_rate", "speed", "temperature", "decode_steps", "eos_threshold")
    params = {name: value for name in choices if (value := getattr(order, name)) is not None}
    params |= {
        "text": order.text,
        "stream": order.stream,
        "response_format": order.response_format,
        "alignment": order.alignment,
        **order.voice.params,
    }
    return make_job(
        request,
        service,
        "speak",
        params,
        kind="text",
        size=len(order.text),
        seed=order.seed,
        audio=order.voice.audio,
        audio_path=order.voice.audio_path,
    )


async def speak(
    request: web.Request,
    service: Service,
    order: Order,
    *,
    framing: Framing | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """Answer with the sound of `order`, and `headers`; in a stream it may be framed as events."""
    job = _speech_job(request, service, order)
    dispatcher = service.dispatchers["tts"]
    media_type = None if framing is None else framing.media_type

    def head() -> dict[str, str]:
        return _headers(dispatcher, job, media_type) | dict(headers or {})

    if order.stream:
        return await stream(request, dispatcher, job, head, framing)
    return await _whole(request, dispatcher, job, head)


async def speak_in_json(
    request: web.Request, service: Service, order: Order, describe: Callable[[Json], BaseModel]
) -> web.StreamResponse:
    """Answer with JSON: the sound of `order` in `audio_base64`, beside what `describe` makes.

    It goes out piece by piece, for it may be many times larger than the front should grow.
    """
    job = _speech_job(request, service, order)
    dispatcher = service.dispatchers["tts"]
    try:
        result = await dispatcher.run(job)
        begin = b'{"audio_base64":"'
        end = b'",' + describe(result).model_dump_json().encode()[1:]
        headers = _headers(dispatcher, job, JSON) | _headers_of_all(job, result)
        response = web.StreamResponse(headers=headers)
        response.content_length = len(begin) + 4 * math.ceil(job.answer.size / 3) + len(end)
        await response.prepare(request)
        left = b""
        await send(request, response, begin)
        while data := await job.answer.read():
            left += data
            whole = len(left) // 3 * 3
            await send(request, response, base64.b64encode(left[:whole]))
            left = left[whole:]
        await send(request, response, base64.b64encode(left) + end)
        await response.write_eof()
        return response
    finally:
        job.answer.close()


def sound_answer(formats: Sequence[AnyFormat] = _FORMAT_NAMES) -> Answer:
    """What `speak` answers in one of `formats`, for declarations."""
    content = {FORMATS[name].media_type: f"{name}, mono" for name in formats}
    return Answer("The sound.", content, SOUND_HEADERS)


def _check_text(text: str, limit: int) -> None:
    if not text.strip():
        raise ServiceError(ErrorCode.empty_text, "the text is blank; send what to say")
    if len(text) > limit:
        raise ServiceError(
            ErrorCode.text_too_long,
            f"the text has {len(text)} characters; the limit is {limit}: send it in parts",
        )


def _headers(dispatcher: Dispatcher, job: Job, media_type: str | None) -> dict[str, str]:
    info = dispatcher.pool.info
    name: AnyFormat = job.params["response_format"]
    sample_rate = FORMATS[name].rate(job.params.get("sample_rate") or info["sample_rate"])
    headers = {
        "Content-Type": media_type or content_type(name, sample_rate),
        "X-Sample-Rate": str(sample_rate),
        "X-Voice-Engine": dispatcher.pool.config.engine,
    }
    # Only a voice that was heard is approximated; the engine's own ones are what they are.
    if "voice_key" in job.params and (approximation := info.get("approximation")):
        headers["X-Voice-Approximation"] = str(approximation)
    return headers


def _headers_of_all(job: Job, result: Json) -> dict[str, str]:
    """What is only known when all of the sound exists."""
    headers = {
        "Server-Timing": timing(job, result),
        "X-Audio-Duration": f"{result['duration']:.3f}",
    }
    if "voice_cached" in result:
        headers["X-Voice-Cache"] = "hit" if result["voice_cached"] else "miss"
    return headers


async def _whole(
    request: web.Request, dispatcher: Dispatcher, job: Job, head: Callable[[], dict[str, str]]
) -> web.StreamResponse:
    """The answer with its Content-Length, once all of it exists."""
    try:
        result = await dispatcher.run(job)
        response = web.StreamResponse(headers=head() | _headers_of_all(job, result))
        response.content_length = job.answer.size
        await response.prepare(request)
        while data := await job.answer.read():
            await send(request, response, data)
        await response.write_eof()
        return response
    finally:
        job.answer.close()
