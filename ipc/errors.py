"""All error codes: wire name, HTTP status, type. Used in every process.

A worker sends the wire name in `Failed`; the front turns it into an HTTP response. The message is
written where the error is detected: only that place knows what the client should do.
"""

from __future__ import annotations

from enum import Enum

_CLIENT = "invalid_request_error"
_SERVER = "server_error"
_KEY = "authentication_error"
_RIGHTS = "permission_error"
_RATE = "rate_limit_error"


class ErrorCode(Enum):
    """The error codes: wire name, HTTP status, OpenAI's `error.type`."""

    # An error in the request. Sent again unchanged, it fails again.
    invalid_request = ("invalid_request", 400, _CLIENT)
    missing_field = ("missing_field", 400, _CLIENT)
    unknown_option = ("unknown_option", 400, _CLIENT)
    invalid_option = ("invalid_option", 400, _CLIENT)
    empty_text = ("empty_text", 400, _CLIENT)
    text_too_long = ("text_too_long", 400, _CLIENT)
    empty_audio = ("empty_audio", 400, _CLIENT)
    invalid_audio = ("invalid_audio", 400, _CLIENT)
    audio_too_long = ("audio_too_long", 400, _CLIENT)
    unauthorized = ("unauthorized", 401, _KEY)
    forbidden = ("forbidden", 403, _RIGHTS)
    not_found = ("not_found", 404, _CLIENT)
    method_not_allowed = ("method_not_allowed", 405, _CLIENT)
    conflict = ("conflict", 409, _CLIENT)
    upload_timeout = ("upload_timeout", 408, _CLIENT)
    payload_too_large = ("payload_too_large", 413, _CLIENT)
    unsupported_media_type = ("unsupported_media_type", 415, _CLIENT)
    cloning_unavailable = ("cloning_unavailable", 422, _CLIENT)
    quarantined = ("quarantined", 422, _CLIENT)
    upgrade_required = ("upgrade_required", 426, _CLIENT)
    rate_limited = ("rate_limited", 429, _RATE)
    cancelled = ("cancelled", 499, _CLIENT)
    # An error in the service, or the service is busy.
    internal_error = ("internal_error", 500, _SERVER)
    engine_error = ("engine_error", 500, _SERVER)
    worker_crashed = ("worker_crashed", 500, _SERVER)
    overloaded = ("overloaded", 503, _SERVER)
    model_unavailable = ("model_unavailable", 503, _SERVER)
    shutting_down = ("shutting_down", 503, _SERVER)
    spool_full = ("spool_full", 503, _SERVER)
    voices_unavailable = ("voices_unavailable", 503, _SERVER)
    deadline_exceeded = ("deadline_exceeded", 504, _SERVER)

    def __init__(self, wire_name: str, status: int, type_: str) -> None:
        self.wire_name = wire_name
        self.status = status
        self.type = type_

    @classmethod
    def from_wire(cls, name: str) -> ErrorCode:
        """The code with this wire name; `engine_error` for an unknown name."""
        return cls.__members__.get(name, cls.engine_error)


class ServiceError(Exception):
    """An error that is reported to the client.

    `message` says what is wrong and what to do. `retry_after`, in seconds, is sent in the
    Retry-After header.
    """

    def __init__(self, code: ErrorCode, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after = retry_after
