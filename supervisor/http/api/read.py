"""Read the body of a request: multipart or JSON, validated by a pydantic model. Runs in the front.

The bytes of a recording are counted and stored, never parsed: only workers decode untrusted data.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import BodyPartReader, HttpVersion11, MultipartReader, hdrs, web
from pydantic import BaseModel, ValidationError

from ipc.errors import ErrorCode, ServiceError
from supervisor.dispatch.upload import Upload
from supervisor.service import SERVICE
from supervisor.settings import Settings
from supervisor.voices.store import VOICE_ID, VOICE_ID_RULE

_MB = 1024 * 1024
_MAX_FIELD = 256 * 1024
"""Bytes of one text field: more than the longest text needs in any script."""
_MAX_FIELDS_BYTES = 1024 * 1024
"""Bytes of all text fields of a form together; a field may occur several times."""
_MAX_PARTS = 1000
_MAX_JSON = 512 * 1024

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class FileField:
    """The part of a form that holds a recording; `limit` returns its maximum size in MB."""

    name: str
    description: str
    limit: Callable[[Settings], int]
    required: bool = True


async def read_form(
    request: web.Request, model: type[ModelT], file: FileField | None, upload: Upload
) -> ModelT:
    """Read a multipart body: its fields as `model`, its file into `upload`.

    Raises `ServiceError` for an invalid body, without reading the rest of it.
    """
    max_mb = 0 if file is None else file.limit(request.app[SERVICE].settings)
    form = _Form(model, file, upload, max_mb)
    if request.content_length is not None and request.content_length > (max_mb + 1) * _MB:
        raise form.over_large()
    invite(request)
    try:
        reader = await request.multipart()
        while (part := await reader.next()) is not None:
            await form.take(part)
    except (ServiceError, ConnectionResetError):
        raise
    except Exception as error:  # the parser raises many kinds, from ValueError to AssertionError
        raise _broken(_reason(error)) from error
    await upload.close()
    # Validate the fields first: one may explain a missing file, such as a URL instead of it.
    fields = validate(model, form.fields, "field")
    if file is not None:
        if file.required and not form.has_file:
            raise ServiceError(
                ErrorCode.missing_field,
                f"the field '{file.name}' is missing; send the recording in it",
            )
        if form.has_file and upload.size == 0:
            raise ServiceError(
                ErrorCode.empty_audio, f"the file in '{file.name}' is empty; send a recording"
            )
    return fields


async def read_json(request: web.Request, model: type[ModelT]) -> ModelT:
    """Read a JSON body as `model`. Raises `ServiceError` for an invalid body."""
    too_large = ServiceError(
        ErrorCode.payload_too_large, f"the body is over {_MAX_JSON // 1024} KB; send less"
    )
    if request.content_length is not None and request.content_length > _MAX_JSON:
        raise too_large
    invite(request)
    data = bytearray()
    try:
        async for chunk in request.content.iter_any():
            data += chunk
            if len(data) > _MAX_JSON:
                raise too_large
    except web.RequestPayloadError as error:
        raise ServiceError(
            ErrorCode.invalid_request, f"the body cannot be read: {_reason(error)}; send it whole"
        ) from error
    try:
        return model.model_validate_json(bytes(data), strict=True)
    except ValidationError as error:
        raise _refusal(error, model, "field") from None


def validate(model: type[ModelT], given: Mapping[str, list[Any]], what: str) -> ModelT:
    """Validate `given`, which has all values of each name, as `model`.

    `what` is "field" or "parameter". The `ServiceError` names it and its allowed values.
    """
    values: dict[str, Any] = {}
    for name, all_values in given.items():
        if _is_list(model, name):
            values[name] = all_values
        elif len(all_values) > 1:
            raise ServiceError(
                ErrorCode.invalid_request, f"the {what} '{name}' is there twice; send it once"
            )
        else:
            values[name] = all_values[0]
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _refusal(error, model, what) from None


def invite(request: web.Request) -> None:
    """Send "100 Continue" to a client that waits for it; HTTP/1.0 does not have this response."""
    waits = request.headers.get(hdrs.EXPECT, "").lower() == "100-continue"
    if waits and request.version >= HttpVersion11:
        assert request.transport is not None
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def wire_names(model: type[BaseModel]) -> list[str]:
    """The names of the fields of `model` in requests."""
    return [field.alias or name for name, field in model.model_fields.items()]


class _Form:
    """The parts of a form that have been read so far."""

    def __init__(
        self, model: type[BaseModel], file: FileField | None, upload: Upload, max_mb: int
    ) -> None:
        self.fields: dict[str, list[str]] = {}
        self.has_file = False
        self._model = model
        self._file = file
        self._upload = upload
        self._max_mb = max_mb
        self._parts = 0
        self._text_bytes = 0
        self._known = set(wire_names(model))
        self._lenient = model.model_config.get("extra") == "ignore"

    async def take(self, part: MultipartReader | BodyPartReader) -> None:
        """Read one part. Raises `ServiceError` for a part that is not allowed."""
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise _broken(f"it has more than {_MAX_PARTS} parts")
        if not isinstance(part, BodyPartReader):
            raise _broken("it has a multipart body inside a part")
        if part.name is None:
            raise _broken("a part has no name")
        # PHP and OpenAI's clients add [] to a field that may occur several times.
        name = part.name.removesuffix("[]")
        if self._file is not None and name == self._file.name:
            if self.has_file:
                raise ServiceError(
                    ErrorCode.invalid_request,
                    f"the form has the file '{name}' twice; send one recording",
                )
            self.has_file = True
            await self._receive(part)
            if not (self._upload.size or part.filename or self._file.required):
                self.has_file = False  # a browser sends an unused file input like this
        elif name in self._known:
            if name in self.fields and not _is_list(self._model, name):
                raise _broken(f"it has the field '{name}' twice")
            self.fields.setdefault(name, []).append(await self._text(part))
        elif self._lenient:
            await self._text(part)
        else:
            raise _unknown(name, self._model, "field", self._file)

    async def _receive(self, part: BodyPartReader) -> None:
        if part.headers.get(hdrs.CONTENT_TRANSFER_ENCODING, "binary").lower() not in (
            "binary",
            "8bit",
            "7bit",
        ):
            raise _broken("its parts must be binary, without a transfer encoding")
        while chunk := await part.read_chunk(64 * 1024):
            await self._upload.write(chunk)
            if self._upload.size > self._max_mb * _MB:
                raise self.over_large()

    async def _text(self, part: BodyPartReader) -> str:
        data = bytearray()
        while chunk := await part.read_chunk():
            data += chunk
            self._text_bytes += len(chunk)
            if len(data) > _MAX_FIELD or self._text_bytes > _MAX_FIELDS_BYTES:
                raise ServiceError(
                    ErrorCode.payload_too_large,
                    f"the field '{part.name}' is over {_MAX_FIELD // 1024} KB, or all fields are "
                    f"over {_MAX_FIELDS_BYTES // 1024} KB; send less",
                )
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise _broken(f"the field '{part.name}' is not UTF-8") from None

    def over_large(self) -> ServiceError:
        if self._file is None:
            return ServiceError(ErrorCode.payload_too_large, "the body is over 1 MB; send less")
        return ServiceError(
            ErrorCode.payload_too_large,
            f"the file in '{self._file.name}' is over the limit of {self._max_mb} MB; send a "
            "shorter or a compressed recording",
        )


def _is_list(model: type[BaseModel], name: str) -> bool:
    """Whether the field with this name in requests takes several values."""
    for own, field in model.model_fields.items():
        if name == (field.alias or own):
            kinds = (field.annotation, *typing.get_args(field.annotation))
            return any(typing.get_origin(kind) is list for kind in kinds)
    return False


def _refusal(error: ValidationError, model: type[BaseModel], what: str) -> ServiceError:
    first = error.errors(include_url=False, include_input=False)[0]
    name = ".".join(_names(first["loc"], model))
    if first["type"] == "missing":
        return ServiceError(ErrorCode.missing_field, f"the {what} '{name}' is missing; send it")
    if first["type"] == "extra_forbidden":
        return _unknown(name, model, what, None)
    if first["type"] in ("json_invalid", "model_type"):
        return ServiceError(
            ErrorCode.invalid_request,
            f"the body cannot be read: {first['msg']}; send a JSON object",
        )
    if not name:  # the model's own message about fields that do not fit together
        return ServiceError(ErrorCode.invalid_option, first["msg"].removeprefix("Value error, "))
    problem = first["msg"]
    if first.get("ctx", {}).get("pattern") == VOICE_ID:
        problem = VOICE_ID_RULE
    return ServiceError(ErrorCode.invalid_option, f"the {what} '{name}' is not valid: {problem}")


def _names(location: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    """The path of field names to an error, without the types that pydantic puts into it."""
    names = [str(part) for part in location]
    field = model.model_fields.get(names[0]) if names else None
    kinds = [] if field is None else typing.get_args(field.annotation)
    if len(names) > 1 and names[1] in [kind.__name__ for kind in kinds if isinstance(kind, type)]:
        del names[1]
    return names


def _reason(error: Exception) -> str:
    """The parser's message on one line, or a better one where the cause is known."""
    text = str(getattr(error, "message", error)) or type(error).__name__
    text = " ".join(text.removeprefix("400, message:").split())[:200]
    if text.startswith("boundary missed"):
        return "its Content-Type has no boundary; do not set a Content-Type yourself"
    return text


def _broken(problem: str) -> ServiceError:
    return ServiceError(
        ErrorCode.invalid_request,
        f"the multipart body cannot be read: {problem}; use an HTTP library to build it",
    )


def _unknown(name: str, model: type[BaseModel], what: str, file: FileField | None) -> ServiceError:
    known = ", ".join([*([file.name] if file else []), *wire_names(model)]) or "none"
    return ServiceError(
        ErrorCode.unknown_option, f"there is no {what} '{name[:100]}'; the {what}s are {known}"
    )
