"""A session with the service, for commands that speak or listen live. Runs in a command."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from supervisor.cli.client import Address, RefusedError, advice, no_response


@asynccontextmanager
async def connected(
    where: Address, path: str, about: str
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """The WebSocket at `path`. Errors of the connection, also later ones, are told as commands do.

    `about`: what the advice after a refusal is about. Raises `CommandError`.
    """
    options = where.live_options()
    trust_env = options.pop("trust_env")
    try:
        async with (
            aiohttp.ClientSession(trust_env=trust_env) as client,
            client.ws_connect(f"{where.url}{path}", **options) as socket,
        ):
            yield socket
    except aiohttp.WSServerHandshakeError as error:
        told = advice(error.status, about)
        message = f"{where.url} answers {error.status} {error.message}"
        raise RefusedError(f"{message}; {told}" if told else message, error.status) from error
    except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
        raise no_response(where.url, error) from error
