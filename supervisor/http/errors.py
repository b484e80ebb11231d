"""Every error as JSON for both kinds of client: `detail`, and OpenAI's `error`. In the front."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

from aiohttp import web

from ipc.engines import Json
from ipc.errors import ErrorCode, ServiceError
from supervisor.log import logger

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_BY_STATUS = {
    400: ErrorCode.invalid_request,
    404: ErrorCode.not_found,
    405: ErrorCode.method_not_allowed,
    413: ErrorCode.payload_too_large,
    415: ErrorCode.unsupported_media_type,
}


def error_body(error: ServiceError) -> Json:
    """What a client is told: `detail` for ours, `error` for OpenAI's."""
    code = error.code
    return {
        "detail": error.message,
        "error": {"message": error.message, "type": code.type, "code": code.wire_name},
    }


def error_response(error: ServiceError) -> web.Response:
    """The answer that tells a client about `error`."""
    code = error.code
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if code is ErrorCode.unauthorized:
        headers["WWW-Authenticate"] = "Bearer"
    if code is ErrorCode.worker_crashed:
        headers["X-Should-Retry"] = "false"  # OpenAI's SDKs would: it is a 5xx like others
    return web.json_response(error_body(error), status=code.status, headers=headers)


def _from_aiohttp(error: web.HTTPException, request: web.Request) -> ServiceError:
    """aiohttp's own refusals (no such route, wrong method) in our words."""
    code = _BY_STATUS.get(error.status, ErrorCode.invalid_request)
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        message = f"{request.method} is not possible on {request.path}; use {allowed}"
    elif error.status == 404:
        message = f"there is nothing at {request.path}; /docs shows all there is"
    else:
        message = error.reason
    return ServiceError(code, message)


@web.middleware
async def error_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever a handler raises into an answer."""
    try:
        return await handler(request)
    except ServiceError as error:
        response = error_response(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        response = error_response(_from_aiohttp(error, request))
        if allow := error.headers.get("Allow"):
            response.headers["Allow"] = allow
    except ConnectionResetError:
        # The client has left in the middle of its answer, which is no error of ours. Nothing more
        # must reach it: what it got so far would look like the beginning of a whole answer.
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=ErrorCode.cancelled.status)
    except Exception:
        logger.exception("handler_failed", method=request.method, path=request.path)
        response = error_response(
            ServiceError(ErrorCode.internal_error, "a bug in the service; its log has the details")
        )
    if not request.content.at_eof():
        # The rest of the upload is not worth reading; aiohttp would, to keep the connection.
        response.force_close()
    return response
