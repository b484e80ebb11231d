"""Responses that are files. Runs in the front; the kernel sends the file directly."""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from supervisor.service import SERVICE


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
