"""Declarations of HTTP operations: request, responses, access. Runs in the front.

A declaration is data. Routes, reading and validation of requests, access, and the description at
/openapi.json all come from it, so they cannot contradict each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict

from ipc.errors import ErrorCode, ServiceError
from supervisor.dispatch.upload import Upload
from supervisor.http.api.api_model import ApiModel
from supervisor.http.api.read import (
    FileField,
    invite,
    read_form,
    read_json,
    read_whole,
    validate,
)
from supervisor.http.context import time_limit
from supervisor.http.record import RECORD, declared_path
from supervisor.service import SERVICE, Service

FORM = "multipart/form-data"
JSON = "application/json"
SERVER_SENT = "text/event-stream"
"""Media type of server-sent events."""
JSON_LINES = "application/x-ndjson"
"""Media type of JSON objects, one on each line."""


class Nothing(ApiModel):
    """No fields, or no parameters."""

    model_config = ConfigDict(extra="ignore")


BodyT = TypeVar("BodyT", bound=BaseModel)
ParamsT = TypeVar("ParamsT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Call(Generic[BodyT, ParamsT]):
    """One request, read and validated: `params` are those of path and query.

    `upload` has the file; its size is 0 when an optional file was not sent. The response must be
    finished by `deadline`, on the clock of `time.monotonic`.
    """

    request: web.Request
    service: Service
    body: BodyT
    params: ParamsT
    upload: Upload
    deadline: float = math.inf
    continues: bool = False
    """Whether it belongs to a session that is open: see `Job.continues`."""


class Access(Enum):
    """Who may call an operation."""

    OPEN = "everyone"
    LIST = "everyone, if the setting public_lists says so, else as CLIENT"
    CLIENT = "clients with an API key, if keys are set"
    SESSION = "as CLIENT, but the key may also come in a message of the session"
    OPERATOR = "clients with the operators' key, if one is set"
    METRICS = "everyone, if the setting public_metrics says so, else as OPERATOR"


Content = type[BaseModel] | str
"""The body of a response: a pydantic model sent as JSON, or a description of bytes in words."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One response of an operation: its media types, and its headers besides the common ones."""

    description: str
    content: Mapping[str, Content]
    headers: Mapping[str, str] = field(default_factory=dict)


def file_answers(description: str, content: Mapping[str, Content]) -> dict[int, Answer]:
    """The responses that a `FileAnswer` may be: it supports conditions and ranges."""
    return {
        200: Answer(description, content),
        206: Answer("The part of it that `Range` asks for.", content),
        304: Answer("Not modified, by `If-None-Match` or `If-Modified-Since`.", {}),
        412: Answer("The condition in `If-Match` or `If-Unmodified-Since` is not met.", {}),
        416: Answer("The file does not have the part that `Range` asks for.", {}),
    }


@dataclass(frozen=True, slots=True, eq=False)
class Operation(Generic[BodyT, ParamsT]):
    """A method on a path. Make one with `operation`."""

    method: str
    path: str
    handler: Callable[[Call[BodyT, ParamsT]], Awaitable[web.StreamResponse]]
    summary: str
    description: str
    tag: str
    body: type[BodyT]
    params: type[ParamsT]
    media: tuple[str, ...]
    """Media types of the body, the usual one first; () for none.

    With another one than a form or JSON the body is the file itself.
    """
    file: FileField | None
    answers: Mapping[int, Answer]
    errors: tuple[ErrorCode, ...]
    """Errors besides those that all operations of this form have."""
    access: Access

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Handler for aiohttp: read, validate, handle. Raises `ServiceError`."""
        service = request.app[SERVICE]
        given: dict[str, Any] = {name: request.query.getall(name) for name in request.query}
        given |= {name: [value] for name, value in request.match_info.items()}
        params = validate(request, self.params, given, "parameter")
        async with Upload(service.spool) as upload:
            if not self.media:
                invite(request)
                return await self.handler(Call(request, service, self.body(), params, upload))
            limit, record = time_limit(request), request[RECORD]
            record.reading = time.monotonic()
            async with _upload_deadline(limit.deadline()):
                body = await self._read(request, upload)
            record.read = time.monotonic()
            call = Call(request, service, body, params, upload, limit.deadline())
            return await self.handler(call)

    @property
    def needs_body(self) -> bool:
        """Whether a request without a body lacks something."""
        fields = self.body.model_fields.values()
        return any(each.is_required() for each in fields) or self.file is not None

    async def _read(self, request: web.Request, upload: Upload) -> BodyT:
        if not request.can_read_body and not self.needs_body:
            return self.body()
        if request.content_type == FORM and FORM in self.media:
            return await read_form(request, self.body, self.file, upload)
        if request.content_type == JSON and JSON in self.media:
            return await read_json(request, self.body)
        if request.content_type in self.media and self.file is not None:
            await read_whole(request, self.file, upload)
            return validate(request, self.body, {}, "field")
        wanted = " or ".join(self.media)
        file = self.file if self.file is not None and self.file.required else None
        where = f" with the file in the field '{file.name}'" if file else ""
        raise ServiceError(
            ErrorCode.unsupported_media_type,
            f"the body is {request.content_type}; send {wanted}{where}",
        )


def json_answer(
    model: BaseModel, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A JSON response with `model`."""
    text = model.model_dump_json()
    return web.Response(text=text, status=status, content_type=JSON, headers=headers)


def operation(
    method: str,
    path: str,
    handler: Callable[[Call[BodyT, ParamsT]], Awaitable[web.StreamResponse]],
    *,
    summary: str,
    tag: str,
    answers: Mapping[int, Answer],
    body: type[BodyT] = Nothing,  # type: ignore[assignment]
    params: type[ParamsT] = Nothing,  # type: ignore[assignment]
    media: tuple[str, ...] = (),
    file: FileField | None = None,
    errors: tuple[ErrorCode, ...] = (),
    access: Access = Access.CLIENT,
) -> Operation[BodyT, ParamsT]:
    """Declare an operation; the handler's docstring is its description.

    Parameters whose names are in `path` are taken from there, the others from the query.
    """
    return Operation(
        method=method,
        path=path,
        handler=handler,
        summary=summary,
        description=" ".join((handler.__doc__ or "").split()),
        tag=tag,
        body=body,
        params=params,
        media=media,
        file=file,
        answers=answers,
        errors=errors,
        access=access,
    )


@contextlib.asynccontextmanager
async def _upload_deadline(deadline: float) -> AsyncIterator[None]:
    """Limit the time of an upload, so that a slow client cannot hold a connection for ever."""
    seconds = max(0.0, deadline - time.monotonic())
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise ServiceError(
            ErrorCode.upload_timeout,
            f"the upload did not arrive within {round(seconds, 1):g} s; send a smaller file",
        ) from None


Operations = tuple[Operation[Any, Any], ...]

ALL_OPERATIONS: web.AppKey[Operations] = web.AppKey("operations", tuple)
"""All operations of the service."""

_ACCESS: web.AppKey[dict[str, Access]] = web.AppKey("access", dict)


def add_operations(app: web.Application, operations: Operations) -> None:
    """Add the routes of `operations`; each GET also gets a HEAD."""
    app[ALL_OPERATIONS] = operations
    app[_ACCESS] = {}
    for each in operations:
        # Without this handler aiohttp sends "100 Continue" before the request is admitted.
        add = app.router.add_route
        add(each.method, each.path, each.serve, expect_handler=_expect)
        if each.method == "GET":
            add("HEAD", each.path, each.serve, expect_handler=_expect)
        app[_ACCESS][each.path] = each.access


def access(request: web.Request) -> Access:
    """Who may send `request`; paths without an operation are for clients."""
    return request.app[_ACCESS].get(declared_path(request), Access.CLIENT)


async def _expect(_: web.Request) -> None:
    """Handler of `Expect: 100-continue`: does nothing, the reader of the body sends 100."""
