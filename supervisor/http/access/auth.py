"""Middlewares for API keys and rate limits. Runs in the front.

Both decide from the headers of a request, before its body is read or "100 Continue" is sent.
"""

from __future__ import annotations

import math

from aiohttp import hdrs, web

from ipc.errors import ErrorCode, ServiceError
from supervisor.access.keys import Caller, Keys
from supervisor.http.api.operation import Access, access
from supervisor.http.context import CLIENT, KEY_AWAITED, OPERATOR, client
from supervisor.http.errors import Handler
from supervisor.service import SERVICE

KEY_HEADERS = ("Authorization", "X-API-Key", "xi-api-key")

_KEY_PROTOCOL = "openai-insecure-api-key."
"""Browsers cannot set headers of a WebSocket: OpenAI's clients put the key after this prefix into
the list of subprotocols."""


@web.middleware
async def auth_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Require a valid API key where one is needed. Raises `ServiceError` (401, 403)."""
    needed = access(request)
    if needed is Access.OPEN:
        return await handler(request)
    settings = request.app[SERVICE].settings
    keys = settings.keys
    public = (needed is Access.LIST and settings.public_lists) or (
        needed is Access.METRICS and settings.public_metrics
    )
    for_operators = needed in (Access.OPERATOR, Access.METRICS) and not public
    needs_admin = keys.separate_admin and for_operators
    caller = _caller(request, keys)
    is_open = keys.open or public
    if caller is None and (needs_admin or not is_open):
        if needed is not Access.SESSION or _given(request):
            raise _unauthorized(request)
        request[KEY_AWAITED] = True
    if needs_admin and not (caller and caller.admin):
        raise ServiceError(
            ErrorCode.forbidden,
            "only operators may use this endpoint; send the key in VOICE_ENGINE_ADMIN_KEY",
        )
    if caller is not None:
        request[CLIENT] = caller.name
        request[OPERATOR] = caller.admin
    return await handler(request)


@web.middleware
async def rate_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse requests over the rate limit. Raises `ServiceError` (429)."""
    if access(request) is not Access.OPEN:
        service = request.app[SERVICE]
        limit = service.rate_limit
        if wait := await service.host.take(limit, client(request)):
            raise ServiceError(
                ErrorCode.rate_limited,
                f"the limit is {limit.per_minute:g} requests per minute; try again in "
                f"{math.ceil(wait)} s",
                retry_after=wait,
            )
    return await handler(request)


def _given(request: web.Request) -> list[str]:
    """The keys in the headers of the request."""
    given = [request.headers.get(name, "") for name in KEY_HEADERS[1:]]
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() == "bearer":
        given.append(token.strip())
    protocols = request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(",")
    given += [
        protocol.strip().removeprefix(_KEY_PROTOCOL)
        for protocol in protocols
        if protocol.strip().startswith(_KEY_PROTOCOL)
    ]
    return [key for key in given if key]


def _caller(request: web.Request, keys: Keys) -> Caller | None:
    found = [keys.find(key) for key in _given(request)]
    return next((caller for caller in found if caller is not None), None)


def _unauthorized(request: web.Request) -> ServiceError:
    if _given(request):
        return ServiceError(ErrorCode.unauthorized, "the API key is not valid; send a valid one")
    return ServiceError(
        ErrorCode.unauthorized,
        "an API key is needed; send it as 'Authorization: Bearer KEY', 'X-API-Key: KEY' or "
        "'xi-api-key: KEY'",
    )
