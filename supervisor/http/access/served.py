"""Middleware that tells each request once it has been served. Runs in the front."""

from __future__ import annotations

import time

from aiohttp import web

from supervisor.http.api.operation import Access, access
from supervisor.http.context import client
from supervisor.http.errors import Handler
from supervisor.http.record import RECORD, told
from supervisor.service import SERVICE


@web.middleware
async def served_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Publish that the request was served, whatever became of it."""
    response: web.StreamResponse | None = None
    try:
        response = await handler(request)
        if isinstance(response, web.FileResponse):
            await response.prepare(request)  # it sends the file; until then its size is not known
        return response
    finally:
        probe = access(request) in (Access.OPEN, Access.METRICS)
        event = told(request, response, client=client(request), probe=probe)
        request.app[SERVICE].events.publish(event)


async def note_answer(request: web.Request, response: web.StreamResponse) -> None:
    """Signal handler: note when the first bytes of a body that comes in parts are sent."""
    if RECORD in request and not isinstance(response, web.Response):
        request[RECORD].answered = time.monotonic()
