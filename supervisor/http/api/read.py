"""Read the body of a request: multipart or JSON, validated by a pydantic model. Runs in the front.

The bytes of a recording are counted and stored, never parsed: only workers decode untrusted data.
"""

from __future__ import annotations

import re
import typing
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import BodyPartReader, HttpVersion11, MultipartReader, hdrs, web
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ipc.errors import ErrorCode, ServiceError
from supervisor.dispatch.upload import Upload
from supervisor.http.context import warn
from supervisor.service import SERVICE
from supervisor.settings import Settings
from supervisor.voices.store import VOICE_ID, VOICE_ID_RULE

_MB = 1024 * 1024
_MAX_FIELD = 256 * 1024
"""Bytes of one text field: more than the longest text needs in any script."""
_MAX_FIELDS_BYTES = 1024 * 1024
"""Bytes of all text fields of a form together; a field may occur several times."""
_MAX_PARTS = 1000
_MAX_FILES = 25
"""Recordings of one form, where it may have several."""
_MAX_JSON = 512 * 1024

_LONE_SURROGATE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
"""An escape in JSON; the group has half of a surrogate pair.

Clients send it that cut a text within an emoji.
"""

_SYNONYMS = frozenset(
    (
        *("file", "files", "audio", "audio_file", "audiofile", "audio_data", "audio_sample"),
        *("recording", "sample", "samples", "upload", "upload_file", "input_audio", "speech"),
        *("reference", "reference_audio", "ref_audio", "reference_file", "prompt_audio"),
        *("speaker_wav", "voice_file", "voice_sample", "wav", "blob", "media", "data"),
    )
)
"""Names that clients give to the field with the recording, where it has another name."""

_UNDEFINED = ("undefined", "null", "none")
"""What clients write into a form for a value that they do not have."""

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class FileField:
    """The part of a form that holds a recording; `limit` returns its maximum size in MB.

    With `several` the form may have several recordings, which are joined.
    """

    name: str
    description: str
    limit: Callable[[Settings], int]
    required: bool = True
    several: bool = False


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
    fields = validate(request, model, form.fields, "field")
    if file is not None:
        if file.required and not form.received:
            raise _no_file(file, form.misnamed)
        if form.received and not all(upload.sizes):
            raise ServiceError(
                ErrorCode.empty_audio, f"the file in '{form.received}' is empty; send a recording"
            )
    return fields


async def read_whole(request: web.Request, file: FileField, upload: Upload) -> None:
    """Read a body that is the file itself into `upload`. Raises `ServiceError`."""
    max_mb = file.limit(request.app[SERVICE].settings)
    async with aclosing(_body(request, max_mb * _MB, f"the limit of {max_mb} MB")) as body:
        async for chunk in body:
            await upload.write(chunk)
    await upload.close()
    if not upload.size:
        raise ServiceError(ErrorCode.empty_audio, "the body is empty; send the file")


async def read_json(request: web.Request, model: type[ModelT]) -> ModelT:
    """Read a JSON body as `model`. Raises `ServiceError` for an invalid body."""
    data = bytearray()
    async with aclosing(_body(request, _MAX_JSON, f"{_MAX_JSON // 1024} KB")) as body:
        async for chunk in body:
            data += chunk
    return _parsed(bytes(data), model, "body")


def read_message(message: str | bytes, model: type[ModelT]) -> ModelT:
    """A JSON message of a session as `model`. Raises `ServiceError` for an invalid one."""
    if isinstance(message, bytes):
        raise ServiceError(
            ErrorCode.invalid_request, "the message is binary; send JSON in text messages"
        )
    return _parsed(message.encode(), model, "message")


async def _body(request: web.Request, most: int, limit: str) -> AsyncGenerator[bytes, None]:
    """A body of at most `most` bytes, piece by piece; `limit` says that to people."""
    too_large = ServiceError(ErrorCode.payload_too_large, f"the body is over {limit}; send less")
    if request.content_length is not None and request.content_length > most:
        raise too_large
    invite(request)
    size = 0
    try:
        async for chunk in request.content.iter_any():
            size += len(chunk)
            if size > most:
                raise too_large
            yield chunk
    except web.RequestPayloadError as error:
        raise ServiceError(
            ErrorCode.invalid_request, f"the body cannot be read: {_reason(error)}; send it whole"
        ) from error


def _parsed(data: bytes, model: type[ModelT], whole: str) -> ModelT:
    """JSON as `model`; `whole` is what it was, for messages. Raises `ServiceError`."""
    if rb"\u" in data:
        data = _LONE_SURROGATE.sub(_replaced, data)
    try:
        return model.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise _refusal(error, model, "field", whole) from None


def _replaced(match: re.Match[bytes]) -> bytes:
    """An escape as it is; for half of a pair the replacement character, as in other decoders."""
    return match.group() if match[1] is None else rb"\ufffd"


def validate(
    request: web.Request, model: type[ModelT], given: Mapping[str, list[Any]], what: str
) -> ModelT:
    """Validate `given`, which has all values of each name, as `model`.

    Of a repeated value the last one counts. An empty value that may be left out is left out, and so
    is "undefined" where no text is expected. `what` is "field" or "parameter"; the `ServiceError`
    names it and its allowed values.
    """
    wire = {field.alias or own: field for own, field in model.model_fields.items()}
    values: dict[str, Any] = {}
    for name, all_values in given.items():
        field = wire.get(name)
        kept = all_values
        if field is not None and not field.is_required():
            kept = [value for value in all_values if value != ""]
            if kept and kept[-1].lower() in _UNDEFINED and not _takes(field, kept[-1]):
                warn(request, f"the {what} {name} is {kept[-1]}, so the default is used")
                continue
        if kept:
            values[name] = kept if field is not None and _is_list(field) else kept[-1]
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
        self.received = ""
        """The name of the field that had the recording; "" before it has come."""
        self.misnamed = ""
        """The name of a field with a file that is not known."""
        self._model = model
        self._file = file
        self._upload = upload
        self._max_mb = max_mb
        self._parts = 0
        self._text_bytes = 0
        self._ignored_bytes = 0
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
        if self._is_recording(name, part):
            await self._receive(part, name)
        elif name in self._known:
            self.fields.setdefault(name, []).append(await self._text(part))
        elif self._lenient:
            if part.filename:
                self.misnamed = name
            await self._ignore(part)
        elif part.filename and self._file is not None and not self.received:
            raise _no_file(self._file, name)
        else:
            raise _unknown(name, self._model, "field", self._file)

    def _is_recording(self, name: str, part: BodyPartReader) -> bool:
        """Whether `part` is the recording: by its name, or as a file with a similar name."""
        if self._file is None:
            return False
        if name == self._file.name:
            return True
        if name in self._known or name.lower() not in _SYNONYMS or not part.filename:
            return False
        return self.received in ("", name)

    async def _receive(self, part: BodyPartReader, name: str) -> None:
        assert self._file is not None
        if self.received and not self._file.several:
            both = "" if name == self.received else f" and in '{self.received}'"
            raise ServiceError(
                ErrorCode.invalid_request,
                f"the form has a file in '{name}'{both or ' twice'}; send one recording",
            )
        if len(self._upload.sizes) >= _MAX_FILES:
            raise ServiceError(
                ErrorCode.invalid_request,
                f"the form has more than {_MAX_FILES} files; send fewer",
            )
        if part.headers.get(hdrs.CONTENT_TRANSFER_ENCODING, "binary").lower() not in (
            "binary",
            "8bit",
            "7bit",
        ):
            raise _broken("its parts must be binary, without a transfer encoding")
        self._upload.begin()
        while chunk := await part.read_chunk(64 * 1024):
            await self._upload.write(chunk)
            if self._upload.size > self._max_mb * _MB:
                raise self.over_large()
        if self._upload.sizes[-1] or part.filename or self._file.required:
            self.received = name
        else:
            self._upload.sizes.pop()  # a browser sends an unused file input like this

    async def _ignore(self, part: BodyPartReader) -> None:
        """Read over a part that nobody needs."""
        while chunk := await part.read_chunk(64 * 1024):
            self._ignored_bytes += len(chunk)
            if self._ignored_bytes > max(self._max_mb, 1) * _MB:
                raise ServiceError(
                    ErrorCode.payload_too_large,
                    f"the field '{part.name}' is too large, and it is not used; leave it out",
                )

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


def _is_list(field: FieldInfo) -> bool:
    """Whether `field` takes several values."""
    return any(typing.get_origin(kind) is list for kind in _kinds(field))


def _takes(field: FieldInfo, text: str) -> bool:
    """Whether `text` may be a value of `field`: it takes any text, or this one."""
    kinds = _kinds(field)
    literals = [value for kind in kinds for value in typing.get_args(kind)]
    return str in kinds or _is_list(field) or text in literals


def _kinds(field: FieldInfo) -> list[Any]:
    """The types that `field` may have, without their annotations."""
    kinds = [field.annotation, *typing.get_args(field.annotation)]
    return kinds + [typing.get_args(kind)[0] for kind in kinds if hasattr(kind, "__metadata__")]


def _no_file(file: FileField, misnamed: str) -> ServiceError:
    instead = f", not in '{misnamed[:100]}'" if misnamed else ""
    return ServiceError(
        ErrorCode.missing_field,
        f"the field '{file.name}' is missing; send the recording in it{instead}",
    )


def _refusal(
    error: ValidationError, model: type[BaseModel], what: str, whole: str = "body"
) -> ServiceError:
    first = error.errors(include_url=False, include_input=False)[0]
    name = ".".join(_names(first["loc"], model))
    if first["type"] == "missing":
        return ServiceError(ErrorCode.missing_field, f"the {what} '{name}' is missing; send it")
    if first["type"] == "extra_forbidden":
        return _unknown(name, model, what, None)
    if first["type"] in ("json_invalid", "model_type"):
        return ServiceError(
            ErrorCode.invalid_request,
            f"the {whole} cannot be read: {first['msg']}; send a JSON object",
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
