"""The output of children: each line becomes an event of the log. Runs in the front."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable

from supervisor.log import logger

_MAX_LOG_LINE = 4096
_LINES_AT_ONCE = 200
_LINES_PER_SECOND = 100
"""How many lines of a child are logged; the loop takes about 30 microseconds for each."""

_PRIORITY = re.compile("<([0-7])>")
_LEVELS = ("error", "error", "error", "error", "warning", "info", "info", "debug")
"""By the priority of a line, as systemd's journal has them."""
_NATIVE = re.compile(
    r"(?:\S+ \S+ )?\[([VIWEF]):onnxruntime"  # ONNX Runtime
    r"|([IWEF])\d{4} \d\d:"  # glog, of PyTorch
    r"|(?:\[(?=\w+\])|(?=\w+:))(debug|info|warning|warn|error|critical)\b",
    re.IGNORECASE,
)
_NATIVE_LEVELS = {
    **{"V": "debug", "D": "debug", "I": "info", "W": "warning"},
    **{"E": "error", "F": "error", "C": "error"},
}

_open: set[asyncio.BaseTransport] = set()
"""The pipes whose other end a child, or a process that it has started, may still hold."""


class _LogLines(asyncio.Protocol):
    """Turns a child's output into log events.

    Lines above the limit are counted and dropped: a model that prints without end must neither
    block the front nor wait for it.
    """

    def __init__(self, child: str, tell: Callable[[str | None], None] | None) -> None:
        self._child = child
        self._tell = tell
        self._rest = b""
        self._allowed = float(_LINES_AT_ONCE)
        self._allowed_at = time.monotonic()
        self._dropped = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        _open.add(transport)

    def connection_lost(self, _: Exception | None) -> None:
        _open.discard(self._transport)
        if self._tell is not None:
            self._tell(None)

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_LOG_LINE:
            lines.append(self._rest)
            self._rest = b""
        now = time.monotonic()
        allowed = self._allowed + (now - self._allowed_at) * _LINES_PER_SECOND
        allowed, self._allowed_at = min(allowed, _LINES_AT_ONCE), now
        logged = lines[: int(allowed)]
        self._allowed = allowed - len(logged)
        for line in logged:
            self._log(line)
        if len(lines) > len(logged):
            if not self._dropped:
                asyncio.get_running_loop().call_later(1.0, self._tell_dropped)
            self._dropped += len(lines) - len(logged)

    def eof_received(self) -> None:
        self._log(self._rest)

    def _tell_dropped(self) -> None:
        logger.warning("child_output_dropped", child=self._child, lines=self._dropped)
        self._dropped = 0

    def _log(self, line: bytes) -> None:
        text = line[:_MAX_LOG_LINE].decode(errors="replace").rstrip()
        if text:
            level, told = level_of(text)
            getattr(logger, level)("child_output", child=self._child, line=told)
            if self._tell is not None:
                self._tell(told)


def level_of(line: str) -> tuple[str, str]:
    """The level of a line that a child wrote, and the line without its priority.

    Our own children put the priority before it; libraries in other languages have their own ways.
    What says nothing is "info".
    """
    if found := _PRIORITY.match(line):
        return _LEVELS[int(found[1])], line[found.end() :]
    if found := _NATIVE.match(line):
        return _NATIVE_LEVELS[(found[1] or found[2] or found[3])[0].upper()], line
    return "info", line


async def open_log(child: str, tell: Callable[[str | None], None] | None = None) -> int:
    """A pipe for the output of `child`: each line becomes a log event. Returns its write end.

    `tell` gets each line, too, and None when there will be no more.
    """
    read_fd, write_fd = os.pipe()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: _LogLines(child, tell), os.fdopen(read_fd, "rb", buffering=0)
    )
    return write_fd


async def close_logs() -> None:
    """Close the pipes that are left when all children have ended; the loop is about to end, too."""
    for transport in list(_open):
        transport.close()
    await asyncio.sleep(0)  # each pipe is closed in the next round of the loop
