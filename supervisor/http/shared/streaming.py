"""Answers that arrive while they are made: bytes as they are, or framed as events. In the front."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from typing import Protocol

from aiohttp import HttpVersion11, web

from ipc.errors import ServiceError
from ipc.messages import Json
from supervisor.dispatch.dispatcher import Dispatcher, Job
from supervisor.http.errors import error_body
from supervisor.log import logger
from supervisor.service import SERVICE

SERVER_SENT = "text/event-stream"
"""Media type of server-sent events."""


class Framing(Protocol):
    """How a worker's bytes look on the wire."""

    media_type: str

    def data(self, data: bytes) -> bytes:
        """The frames of the next bytes; b"" when they make none yet."""

    def end(self, result: Json) -> bytes:
        """The last frames, once the worker has described its whole answer."""

    def error(self, error: ServiceError) -> bytes:
        """The frame that tells of an error after the answer has begun; b"" cuts the connection."""


def server_sent(data: Json, event: str | None = None) -> bytes:
    """One server-sent event with JSON for its data."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def server_sent_error(error: ServiceError) -> bytes:
    """The event by which OpenAI's clients know an error in a stream."""
    return server_sent(error_body(error), "error")


class _Raw:
    """The bytes as they are."""

    media_type = ""

    def data(self, data: bytes) -> bytes:
        return data

    def end(self, _: Json) -> bytes:
        return b""

    def error(self, _: ServiceError) -> bytes:
        return b""


async def stream(
    request: web.Request,
    dispatcher: Dispatcher,
    job: Job,
    headers: Callable[[], dict[str, str]],
    framing: Framing | None = None,
) -> web.StreamResponse:
    """Run `job` and answer chunk by chunk, each as soon as it exists.

    `headers` is asked once the first chunk exists: before, the engine may not be known. An error
    before the first byte is an ordinary answer. After it the connection is cut without a valid end,
    so that no client takes half an answer for a whole one.
    """
    framing = framing or _Raw()
    running = asyncio.create_task(dispatcher.run(job))
    running.add_done_callback(_retrieve)
    try:
        data = await job.answer.read()
        response = web.StreamResponse(headers=headers())
        if request.version >= HttpVersion11:
            response.enable_chunked_encoding()
        else:
            response.force_close()  # nothing else tells such a client where the answer ends
        await response.prepare(request)
        try:
            while data:
                if frames := framing.data(data):
                    await send(request, response, frames)
                data = await job.answer.read()
        except ServiceError as error:
            if last := framing.error(error):
                await send(request, response, last)
            if request.transport is not None:
                if not response.chunked:
                    _end_by_reset(request.transport)
                request.transport.abort()
            return response
        if last := framing.end(await running):
            await send(request, response, last)
        await response.write_eof()
        return response
    finally:
        running.cancel()
        job.answer.close()


async def send(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    """Write to a client that may be slow, but not to one that has stopped reading.

    Raises `ConnectionResetError` then, as if it had left.
    """
    try:
        async with asyncio.timeout(request.app[SERVICE].settings.send_timeout):
            await response.write(data)
    except TimeoutError:
        logger.info("client_stopped_reading", path=request.path)
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the client has stopped reading") from None


def _end_by_reset(transport: asyncio.Transport) -> None:
    """Have the connection end with an error: its mere end would be that of a whole answer."""
    at_once = struct.pack("ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)


def _retrieve(task: asyncio.Task[Json]) -> None:
    """The error reaches the client through the answer; here it only counts as seen."""
    if not task.cancelled():
        task.exception()
