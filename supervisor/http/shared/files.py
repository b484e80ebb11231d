"""Responses that are files, or parts of them. Runs in the front.

The kernel sends a whole file directly.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter

from supervisor.http.shared.streaming import send
from supervisor.service import SERVICE
from supervisor.threads import in_thread

_BLOCK = 256 * 1024


class FileAnswer(web.FileResponse):
    """A file, or the part of it that conditional and range headers ask for.

    `prepare` sends the whole response. A handler may call it itself, when the file must exist until
    then.
    """

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the response, unless that has been done. Raises `ConnectionResetError`.

        The connection is aborted after the request timeout: the kernel sends the file, so the front
        cannot see whether the client still reads.
        """
        if self.prepared:
            return None
        assert isinstance(request, web.Request)
        try:
            async with asyncio.timeout(request.app[SERVICE].settings.request_timeout):
                return await super().prepare(request)
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the client has stopped reading") from None


async def send_part(
    request: web.Request, path: Path, start: int, size: int, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Send `size` bytes of the file from `start` on. Raises `ConnectionResetError`."""
    response = web.StreamResponse(headers=headers)
    response.content_length = size
    await response.prepare(request)
    if request.method != hdrs.METH_HEAD:
        await send_bytes(request, response, path, start, size)
    await response.write_eof()
    return response


async def send_bytes(
    request: web.Request, response: web.StreamResponse, path: Path, start: int, size: int
) -> None:
    """Send these bytes of the file within a response. Raises `ConnectionResetError`."""
    end = start + size
    while start < end:
        data = await read_part(path, start, min(_BLOCK, end - start))
        await send(request, response, data)
        start += len(data)


async def read_part(path: Path, start: int, size: int) -> bytes:
    """The bytes of the file from `start` on; at least one. Raises `OSError`."""

    def read() -> bytes:
        with open(path, "rb") as file:
            return os.pread(file.fileno(), size, start)

    data = await in_thread(read)
    if not data:
        raise OSError(f"{path} is shorter than it was")
    return data
