"""Buffers between a worker and the response to the client. Runs in the front.

A worker appends and one response reads, each at its own speed. Both classes are a `Sink`.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import deque
from dataclasses import dataclass
from io import FileIO
from typing import Generic, TypeVar

from ipc.operations import Segment
from supervisor.dispatch.spool import Spool
from supervisor.log import logger

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class _Stored:
    """A piece of a response that is in the file."""

    offset: int
    size: int


class _Buffer(Generic[ItemT]):
    """Items that were appended and not read yet, the end of the stream, and its error."""

    def __init__(self) -> None:
        self._unread: deque[ItemT] = deque()
        self._complete = False
        self._closed = False
        self._error: BaseException | None = None
        self._changed = asyncio.Event()
        self.size = 0
        """How much was appended so far, read or not: bytes, or segments."""
        self._begun = False
        """Whether any of it has been read."""

    def finish(self, error: BaseException | None = None) -> None:
        """End the stream; with an `error`, the reader gets it after the items."""
        self._complete = True
        # After `close` nobody reads the error, and its frames refer to this buffer (a cycle).
        self._error = None if self._closed else error
        self._changed.set()

    def rewind(self) -> None:
        """Drop everything, unless some has been read: the stream starts again from its start.

        So the items of two workers do not need to fit together.
        """
        if not self._begun:
            self._forget()
            self.size = 0

    def close(self) -> None:
        """Drop what was not read."""
        self._closed = True
        self._error = None
        self._forget()

    async def _next(self) -> ItemT | None:
        """The next item; None at the end. Raises what `finish` was given."""
        while not self._unread:
            if self._complete:
                if self._error is not None:
                    raise self._error
                return None
            self._changed.clear()
            await self._changed.wait()
        self._begun = True
        return self._unread.popleft()

    def _forget(self) -> None:
        """Drop what was not read."""
        self._unread.clear()


class ResponseBuffer(_Buffer[bytes | _Stored]):
    """Bytes of speech.

    Unread bytes stay in memory while there is room for responses, otherwise they go to an unnamed
    file. So a slow client holds neither the worker nor the front's memory.
    """

    def __init__(self, spool: Spool) -> None:
        super().__init__()
        self._spool = spool
        self._in_memory = 0
        self._file: FileIO | None = None
        self.stored = 0
        """Bytes written to the file so far."""

    def append(self, data: bytes) -> None:
        """Add the next bytes; after `close` they are dropped."""
        self.size += len(data)
        if self._closed:
            return
        if len(data) > self._spool.room and self._store(data):
            self._unread.append(_Stored(self.stored - len(data), len(data)))
        else:
            self._unread.append(data)
            self._keep(len(data))
        self._changed.set()

    async def read(self) -> bytes:
        """The next bytes; b"" at the end. Raises what `finish` was given."""
        piece = await self._next()
        if piece is None:
            return b""
        if isinstance(piece, _Stored):
            assert self._file is not None
            return os.pread(self._file.fileno(), piece.size, piece.offset)
        self._keep(-len(piece))
        return piece

    def close(self) -> None:
        """Drop what was not read."""
        super().close()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _forget(self) -> None:
        super()._forget()
        self._keep(-self._in_memory)
        self.stored = 0  # the file is written again from its start

    def _keep(self, size: int) -> None:
        """Count `size` more bytes in memory."""
        self._in_memory += size
        self._spool.room -= size

    def _store(self, data: bytes) -> bool:
        """Append to the file; False when the disk is full, so that the data stays in memory.

        A response is small compared to an upload, and to drop it would waste the work in it.
        """
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._spool.folder, buffering=0)  # noqa: SIM115
            written = 0
            while written < len(data):
                view = memoryview(data)[written:]
                written += os.pwrite(self._file.fileno(), view, self.stored + written)
        except OSError as error:
            logger.error("spool_failed", error=str(error), folder=str(self._spool.folder))
            return False
        self.stored += len(data)
        return True


class SegmentBuffer(_Buffer[Segment]):
    """Segments of a transcript: few and small, so that all of them stay in memory."""

    def append(self, item: Segment) -> None:
        """Add the next segment; after `close` it is dropped."""
        self.size += 1
        if not self._closed:
            self._unread.append(item)
            self._changed.set()

    async def read(self) -> Segment | None:
        """The next segment; None at the end. Raises what `finish` was given."""
        return await self._next()
