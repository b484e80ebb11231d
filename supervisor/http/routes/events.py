"""GET /v1/events: what happens, as it happens, and what has happened. Runs in the front."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated

from aiohttp import web
from pydantic import Field

from ipc.engines import Json
from supervisor.events import Published, log_name
from supervisor.http.api.api_model import ApiModel
from supervisor.http.api.operation import (
    SERVER_SENT,
    Access,
    Answer,
    Call,
    Nothing,
    Operations,
    operation,
)
from supervisor.http.shared.streaming import send, server_sent

_KEEP_ALIVE_SECONDS = 15.0


class EventsParams(ApiModel):
    """Which events."""

    last_event_id: Annotated[
        str | None,
        Field(description="only what came after the event with this id, as `Last-Event-ID`"),
    ] = None
    follow: Annotated[
        bool, Field(description="stay and send what happens; false: end after what has happened")
    ] = True


def as_json(told: Published) -> Json:
    """An event as clients get it."""
    return {
        "id": told.id,
        "time": datetime.fromtimestamp(told.time, UTC).isoformat(timespec="milliseconds"),
        "event": log_name(told.event),
        "level": told.event.level,
        **told.event.facts(),
        **({"request_id": told.request_id} if told.request_id else {}),
    }


async def events(call: Call[Nothing, EventsParams]) -> web.StreamResponse:
    """The last events of each kind, then each new one until the client goes.

    Each is a server-sent event with JSON: `id`, `time`, `event` (its name), `level` and its facts.
    After an interruption `Last-Event-ID` continues where the client was.
    """
    request = call.request
    last_id = request.headers.get("Last-Event-ID") or call.params.last_event_id
    headers = {"Content-Type": SERVER_SENT, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)
    response.enable_chunked_encoding()
    reader = call.service.events.read(last_id)
    stopping = asyncio.ensure_future(call.service.draining.wait())
    try:
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        while True:
            for told in reader.waiting():
                await send(request, response, _frame(told))
            if stopping.done() or not call.params.follow:
                break
            arrived = asyncio.ensure_future(reader.arrived())
            try:
                done, _ = await asyncio.wait(
                    [arrived, stopping],
                    timeout=_KEEP_ALIVE_SECONDS,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                arrived.cancel()
            if not done:
                await send(request, response, b": keep-alive\n\n")
        await response.write_eof()
    finally:
        stopping.cancel()
        reader.close()
    return response


def _frame(told: Published) -> bytes:
    return f"id: {told.id}\n".encode() + server_sent(as_json(told))


OPERATIONS: Operations = (
    operation(
        "GET",
        "/v1/events",
        events,
        summary="What happens in the service",
        tag="Operation",
        params=EventsParams,
        answers={200: Answer("The events.", {SERVER_SENT: "events as JSON"})},
        access=Access.OPERATOR,
    ),
)
