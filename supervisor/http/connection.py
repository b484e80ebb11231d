"""Connections: the limit on their number, and data that is not HTTP. Runs in the front."""

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
from supervisor.events import ConnectionsFull, Publish, Served
from supervisor.http.errors import error_body, error_response
from supervisor.log import logger

_FILES_OF_CONNECTION = 3
"""File descriptors of one connection: the socket, the file of an upload and of a response."""
_FILES_OF_FRONT = 256
"""File descriptors reserved for worker pipes, enough even to replace all workers at once."""
_RETRY_SECONDS = 1


class Connections:
    """The open connections, and the limit on their number.

    Each connection takes file descriptors and memory. Without free file descriptors no worker can
    be replaced.
    """

    def __init__(self, limit: int, publish: Publish) -> None:
        """Raises the limit of open files as `limit` needs, else accepts fewer connections."""
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
                message=f"for {limit} connections, raise the open files (ulimit -n) to {wanted}",
            )
        self.publish = publish
        self.refused = 0
        """How many were one too many."""
        self._open: set[Protocol] = set()
        self._full_logged = False

    @property
    def open(self) -> int:
        """How many are open."""
        return len(self._open)

    def enter(self, connection: Protocol) -> bool:
        """Add a connection; False when there are too many."""
        if len(self._open) < self.limit:
            self._open.add(connection)
            return True
        self.refused += 1
        if not self._full_logged:  # once, until half of the connections are closed
            self._full_logged = True
            self.publish(ConnectionsFull(connections=self.limit))
        return False

    def leave(self, connection: Protocol) -> None:
        """Remove a connection that has been closed."""
        self._open.discard(connection)
        if len(self._open) <= self.limit // 2:
            self._full_logged = False

    @property
    def refusal(self) -> bytes:
        """The response to a connection over the limit. Its request is not read."""
        error = ServiceError(
            ErrorCode.overloaded,
            f"all {self.limit} connections of the service are in use; try again later, and close "
            "connections that you do not use",
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
    """One connection. A request that aiohttp cannot parse gets the same kind of error as any other.

    By default aiohttp logs a traceback with the line that it cannot parse, which may hold a key.
    """

    __slots__ = ("_connections", "_entered")

    def __init__(self, manager: web.Server, connections: Connections, **options: Any) -> None:
        super().__init__(manager, **options)
        self._connections = connections
        self._entered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve the connection, or refuse it when there are too many."""
        self._entered = self._connections.enter(self)
        if self._entered:
            super().connection_made(transport)
        else:
            assert isinstance(transport, asyncio.Transport)
            transport.write(self._connections.refusal)
            transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client or the service has closed the connection."""
        if self._entered:
            self._connections.leave(self)
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass an error in a body on to its reader, which aiohttp's C parser does not do.

        Without this the request would wait for the rest of the body until its deadline.
        """
        super().data_received(data)
        if not self._messages or isinstance(self._messages[-1][0], RawRequestMessage):
            return
        bodies = [payload for _, payload in self._messages]
        if self._current_request is not None:
            bodies.append(self._current_request.content)
        for body in bodies:
            if not body.is_eof():
                body.set_exception(web.RequestPayloadError("the chunked encoding is not valid"))

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The response to a request that cannot be parsed, or whose handler failed."""
        if request.writer.output_size > 0:
            raise ConnectionError("part of the response has been sent; an error cannot follow it")
        if status < 500:
            # The text after the colon, or the whole message, repeats what the client sent.
            problem = (message or "").partition(":")[0].strip(" \n.")
            if not problem or isinstance(exc, InvalidURLError):
                problem = "the request line is not valid"
            logger.debug("no_http", remote=request.remote, problem=problem)
            self._connections.publish(
                Served(
                    method="OTHER",
                    route="",
                    status=status,
                    client=request.remote or "",
                    bytes_in=0,
                    bytes_out=0,
                    duration_s=0.0,
                    error=ErrorCode.invalid_request.wire_name,
                )
            )
            error = ServiceError(
                ErrorCode.invalid_request,
                f"the request cannot be read: {problem}; use an HTTP library to build it",
            )
        else:
            logger.error("request_failed", exc_info=exc)
            error = ServiceError(
                ErrorCode.internal_error, "a bug in the service; the service's log has the details"
            )
        response = error_response(error)
        response.headers["X-Request-Id"] = uuid.uuid4().hex
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log an error after the response, for example in the rest of a body."""
        error = kw.get("exc_info")
        if isinstance(error, web.RequestPayloadError):
            logger.debug("body_broken")
        else:
            logger.error("connection_failed", exc_info=error)
