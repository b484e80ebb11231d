"""Bytes that do not fit in the front's memory: uploads on their way in, answers on their way out.

Runs in the front. Everything lies in one private folder that goes away with the front; a folder
that a killed front left behind is removed by the next one.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections import deque
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from ipc.errors import ErrorCode, ServiceError
from supervisor.log import logger
from supervisor.threads import in_thread

_PREFIX = "voice-engine-spool-"
_RETRY_AFTER_FULL = 5.0

_ANSWERS_IN_MEMORY = 2 * 1024 * 1024
"""Bytes of all answers together that may wait in memory for clients to read them."""


class Spool:
    """The private folder, and how much may stay in memory: of each upload, of all answers."""

    def __init__(self, parent: Path, threshold: int, answers: int = _ANSWERS_IN_MEMORY) -> None:
        _remove_abandoned(parent)
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        self.threshold = threshold
        self.room = answers
        """How many more bytes of answers may stay in memory."""
        # Held for life: a folder whose lock is free belongs to nobody.
        self._lock = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # another user's, or not yet locked by a front that is just starting
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)


_HEAD = 64
"""Bytes of an upload's beginning that are kept: a WAV's header."""


class Upload:
    """A recording on its way in: in memory up to the threshold, then in a private file.

    Use as an async context manager; the file is gone afterwards.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._memory = bytearray()
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self.path: str | None = None
        self.size = 0
        self.head = b""
        """The first bytes, by which a format is known."""

    async def write(self, data: bytes) -> None:
        """Append. Raises `ServiceError` when the disk is full."""
        if len(self.head) < _HEAD:
            self.head += data[: _HEAD - len(self.head)]
        self.size += len(data)
        self._hash.update(data)
        self._memory += data
        if len(self._memory) > self._spool.threshold:
            await self._flush()

    async def close(self) -> None:
        """The upload is complete."""
        if self._file is not None:
            await self._flush()
            self._file.close()

    @property
    def digest(self) -> bytes:
        """SHA-256 of the bytes so far."""
        return self._hash.digest()

    @property
    def data(self) -> bytes | None:
        """The bytes, when they stayed in memory."""
        return None if self.path is not None else bytes(self._memory)

    async def _flush(self) -> None:
        block, self._memory = self._memory, bytearray()
        try:
            await in_thread(lambda: self._write_file(block))
        except OSError as error:
            logger.error("spool_failed", error=str(error), folder=str(self._spool.folder))
            raise ServiceError(
                ErrorCode.spool_full,
                "the server has no disk space for this upload; try again later",
                retry_after=_RETRY_AFTER_FULL,
            ) from error

    def _write_file(self, block: bytearray) -> None:
        if self._file is None:
            descriptor, self.path = tempfile.mkstemp(dir=self._spool.folder)
            self._file = os.fdopen(descriptor, "wb", buffering=0)
        view = memoryview(block)
        while view:
            view = view[self._file.write(view) or 0 :]

    def _remove_file(self) -> None:
        assert self._file is not None
        self._file.close()
        if self.path is not None:
            os.unlink(self.path)

    async def __aenter__(self) -> Upload:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            # A busy disk has been seen to take half a second for this.
            await in_thread(self._remove_file)


@dataclass(frozen=True, slots=True)
class _Stored:
    """A piece of an answer that lies in the file."""

    offset: int
    size: int


class Answer:
    """Bytes on their way out: appended by a worker, read by one response, at their own speeds.

    What the client has not read yet stays in memory while that has room for answers, then goes to
    an unnamed file, so that a slow client holds neither the worker nor the front's memory.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._unread: deque[bytes | _Stored] = deque()
        self._in_memory = 0
        self._file: FileIO | None = None
        self.stored = 0
        """Bytes that went to the file so far."""
        self._complete = False
        self._closed = False
        self._error: BaseException | None = None
        self._changed = asyncio.Event()
        self.size = 0
        """Bytes appended so far, read or not."""
        self._begun = False
        """Whether any of it has been read."""

    def append(self, data: bytes) -> None:
        """The next bytes of the answer; after `close` they are nobody's."""
        self.size += len(data)
        if self._closed:
            return
        if len(data) > self._spool.room and self._store(data):
            self._unread.append(_Stored(self.stored - len(data), len(data)))
        else:
            self._unread.append(data)
            self._keep(len(data))
        self._changed.set()

    def finish(self, error: BaseException | None = None) -> None:
        """Nothing more comes; with an `error` the reader gets it after the bytes."""
        self._complete = True
        # After `close` nobody will ask for it, and it refers to frames that refer to this answer.
        self._error = None if self._closed else error
        self._changed.set()

    async def read(self) -> bytes:
        """The next bytes; b"" at the end. Raises what `finish` was given."""
        while not self._unread:
            if self._complete:
                if self._error is not None:
                    raise self._error
                return b""
            self._changed.clear()
            await self._changed.wait()
        piece = self._unread.popleft()
        self._begun = True
        if isinstance(piece, _Stored):
            assert self._file is not None
            return os.pread(self._file.fileno(), piece.size, piece.offset)
        self._keep(-len(piece))
        return piece

    def rewind(self) -> None:
        """Forget it all, unless some has been read: it will be made again, from its first byte.

        What one worker made needs no seam with what another would make.
        """
        if not self._begun:
            self._forget()
            self.size = self.stored = 0

    def close(self) -> None:
        """Free what was not read."""
        self._closed = True
        self._error = None
        self._forget()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _forget(self) -> None:
        self._keep(-self._in_memory)
        self._unread.clear()

    def _keep(self, size: int) -> None:
        """Count `size` more bytes in memory."""
        self._in_memory += size
        self._spool.room -= size

    def _store(self, data: bytes) -> bool:
        """Append to the file; False when the disk is full, and memory must do after all.

        An answer is short next to an upload (minutes of speech), and losing it would lose work.
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
