"""Errors as JSON, with `detail` and with `error` as OpenAI's clients expect it. In the front."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

from aiohttp import web

from ipc.engines import Json
from ipc.errors import ErrorCode, ServiceError
from supervisor.http.addresses import corrected_base
from supervisor.http.record import RECORD
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
    """The JSON body: `detail` for our own clients, `error` for OpenAI's."""
    code = error.code
    return {
        "detail": error.message,
        "error": {
            "message": error.message,
            "type": code.type,
            "param": None,
            "code": code.wire_name,
        },
    }


def error_response(error: ServiceError) -> web.Response:
    """The HTTP response for `error`."""
    code = error.code
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if code is ErrorCode.unauthorized:
        headers["WWW-Authenticate"] = "Bearer"
    if code is ErrorCode.worker_crashed:
        headers["X-Should-Retry"] = "false"  # OpenAI's SDKs retry after every other 5xx
    return web.json_response(error_body(error), status=code.status, headers=headers)


async def _from_aiohttp(error: web.HTTPException, request: web.Request) -> ServiceError:
    """aiohttp's own errors (unknown path, wrong method) as a `ServiceError`."""
    code = _BY_STATUS.get(error.status, ErrorCode.invalid_request)
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        message = f"{request.path} does not support {request.method}; use {allowed}"
    elif error.status == 404:
        what_to_do = await corrected_base(request) or "/docs lists all endpoints"
        message = f"there is no endpoint {request.path}; {what_to_do}"
    else:
        message = error.reason
    return ServiceError(code, message)


@web.middleware
async def error_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every exception of a handler into a response."""
    try:
        return await handler(request)
    except ServiceError as error:
        request[RECORD].error = error.code.wire_name
        response = error_response(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        told = await _from_aiohttp(error, request)
        request[RECORD].error = told.code.wire_name
        response = error_response(told)
        if allow := error.headers.get("Allow"):
            response.headers["Allow"] = allow
    except ConnectionResetError:
        # The client closed the connection during the response, which is not an error here. Abort
        # the connection: nothing may follow, or the client could take a part for the whole.
        if request.transport is not None:
            request.transport.abort()
        request[RECORD].error = ErrorCode.cancelled.wire_name
        return web.Response(status=ErrorCode.cancelled.status)
    except Exception:
        request[RECORD].error = ErrorCode.internal_error.wire_name
        logger.exception("handler_failed", method=request.method, path=request.path)
        response = error_response(
            ServiceError(
                ErrorCode.internal_error, "a bug in the service; the service's log has the details"
            )
        )
    if not request.content.at_eof():
        # Close the connection instead of reading the rest of the upload, as aiohttp would.
        response.force_close()
    return response
