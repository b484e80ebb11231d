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
from supervisor.threads import in_thread

ItemT = TypeVar("ItemT")


@dataclass(slots=True, eq=False)
class _Piece:
    """A piece of a response, in memory or in the file."""

    size: int
    data: bytes | None
    """None once it is in the file."""
    offset: int = 0
    """Where it is in the file."""
    counted: bool = False
    """Whether it counts as a response in memory; not while it is on its way to the file."""
    dropped: bool = False
    """Whether it has been read or forgotten, so that it need not be written any more."""


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


class ResponseBuffer(_Buffer[_Piece]):
    """Bytes of speech.

    Unread bytes stay in memory while there is room for responses, otherwise they go to an unnamed
    file. So a slow client holds neither the worker nor the front's memory. Threads write and read
    the file, because a busy disk may take half a second for it.
    """

    def __init__(self, spool: Spool) -> None:
        super().__init__()
        self._spool = spool
        self._file: FileIO | None = None
        self._to_write: list[_Piece] = []
        self._writing: asyncio.Task[None] | None = None
        self.stored = 0
        """Bytes given to the file so far."""

    def append(self, data: bytes) -> None:
        """Add the next bytes; after `close` they are dropped."""
        self.size += len(data)
        if self._closed:
            return
        piece = _Piece(len(data), data)
        self._unread.append(piece)
        if piece.size <= self._spool.room:
            self._count(piece)
        else:
            self._to_write.append(piece)
            if self._writing is None:
                self._writing = asyncio.get_running_loop().create_task(self._write())
        self._changed.set()

    async def read(self) -> bytes:
        """The next bytes; b"" at the end. Raises what `finish` was given."""
        piece = await self._next()
        if piece is None:
            return b""
        self._drop(piece)
        if piece.data is not None:
            return piece.data
        file = self._file
        assert file is not None
        return await in_thread(lambda: os.pread(file.fileno(), piece.size, piece.offset))

    def close(self) -> None:
        """Drop what was not read."""
        super().close()
        if self._writing is None:
            self._close_file()

    def _forget(self) -> None:
        for piece in self._unread:
            self._drop(piece)
        super()._forget()
        self._to_write.clear()
        self.stored = 0  # the file is written again from its start

    def _count(self, piece: _Piece) -> None:
        piece.counted = True
        self._spool.room -= piece.size

    def _drop(self, piece: _Piece) -> None:
        piece.dropped = True
        if piece.counted:
            self._spool.room += piece.size

    async def _write(self) -> None:
        """Write what waits for it, until nothing does. Only this task writes to the file."""
        try:
            while pieces := [piece for piece in self._to_write if not piece.dropped]:
                self._to_write.clear()
                await self._store(pieces)
        finally:
            self._writing = None
            if self._closed:
                self._close_file()

    async def _store(self, pieces: list[_Piece]) -> None:
        """Append to the file. When the disk is full, the pieces stay in memory.

        A response is small compared to an upload, and to drop it would waste the work in it.
        """
        offset = self.stored
        data = b"".join(piece.data for piece in pieces if piece.data is not None)
        self.stored += len(data)
        try:
            await in_thread(lambda: self._write_file(data, offset))
        except OSError as error:
            logger.error("spool_failed", error=str(error), folder=str(self._spool.folder))
            for piece in pieces:
                if not piece.dropped:
                    self._count(piece)
            return
        for piece in pieces:
            piece.data, piece.offset = None, offset
            offset += piece.size

    def _write_file(self, data: bytes, offset: int) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._spool.folder, buffering=0)  # noqa: SIM115
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file.fileno(), view, offset)
            view, offset = view[written:], offset + written

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


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
