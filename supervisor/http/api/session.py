"""Sessions over WebSockets: how one is declared, opened, read and closed. Runs in the front.

A session is an HTTP operation whose answer is the WebSocket. What is said over it is the matter of
its handler in `supervisor/http/routes`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from enum import Enum
from typing import Any, Generic
from urllib.parse import urlsplit

from aiohttp import WSCloseCode, WSMsgType, hdrs, web
from pydantic import BaseModel

from ipc.engines import Json, Kind
from ipc.errors import ErrorCode, ServiceError
from supervisor.http.api.operation import Access, Answer, Call, Nothing, Operation, ParamsT
from supervisor.http.api.operation import operation as _operation
from supervisor.http.context import CLIENT, KEY_AWAITED, OPERATOR, client, time_limit
from supervisor.log import logger

MOST_BYTES = 1024 * 1024
"""The largest message of a client. A second of sound in base64 has 64 KB."""

_CLOSE_SECONDS = 2.0
"""How long a client may take to confirm the end."""

_LONGEST_REASON = 123
"""Bytes: what a close frame has room for."""


class End(Enum):
    """Why no more messages come."""

    CLIENT = "the client has closed the session, or has gone"
    IDLE = "no message came in time"
    DRAINING = "the service shuts down"


class Session(Generic[ParamsT]):
    """One open session: the messages of a client, and what it is sent.

    `call` is the request that opened it; its parameters are read and validated.
    """

    def __init__(self, call: Call[Nothing, ParamsT], socket: web.WebSocketResponse) -> None:
        self.call = call
        self.params = call.params
        self.service = call.service
        self.end: End | None = None
        """Set once `receive` has returned None."""
        self._socket = socket
        self._draining = False
        self._wait: asyncio.Timeout | None = None

    @property
    def draining(self) -> bool:
        """Whether the service shuts down: finish what was begun, and begin nothing new."""
        return self._draining

    @property
    def needs_key(self) -> bool:
        """Whether a key is needed that the request did not have: it must be in a message."""
        return bool(self.call.request.get(KEY_AWAITED))

    def authenticate(self, key: str) -> None:
        """Take the API key of a message. Raises `ServiceError` (unauthorized)."""
        caller = self.service.settings.keys.find(key)
        if caller is not None:
            self.call.request[CLIENT] = caller.name
            self.call.request[OPERATOR] = caller.admin
            self.call.request[KEY_AWAITED] = False
        elif not self.service.settings.keys.open:
            raise ServiceError(ErrorCode.unauthorized, "the API key is not valid; send a valid one")

    async def receive(self, timeout: float | None = None) -> str | bytes | None:
        """The next message; None when no more comes: `end` says why.

        A client that sends faster than this is called waits: what it sends stays in the network.
        """
        if self._draining:
            self.end = End.DRAINING
            return None
        try:
            async with asyncio.timeout(timeout) as self._wait:
                message = await self._socket.receive()
        except TimeoutError:
            self.end = End.DRAINING if self._draining else End.IDLE
            return None
        finally:
            self._wait = None
        if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            data: str | bytes = message.data
            return data
        self.end = End.CLIENT
        return None

    async def send(self, message: str | bytes) -> None:
        """Send one message, text or binary. Raises `ConnectionResetError` if the client is gone."""
        send = self._socket.send_str if isinstance(message, str) else self._socket.send_bytes
        try:
            async with asyncio.timeout(self.service.settings.send_timeout):
                await send(message)  # type: ignore[arg-type]
        except TimeoutError:
            logger.info("client_stopped_reading", path=self.call.request.path)
            if self.call.request.transport is not None:
                self.call.request.transport.abort()
            raise ConnectionResetError("the client has stopped reading") from None

    async def send_json(self, model: BaseModel, *, exclude_none: bool = False) -> None:
        """Send `model` as a text message."""
        await self.send(model.model_dump_json(exclude_none=exclude_none, by_alias=True))

    async def tell(self, message: Json) -> None:
        """Send `message` as a text message."""
        await self.send(json.dumps(message, ensure_ascii=False))

    async def admitted(self) -> None:
        """Wait until the rate limit lets the client have one more piece of work."""
        while True:
            wait = self.service.rate_limit.take(client(self.call.request))
            if not wait:
                return
            await asyncio.sleep(wait)

    def piece(self) -> Call[Nothing, ParamsT]:
        """The call of one piece of the session's work, with a deadline of its own.

        Raises `ServiceError` while the session needs a key.
        """
        if self.needs_key:
            raise ServiceError(
                ErrorCode.unauthorized, "an API key is needed; send it in the first message"
            )
        limit = replace(time_limit(self.call.request), end=None)
        return replace(self.call, deadline=limit.deadline(), continues=True)

    async def close(self, code: int = WSCloseCode.OK, reason: str = "") -> None:
        """End the session; a second call does nothing."""
        short = reason.encode()[:_LONGEST_REASON].decode(errors="ignore").encode()
        with contextlib.suppress(ConnectionError):
            await self._socket.close(code=code, message=short)

    def drain(self) -> None:
        """The service shuts down: `receive` returns None from now on."""
        self._draining = True
        if self._wait is not None:
            self._wait.reschedule(asyncio.get_running_loop().time())


Handler = Callable[[Session[ParamsT]], Awaitable[None]]


def session(
    path: str,
    handler: Handler[ParamsT],
    *,
    kind: Kind,
    summary: str,
    tag: str,
    params: type[ParamsT] = Nothing,  # type: ignore[assignment]
    key_in_message: bool = False,
    protocols: tuple[str, ...] = (),
    errors: tuple[ErrorCode, ...] = (),
) -> Operation[Nothing, ParamsT]:
    """Declare a session; the handler's docstring is its description.

    When the handler returns, the session is closed; a `ServiceError` that it raises is the reason.
    With `key_in_message` the key may come in a message (`Session.authenticate`). `protocols` are
    the names of WebSocket subprotocols that clients ask for.
    """

    async def open_session(call: Call[Nothing, ParamsT]) -> web.StreamResponse:
        return await _serve(call, handler, kind, protocols)

    open_session.__name__ = handler.__name__
    open_session.__doc__ = handler.__doc__
    return _operation(
        "GET",
        path,
        open_session,
        summary=summary,
        tag=tag,
        params=params,
        answers={101: Answer("The session begins: a WebSocket.", {})},
        errors=(
            *(ErrorCode.upgrade_required, ErrorCode.forbidden, ErrorCode.overloaded),
            *errors,
        ),
        access=Access.SESSION if key_in_message else Access.CLIENT,
    )


async def _serve(
    call: Call[Nothing, ParamsT],
    handler: Handler[ParamsT],
    kind: Kind,
    protocols: tuple[str, ...],
) -> web.StreamResponse:
    request = call.request
    _check_origin(call)
    socket = web.WebSocketResponse(
        protocols=protocols,
        timeout=_CLOSE_SECONDS,
        heartbeat=call.service.settings.session_ping,
        compress=False,  # sound does not get smaller, and each session would hold a window
        max_msg_size=MOST_BYTES,
    )
    if not socket.can_prepare(request):
        raise ServiceError(
            ErrorCode.upgrade_required,
            f"{request.path} is a WebSocket; open it with ws:// or wss:// instead of http",
        )
    session = Session(call, socket)
    with call.service.sessions.open(kind, client(request), session.drain):
        await socket.prepare(request)
        try:
            await handler(session)
        except ServiceError as error:
            await session.close(_close_code(error), error.message)
        except ConnectionError:
            logger.debug("session_cut", path=request.path)
        except Exception:
            logger.exception("session_failed", path=request.path)
            await session.close(
                WSCloseCode.INTERNAL_ERROR, "a bug in the service; its log has the details"
            )
        else:
            code = WSCloseCode.GOING_AWAY if session.draining else WSCloseCode.OK
            await session.close(code, End.DRAINING.value if session.draining else "")
    return socket


def _close_code(error: ServiceError) -> int:
    """The code of a close frame: whose fault it is, and whether to try again."""
    if error.code in (ErrorCode.overloaded, ErrorCode.rate_limited, ErrorCode.shutting_down):
        return WSCloseCode.TRY_AGAIN_LATER
    return WSCloseCode.POLICY_VIOLATION if error.code.status < 500 else WSCloseCode.INTERNAL_ERROR


def _check_origin(call: Call[Any, Any]) -> None:
    """Refuse pages of strangers: browsers let every page open a WebSocket to every host.

    With keys it is the key that keeps them out.
    """
    origin, settings = call.request.headers.get(hdrs.ORIGIN), call.service.settings
    if origin is None or not settings.keys.open:
        return
    if urlsplit(origin).netloc == call.request.host or settings.origins & {origin, "*"}:
        return
    raise ServiceError(
        ErrorCode.forbidden,
        "a page of another origin may not open sessions here; add its origin to "
        "VOICE_ENGINE_CORS_ORIGINS",
    )
