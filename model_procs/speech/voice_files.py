"""Encoded voices as files that all workers share. Runs in speech workers.

A file of the cache is not flushed to the disk: one that a power cut leaves incomplete is told by
its checksum, like any other that is not as it was written, and costs one encoding.
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
"""What the folders of all versions begin with."""

_VOICE = ".voice"
_UNFINISHED = ".part"
_ABANDONED_NS = 60 * 10**9
"""Age of an unfinished file whose writer must have died; writing takes milliseconds."""

SMALLEST = 64 * 1024
"""A voice counts as this many bytes at least, which bounds how many small ones are kept."""

_MAPPED = 1024 * 1024
"""Size from which a file is mapped. Each takes a file descriptor for as long as it is."""

_CHECKSUM_BYTES = 8
"""A CRC-32 needs four; with eight, what follows is aligned."""


def cost(size: int) -> int:
    """What a voice of `size` bytes counts as."""
    return max(size, SMALLEST)


class VoiceFiles:
    """The voices in one folder below `parent`, at most `limit` bytes of them, or all (None).

    Without a limit a voice is safe on the disk once it has been written.

    Several workers read and write it at once: a file appears whole under its name, or not at all,
    and may be gone at any time; what has been read of it stays. A file is a checksum and what the
    engine made of the voice.
    """

    def __init__(
        self, parent: Path, name: str, limit: int | None, other_engines: Collection[str] = ()
    ) -> None:
        self._parent = parent
        self._other_engines = other_engines
        self._folder = parent / name
        self._limit = limit

    def read(self, key: str) -> memoryview | None:
        """The bytes of a voice; None when there is no such file. Raises `ValueError` and `OSError`.

        `ValueError` means that they are not the bytes that were written. They may be written to,
        which does not change the file.
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
        """Keep a voice, at the cost of those used longest ago. Raises `OSError`."""
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
        """Whether there is a file of that voice."""
        return self._path(key).is_file()

    def touch(self, key: str) -> None:
        """The voice is in use now."""
        with contextlib.suppress(OSError):
            os.utime(self._path(key))

    def remove(self, key: str) -> None:
        """Drop a voice."""
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
        """Make the folder, keep the limit, and remove what other versions of the model have left.

        Raises `OSError`.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._shrink(self._limit)
        for other in self._parent.glob(f"{FOLDER}*"):
            # The format of a voice begins with the name of its engine.
            engine = other.name.removeprefix(FOLDER).partition("-")[0]
            if other != self._folder and engine not in self._other_engines:
                _remove_folder(other)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{_VOICE}"

    def _shrink(self, limit: int | None, but: str = "") -> None:
        """Remove the oldest files until the others, but for the one to be replaced, fit.

        Without a limit only those go that a dead worker has left unfinished.
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
                with contextlib.suppress(FileNotFoundError):  # another worker was faster
                    stat = file.stat(follow_symlinks=False)
                    entries.append((stat.st_mtime_ns, stat.st_size, Path(file.path)))
        return sorted(entries)


def _remove_folder(folder: Path) -> None:
    """Remove what a cache has made, and nothing else that somebody may have put there."""
    with contextlib.suppress(OSError):  # such as that a worker of that version is still writing
        for suffix in (_VOICE, _UNFINISHED):
            for path in folder.glob(f"*{suffix}"):
                path.unlink(missing_ok=True)
        folder.rmdir()


def _size(data: bytes) -> int:
    """What a file of `data` counts as."""
    return cost(_CHECKSUM_BYTES + len(data))


def _checksum(data: bytes | memoryview) -> bytes:
    return zlib.crc32(data).to_bytes(_CHECKSUM_BYTES, "big")
