"""Answers that are files. Runs in the front, through whose memory they do not pass."""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from supervisor.service import SERVICE


class FileAnswer(web.FileResponse):
    """A file, or as much of it as conditions and a range ask for.

    A handler may `prepare` it, which sends all of it, to keep the file until then.
    """

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send it, unless that has been done. Raises `ConnectionResetError`.

        A client that does not read is cut off: the kernel sends, so nobody sees how far it is.
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
