"""The names by which clients know voices: ids, and voices of other services. In the front.

Clients have the voices of other services built in. Each of these is another name for a built-in
voice, by its place in the list. A registered voice with the same name comes first.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

from ipc.engines import BuiltinVoice, Kind
from ipc.errors import ErrorCode, ServiceError
from supervisor.http.api.operation import Call
from supervisor.service import Service

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


def known_voice(service: Service, asked: str, builtin: Sequence[BuiltinVoice]) -> str | None:
    """The id of the voice that a client names `asked`: registered, built-in, or an alias.

    Upper and lower case are the same, unless there is a voice with exactly this id. `builtin` are
    the voices that aliases stand for. None: there is no such voice.
    """
    ids = {voice.id for voice in builtin}
    if service.voices.get(asked) is not None or asked in ids:
        return asked
    if (registered := service.voices.find(asked)) is not None:
        return registered.id
    name = asked.casefold()
    for voice in builtin:
        if voice.id.casefold() == name:
            return voice.id
    if name in _PLACES and builtin:
        return builtin[_PLACES[name] % len(builtin)].id
    return None


async def resolve_voice(
    call: Call[Any, Any], asked: str | None, *, model: str | None = None
) -> str | None:
    """The id of the voice that a request names `asked`; None means the engine's default one.

    Waits until the engine has loaded, if `asked` is a name of one of its voices in another service.
    """
    if asked is None or not asked.strip():
        return None
    service = call.service
    if asked.casefold() in _PLACES and service.voices.find(asked) is None:
        builtin = await _builtin(call, model)
        return known_voice(service, asked, builtin)
    builtin = [voice for voice, _ in service.builtin_voices]
    return known_voice(service, asked, builtin) or asked


async def _builtin(call: Call[Any, Any], name: str | None) -> Sequence[BuiltinVoice]:
    """The built-in voices of the engine `name`; waits until it has loaded."""
    model = call.service.models.resolve(Kind.TTS, model=name)
    info = None
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
    return info.voices
