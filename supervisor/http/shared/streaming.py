"""Responses that are sent while they are made: raw bytes, or framed as events. In the front."""

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
from supervisor.log import logger
from supervisor.service import SERVICE

ItemT_co = TypeVar("ItemT_co", covariant=True)
ItemT = TypeVar("ItemT")
ItemT_contra = TypeVar("ItemT_contra", contravariant=True)
ResultT_contra = TypeVar("ResultT_contra", contravariant=True)


class Source(Protocol[ItemT_co]):
    """What a response reads: `ResponseBuffer` or `SegmentBuffer`."""

    async def read(self) -> ItemT_co | None:
        """The next item; a false value at the end. Raises the job's error."""

    def close(self) -> None:
        """Drop what was not read."""


class Framing(Protocol[ItemT_contra, ResultT_contra]):
    """How a stream looks on the wire."""

    media_type: str

    def item(self, item: ItemT_contra) -> bytes:
        """The bytes of the next item."""

    def end(self, result: ResultT_contra) -> bytes:
        """The last bytes, once the whole result is known."""

    def error(self, error: ServiceError) -> bytes:
        """What tells of an error after the response has begun; b"" cuts the connection."""


class Raw:
    """Bytes as they are."""

    media_type = ""

    def item(self, item: bytes) -> bytes:
        """Those bytes."""
        return item

    def end(self, _: Any) -> bytes:
        """Nothing follows."""
        return b""

    def error(self, _: ServiceError) -> bytes:
        """Nothing could tell."""
        return b""


def server_sent(data: Json, event: str | None = None) -> bytes:
    """One server-sent event with JSON for its data."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def server_sent_error(error: ServiceError) -> bytes:
    """The event by which OpenAI's clients know an error in a stream."""
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
    """Run `job` and send what it puts into `source`, each item as soon as it exists.

    `headers` is asked once the first item exists: before, the engine may not be known. An error
    before the first byte is an ordinary response. After it the connection is cut without a valid
    end, so that no client takes half a response for a whole one.
    """
    running = asyncio.create_task(backend.run(job))
    running.add_done_callback(_retrieve)
    try:
        item = await source.read()
        response = web.StreamResponse(headers=headers())
        if request.version >= HttpVersion11:
            response.enable_chunked_encoding()
        else:
            response.force_close()  # nothing else tells such a client where the response ends
        await response.prepare(request)
        try:
            while item:
                await send(request, response, framing.item(item))
                item = await source.read()
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
        source.close()


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
    """Have the connection end with an error: its mere end would be that of a whole response."""
    at_once = struct.pack("ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)


def _retrieve(task: asyncio.Task[Any]) -> None:
    """The error reaches the client through the response; here it only counts as seen."""
    if not task.cancelled():
        task.exception()
