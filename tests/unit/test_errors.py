"""What the front makes of errors of its handlers, and of clients that are gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from supervisor.http.context import id_middleware
from supervisor.http.errors import error_middleware
from tests.support.service import NET


async def test_a_client_that_leaves_while_it_is_written_to_is_not_an_error(
    aiohttp_client: Callable[[web.Application], Awaitable[TestClient[web.Request, Any]]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    left = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"the beginning")
        assert request.transport is not None
        request.transport.close()  # as when the client resets the connection
        left.set()
        await response.write_eof()
        return response

    app = web.Application(middlewares=[id_middleware, error_middleware])
    app.router.add_get("/", handler)
    client = await aiohttp_client(app)
    async with client.get("/") as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    await asyncio.wait_for(left.wait(), NET)
    assert [record.getMessage() for record in caplog.records] == []
