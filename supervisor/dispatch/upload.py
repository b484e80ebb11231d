"""An upload: the recording of a request, in memory or in a file. Runs in the front."""

from __future__ import annotations

import hashlib
import os
import tempfile
from types import TracebackType
from typing import BinaryIO

from ipc.operations import Recording
from supervisor.dispatch.spool import Spool
from supervisor.threads import in_thread

_HEAD = 64
"""How many first bytes of an upload are kept: enough for the header of a WAV."""


class Upload:
    """The recording of a request: in memory up to the threshold, then in a private file.

    Several recordings stand one after the other. Use it as an async context manager; at the end it
    removes the file.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._memory = bytearray()
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self.path: str | None = None
        self.size = 0
        self.sizes: list[int] = []
        """The size of each recording."""
        self.head = b""
        """The first bytes, which show the format."""

    def begin(self) -> None:
        """Begin the next recording."""
        self.sizes.append(0)

    async def write(self, data: bytes) -> None:
        """Append to the last recording. Raises `ServiceError` when the disk is full."""
        if not self.sizes:
            self.begin()
        self.sizes[-1] += len(data)
        if len(self.head) < _HEAD:
            self.head += data[: _HEAD - len(self.head)]
        self.size += len(data)
        self._hash.update(data)
        self._memory += data
        if len(self._memory) > self._spool.threshold:
            await self._flush()

    async def close(self) -> None:
        """Finish the upload: it is complete."""
        if self._file is not None:
            await self._flush()
            self._file.close()

    @property
    def recording(self) -> Recording:
        """What has been written so far, in the form that a worker gets."""
        data = None if self.path is not None else bytes(self._memory)
        if len(self.sizes) < 2:
            return Recording(self._hash.hexdigest(), data, self.path)
        # The same bytes are another recording when they are divided in another way.
        key = self._hash.copy()
        key.update(repr(self.sizes).encode())
        return Recording(key.hexdigest(), data, self.path, tuple(self.sizes))

    async def _flush(self) -> None:
        block, self._memory = self._memory, bytearray()
        try:
            await in_thread(lambda: self._write_file(block))
        except OSError as error:
            raise self._spool.full(error, "upload") from error

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
            # In a thread: a busy disk may take half a second for this.
            await in_thread(self._remove_file)
