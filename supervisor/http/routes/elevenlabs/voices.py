"""Voices for ElevenLabs' clients, besides the endpoints in `routes/voices.py`. In the front."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import ConfigDict, Field

from ipc.errors import ErrorCode, ServiceError
from ipc.recordings import READABLE
from supervisor.http.api.api_model import ApiModel
from supervisor.http.api.openapi_parts import Error
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
from supervisor.http.routes.voices import (
    SAMPLE,
    VoiceEntry,
    VoicePath,
    find_voice,
    listed,
    register_voice,
    registered_voice,
    sample_id,
    send_recording,
)
from supervisor.http.shared.owners import seen_voices
from supervisor.http.shared.synthesis import Speed
from supervisor.voices.store import VoiceName

TAG = "ElevenLabs"

_ID_CHARACTERS = string.ascii_letters + string.digits
_ID_LENGTH = 20

_SAMPLES = FileField(
    "files",
    f"one or several recordings of the voice: {READABLE}; 30 s of them are used, the same share of "
    "each",
    SAMPLE.limit,
    several=True,
)


class ElevenLabsVoiceSettings(ApiModel):
    """How a voice speaks. Only the speed has an effect."""

    stability: float | None = 0.5
    similarity_boost: float | None = 0.75
    style: float | None = 0.0
    use_speaker_boost: bool | None = True
    speed: Speed | None = 1.0


class AddVoiceFields(ApiModel):
    """A new voice. Other fields of ElevenLabs (description, labels) are ignored."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[VoiceName, Field(description="name for people", examples=["Anna"])]


class EditVoiceFields(ApiModel):
    """Another name. Other fields of ElevenLabs (description, labels) are ignored."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[VoiceName, Field(description="name for people", examples=["Anna"])]


class SamplePath(VoicePath):
    """Which recording of which voice."""

    sample_id: Annotated[str, Field(examples=["sample-1"])]


class Edited(ApiModel):
    """It is done."""

    status: Literal["ok"] = "ok"


class AddedVoice(ApiModel):
    """The voice can be used."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"voice_id": "Xb7hH8MSUJpSbSDYk0k2", "requires_verification": False}]
        }
    )

    voice_id: str
    requires_verification: bool


class SearchParams(ApiModel):
    """Which voices, in which order, and how many of them."""

    search: Annotated[str | None, Field(description="part of the name or the id")] = None
    category: Annotated[
        str | None, Field(description="premade: built-in; cloned: of a recording")
    ] = None
    voice_type: (
        Literal[
            "personal",
            "community",
            "default",
            "workspace",
            "non-default",
            "non-community",
            "saved",
        ]
        | None
    ) = None
    voice_ids: list[str] | None = None
    sort: Literal["created_at_unix", "name"] | None = None
    sort_direction: Literal["asc", "desc"] = "asc"
    page_size: Annotated[int, Field(ge=1, le=100)] = 10
    next_page_token: Annotated[
        int, Field(ge=0, le=2**31, description="the value from the previous page")
    ] = 0


class VoicePage(ApiModel):
    """One page of the voices."""

    voices: list[VoiceEntry]
    has_more: Annotated[bool, Field(examples=[False])]
    total_count: Annotated[int, Field(description="number of voices on all pages", examples=[1])]
    next_page_token: str | None = None


async def add_voice(call: Call[AddVoiceFields, Nothing]) -> web.StreamResponse:
    """Register the voice of one or several recordings under a new id.

    The response comes after the voice was tested and saved to disk. The fields description, labels
    and remove_background_noise are ignored.
    """
    voice_id = "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))
    spent = await register_voice(call, voice_id=voice_id, name=call.body.name, consent=None)
    added = AddedVoice(voice_id=voice_id, requires_verification=False)
    return json_answer(added, headers={"Server-Timing": spent})


async def search_voices(call: Call[Nothing, SearchParams]) -> web.StreamResponse:
    """List the voices that match, in pages."""
    params = call.params
    found = [entry for entry in await listed(call) if _fits(entry, params)]
    if params.sort is not None:
        keys: dict[str, Callable[[VoiceEntry], Any]] = {
            "name": lambda entry: entry.name.lower(),
            "created_at_unix": lambda entry: entry.created_at_unix or 0,
        }
        found.sort(key=keys[params.sort], reverse=params.sort_direction == "desc")
    end = params.next_page_token + params.page_size
    page = VoicePage(
        voices=found[params.next_page_token : end],
        has_more=end < len(found),
        total_count=len(found),
        next_page_token=str(end) if end < len(found) else None,
    )
    return json_answer(page)


async def voice_settings(call: Call[Nothing, VoicePath]) -> web.StreamResponse:
    """The default settings of a voice, which are the same for all voices."""
    await find_voice(call, call.params.voice_id)
    return json_answer(ElevenLabsVoiceSettings())


async def default_voice_settings(_: Call[Nothing, Nothing]) -> web.StreamResponse:
    """The default settings of all voices."""
    return json_answer(ElevenLabsVoiceSettings())


async def edit_voice(call: Call[EditVoiceFields, VoicePath]) -> web.StreamResponse:
    """Give a registered voice another name.

    Its recordings cannot be changed: a form with files is refused. The fields description, labels
    and remove_background_noise are ignored.
    """
    if call.upload.size:
        raise ServiceError(
            ErrorCode.invalid_option,
            "the recordings of a voice cannot be changed; leave 'files' out, or add a new voice",
        )
    voice = await registered_voice(call, call.params.voice_id)
    if not await seen_voices(call.request).rename(voice.id, call.body.name):
        await registered_voice(call, voice.id)  # it has been deleted meanwhile
    return json_answer(Edited())


async def edit_voice_settings(
    call: Call[ElevenLabsVoiceSettings, VoicePath],
) -> web.StreamResponse:
    """Accept settings that change nothing.

    Only the speed has an effect, and the service keeps no speed of a voice: requests have their
    own in `voice_settings`. So any other speed than 1 is refused.
    """
    await find_voice(call, call.params.voice_id)
    if call.body.speed not in (None, 1.0):
        raise ServiceError(
            ErrorCode.invalid_option,
            "the service keeps no settings of voices; send voice_settings.speed with each text",
        )
    return json_answer(Edited())


async def sample_audio(call: Call[Nothing, SamplePath]) -> web.StreamResponse:
    """One of the recordings that a voice was registered with, as it was sent."""
    voice = await registered_voice(call, call.params.voice_id)
    asked = call.params.sample_id
    for number in range(max(1, len(voice.parts))):
        if asked == sample_id(number):
            return await send_recording(call, voice, number)
    raise ServiceError(
        ErrorCode.not_found,
        f"the voice '{voice.id}' has no recording '{asked[:64]}'; GET /v1/voices/{voice.id} lists "
        "its samples",
    )


async def delete_sample(_: Call[Nothing, SamplePath]) -> web.StreamResponse:
    """Not possible: a voice needs its recordings."""
    raise ServiceError(
        ErrorCode.invalid_request,
        "the recordings of a voice cannot be changed; delete the voice, and add it again without "
        "this recording",
    )


def _fits(entry: VoiceEntry, params: SearchParams) -> bool:
    term = (params.search or "").lower()
    by_type = {
        None: True,
        "community": False,
        "default": entry.type == "builtin",
    }.get(params.voice_type, entry.type != "builtin")
    return (
        by_type
        and (term in entry.name.lower() or term in entry.id.lower())
        and params.category in (None, entry.category)
        and (params.voice_ids is None or entry.id in params.voice_ids)
    )


OPERATIONS: Operations = (
    operation(
        "POST",
        "/v1/voices/add",
        add_voice,
        summary="Add a voice",
        tag=TAG,
        body=AddVoiceFields,
        media=(FORM,),
        file=_SAMPLES,
        answers={200: Answer("The voice is registered.", {JSON: AddedVoice})},
        errors=(ErrorCode.conflict,),
    ),
    operation(
        "GET",
        "/v2/voices",
        search_voices,
        summary="Search the voices",
        tag=TAG,
        params=SearchParams,
        answers={200: Answer("A page of voices.", {JSON: VoicePage})},
    ),
    operation(
        "GET",
        "/v1/voices/{voice_id}/settings",
        voice_settings,
        summary="The settings of a voice",
        tag=TAG,
        params=VoicePath,
        answers={200: Answer("The settings.", {JSON: ElevenLabsVoiceSettings})},
    ),
    operation(
        "POST",
        "/v1/voices/{voice_id}/settings/edit",
        edit_voice_settings,
        summary="Change the settings of a voice",
        tag=TAG,
        body=ElevenLabsVoiceSettings,
        params=VoicePath,
        media=(JSON,),
        answers={200: Answer("They are as before.", {JSON: Edited})},
    ),
    operation(
        "POST",
        "/v1/voices/{voice_id}/edit",
        edit_voice,
        summary="Rename a voice",
        tag=TAG,
        body=EditVoiceFields,
        params=VoicePath,
        media=(FORM,),
        file=replace(_SAMPLES, required=False, description="must be left out"),
        answers={200: Answer("It has the name.", {JSON: Edited})},
        errors=(ErrorCode.forbidden, ErrorCode.spool_full),
    ),
    operation(
        "GET",
        "/v1/voices/{voice_id}/samples/{sample_id}/audio",
        sample_audio,
        summary="A recording of a registered voice",
        tag=TAG,
        params=SamplePath,
        answers=file_answers("The recording.", {"audio/*": "as it was sent"}),
    ),
    operation(
        "DELETE",
        "/v1/voices/{voice_id}/samples/{sample_id}",
        delete_sample,
        summary="Delete a recording of a voice: not possible",
        tag=TAG,
        params=SamplePath,
        answers={400: Answer("A voice needs its recordings.", {JSON: Error})},
    ),
    operation(
        "GET",
        "/v1/voices/settings/default",
        default_voice_settings,
        summary="The settings of all voices",
        tag=TAG,
        answers={200: Answer("The settings.", {JSON: ElevenLabsVoiceSettings})},
    ),
)
