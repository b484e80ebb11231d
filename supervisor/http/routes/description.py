"""GET /openapi.json, for programs, and GET /docs, for people. Runs in the front."""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from importlib.resources.abc import Traversable

from aiohttp import web

from supervisor.http.api.openapi import description
from supervisor.http.api.operation import (
    ALL_OPERATIONS,
    JSON,
    Access,
    Answer,
    Call,
    Nothing,
    Operations,
    file_answers,
    operation,
)
from supervisor.http.shared.files import FileAnswer
from supervisor.service import VERSION

TAG = "Description"

_PAGE = files("supervisor.http") / "page" / "docs.html"
_RAPIDOC = files("openapi_ui_bundles.rapidoc") / "vendor" / "rapidoc-min.js"
_POLICY = (
    # The page loads nothing from other hosts and can call only this service.
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


async def openapi(call: Call[Nothing, Nothing]) -> web.StreamResponse:
    """This description: OpenAPI 3.1, generated from the declarations that validate requests."""
    document = _document(call.request.app[ALL_OPERATIONS])
    return web.Response(body=document, content_type=JSON)


async def docs(_: Call[Nothing, Nothing]) -> web.StreamResponse:
    """A page that shows every operation and can call it. It loads nothing from other hosts."""
    return _file(_PAGE, "text/html")


async def docs_script(_: Call[Nothing, Nothing]) -> web.StreamResponse:
    """RapiDoc, which renders the description as a page."""
    return _file(_RAPIDOC, "text/javascript")


@functools.cache
def _document(operations: Operations) -> bytes:
    # Made at the first request, because most services never get one. It takes 10 ms.
    return json.dumps(description(operations, VERSION), ensure_ascii=False).encode()


def _file(path: Traversable, media_type: str) -> web.StreamResponse:
    return FileAnswer(
        str(path),
        headers={
            "Content-Type": f"{media_type}; charset=utf-8",
            "Cache-Control": "no-cache",  # always ask; the response is 304 if nothing changed
            "Content-Security-Policy": _POLICY,
            "X-Content-Type-Options": "nosniff",
        },
    )


OPERATIONS: Operations = (
    operation(
        "GET",
        "/openapi.json",
        openapi,
        summary="The OpenAPI description",
        tag=TAG,
        answers={200: Answer("The description.", {JSON: "an OpenAPI 3.1 document"})},
        access=Access.OPEN,
    ),
    operation(
        "GET",
        "/docs",
        docs,
        summary="The description as a page",
        tag=TAG,
        answers=file_answers("The page.", {"text/html": "HTML"}),
        access=Access.OPEN,
    ),
    operation(
        "GET",
        "/docs/rapidoc-min.js",
        docs_script,
        summary="The page's script",
        tag=TAG,
        answers=file_answers("The script.", {"text/javascript": "JavaScript"}),
        access=Access.OPEN,
    ),
)
