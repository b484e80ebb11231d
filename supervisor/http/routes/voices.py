"""Named voices: list, register, look up, delete. Runs in the front."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import ConfigDict, Field

from ipc.engines import Kind
from ipc.errors import ErrorCode, ServiceError
from ipc.operations import EncodeVoice
from ipc.recordings import HEAD_BYTES, READABLE, SUFFIXES, detect
from supervisor.dispatch.cost import Unit, Work
from supervisor.dispatch.models import Model
from supervisor.dispatch.response_buffer import ResponseBuffer
from supervisor.dispatch.upload import Upload
from supervisor.http.api.api_model import ApiModel
from supervisor.http.api.operation import (
    FORM,
    JSON,
    Answer,
    Call,
    Nothing,
    Operations,
    file_answers,
    json_answer,
    operation,
)
from supervisor.http.api.read import FileField
from supervisor.http.shared.files import FileAnswer, read_part, send_part
from supervisor.http.shared.jobs import make_job, timing
from supervisor.http.shared.owners import find_anew, seen_voices
from supervisor.http.shared.synthesis import cached_id, check_cloning, is_cached_id
from supervisor.http.shared.voice_names import known_voice
from supervisor.service import Service
from supervisor.voices.store import CACHED, Consent, Voice, VoiceId, VoiceName

TAG = "Voices"
_KEY = re.compile("[0-9a-f]{64}")

SAMPLE = FileField(
    "audio",
    f"a recording of the voice: {READABLE}; its first 30 s are used",
    lambda settings: settings.max_reference_mb,
)


_SAMPLES = replace(
    SAMPLE,
    description=f"one or several recordings of the voice: {READABLE}; 30 s of them are used, the "
    "same share of each",
    several=True,
)


class VoiceSample(ApiModel):
    """A recording of which a registered voice was made."""

    sample_id: Annotated[str, Field(examples=["sample-1"])]
    file_name: str
    mime_type: str
    size_bytes: int
    hash: str


class VoiceEntry(ApiModel):
    """A voice that requests can name by its id."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "anna",
                    "voice_id": "anna",
                    "name": "Anna",
                    "type": "registered",
                    "engine": "pocket",
                    "category": "cloned",
                    "seconds": 12.5,
                    "created": "2026-11-22T18:53:00+00:00",
                    "created_at_unix": 1795373580,
                    "labels": {},
                    "consent": "Anna, 2026-11-20, by mail",
                }
            ]
        }
    )

    id: str
    voice_id: Annotated[str, Field(description="the same as id")]
    name: str
    type: Annotated[
        Literal["builtin", "registered", "cached"],
        Field(description="cached: made of an earlier recording, until others replace it"),
    ]
    engine: str
    model: Annotated[
        str | None,
        Field(description="of a built-in voice: the model that has it, as requests name it"),
    ] = None
    category: Annotated[
        Literal["premade", "cloned"], Field(description="ElevenLabs' word for the type")
    ]
    language: str | None = None
    seconds: Annotated[
        float | None, Field(description="how many seconds of the recording are used")
    ] = None
    created: Annotated[str | None, Field(description="time of registration, ISO 8601")] = None
    created_at_unix: Annotated[
        int | None, Field(description="the same in seconds of Unix time")
    ] = None
    labels: Annotated[
        dict[str, str], Field(description="for ElevenLabs' clients: the language, if it is known")
    ]
    preview_url: Annotated[None, Field(description="for ElevenLabs' clients: always null")] = None
    consent: Annotated[str | None, Field(description="as it was given")] = None
    samples: Annotated[
        list[VoiceSample] | None, Field(description="the recordings of a registered voice")
    ] = None
    owner: Annotated[
        str | None,
        Field(description="the name of the key that it was registered with, if voices have owners"),
    ] = None


class Voices(ApiModel):
    """All voices."""

    voices: list[VoiceEntry]


class RegisterFields(ApiModel):
    """A voice to register, and facts about it."""

    model_config = ConfigDict(extra="forbid")

    voice_id: Annotated[VoiceId, Field(description="the id of the voice", examples=["anna"])]
    name: Annotated[VoiceName | None, Field(description="name for people; default: the id")] = None
    consent: Annotated[
        Consent | None,
        Field(description="who has agreed that this voice may be used, and when"),
    ] = None


class Registered(ApiModel):
    """The voice of the request."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"status": "ok", "voice_id": "anna"}]}
    )

    status: Literal["ok"]
    voice_id: str


class VoicePath(ApiModel):
    """Which voice."""

    voice_id: Annotated[str, Field(examples=["anna"])]


async def listed(call: Call[Any, Any]) -> list[VoiceEntry]:
    """All voices that the request may see: built-in, registered and cached ones.

    Cached voices are of everyone's recordings; if voices have owners, only operators see them.
    """
    if not seen_voices(call.request).viewer.unlimited:
        return lasting(call)
    return [*lasting(call), *await _cached(call.service)]


async def find_voice(call: Call[Any, Any], voice_id: str) -> VoiceEntry:
    """The voice that requests can name `voice_id`. Raises `ServiceError` (not_found)."""
    service = call.service
    builtin = service.builtin_voices
    default = [voice for voice, model in builtin if model.default]

    def find() -> str | None:
        voices = [voice for voice, _ in builtin]
        return known_voice(seen_voices(call.request), voice_id, voices, default)

    known = find() if is_cached_id(voice_id) else await find_anew(service, find)
    for entry in lasting(call):
        if entry.id == known:
            return entry
    for entry in await _cached(service):  # only for these the disk is read
        if entry.id == voice_id:
            return entry
    raise _no_voice(voice_id)


def lasting(call: Call[Any, Any]) -> list[VoiceEntry]:
    """The built-in and the registered voices that the request may see."""
    service = call.service
    builtin = [
        _entry(model, voice.id, "builtin", name=voice.name, language=voice.language)
        for voice, model in service.builtin_voices
    ]
    default = service.models.default(Kind.TTS)
    registered = [
        _entry(
            default,
            voice.id,
            "registered",
            name=voice.name,
            seconds=voice.seconds,
            created=voice.created,
            consent=voice.consent,
            samples=_samples(voice),
            owner=voice.owner,
        )
        for voice in seen_voices(call.request).list()
    ]
    return [*builtin, *registered]


async def _cached(service: Service) -> list[VoiceEntry]:
    """The cached voices that are not registered."""
    folder = service.settings.voices_dir / CACHED
    keys = await asyncio.get_running_loop().run_in_executor(None, _cached_keys, folder)
    known = service.voices.keys
    default = service.models.default(Kind.TTS)
    return [
        _entry(default, cached_id(key), "cached", name=f"recording {key[:8]}")
        for key in keys
        if key not in known
    ]


async def register_voice(
    call: Call[Any, Any],
    *,
    voice_id: str,
    name: str | None,
    consent: str | None,
    created: str | None = None,
    upload: Upload | None = None,
) -> str:
    """Test that the recording gives a voice, and save it. Raises `ServiceError`.

    The recording is the request's own, or the closed `upload`; `created` is now, or the time of an
    earlier registration. Returns the value of the Server-Timing header.
    """
    service, upload, voices = call.service, upload or call.upload, seen_voices(call.request)
    _refuse_builtin(service, voice_id)
    if is_cached_id(voice_id):
        raise ServiceError(
            ErrorCode.conflict, f"'{voice_id}' is the id of a cached voice; use another id"
        )
    voices.check_room(voice_id)
    recording = upload.recording
    output = ResponseBuffer(service.spool)
    model = service.models.default(Kind.TTS)
    check_cloning(model)
    job = make_job(call, model, EncodeVoice(recording), Work(Unit.VOICES, 1), output)
    async with service.voices.hold(recording.key):
        try:
            result = await model.backend.run(job)
        finally:
            output.close()
        _refuse_builtin(service, voice_id)  # again: now the engine's voices are known
        await voices.save(
            voice_id,
            upload,
            name=name,
            seconds=result.seconds,
            consent=consent,
            created=created,
        )
        return timing(job)


async def list_voices(call: Call[Nothing, Nothing]) -> web.StreamResponse:
    """List all voices that requests can use: built into the engine, registered, or cached."""
    return json_answer(Voices(voices=await listed(call)))


async def register(call: Call[RegisterFields, Nothing]) -> web.StreamResponse:
    """Register the voice of one or several recordings under an id.

    The response comes after the voice was tested and saved to disk. If the id belongs to a
    registered voice already, the new voice replaces it.
    """
    fields = call.body
    spent = await register_voice(
        call, voice_id=fields.voice_id, name=fields.name, consent=fields.consent
    )
    registered = Registered(status="ok", voice_id=fields.voice_id)
    return json_answer(registered, headers={"Server-Timing": spent})


async def show(call: Call[Nothing, VoicePath]) -> web.StreamResponse:
    """One voice."""
    return json_answer(await find_voice(call, call.params.voice_id))


async def delete(call: Call[Nothing, VoicePath]) -> web.StreamResponse:
    """Delete a registered voice: its recording and its encoded form."""
    voice_id = call.params.voice_id
    _refuse_builtin(call.service, voice_id)
    if not await seen_voices(call.request).delete(voice_id):
        raise _no_voice(voice_id, "registered ")
    return json_answer(Registered(status="ok", voice_id=voice_id))


async def audio(call: Call[Nothing, VoicePath]) -> web.StreamResponse:
    """The recording that a voice was registered with, as it was sent."""
    voice = await registered_voice(call, call.params.voice_id)
    if voice.parts:
        raise ServiceError(
            ErrorCode.invalid_request,
            f"the voice '{voice.id}' was made of {len(voice.parts)} recordings; "
            f"GET /v1/voices/{voice.id}/samples/{sample_id(0)}/audio returns the first one",
        )
    return await send_recording(call, voice)


async def registered_voice(call: Call[Any, Any], voice_id: str) -> Voice:
    """The registered voice `voice_id`. Raises `ServiceError` (not_found)."""
    voices = seen_voices(call.request)
    voice = await find_anew(call.service, lambda: voices.get(voice_id))
    if voice is None:
        raise _no_voice(voice_id, "registered ")
    return voice


async def send_recording(call: Call[Any, Any], voice: Voice, number: int = 0) -> web.StreamResponse:
    """Send one of the recordings of a voice, as it was sent."""
    store = call.service.voices
    async with store.hold(voice.key):
        await store.fetch_recording(voice)
        path = store.recording_path(voice)
        start = sum(voice.parts[:number])
        media_type = voice.media_type
        if voice.parts:
            known = detect(await read_part(path, start, HEAD_BYTES))
            media_type = "application/octet-stream" if known is None else known.media_type
        suffix = SUFFIXES.get(media_type, "")
        # The file came from a client: a browser must not show it as a page.
        headers = {
            "Content-Type": media_type,
            "X-Content-Type-Options": "nosniff",
            "Content-Disposition": f'attachment; filename="{voice.id}{suffix}"',
        }
        if not voice.parts:
            answer = FileAnswer(path, headers=headers)
            await answer.prepare(call.request)  # sends the whole file
            return answer
        return await send_part(call.request, path, start, voice.parts[number], headers)


def sample_id(number: int) -> str:
    """The id of a recording of a voice, counted from 0."""
    return f"sample-{number + 1}"


def _no_voice(voice_id: str, kind: str = "") -> ServiceError:
    return ServiceError(
        ErrorCode.not_found,
        f"there is no {kind}voice '{voice_id[:64]}'; GET /v1/voices lists all voices",
    )


def _refuse_builtin(service: Service, voice_id: str) -> None:
    if any(voice.id == voice_id for voice, _ in service.builtin_voices):
        raise ServiceError(
            ErrorCode.conflict, f"'{voice_id}' is a built-in voice of the engine; use another id"
        )


def _entry(
    model: Model,
    voice_id: str,
    kind: Literal["builtin", "registered", "cached"],
    *,
    name: str,
    language: str | None = None,
    seconds: float | None = None,
    created: str | None = None,
    consent: str | None = None,
    samples: list[VoiceSample] | None = None,
    owner: str | None = None,
) -> VoiceEntry:
    return VoiceEntry(
        id=voice_id,
        voice_id=voice_id,
        name=name,
        type=kind,
        engine=model.backend.engine.name,
        model=model.backend.engine.name if kind == "builtin" else None,
        category="premade" if kind == "builtin" else "cloned",
        language=language,
        seconds=seconds,
        created=created,
        created_at_unix=int(datetime.fromisoformat(created).timestamp()) if created else None,
        labels={"language": language} if language else {},
        consent=consent,
        samples=samples,
        owner=owner,
    )


def _samples(voice: Voice) -> list[VoiceSample]:
    """The recordings of a voice. The media type of one of several is not kept."""
    media_type = "application/octet-stream" if voice.parts else voice.media_type
    return [
        VoiceSample(
            sample_id=sample_id(number),
            file_name=f"{sample_id(number)}{SUFFIXES.get(media_type, '')}",
            mime_type=media_type,
            size_bytes=size,
            hash=voice.key,
        )
        for number, size in enumerate(voice.parts or (voice.size,))
    ]


def _cached_keys(folder: Path) -> list[str]:
    """The keys of the encoded voices in `folder`; other file names are ignored."""
    names = {path.name.partition(".")[0] for path in folder.glob("voices-*/*.voice")}
    return sorted(name for name in names if _KEY.fullmatch(name))


OPERATIONS: Operations = (
    operation(
        "GET",
        "/v1/voices",
        list_voices,
        summary="List the voices",
        tag=TAG,
        answers={200: Answer("The voices.", {JSON: Voices})},
    ),
    operation(
        "POST",
        "/v1/voices/register",
        register,
        summary="Register a voice",
        tag=TAG,
        body=RegisterFields,
        media=(FORM,),
        file=_SAMPLES,
        answers={200: Answer("The voice is registered.", {JSON: Registered})},
        errors=(ErrorCode.conflict,),
    ),
    operation(
        "GET",
        "/v1/voices/{voice_id}",
        show,
        summary="One voice",
        tag=TAG,
        params=VoicePath,
        answers={200: Answer("The voice.", {JSON: VoiceEntry})},
    ),
    operation(
        "DELETE",
        "/v1/voices/{voice_id}",
        delete,
        summary="Delete a registered voice",
        tag=TAG,
        params=VoicePath,
        answers={200: Answer("The voice is deleted.", {JSON: Registered})},
        errors=(ErrorCode.conflict, ErrorCode.forbidden, ErrorCode.spool_full),
    ),
    operation(
        "GET",
        "/v1/voices/{voice_id}/audio",
        audio,
        summary="The recording of a registered voice",
        tag=TAG,
        params=VoicePath,
        answers=file_answers("The recording.", {"audio/*": "as it was sent"}),
    ),
)
