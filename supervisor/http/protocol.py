"""Connections, and what comes on them that is no HTTP. Runs in the front."""

from __future__ import annotations

import uuid
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import InvalidURLError
from aiohttp.http_parser import RawRequestMessage

from ipc.errors import ErrorCode, ServiceError
from supervisor.http.errors import error_response
from supervisor.log import logger


class Protocol(web.RequestHandler):
    """One connection. What aiohttp cannot read gets an error as all others are.

    aiohttp would log a traceback for each, with the line that it cannot read, which may hold a key.
    """

    __slots__ = ()

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
