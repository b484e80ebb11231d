"""The context of a request: its id, its client, its deadline, warnings. Runs in the front."""

from __future__ import annotations

import re
import time
import uuid
from dataclasses import dataclass

from aiohttp import web

from ipc.errors import ErrorCode, ServiceError
from supervisor.http.errors import Handler
from supervisor.http.record import RECORD, Record
from supervisor.log import logged_as
from supervisor.service import SERVICE

_SAFE_ID = re.compile(r"[A-Za-z0-9._:/+=@,~-]{1,128}")
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,20})?")

_ID = web.RequestKey("id", str)
_WARNINGS: web.RequestKey[str] = web.RequestKey("warnings", str)
CLIENT: web.RequestKey[str] = web.RequestKey("client", str)
"""Name of the API key of the request."""
KEY_AWAITED: web.RequestKey[bool] = web.RequestKey("key_awaited", bool)
"""Whether a session has no key yet, although it needs one: it must come in a message."""
OPERATOR: web.RequestKey[bool] = web.RequestKey("operator", bool)
"""Whether it is the operators' key."""

WARNING = "X-Voice-Engine-Warning"
"""The header of a response that says what of the request was not taken literally."""

_LONGEST_WARNING = 200


@web.middleware
async def id_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Set the id of a request, its own or a new one, for its response and its log lines."""
    given = request.headers.get("X-Request-Id", "")
    request[_ID] = given if _SAFE_ID.fullmatch(given) else uuid.uuid4().hex
    request[RECORD] = Record()
    with logged_as(request[_ID]):
        return await handler(request)


async def add_id(request: web.Request, response: web.StreamResponse) -> None:
    """Signal handler: add the id to every response, streams and errors included."""
    if _ID in request:
        response.headers["X-Request-Id"] = request[_ID]


def warn(request: web.Request, text: str) -> None:
    """Tell the client something about its request, in the header `WARNING` of the response."""
    # A header has one line and no more than ASCII; the text may repeat what the client sent.
    line = "".join(c if " " <= c <= "~" else "?" for c in text)[:_LONGEST_WARNING]
    told = request.get(_WARNINGS, "")
    if line not in told:
        request[_WARNINGS] = f"{told}; {line}" if told else line


async def add_warnings(request: web.Request, response: web.StreamResponse) -> None:
    """Signal handler: add the warnings to the response, streams and errors included."""
    if _WARNINGS in request:
        response.headers[WARNING] = request[_WARNINGS]


def client(request: web.Request) -> str:
    """Who sent the request, for fairness and rate limits: the name of its key, else its address."""
    return request.get(CLIENT) or request.remote or ""


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """How long a request may take: `seconds` for each step, or all steps until `end`."""

    seconds: float
    end: float | None = None

    def deadline(self) -> float:
        """When a step that begins now must be finished, on the clock of `time.monotonic`."""
        return time.monotonic() + self.seconds if self.end is None else self.end


def time_limit(request: web.Request) -> TimeLimit:
    """The time limit of a request.

    X-Request-Timeout counts from the start of the request. Without it the upload may take
    `request_timeout`, and then the response as long again, so that a slow upload leaves enough time
    for the response. Raises `ServiceError` for a header that is not a number of seconds.
    """
    limit = request.app[SERVICE].settings.request_timeout
    given = request.headers.get("X-Request-Timeout")
    if given is None:
        return TimeLimit(limit)
    if not _SECONDS.fullmatch(given) or float(given) == 0:
        raise ServiceError(
            ErrorCode.invalid_option,
            "the header X-Request-Timeout is not valid; send a number of seconds above 0",
        )
    seconds = min(float(given), limit)
    return TimeLimit(seconds, request[RECORD].arrived + seconds)
