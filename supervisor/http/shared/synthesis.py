"""Speech, for all APIs: the voice, the job, the response. Runs in the front."""

from __future__ import annotations

import base64
import contextlib
import math
import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, Field

from ipc.engines import EngineInfo, Kind
from ipc.errors import ErrorCode, ServiceError
from ipc.formats import FORMATS, MAX_RATE, MAX_SPEED, MIN_RATE, MIN_SPEED, content_type
from ipc.operations import AUTO_LANGUAGE, MAX_SEED, Recording, Sampling, Speak, SpeechResult, Voice
from supervisor.dispatch.cost import Unit, Work
from supervisor.dispatch.job import Job, Sink
from supervisor.dispatch.models import Model, has_voice
from supervisor.dispatch.response_buffer import ResponseBuffer
from supervisor.dispatch.sentence_buffer import SentenceBuffer, SpokenAudio
from supervisor.http.api.operation import JSON, Answer, Call
from supervisor.http.record import RECORD
from supervisor.http.shared.jobs import make_job, timing
from supervisor.http.shared.languages import language_code
from supervisor.http.shared.models import choose
from supervisor.http.shared.owners import seen_voices
from supervisor.http.shared.streaming import Framing, Raw, send, stream
from supervisor.service import Service

Rate = Annotated[
    int,
    Field(
        ge=MIN_RATE,
        le=MAX_RATE,
        description="sample rate in Hz; if the format does not have it, the next higher one",
    ),
]
Speed = Annotated[
    float,
    Field(ge=MIN_SPEED, le=MAX_SPEED, description="2 is twice as fast; the pitch stays the same"),
]
Seed = Annotated[
    int,
    Field(
        ge=0, lt=MAX_SEED, description="the same request with the same seed gives the same speech"
    ),
]
Temperature = Annotated[
    float,
    Field(
        ge=0,
        le=2,
        description="how varied the speech is: the variance of the noise it is made from; 0 is "
        "always the same; only for engines that have it (pocket)",
    ),
]
DecodeSteps = Annotated[
    int,
    Field(
        ge=1,
        le=64,
        description="in how many steps a frame of sound is made from noise; more take longer; "
        "pocket's models with one-step heads ignore it; only for engines that have it (pocket)",
    ),
]
EosThreshold = Annotated[
    float,
    Field(
        ge=-20,
        le=20,
        description="score above which a sentence ends; higher ends later, or at the longest "
        "length; only for engines that have it (pocket)",
    ),
]
NoiseClamp = Annotated[
    float,
    Field(
        gt=0,
        le=10,
        description="the largest noise that a frame of sound is made from; without it any noise "
        "is; only for engines that have it (pocket)",
    ),
]
CfgGuidance = Annotated[
    float,
    Field(
        ge=1,
        le=3,
        description="classifier-free guidance: how much text and voice count against speech in "
        "general; 1 is off; more takes two of a worker's slots, and is slower; only for engines "
        "that have it (pocket)",
    ),
]
Loudness = Annotated[
    float,
    Field(
        ge=-40,
        le=-5,
        description="loudness of the speech in LUFS (ITU-R BS.1770), such as -16; left out: as the "
        "engine makes it. Peaks stay 1 dB below full scale, so very loud speech may be softer. A "
        "stream is brought there in its first seconds",
    ),
]
Trim = Annotated[bool, Field(description="leave out the silence before and after the speech")]

TextNormalization = Annotated[
    Literal["auto", "off"],
    Field(
        description="auto: Markdown, numbers and signs are read as a person reads them; off: the "
        "text goes to the engine as it is"
    ),
]
TextLanguage = Annotated[
    str,
    Field(
        max_length=16,
        description="language of the text (en, de, ...), for its numbers; default: the engine's",
        examples=["en"],
    ),
]

SOUND_HEADERS = {
    "X-Sample-Rate": "sample rate in Hz",
    "X-Voice-Engine": "the engine that spoke",
    "X-Voice-Approximation": "what the engine can only approximate, if anything",
    "X-Voice-Cache": "hit or miss: whether the voice was already encoded; not in streams",
    "X-Audio-Duration": "duration in seconds; not in streams",
}
"""Headers of responses with sound, for declarations."""

_CACHED_ID = re.compile(r"cached-([A-Za-z0-9_-]{43})")


_DIGIT_SIZE = 4
"""A digit is spoken as a word, so it takes as long as about so many letters."""


def spoken_size(text: str) -> int:
    """The size of a text for the estimate of its cost: its letters as they are spoken."""
    return len(text) + (_DIGIT_SIZE - 1) * sum(map(str.isdigit, text))


def text_language(given: str | None) -> str | None:
    """The code of a client's language; None means the engine's own."""
    code = language_code(given)
    return None if code == AUTO_LANGUAGE else code


def sampling(
    seed: int | None = None,
    *,
    temperature: float | None = None,
    decode_steps: int | None = None,
    eos_threshold: float | None = None,
    noise_clamp: float | None = None,
    cfg_guidance: float | None = None,
) -> Sampling:
    """The sampling of a request, with a random seed if the client sends none.

    The seed is drawn here, so that a replay on another worker generates the same samples.
    """
    drawn = secrets.randbelow(MAX_SEED) if seed is None else seed
    return Sampling(drawn, temperature, decode_steps, eos_threshold, noise_clamp, cfg_guidance)


@contextlib.asynccontextmanager
async def named(call: Call[Any, Any], voice_id: str | None) -> AsyncIterator[Voice]:
    """The voice with the id `voice_id`, or that mix; None means the engine's default one.

    While the context is open, a registered voice is not deleted. Raises `ServiceError` (not_found)
    if there is no such voice and the front can know it.
    """
    service, record = call.service, call.request[RECORD]
    voice = None if voice_id is None else seen_voices(call.request).get(voice_id)
    if voice is not None:
        async with service.voices.hold(voice.key):
            await service.voices.fetch(voice)
            path = str(service.voices.recording_path(voice))
            recording = Recording(voice.key, path=path, parts=voice.parts)
            record.voice = voice_id
            yield Voice(recording=recording, registered=True)
            service.voices.offer(voice)
    else:
        unregistered = _unregistered(service, voice_id)
        record.voice = voice_id
        yield unregistered


def _unregistered(service: Service, voice_id: str | None) -> Voice:
    if voice_id is None:
        return Voice()
    if cached := _CACHED_ID.fullmatch(voice_id):
        return Voice(recording=Recording(base64.urlsafe_b64decode(cached[1] + "=").hex()))
    # Before a model has loaded, its voices are unknown here; the worker checks the voice then.
    infos = [model.backend.info for model in service.models.of(Kind.TTS)]
    if not any(info is None or has_voice(info, voice_id) for info in infos):
        raise ServiceError(
            ErrorCode.not_found,
            f"there is no voice '{voice_id[:64]}'; GET /v1/voices lists them, and "
            "POST /v1/voices/register adds one",
        )
    return Voice(builtin=voice_id)


def is_cached_id(voice_id: str) -> bool:
    """Whether `voice_id` has the form of a `cached_id`."""
    return _CACHED_ID.fullmatch(voice_id) is not None


def cached_id(key: str) -> str:
    """The id of a cached voice: its key in base64, which is short enough for an id."""
    return "cached-" + base64.urlsafe_b64encode(bytes.fromhex(key)).decode().rstrip("=")


async def speak(
    call: Call[Any, Any],
    speech: Speak,
    *,
    model: str | None = None,
    framing: Framing[bytes, SpeechResult] | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """Send a response with the sound of `speech` and with `headers`; `framing` is for streams.

    `model` is the model's name in the request.
    """
    buffer = ResponseBuffer(call.service.spool)
    chosen, job = prepare(call, speech, model, buffer)

    def head() -> dict[str, str]:
        media_type = None if framing is None else framing.media_type
        return _headers(chosen, speech, media_type) | dict(headers or {})

    if speech.streamed:
        return await stream(
            call.request,
            chosen.backend,
            job,
            source=buffer,
            framing=framing or Raw(),
            headers=head,
        )
    try:
        result = await chosen.backend.run(job)
        response = web.StreamResponse(headers=head() | _headers_of_all(job, result))
        response.content_length = buffer.size
        await response.prepare(call.request)
        while data := await buffer.read():
            await send(call.request, response, data)
        await response.write_eof()
        return response
    finally:
        buffer.close()


async def speak_in_sentences(
    call: Call[Any, Any],
    speech: Speak,
    framing: Framing[SpokenAudio, SpeechResult],
    *,
    model: str | None = None,
) -> web.StreamResponse:
    """Stream the sound of `speech`, which has an alignment, sentence by sentence."""
    buffer = SentenceBuffer(call.service.spool)
    chosen, job = prepare(call, speech, model, buffer)
    return await stream(
        call.request,
        chosen.backend,
        job,
        source=buffer,
        framing=framing,
        headers=lambda: _headers(chosen, speech, framing.media_type),
    )


async def speak_in_json(
    call: Call[Any, Any],
    speech: Speak,
    describe: Callable[[SpeechResult], BaseModel],
    *,
    model: str | None = None,
) -> web.StreamResponse:
    """Send a JSON response: the sound of `speech` in `audio_base64`, and the fields of `describe`.

    It is sent in pieces, because the whole may be too large for the front's memory.
    """
    buffer = ResponseBuffer(call.service.spool)
    chosen, job = prepare(call, speech, model, buffer)
    try:
        result = await chosen.backend.run(job)
        begin = b'{"audio_base64":"'
        end = b'",' + describe(result).model_dump_json().encode()[1:]
        headers = _headers(chosen, speech, JSON) | _headers_of_all(job, result)
        response = web.StreamResponse(headers=headers)
        response.content_length = len(begin) + 4 * math.ceil(buffer.size / 3) + len(end)
        await response.prepare(call.request)
        left = b""
        await send(call.request, response, begin)
        while data := await buffer.read():
            left += data
            whole = len(left) // 3 * 3
            await send(call.request, response, base64.b64encode(left[:whole]))
            left = left[whole:]
        await send(call.request, response, base64.b64encode(left) + end)
        await response.write_eof()
        return response
    finally:
        buffer.close()


def sound_answer(*, elevenlabs: bool = False) -> Answer:
    """The response of `speak`, for declarations: with the formats of all APIs, or ElevenLabs'."""
    content = {
        audio_format.media_type: f"{name}, mono"
        for name, audio_format in FORMATS.items()
        if (audio_format.variants if elevenlabs else audio_format.everywhere)
    }
    return Answer("The sound.", content, SOUND_HEADERS)


def prepare(
    call: Call[Any, Any], speech: Speak, model: str | None, output: Sink
) -> tuple[Model, Job[SpeechResult]]:
    """The model that will speak, and the job. Raises `ServiceError`."""
    service, text = call.service, speech.text
    limit = service.settings.max_text_chars
    if not text or (not text.strip() and not speech.silence):
        raise ServiceError(ErrorCode.empty_text, "the text is blank; send a text to speak")
    if len(text) > limit:
        raise ServiceError(
            ErrorCode.text_too_long,
            f"the text has {len(text)} characters, but the limit is {limit}; send it in parts",
        )
    chosen = choose(
        call, Kind.TTS, model=model, voice=speech.voice.builtin, language=speech.language
    )
    if speech.voice.recording is not None:
        check_cloning(chosen)
    work = Work(Unit.CHARACTERS, spoken_size(text))
    return chosen, make_job(call, chosen, speech, work, output)


def check_cloning(model: Model) -> None:
    """Refuse the voice of a recording where it cannot be had. Raises `ServiceError`.

    The worker would, too; but not before the request's turn comes.
    """
    info = model.backend.info
    if info is not None and info.no_cloning is not None:
        raise ServiceError(ErrorCode.cloning_unavailable, info.no_cloning)


def sound_rate(model: Model, speech: Speak) -> int:
    """The sample rate in Hz of the sound that `model` makes of `speech`; it must have loaded."""
    info = model.backend.info
    assert isinstance(info, EngineInfo), "the engine has loaded, because it has generated speech"
    return FORMATS[speech.response_format].rate(speech.sample_rate or info.sample_rate)


def _headers(model: Model, speech: Speak, media_type: str | None) -> dict[str, str]:
    info = model.backend.info
    rate = sound_rate(model, speech)
    headers = {
        "Content-Type": media_type or content_type(speech.response_format, rate),
        "X-Sample-Rate": str(rate),
        "X-Voice-Engine": model.backend.engine.name,
    }
    # Only the voice of a recording is approximate; built-in voices are exact.
    if speech.voice.recording is not None and info is not None and info.approximation:
        headers["X-Voice-Approximation"] = info.approximation
    return headers


def _headers_of_all(job: Job[SpeechResult], result: SpeechResult) -> dict[str, str]:
    """Headers that are known only when all of the sound exists."""
    headers = {
        "Server-Timing": timing(job),
        "X-Audio-Duration": f"{result.duration:.3f}",
    }
    if result.voice_cached is not None:
        headers["X-Voice-Cache"] = "hit" if result.voice_cached else "miss"
    return headers
