"""Parts of a file as files of their own, for decoders of a single recording. Runs in workers."""

from __future__ import annotations

import io
import os
import re
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_SCAN_BYTES = 1 << 20
_LONGEST_MATCH = 16


class Slice(io.RawIOBase):
    """The bytes from `start` to `end` of `file`, behind those of `head`.

    It does not move the position of `file`, which must stay open.
    """

    def __init__(self, file: BinaryIO, start: int, end: int, head: bytes = b"") -> None:
        self._descriptor = file.fileno()
        self._start = start
        self._head = head
        self._size = len(head) + end - start
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position, to the beginning at least. Returns it."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Read into `buffer`. Returns how many bytes there were."""
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), self._size - self._position)
        if wanted <= 0:
            return 0
        if self._position < len(self._head):
            piece = self._head[self._position : self._position + wanted]
            view[: len(piece)] = piece
            count = len(piece)
        else:
            offset = self._start + self._position - len(self._head)
            count = os.preadv(self._descriptor, [view[:wanted]], offset)
        self._position += count
        return count


def find(file: BinaryIO, pattern: re.Pattern[bytes], start: int, end: int) -> int | None:
    """The first match of `pattern` between `start` and `end` of `file`; None without one.

    A match has at most `_LONGEST_MATCH` bytes.
    """
    while start < end:
        data = os.pread(file.fileno(), min(_SCAN_BYTES, end - start), start)
        found = pattern.search(data)
        if found is not None:
            return start + found.start()
        if len(data) <= _LONGEST_MATCH:
            break
        start += len(data) - _LONGEST_MATCH
    return None
