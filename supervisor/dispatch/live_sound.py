"""The sound of one utterance, while it grows: in memory, then in a private file. In the front."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import tempfile
from io import FileIO

from ipc.operations import LIVE_RATE, Recording
from ipc.wav_header import wav_header
from supervisor.dispatch.spool import Spool
from supervisor.threads import in_thread

IN_MEMORY = 256 * 1024
"""The most bytes of one utterance that stay in memory: 8 s."""

_BLOCK = 64 * 1024
"""What goes to the file at once, when there is one."""

_numbers = itertools.count(1)


class LiveSound:
    """Mono PCM16 of `LIVE_RATE` that grows. Close it."""

    def __init__(self, spool: Spool) -> None:
        self.size = 0
        """In bytes."""
        self._spool = spool
        self._number = next(_numbers)
        self._memory = bytearray()
        """What is not in the file."""
        self._file: FileIO | None = None
        self._path: str | None = None
        self._writing = asyncio.Lock()

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.size / 2 / LIVE_RATE

    @property
    def held(self) -> int:
        """How many bytes are in memory."""
        return len(self._memory)

    async def write(self, pcm: bytes | bytearray) -> None:
        """Append. Raises `ServiceError` when the disk is full."""
        self._memory += pcm
        self.size += len(pcm)
        if len(self._memory) > (IN_MEMORY if self._file is None else _BLOCK):
            await self._flush()

    async def recording(self) -> Recording:
        """What there is now, as a WAV. In a file it may grow; then a worker hears a little more."""
        # A key of the place, not of the bytes: each partial text would hash all of them again.
        key = hashlib.sha256(f"{os.getpid()} {self._number} {self.size}".encode()).hexdigest()
        if self._file is None:
            return Recording(key, wav_header(LIVE_RATE, self.size // 2) + bytes(self._memory))
        await self._flush()
        return Recording(key, path=self._path)

    async def split(self, at: int) -> LiveSound:
        """Take off what comes after `at` bytes; returns that."""
        rest = LiveSound(self._spool)
        if self._file is None:
            await rest.write(self._memory[at:])
            del self._memory[at:]
        else:
            await self._flush()
            file, begin = self._file, len(wav_header(LIVE_RATE, 0)) + at
            await rest.write(await in_thread(lambda: _cut_off(file, begin)))
        self.size = at
        return rest

    async def close(self) -> None:
        """Remove the file, if there is one."""
        self._memory = bytearray()
        if self._file is not None:
            file, path, self._file = self._file, self._path, None
            assert path is not None

            def remove() -> None:
                file.close()
                os.unlink(path)

            await in_thread(remove)

    async def _flush(self) -> None:
        try:
            async with self._writing:
                block, self._memory = self._memory, bytearray()
                await in_thread(lambda: self._write_file(block))
        except OSError as error:
            raise self._spool.full(error, "utterance") from error

    def _write_file(self, block: bytearray) -> None:
        data = bytes(block)
        if self._file is None:
            descriptor, self._path = tempfile.mkstemp(dir=self._spool.folder)
            self._file = FileIO(descriptor, "r+")
            data = wav_header(LIVE_RATE, None) + data
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) or 0 :]


def _cut_off(file: FileIO, begin: int) -> bytes:
    end = file.seek(0, os.SEEK_END)
    rest = os.pread(file.fileno(), end - begin, begin)
    file.truncate(begin)
    file.seek(begin)
    return rest
