"""GET /: the page on which people use and watch the service. Runs in the front.

The page is plain HTML, CSS and ES modules in `supervisor/http/page/`. It calls the same operations
as any other client, with the key that its user enters, so it needs nothing of its own here.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated

from aiohttp import web
from pydantic import Field

from ipc.errors import ErrorCode
from supervisor.http.api.api_model import ApiModel
from supervisor.http.api.operation import (
    Access,
    Call,
    Nothing,
    Operations,
    file_answers,
    operation,
)
from supervisor.http.shared.files import FileAnswer

TAG = "Page"

_HTML, _CSS, _SCRIPT, _TEXT = "text/html", "text/css", "text/javascript", "text/plain"

_PAGE = "index.html"
_FOLDER = files("supervisor.http") / "page"
FILES = {
    "style.css": _CSS,
    **dict.fromkeys(
        (
            *("api.js", "app.js", "catalog.js", "chart.js", "code.js", "dialog.js", "dom.js"),
            *("events.js", "health.js", "key.js", "live.js", "listen.js", "log.js", "player.js"),
            *("recording.js", "sound.js", "spark.js", "speak.js", "subtitles.js", "transport.js"),
            *("voices.js", "wave.js"),
        ),
        _SCRIPT,
    ),
}
"""The page's own files, and their media types. Nothing else in the folder is sent."""

VENDOR = {"uPlot.iife.min.js": _SCRIPT, "uPlot.min.css": _CSS, "LICENSE": _TEXT}
"""The files of uPlot, unchanged."""

_POLICY = (
    # Nothing inline, nothing from other hosts. Recordings and speech are blobs.
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


class FilePath(ApiModel):
    """Which file of the page."""

    file: Annotated[str, Field(examples=["app.js"])]


class VendorPath(ApiModel):
    """Which file of a library that the page uses."""

    library_file: Annotated[str, Field(examples=["uPlot.min.css"])]


async def page(call: Call[Nothing, Nothing]) -> web.StreamResponse:
    """A page to speak, to transcribe, to manage voices and to watch the service.

    It loads nothing from other hosts. With VOICE_ENGINE_PAGE=off there is none.
    """
    return _send(call, (_PAGE,), {_PAGE: _HTML})


async def page_file(call: Call[Nothing, FilePath]) -> web.StreamResponse:
    """A script or the style sheet of the page."""
    return _send(call, (call.params.file,), FILES)


async def page_vendor_file(call: Call[Nothing, VendorPath]) -> web.StreamResponse:
    """A file of uPlot, which draws the charts of the page."""
    return _send(call, ("vendor", call.params.library_file), VENDOR)


def _send(
    call: Call[Nothing, Nothing] | Call[Nothing, FilePath] | Call[Nothing, VendorPath],
    path: tuple[str, ...],
    known: dict[str, str],
) -> web.StreamResponse:
    """The file at `path` in the page's folder, if its name is `known`."""
    media_type = known.get(path[-1])
    if media_type is None or not call.service.settings.page:
        raise web.HTTPNotFound
    return FileAnswer(
        str(_FOLDER.joinpath(*path)),
        headers={
            "Content-Type": f"{media_type}; charset=utf-8",
            "Cache-Control": "no-cache",  # always ask; the response is 304 if nothing changed
            "Content-Security-Policy": _POLICY,
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        },
    )


OPERATIONS: Operations = (
    operation(
        "GET",
        "/",
        page,
        summary="The page",
        tag=TAG,
        answers=file_answers("The page.", {_HTML: "HTML"}),
        errors=(ErrorCode.not_found,),
        access=Access.OPEN,
    ),
    operation(
        "GET",
        "/page/{file}",
        page_file,
        summary="A file of the page",
        tag=TAG,
        params=FilePath,
        answers=file_answers("The file.", {_SCRIPT: "JavaScript", _CSS: "CSS"}),
        access=Access.OPEN,
    ),
    operation(
        "GET",
        "/page/vendor/{library_file}",
        page_vendor_file,
        summary="A file of a library that the page uses",
        tag=TAG,
        params=VendorPath,
        answers=file_answers("The file.", {_SCRIPT: "JavaScript", _CSS: "CSS", _TEXT: "a licence"}),
        access=Access.OPEN,
    ),
)
