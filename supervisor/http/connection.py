"""Connections: how many, and what comes on them that is no HTTP. Runs in the front."""

from __future__ import annotations

import asyncio
import json
import resource
import uuid
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import InvalidURLError
from aiohttp.http_parser import RawRequestMessage

from ipc.errors import ErrorCode, ServiceError
from supervisor.http.errors import error_body, error_response
from supervisor.log import logger

_FILES_OF_CONNECTION = 3
"""A socket, an upload's file and an answer's."""
_FILES_OF_FRONT = 256
"""Those of workers, and of a recycle of all of them at once, far exceeded."""
_RETRY_SECONDS = 1


class Connections:
    """The open connections, and how many there may be.

    Each is an open file and some memory, and without files no worker can be replaced.
    """

    def __init__(self, limit: int) -> None:
        """Lets the process open as many files as `limit` needs, else takes fewer connections."""
        wanted = _FILES_OF_FRONT + _FILES_OF_CONNECTION * limit
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if 0 <= soft < wanted:
            soft = wanted if hard < 0 else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self.limit = limit
        if 0 <= soft < wanted:
            self.limit = max(1, (soft - _FILES_OF_FRONT) // _FILES_OF_CONNECTION)
            logger.warning(
                "few_open_files",
                allowed=soft,
                connections=self.limit,
                message=f"raise the limit of open files (ulimit -n) to {wanted} for {limit}",
            )
        self._open: set[Protocol] = set()
        self._told = False

    def enter(self, connection: Protocol) -> bool:
        """Whether there is room for it."""
        if len(self._open) < self.limit:
            self._open.add(connection)
            return True
        if not self._told:  # once each time that it gets this far
            self._told = True
            logger.warning("connections_full", connections=self.limit)
        return False

    def leave(self, connection: Protocol) -> None:
        """It is closed."""
        self._open.discard(connection)
        if len(self._open) <= self.limit // 2:
            self._told = False

    @property
    def refusal(self) -> bytes:
        """What one gets for which there is no room, without its request being read."""
        error = ServiceError(
            ErrorCode.overloaded,
            f"the service has all {self.limit} connections that it takes; try again later, and "
            "close those that are not used",
        )
        body = json.dumps(error_body(error)).encode()
        head = (
            f"HTTP/1.1 {error.code.status} Service Unavailable\r\n"
            "Content-Type: application/json; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\n"
            f"Retry-After: {_RETRY_SECONDS}\r\n"
            f"X-Request-Id: {uuid.uuid4().hex}\r\n"
            "Connection: close\r\n\r\n"
        )
        return head.encode() + body


class Protocol(web.RequestHandler):
    """One connection. What aiohttp cannot read gets an error as all others are.

    aiohttp would log a traceback for each, with the line that it cannot read, which may hold a key.
    """

    __slots__ = ("_connections", "_entered")

    def __init__(self, manager: web.Server, connections: Connections, **options: Any) -> None:
        super().__init__(manager, **options)
        self._connections = connections
        self._entered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve it, if there is room for one more."""
        self._entered = self._connections.enter(self)
        if self._entered:
            super().connection_made(transport)
        else:
            assert isinstance(transport, asyncio.Transport)
            transport.write(self._connections.refusal)
            transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The other end is gone, or this one has hung up."""
        if self._entered:
            self._connections.leave(self)
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Tell the reader of a body that it is broken, which aiohttp's parser in C forgets.

        The request would wait for the rest until its deadline.
        """
        super().data_received(data)
        if not self._messages or isinstance(self._messages[-1][0], RawRequestMessage):
            return
        bodies = [payload for _, payload in self._messages]
        if self._current_request is not None:
            bodies.append(self._current_request.content)
        for body in bodies:
            if not body.is_eof():
                body.set_exception(web.RequestPayloadError("its chunks are not valid"))

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what could not be read as a request, or could not be answered."""
        if request.writer.output_size > 0:
            raise ConnectionError("half of an answer has been sent; an error cannot follow it")
        if status < 500:
            # What follows the colon, or is all there is, is what was sent.
            problem = (message or "").partition(":")[0].strip(" \n.")
            if not problem or isinstance(exc, InvalidURLError):
                problem = "its first line is not valid"
            logger.debug("no_http", remote=request.remote, problem=problem)
            error = ServiceError(
                ErrorCode.invalid_request,
                f"the request cannot be read: {problem}; send it as an HTTP library builds it",
            )
        else:
            logger.error("request_failed", exc_info=exc)
            error = ServiceError(
                ErrorCode.internal_error, "a bug in the service; its log has the details"
            )
        response = error_response(error)
        response.headers["X-Request-Id"] = uuid.uuid4().hex
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """What ends a connection after its answer, such as the rest of a body that is broken."""
        error = kw.get("exc_info")
        if isinstance(error, web.RequestPayloadError):
            logger.debug("body_broken")
        else:
            logger.error("connection_failed", exc_info=error)
