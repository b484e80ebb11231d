"""The registered voices that a request may see and change. Runs in the front."""

from __future__ import annotations

from aiohttp import web

from supervisor.http.context import CLIENT, OPERATOR
from supervisor.service import SERVICE
from supervisor.voices.owners import SeenVoices, Viewer


def seen_voices(request: web.Request) -> SeenVoices:
    """The registered voices as the owner of the request's key sees them."""
    service = request.app[SERVICE]
    if service.settings.voice_owners == "off" or request.get(OPERATOR, False):
        return SeenVoices(service.voices, Viewer())
    return SeenVoices(service.voices, Viewer(request.get(CLIENT), unlimited=False))
