"""Encoded voices as files that all workers share. Runs in speech workers.

Files of the cache are not flushed to the disk. If a power failure leaves one incomplete, its
checksum reveals this, as for any other damage, and the voice is encoded again.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
import time
import zlib
from collections.abc import Collection
from pathlib import Path

from ipc.fsync import sync_folder

FOLDER = "voices-"
"""The prefix of the folders of all versions."""

_VOICE = ".voice"
_UNFINISHED = ".part"
_ABANDONED_NS = 60 * 10**9
"""An unfinished file of this age is abandoned: writing takes only milliseconds."""

SMALLEST = 64 * 1024
"""A voice counts as at least this many bytes, which limits the number of small voices."""

_MAPPED = 1024 * 1024
"""Files of at least this size are memory-mapped. Each mapping holds a file descriptor."""

_CHECKSUM_BYTES = 8
"""A CRC-32 has four bytes; with eight, the data after it is aligned."""


def cost(size: int) -> int:
    """How many bytes a voice of `size` bytes counts as."""
    return max(size, SMALLEST)


class VoiceFiles:
    """The voices in one folder below `parent`: at most `limit` bytes, or all of them (None).

    Without a limit, `write` flushes a voice to the disk.

    Several workers use the folder at the same time. A file appears atomically and may disappear at
    any time; data that has been read stays valid. A file consists of a checksum and the encoded
    voice.
    """

    def __init__(
        self, parent: Path, name: str, limit: int | None, other_engines: Collection[str] = ()
    ) -> None:
        self._parent = parent
        self._other_engines = other_engines
        self._folder = parent / name
        self._limit = limit

    def read(self, key: str) -> memoryview | None:
        """The bytes of a voice; None when there is no such file. Raises `OSError`.

        Raises `ValueError` when the file is damaged. The returned buffer is writable; writing to it
        does not change the file.
        """
        try:
            with open(self._path(key), "rb") as file:
                if os.fstat(file.fileno()).st_size < _MAPPED:
                    content = memoryview(bytearray(file.read()))
                else:
                    content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        except FileNotFoundError:
            return None
        data = content[_CHECKSUM_BYTES:]
        if len(data) == 0 or content[:_CHECKSUM_BYTES] != _checksum(data):
            raise ValueError("its file is damaged")
        return data

    def write(self, key: str, data: bytes) -> None:
        """Write a voice, removing the least recently used ones if needed. Raises `OSError`."""
        room = None
        if self._limit is not None and (room := self._limit - _size(data)) < 0:
            return
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._shrink(room, but=key)
        descriptor, unfinished = tempfile.mkstemp(suffix=_UNFINISHED, dir=self._folder)
        try:
            with open(descriptor, "wb") as file:
                file.write(_checksum(data))
                file.write(data)
                if self._limit is None:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(unfinished, self._path(key))
            if self._limit is None:
                sync_folder(self._folder)
        except BaseException:
            Path(unfinished).unlink(missing_ok=True)
            raise

    def holds(self, key: str) -> bool:
        """Whether there is a file for this voice."""
        return self._path(key).is_file()

    def touch(self, key: str) -> None:
        """Mark the voice as used now."""
        with contextlib.suppress(OSError):
            os.utime(self._path(key))

    def remove(self, key: str) -> None:
        """Remove a voice."""
        with contextlib.suppress(OSError):
            self._path(key).unlink(missing_ok=True)

    def entries(self) -> list[tuple[int, str, int]]:
        """Last use (Unix time in ns), key and size in bytes of every voice. Raises `OSError`."""
        return [
            (used, path.name.removesuffix(_VOICE), size)
            for used, size, path in self._entries()
            if path.name.endswith(_VOICE)
        ]

    def tidy(self) -> None:
        """Create the folder, apply the limit, and remove the folders of other versions.

        Raises `OSError`.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._shrink(self._limit)
        for other in self._parent.glob(f"{FOLDER}*"):
            # The format of a voice begins with the name of its engine, which there has no hyphens.
            engine = other.name.removeprefix(FOLDER).partition("-")[0]
            others = {name.replace("-", ".") for name in self._other_engines}
            if other != self._folder and engine not in others:
                _remove_folder(other)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{_VOICE}"

    def _shrink(self, limit: int | None, but: str = "") -> None:
        """Remove the oldest files until the rest fits, not counting the one of the key `but`.

        Also removes unfinished files of dead workers, and without a limit only those.
        """
        entries = [entry for entry in self._entries() if entry[2] != self._path(but)]
        abandoned = time.time_ns() - _ABANDONED_NS
        total = sum(cost(size) for _, size, _ in entries)
        for used, size, path in entries:
            if path.suffix == _VOICE:
                superfluous = limit is not None and total > limit
            else:
                superfluous = used < abandoned
            if superfluous:
                path.unlink(missing_ok=True)
                total -= cost(size)

    def _entries(self) -> list[tuple[int, int, Path]]:
        """Last use (Unix time in ns), size and path of every file, oldest first."""
        entries: list[tuple[int, int, Path]] = []
        with os.scandir(self._folder) as files:
            for file in files:
                with contextlib.suppress(FileNotFoundError):  # another worker has removed it
                    stat = file.stat(follow_symlinks=False)
                    entries.append((stat.st_mtime_ns, stat.st_size, Path(file.path)))
        return sorted(entries)


def _remove_folder(folder: Path) -> None:
    """Remove a cache's files and, if nothing else is in it, the folder."""
    with contextlib.suppress(OSError):  # for example, a worker of that version is still writing
        for suffix in (_VOICE, _UNFINISHED):
            for path in folder.glob(f"*{suffix}"):
                path.unlink(missing_ok=True)
        folder.rmdir()


def _size(data: bytes) -> int:
    """How many bytes a file with `data` counts as."""
    return cost(_CHECKSUM_BYTES + len(data))


def _checksum(data: bytes | memoryview) -> bytes:
    return zlib.crc32(data).to_bytes(_CHECKSUM_BYTES, "big")
