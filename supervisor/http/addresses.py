"""Addresses as clients write them: with double slashes, without /v1 or with two. In the front."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.http_parser import RawRequestMessage

RequestFactory = Callable[..., web.BaseRequest]
"""Makes the request of a parsed message; the message is its first argument."""

_SLASHES = re.compile(r"/{2,}")


def with_single_slashes(make: RequestFactory) -> RequestFactory:
    """`make` for messages whose path may have several slashes in a row, which count as one.

    A base URL that ends with a slash gives such paths. A redirect would not do, because many
    clients follow none after a POST.
    """

    def made(message: RawRequestMessage, *rest: Any) -> web.BaseRequest:
        url = message.url
        if "//" in url.raw_path:
            url = url.with_path(_SLASHES.sub("/", url.raw_path), encoded=True, keep_query=True)
            message = message._replace(path=str(url), url=url)
        return make(message, *rest)

    return made


async def corrected_base(request: web.Request) -> str | None:
    """What is wrong with the base URL of a request to an unknown path; None if nothing is known."""
    path = request.rel_url.raw_path
    if await _exists(request, f"/v1{path}"):
        return f"the base URL must end with /v1; this request should go to /v1{request.path}"
    if path.startswith("/v1/v1/") and await _exists(request, path.removeprefix("/v1")):
        shorter = request.path.removeprefix("/v1")
        return f"leave /v1 out of the base URL; this request should go to {shorter}"
    return None


async def _exists(request: web.Request, path: str) -> bool:
    """Whether there is an endpoint at `path` for the method of `request`."""
    url = request.rel_url.with_path(path, encoded=True)
    other = await request.app.router.resolve(request.clone(rel_url=url))
    return other.http_exception is None
