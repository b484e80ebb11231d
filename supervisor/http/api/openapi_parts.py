"""What the descriptions of all operations have in common: errors, headers. Runs in the front."""

from __future__ import annotations

from http import HTTPStatus

from pydantic import BaseModel

from ipc.engines import Json
from ipc.errors import ErrorCode, ServiceError
from supervisor.http.api.operation import JSON
from supervisor.http.api.schemas import REF
from supervisor.http.errors import error_body

ABOUT = """
The service's own endpoints, OpenAI's and ElevenLabs': one server for clients of each.

- **Keys**: where the operator has set API keys, send one as `Authorization: Bearer KEY`,
  `X-API-Key: KEY` or `xi-api-key: KEY`; where not, none is needed.
- **Errors** are JSON: `detail` says what is wrong and what to do, `error.code` is for programs.
  Try again after 429, 503 and 504, where there is a `Retry-After` after that many seconds.
- **HEAD** is answered wherever GET is.
"""

TAGS = {
    "Speech": "Text to speech, and speech to text.",
    "Voices": "The voices that requests can name.",
    "OpenAI": "For OpenAI's clients: only their base URL changes.",
    "ElevenLabs": "For ElevenLabs' clients: only their base URL changes.",
    "Operation": "How the service is, and what operators can do.",
    "Description": "What you read.",
}

_ERRORS = {
    # What a status means, and an error that has it.
    400: (
        "The request is not as it should be.",
        "missing_field",
        "the field 'text' is missing; send it",
    ),
    401: (
        "A key is needed, and there is none or not a valid one.",
        "unauthorized",
        "the API key is not valid; use another one",
    ),
    403: (
        "This is for operators, who have a key of their own.",
        "forbidden",
        "this is for operators; send the key in VOICE_ENGINE_ADMIN_KEY",
    ),
    404: (
        "There is nothing of that name.",
        "not_found",
        "there is no voice 'anna'; GET /v1/voices lists all there are",
    ),
    408: (
        "The upload took too long.",
        "upload_timeout",
        "the upload did not arrive within 300 s; send a smaller file",
    ),
    409: (
        "It does not go together with what is there already.",
        "conflict",
        "'anna' is one of the engine's own voices; take another id",
    ),
    413: (
        "The body is too large.",
        "payload_too_large",
        "the file in 'file' is over the limit of 300 MB; send a shorter or a compressed recording",
    ),
    415: (
        "The body is of another media type.",
        "unsupported_media_type",
        "the body is text/plain; send multipart/form-data",
    ),
    422: (
        "This very request has ended several workers already, and is refused for a while.",
        "quarantined",
        "this request has cost 3 workers their lives a short while ago; do not send it again "
        "unchanged",
    ),
    429: (
        "Too many requests with this key, or from this address.",
        "rate_limited",
        "the limit is 60 requests a minute; try again in 3 s",
    ),
    500: (
        "The service is at fault.",
        "internal_error",
        "a bug in the service; its log has the details",
    ),
    503: (
        "The service is busy, loading or going down: try again.",
        "shutting_down",
        "the service is shutting down; try again",
    ),
    504: (
        "The answer was not there in time.",
        "deadline_exceeded",
        "the request was not answered within 300 s; send a shorter text or recording, or try "
        "again when the service is less busy",
    ),
}

HEADERS: dict[str, Json] = {
    "X-Request-Id": {
        "description": "the id that the request came with, or a new one; the log has it too",
        "required": True,
        "schema": {"type": "string", "examples": ["4b0d7fa1c2f94c5cb1f6a0de2f1b8a51"]},
    },
    "Server-Timing": {
        "description": "milliseconds in which the request waited (queue), was computed (inference) "
        "and its sound was encoded (encode); not in streams",
        "schema": {"type": "string", "examples": ["queue;dur=0.2, inference;dur=81.0"]},
    },
    "Retry-After": {
        "description": "seconds after which to try again, where that is known",
        "schema": {"type": "integer", "minimum": 0, "examples": [3]},
    },
    "WWW-Authenticate": {
        "description": "how to send a key",
        "required": True,
        "schema": {"const": "Bearer"},
    },
}
_HEADERS_OF = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",)}

PARAMETERS: dict[str, Json] = {
    "X-Request-Id": {
        "name": "X-Request-Id",
        "in": "header",
        "description": "an id by which to find this request in logs: 1 to 128 letters, digits and "
        "any of ._:/+=@,~-",
        "schema": {"type": "string"},
    },
    "X-Request-Timeout": {
        "name": "X-Request-Timeout",
        "in": "header",
        "description": "seconds after which the answer is of no use any more",
        "schema": {"type": "number", "minimum": 0.001, "maximum": 999_999_999},
    },
}


class ErrorDetail(BaseModel):
    """An error as OpenAI's clients know it."""

    message: str
    type: str
    code: str


class Error(BaseModel):
    """An error: what is wrong, and what to do."""

    detail: str
    error: ErrorDetail


def error_responses() -> dict[str, Json]:
    """The answer with each status that errors have."""
    return {str(status): _error(status) for status in _ERRORS}


def _error(status: int) -> Json:
    meaning, code, message = _ERRORS[status]
    codes = [f"`{each.wire_name}`" for each in ErrorCode if each.status == status]
    return {
        "description": f"{HTTPStatus(status).phrase}. {meaning} Code: {', '.join(codes)}.",
        "headers": headers("X-Request-Id", *_HEADERS_OF.get(status, ())),
        "content": {
            JSON: {
                "schema": {"$ref": REF.format(model=Error.__name__)},
                "example": error_body(ServiceError(ErrorCode[code], message)),
            }
        },
    }


def headers(*names: str) -> Json:
    """Those of `HEADERS`, by reference."""
    return {name: ref("headers", name) for name in names}


def ref(kind: str, name: str) -> Json:
    """A reference to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}
