"""Streamed responses: raw bytes, or server-sent events. Runs in the front."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from aiohttp import HttpVersion11, web

from ipc.engines import Json
from ipc.errors import ServiceError
from ipc.operations import ResultT
from supervisor.dispatch.backend import Backend
from supervisor.dispatch.job import Job
from supervisor.http.errors import error_body
from supervisor.http.record import RECORD
from supervisor.http.shared.tasks import retrieve
from supervisor.log import logger
from supervisor.service import SERVICE

ItemT_co = TypeVar("ItemT_co", covariant=True)
ItemT = TypeVar("ItemT")
ItemT_contra = TypeVar("ItemT_contra", contravariant=True)
ResultT_contra = TypeVar("ResultT_contra", contravariant=True)


class Source(Protocol[ItemT_co]):
    """The items of a stream: `ResponseBuffer` or `SegmentBuffer`."""

    async def read(self) -> ItemT_co | None:
        """The next item; a false value at the end. Raises the job's error."""

    def close(self) -> None:
        """Drop what was not read."""


class Framing(Protocol[ItemT_contra, ResultT_contra]):
    """The format of a stream on the wire."""

    media_type: str

    def item(self, item: ItemT_contra) -> bytes:
        """The bytes of the next item."""

    def end(self, result: ResultT_contra) -> bytes:
        """The last bytes, once the whole result is known."""

    def error(self, error: ServiceError) -> bytes:
        """The bytes that report an error within the stream; b"" if the format has none."""


class Raw:
    """Bytes as they are."""

    media_type = ""

    def item(self, item: bytes) -> bytes:
        """The bytes unchanged."""
        return item

    def end(self, _: Any) -> bytes:
        """Empty: nothing follows."""
        return b""

    def error(self, _: ServiceError) -> bytes:
        """Empty: raw bytes cannot report an error."""
        return b""


def server_sent(data: Json, event: str | None = None) -> bytes:
    """One server-sent event with JSON as its data."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def server_sent_error(error: ServiceError) -> bytes:
    """The event that OpenAI's clients read as an error in a stream."""
    return server_sent(error_body(error), "error")


async def stream(
    request: web.Request,
    backend: Backend,
    job: Job[ResultT],
    *,
    source: Source[ItemT],
    framing: Framing[ItemT, ResultT],
    headers: Callable[[], dict[str, str]],
) -> web.StreamResponse:
    """Run `job` and send the items in `source`, each as soon as it exists.

    `headers` is called once the first item exists, because before that the engine may not have
    loaded. An error before the first byte is an ordinary error response. An error after it cuts the
    connection without a valid end, so that no client takes half a response for a complete one.
    """
    running = asyncio.create_task(backend.run(job))
    running.add_done_callback(retrieve)
    try:
        item = await source.read()
        response = web.StreamResponse(headers=headers())
        if request.version >= HttpVersion11:
            response.enable_chunked_encoding()
        else:
            response.force_close()  # for such a client, only this marks the end of the response
        await response.prepare(request)
        try:
            while item:
                await send(request, response, framing.item(item))
                item = await source.read()
        except ServiceError as error:
            request[RECORD].error = error.code.wire_name
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
        source.close()


async def send(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    """Write to a client, which may be slow.

    Raises `ConnectionResetError` if the client has stopped reading, as if it had disconnected.
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
    """Make the connection end with a reset: a normal end would mean a complete response."""
    at_once = struct.pack("ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
