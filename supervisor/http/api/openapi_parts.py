"""Parts of the OpenAPI document that operations share: errors, headers. Runs in the front."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from pydantic import ConfigDict, Field

from ipc.engines import Json
from ipc.errors import ErrorCode, ServiceError
from supervisor.http.api.api_model import ApiModel
from supervisor.http.api.operation import JSON
from supervisor.http.api.schemas import REF
from supervisor.http.context import WARNING
from supervisor.http.errors import error_body

ABOUT = """
The service's own endpoints, and those of OpenAI and ElevenLabs for their clients.

- **API keys**: if the operator has set keys, send one as `Authorization: Bearer KEY`,
  `X-API-Key: KEY` or `xi-api-key: KEY`. Without API keys the service is open to everyone who can
  reach it.
- **Errors** are JSON: `detail` says what is wrong and what to do, `error.code` is for programs.
  Try again after 429, 503 and 504; if there is a `Retry-After` header, wait that many seconds.
- **HEAD** works on every path that GET works on.
"""

TAGS = {
    "Speech": "Text to speech, and speech to text.",
    "Voices": "The voices that requests can use.",
    "OpenAI": "For OpenAI's clients: only change their base URL.",
    "ElevenLabs": "For ElevenLabs' clients: only change their base URL.",
    "Operation": "The state of the service, and operations for operators.",
    "Description": "This description.",
    "Page": "The page on which people use and watch the service.",
}

_ERRORS = {
    # The meaning of a status, and an example error: code and message.
    400: (
        "The request is not valid.",
        "missing_field",
        "the field 'text' is missing; send it",
    ),
    401: (
        "An API key is needed, and the request has none or an invalid one.",
        "unauthorized",
        "the API key is not valid; send a valid one",
    ),
    403: (
        "Only operators may use this endpoint; they have their own key.",
        "forbidden",
        "only operators may use this endpoint; send the key in VOICE_ENGINE_ADMIN_KEY",
    ),
    404: (
        "There is nothing with that name.",
        "not_found",
        "there is no voice 'anna'; GET /v1/voices lists all there are",
    ),
    408: (
        "The upload took too long.",
        "upload_timeout",
        "the upload did not arrive within 300 s; send a smaller file",
    ),
    409: (
        "The request conflicts with existing data.",
        "conflict",
        "'anna' is one of the engine's own voices; take another id",
    ),
    413: (
        "The body is too large.",
        "payload_too_large",
        "the file in 'file' is over the limit of 300 MB; send a shorter or a compressed recording",
    ),
    415: (
        "The media type of the body is not supported.",
        "unsupported_media_type",
        "the body is text/plain; send multipart/form-data",
    ),
    422: (
        "It has crashed several workers and is refused for a while, or the weights cannot clone.",
        "quarantined",
        "this request has crashed 3 workers a short while ago; do not send it again unchanged",
    ),
    426: (
        "The endpoint is a WebSocket.",
        "upgrade_required",
        "/v1/tts/stream is a WebSocket; open it with ws:// or wss:// instead of http",
    ),
    429: (
        "Too many requests with this key or from this address.",
        "rate_limited",
        "the limit is 60 requests per minute; try again in 3 s",
    ),
    500: (
        "An error in the service.",
        "internal_error",
        "a bug in the service; the service's log has the details",
    ),
    503: (
        "The service is busy, starting or stopping: try again.",
        "shutting_down",
        "the service is shutting down; try again",
    ),
    504: (
        "The request took too long.",
        "deadline_exceeded",
        "the request was not answered within 300 s; send a shorter text or recording, or try "
        "again when the service is less busy",
    ),
}

HEADERS: dict[str, Json] = {
    "X-Request-Id": {
        "description": "the id that the request was sent with, or a new one; the log has it too",
        "required": True,
        "schema": {"type": "string", "examples": ["4b0d7fa1c2f94c5cb1f6a0de2f1b8a51"]},
    },
    "Server-Timing": {
        "description": "milliseconds for waiting in the queue, for inference, and for encoding the "
        "audio (encode); not in streams",
        "schema": {"type": "string", "examples": ["queue;dur=0.2, inference;dur=81.0"]},
    },
    WARNING: {
        "description": "what of the request was not taken literally, if anything",
        "schema": {"type": "string", "examples": ["the language jp was taken for ja"]},
    },
    "Retry-After": {
        "description": "seconds to wait before trying again, if known",
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
        "description": "an id for finding this request in logs: 1 to 128 letters, digits and any "
        "of ._:/+=@,~-",
        "schema": {"type": "string"},
    },
    "X-Request-Timeout": {
        "name": "X-Request-Timeout",
        "in": "header",
        "description": "seconds after which the client no longer needs the response",
        "schema": {"type": "number", "minimum": 0.001, "maximum": 999_999_999},
    },
}


class ErrorDetail(ApiModel):
    """An error in the form that OpenAI's clients expect."""

    message: str
    type: str
    param: Annotated[None, Field(description="always null: the message names the field")] = None
    code: str


class Error(ApiModel):
    """An error: what is wrong, and what to do."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "detail": "the field 'text' is missing; send it",
                    "error": {
                        "message": "the field 'text' is missing; send it",
                        "type": "invalid_request_error",
                        "param": None,
                        "code": "missing_field",
                    },
                }
            ]
        }
    )

    detail: str
    error: ErrorDetail


def error_responses() -> dict[str, Json]:
    """The response for each status that an error can have."""
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
    """References to entries of `HEADERS`."""
    return {name: ref("headers", name) for name in names}


def ref(kind: str, name: str) -> Json:
    """A reference to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}
