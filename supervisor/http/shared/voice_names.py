"""The names by which clients know voices: ids, and voices of other services. In the front.

Clients have the voices of other services built in. Each of these is another name for a built-in
voice: for one that has the same name with a prefix, as Kokoro's voices have (alloy: `af_alloy`),
else by its place in the list. A registered voice with the same name comes first.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import StringConstraints

from ipc.engines import BuiltinVoice, EngineInfo, Kind
from ipc.errors import ErrorCode, ServiceError
from ipc.voice_mix import parse_mix
from supervisor.dispatch.models import Model, has_voice
from supervisor.http.api.operation import Call
from supervisor.http.shared.models import voices_of
from supervisor.http.shared.owners import find_anew, seen_voices
from supervisor.http.shared.synthesis import is_cached_id
from supervisor.service import Service
from supervisor.voices.owners import SeenVoices

OPENAI_VOICES = (
    *("alloy", "ash", "ballad", "coral", "echo", "fable", "nova"),
    *("onyx", "sage", "shimmer", "verse", "marin", "cedar"),
)
"""OpenAI's voices."""

ELEVENLABS_VOICES = {
    "21m00Tcm4TlvDq8ikWAM": "Rachel",
    "29vD33N1CtxCmqQRPOHJ": "Drew",
    "2EiwWnXFnvU5JabPnv8n": "Clyde",
    "5Q0t7uMcjvnagumLfvZi": "Paul",
    "9BWtsMINqrJLrRacOk9x": "Aria",
    "AZnzlk1XvdvUeBnXmlld": "Domi",
    "CYw3kZ02Hs0563khs1Fj": "Dave",
    "CwhRBWXzGAHq8TQ4Fs17": "Roger",
    "D38z5RcWu1voky8WS1ja": "Fin",
    "EXAVITQu4vr4xnSDxMaL": "Sarah",
    "ErXwobaYiN019PkySvjV": "Antoni",
    "FGY2WhTYpPnrIDTdsKH5": "Laura",
    "GBv7mTt0atIp3Br8iCZE": "Thomas",
    "IKne3meq5aSn9XLyUdCD": "Charlie",
    "JBFqnCBsd6RMkjVDRZzb": "George",
    "LcfcDJNUP1GQjkzn1xUU": "Emily",
    "MF3mGyEYCl7XYWbV9V6O": "Elli",
    "N2lVS1w4EtoT3dr4eOWO": "Callum",
    "ODq5zmih8GrVes37Dizd": "Patrick",
    "SAz9YHcvj6GT2YYXdXww": "River",
    "SOYHLrjzK2X1ezoPC6cr": "Harry",
    "TX3LPaxmHKxFdv7VOQHJ": "Liam",
    "ThT5KcBeYPX3keUQqHPh": "Dorothy",
    "TxGEqnHWrfWFTfGW9XjX": "Josh",
    "VR6AewLTigWG4xSOukaG": "Arnold",
    "XB0fDUnXU5powFXDhCwa": "Charlotte",
    "Xb7hH8MSUJpSbSDYk0k2": "Alice",
    "XrExE9yKIg1WjnnlVkGX": "Matilda",
    "ZQe5CZNOzWyzPSCn5a3c": "James",
    "Zlb1dXrM653N07WRdFW3": "Joseph",
    "bIHbv24MWmeRgasZH58o": "Will",
    "bVMeCyTHy58xNoL34h3p": "Jeremy",
    "cgSgspJ2msm6clMCkdW9": "Jessica",
    "cjVigY5qzO86Huf0OWal": "Eric",
    "flq6f7yk4E4fJM5XTYuZ": "Michael",
    "g5CIjZEefAph4nQFvHAz": "Ethan",
    "hpp4J3VqNfWAUOO0d1Us": "Bella",
    "iP95p4xoKVk53GoZ742B": "Chris",
    "jBpfuIE2acCO8z3wKNLl": "Gigi",
    "jsCqWAovK2LkecY7zXl4": "Freya",
    "nPczCjzI2devNBz1zQrb": "Brian",
    "oWAxZDx7w5VEj9dCyTzz": "Grace",
    "onwK4e9ZLuTAKqWW03F9": "Daniel",
    "pFZP5JQG7iQjIQuC4Bku": "Lily",
    "pMsXgVXv3BLzUgSXRplE": "Serena",
    "pNInz6obpgDQGcFmaJgB": "Adam",
    "piTKgcLEGmPE4e6mEKli": "Nicole",
    "pqHfZKP75CvOlQylNhV4": "Bill",
    "t0jbNlBVZ17f02VDIeMI": "Jessie",
    "wViXBPUzp2ZZixB1xQuM": "Ryan",
    "yoZ06aMxZJJ28mfd3POQ": "Sam",
    "z9fAnlkpzviPz146aGWa": "Glinda",
    "zcAOhNBS3c14rBihAFp1": "Giovanni",
    "zrHiDhphv9ZnVXBqCLjz": "Mimi",
}
"""ElevenLabs' premade voices, those of today and of earlier years, by their ids."""

_PLACES = {
    name.casefold(): place
    for names in (OPENAI_VOICES, ELEVENLABS_VOICES)
    for place, name in enumerate(names)
}

_NAMES = {
    **{name: name for name in OPENAI_VOICES},
    **{key.casefold(): name.casefold() for key, name in ELEVENLABS_VOICES.items()},
}
"""What people call these voices."""

_PREFIXED = re.compile(r"[a-z]{2}_(.+)")
"""A voice's id that begins with letters for its language and its gender."""

MAX_VOICE = 512
"""Characters of the longest name of a voice, or of a mix of voices."""

VoiceChoice = Annotated[str, StringConstraints(pattern=rf"^[A-Za-z0-9_+(). -]{{1,{MAX_VOICE}}}$")]
"""An id of a voice, or a mix of voices."""


def known_voice(
    voices: SeenVoices,
    asked: str,
    builtin: Sequence[BuiltinVoice],
    standing_in: Sequence[BuiltinVoice],
) -> str | None:
    """The id of the voice that a client names `asked`: registered, built-in, or an alias.

    Upper and lower case are the same, unless there is a voice with exactly this id. `builtin` are
    the voices that have ids, `standing_in` those that aliases stand for. None: there is no such
    voice.
    """
    ids = {voice.id for voice in builtin}
    if voices.get(asked) is not None or asked in ids:
        return asked
    if (registered := voices.find(asked)) is not None:
        return registered.id
    name = asked.casefold()
    for voice in builtin:
        if voice.id.casefold() == name:
            return voice.id
    if name not in _PLACES or not standing_in:
        return None
    for voice in standing_in:
        prefixed = _PREFIXED.fullmatch(voice.id)
        if prefixed is not None and prefixed[1] == _NAMES[name]:
            return voice.id
    return standing_in[_PLACES[name] % len(standing_in)].id


async def resolve_voice(
    call: Call[Any, Any], asked: str | None, *, model: str | None = None
) -> str | None:
    """The id of the voice that a request names `asked`, or the mix; None means the default one.

    Waits for models that have not loaded yet, if the name may mean a voice of theirs. Raises
    `ServiceError` for a mix that no model speaks.
    """
    if asked is None or not asked.strip():
        return None
    service, voices = call.service, seen_voices(call.request)
    if voices.get(asked) is not None:
        return asked
    if "+" in asked or "(" in asked:
        return await _mix(call, asked, model)
    if asked.casefold() in _PLACES and voices.find(asked) is None:
        chosen = service.models.resolve(Kind.TTS, model=model)
        builtin = (await _loaded(call, chosen)).voices
        return known_voice(voices, asked, builtin, builtin)

    def find() -> str | None:
        return known_voice(voices, asked, _builtin(service), ())

    if is_cached_id(asked):
        return find() or asked
    known = await find_anew(service, find)
    if known is None and len(service.models.of(Kind.TTS)) > 1:
        await _all_loaded(call, model)
        known = find()
    return known or asked


async def _mix(call: Call[Any, Any], asked: str, model: str | None) -> str:
    """A mix of built-in voices of one model, as it was written but for upper and lower case."""
    service = call.service
    try:
        parts = parse_mix(asked)
    except ValueError as error:
        raise ServiceError(ErrorCode.invalid_option, str(error)) from None
    for name, _ in parts:
        if seen_voices(call.request).find(name) is not None:
            raise ServiceError(
                ErrorCode.invalid_option,
                f"the registered voice '{name[:64]}' cannot be mixed; a mix has built-in voices of "
                "one model",
            )
    if len(parts) == 1:
        return await resolve_voice(call, parts[0][0], model=model) or asked
    await _all_loaded(call, model)
    infos = [each.backend.info for each in service.models.of(Kind.TTS)]
    mixing = [info for info in infos if info is not None and info.mixes]
    if not mixing:
        raise ServiceError(
            ErrorCode.invalid_option,
            "no model that runs here mixes voices; name one voice, without + and brackets",
        )
    for info in mixing:
        if has_voice(info, asked):
            return asked
        ids = {voice.id.casefold(): voice.id for voice in info.voices}
        if all(name.casefold() in ids for name, _ in parts):
            return "+".join(f"{ids[name.casefold()]}({share:.6f})" for name, share in parts)
    everywhere = {voice.id.casefold() for info in mixing for voice in info.voices}
    unknown = [name for name, _ in parts if name.casefold() not in everywhere]
    wrong = f"there is no voice '{unknown[0][:64]}' to mix" if unknown else "they are of two models"
    told = "; ".join(f"{info.engine} mixes {voices_of(info)}" for info in mixing)
    raise ServiceError(ErrorCode.not_found, f"'{asked[:64]}' is no mix of voices: {wrong}; {told}")


def _builtin(service: Service) -> list[BuiltinVoice]:
    return [voice for voice, _ in service.builtin_voices]


async def _all_loaded(call: Call[Any, Any], model: str | None) -> None:
    """Wait until the voices are known of all models that the request may mean."""
    models = call.service.models.of(Kind.TTS)
    named = call.service.models.resolve(Kind.TTS, model=model)
    for each in [named] if named.called(model) else models:
        await _loaded(call, each)


async def _loaded(call: Call[Any, Any], model: Model) -> EngineInfo:
    """What the engine of a model says about itself; waits until it has loaded once."""
    info = model.backend.info
    if info is None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(call.deadline - time.monotonic()):
                info = await model.backend.known_info()
    if info is None:
        raise ServiceError(
            ErrorCode.model_unavailable,
            f"the model for {model.name} has not loaded yet, so its voices are not known; try "
            "again",
            retry_after=max(1.0, model.backend.retry_after),
        )
    return info
