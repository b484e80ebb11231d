"""The OpenAPI 3.1 document, generated from the operation declarations. Runs in the front."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from ipc.engines import Json
from ipc.errors import ErrorCode
from supervisor.http.api.openapi_parts import (
    ABOUT,
    HEADERS,
    PARAMETERS,
    TAGS,
    Error,
    error_responses,
    headers,
    ref,
)
from supervisor.http.api.operation import (
    FORM,
    JSON,
    JSON_LINES,
    SERVER_SENT,
    Access,
    Answer,
    Content,
    Nothing,
    Operation,
)
from supervisor.http.api.schemas import REF, example, form_field, schemas_of
from supervisor.http.context import WARNING

_ANYWHERE = (ErrorCode.invalid_request, ErrorCode.internal_error)
_LIMITED = (ErrorCode.unauthorized, ErrorCode.rate_limited)
_WITH_BODY = (
    ErrorCode.upload_timeout,
    ErrorCode.payload_too_large,
    ErrorCode.unsupported_media_type,
    ErrorCode.quarantined,
    ErrorCode.overloaded,
    ErrorCode.deadline_exceeded,
)


def description(operations: Iterable[Operation[Any, Any]], version: str) -> Json:
    """The document that /openapi.json returns."""
    operations = tuple(operations)
    schemas = schemas_of(_models(operations))
    paths: dict[str, Json] = {}
    for each in operations:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, schemas)
    used = {each.tag for each in operations}
    parameters = {each.params.__name__ for each in operations}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Voice engine",
            "version": version,
            "summary": "Speech in any voice, and transcripts with emotion, on your own CPU.",
            "description": ABOUT.strip(),
        },
        "tags": [{"name": tag, "description": text} for tag, text in TAGS.items() if tag in used],
        "paths": paths,
        "components": {
            "schemas": {name: schemas[name] for name in schemas if name not in parameters},
            "responses": error_responses(),
            "parameters": PARAMETERS,
            "headers": HEADERS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "xi-api-key": {"type": "apiKey", "in": "header", "name": "xi-api-key"},
            },
        },
    }


def _models(operations: Iterable[Operation[Any, Any]]) -> Iterator[type[BaseModel]]:
    yield Error
    for each in operations:
        if each.media:
            yield each.body
        if each.params is not Nothing:
            yield each.params
        for answer in each.answers.values():
            yield from (model for model in answer.content.values() if not isinstance(model, str))


def _operation(each: Operation[Any, Any], schemas: Mapping[str, Json]) -> Json:
    made: Json = {
        "operationId": each.handler.__name__,
        "summary": each.summary,
        "description": each.description,
        "tags": [each.tag],
        "parameters": list(_parameters(each, schemas)),
        "responses": _responses(each, schemas),
    }
    if each.media:
        made["requestBody"] = {
            "required": each.needs_body,
            "content": {media: _body(each, media, schemas) for media in each.media},
        }
    if each.access is not Access.OPEN:
        # {}: no key is needed while the operator has set none.
        made["security"] = [{}, {"bearer": []}, {"x-api-key": []}, {"xi-api-key": []}]
    return made


def _parameters(each: Operation[Any, Any], schemas: Mapping[str, Json]) -> Iterator[Json]:
    schema = {} if each.params is Nothing else schemas[each.params.__name__]
    for name, field in schema.get("properties", {}).items():
        in_path = f"{{{name}}}" in each.path
        text_field = form_field(field)
        parameter: Json = {
            "name": name,
            "in": "path" if in_path else "query",
            "required": in_path or name in schema.get("required", ()),
        }
        if text := text_field.pop("description", None):
            parameter["description"] = text
        yield parameter | {"schema": text_field}
    yield ref("parameters", "X-Request-Id")
    if each.media:
        yield ref("parameters", "X-Request-Timeout")


def _body(each: Operation[Any, Any], media: str, schemas: Mapping[str, Json]) -> Json:
    if media not in (FORM, JSON):
        assert each.file is not None
        description = each.file.description
        return {"schema": {"type": "string", "format": "binary", "description": description}}
    made = _with_example(each.body.__name__, schemas)
    if media != FORM:
        return made
    schema = schemas[each.body.__name__]
    fields = {own: form_field(field) for own, field in schema.get("properties", {}).items()}
    required = list(schema.get("required", ()))
    if each.file is not None:
        fields[each.file.name] = {
            "type": "string",
            "format": "binary",
            "description": each.file.description,
        }
        required += [each.file.name] if each.file.required else []
    # The example has no file, because JSON cannot express one.
    return made | {"schema": schema | {"properties": fields, "required": required}}


def _responses(each: Operation[Any, Any], schemas: Mapping[str, Json]) -> Json:
    responses = {code.status: ref("responses", str(code.status)) for code in _errors(each)}
    for status, answer in each.answers.items():
        responses[status] = _answer(answer, schemas, timed=bool(each.media))
    return {str(status): responses[status] for status in sorted(responses)}


def _errors(each: Operation[Any, Any]) -> Iterator[ErrorCode]:
    """The errors that the operation can return."""
    yield from _ANYWHERE
    yield from each.errors
    if each.access is not Access.OPEN:
        yield from _LIMITED
    if each.access in (Access.OPERATOR, Access.METRICS):
        yield ErrorCode.forbidden
    if "{" in each.path:
        yield ErrorCode.not_found
    if each.media:
        yield from _WITH_BODY


def _answer(answer: Answer, schemas: Mapping[str, Json], *, timed: bool) -> Json:
    own = {
        name: {"description": text, "schema": {"type": "string"}}
        for name, text in answer.headers.items()
    }
    made: Json = {
        "description": answer.description,
        "headers": {
            **headers("X-Request-Id", *(["Server-Timing", WARNING] if timed else [])),
            **own,
        },
    }
    if answer.content:
        made["content"] = {
            media: _content(media, kind, schemas) for media, kind in answer.content.items()
        }
    return made


def _content(media: str, kind: Content, schemas: Mapping[str, Json]) -> Json:
    if not isinstance(kind, str):
        return _with_example(kind.__name__, schemas)
    schema: Json = {"description": kind}
    if media in (SERVER_SENT, JSON_LINES):
        return {
            "schema": schema
        }  # no type: some tools apply it to the whole text, others to each event or line
    schema["type"] = "object" if media == JSON else "string"
    if media != JSON and not media.startswith("text/"):
        schema["format"] = "binary"
    return {"schema": schema}


def _with_example(model: str, schemas: Mapping[str, Json]) -> Json:
    schema = {"$ref": REF.format(model=model)}
    try:
        return {"schema": schema, "example": example(schema, schemas)}
    except LookupError:
        return {"schema": schema}
