"""The registered voices that a request may see and change. Runs in the front."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from aiohttp import web

from supervisor.http.context import CLIENT, OPERATOR
from supervisor.service import SERVICE, Service
from supervisor.voices.owners import SeenVoices, Viewer

_T = TypeVar("_T")


async def find_anew(service: Service, find: Callable[[], _T | None]) -> _T | None:
    """What `find` finds among the voices; if nothing, another front may have just registered it."""
    found = find()
    if found is None:
        await service.voices.look_again()
        found = find()
    return found


def seen_voices(request: web.Request) -> SeenVoices:
    """The registered voices as the owner of the request's key sees them."""
    service = request.app[SERVICE]
    if service.settings.voice_owners == "off" or request.get(OPERATOR, False):
        return SeenVoices(service.voices, Viewer())
    return SeenVoices(service.voices, Viewer(request.get(CLIENT), unlimited=False))
