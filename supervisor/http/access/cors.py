"""CORS: which origins may call the service from a browser. Runs in the front."""

from __future__ import annotations

from aiohttp import hdrs, web

from supervisor.http.errors import Handler
from supervisor.service import SERVICE

_METHODS = "GET, POST, PUT, DELETE"
_REQUEST_HEADERS = (
    "Authorization, X-API-Key, xi-api-key, Content-Type, X-Request-Id, X-Request-Timeout"
)
_RESPONSE_HEADERS = (
    "X-Request-Id, Server-Timing, Retry-After, X-Voice-Engine, X-Voice-Approximation, "
    "X-Voice-Cache, X-Voice-Id, X-Voice-Engine-Warning, X-Sample-Rate, X-Audio-Duration"
)
_PREFLIGHT_SECONDS = "600"


@web.middleware
async def cors_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer preflight requests of allowed origins. Browsers send them without an API key."""
    if (
        request.method != hdrs.METH_OPTIONS
        or hdrs.ACCESS_CONTROL_REQUEST_METHOD not in request.headers
        or _allowed(request) is None
    ):
        return await handler(request)
    # Allow every header: libraries add their own, and access depends on the API key.
    requested = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS)
    return web.Response(
        status=204,
        headers={
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: _METHODS,
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: requested or _REQUEST_HEADERS,
            hdrs.ACCESS_CONTROL_MAX_AGE: _PREFLIGHT_SECONDS,
        },
    )


async def add_cors(request: web.Request, response: web.StreamResponse) -> None:
    """Signal handler: lets allowed origins read every response, including errors and streams."""
    if request.app[SERVICE].settings.cors_origins:
        # A cache must not send the response for one origin to another.
        response.headers.add(hdrs.VARY, hdrs.ORIGIN)
    if (origin := _allowed(request)) is not None:
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _RESPONSE_HEADERS


def _allowed(request: web.Request) -> str | None:
    """The value of Access-Control-Allow-Origin; None without an origin, or if it is not listed."""
    origin = request.headers.get(hdrs.ORIGIN)
    listed = request.app[SERVICE].settings.origins
    if origin is None:
        return None
    return "*" if "*" in listed else origin if origin in listed else None
