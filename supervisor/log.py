"""Logging: one JSON line on stderr for each event. Runs in the front."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Literal


@contextlib.contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Make `package` look as if it were not installed. Modules that already use it keep it."""
    loaded = sys.modules.get(package)
    sys.modules[package] = None  # type: ignore[assignment]  # documented: None prevents the import
    try:
        yield
    finally:
        del sys.modules[package]
        if loaded is not None:
            sys.modules[package] = loaded


with _hidden("rich"):  # structlog imports it if it can: 3 MB for coloured tracebacks
    import structlog

Format = Literal["auto", "human", "json"]

_LEVELS = {name.lower(): level for name, level in logging.getLevelNamesMapping().items()}
_LEVELS["exception"] = logging.ERROR
_level = logging.INFO

_request: ContextVar[list[str] | None] = ContextVar("request", default=None)
"""A list with the id of the current request. The list is emptied when the request ends.

A task or callback that a request starts inherits the context and may live days longer than the
request, for example the task that replaces a worker. Its later log lines must not have the id.
"""


def configure(level: str = "info", form: Format = "auto") -> None:
    """Set up logging: JSON lines, or text for people; auto means text on a terminal."""
    set_level(level)
    human = sys.stderr.isatty() if form == "auto" else form == "human"
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if human
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            _drop_lower,
            _add_request,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def set_level(level: str) -> str:
    """Log what has this level or a higher one, from now on; returns the level before."""
    global _level
    before, _level = _level, logging.getLevelNamesMapping()[level.upper()]
    return logging.getLevelName(before).lower()


def takes(level: str) -> bool:
    """Whether what has this level is logged now."""
    return _LEVELS[level] >= _level


def current_request() -> str | None:
    """The id of the request that the caller works for, if it does for one."""
    current = _request.get()
    return current[0] if current else None


@contextlib.contextmanager
def logged_as(request_id: str) -> Iterator[None]:
    """Add `request_id` to everything that this context logs inside the block."""
    current = [request_id]
    token = _request.set(current)
    try:
        yield
    finally:
        current.clear()
        _request.reset(token)


def _drop_lower(
    _: object, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    # Not by structlog's own filter, which a logger in use keeps for ever.
    if not takes(method):
        raise structlog.DropEvent
    return event


def _add_request(
    _: object, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    if request := current_request():
        event["request_id"] = request
    return event


logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
"""The front's logger: `logger.info("event_name", key=value)`."""
