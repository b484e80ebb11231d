"""glibc's heap: what it keeps, and what it gives back to the kernel. In templates and workers."""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>

_LARGEST = 32 * 1024 * 1024
"""The largest block that glibc lets come from the heap, in bytes."""

_KEPT = 256 * 1024 * 1024
"""Free bytes at the end of the heap that stay there until `give_back`."""


def keep_large_blocks() -> None:
    """From now on large blocks come from the heap, and stay there when they are freed.

    Children of the front are started with settings that map and unmap each block of 256 kB or more.
    An engine whose tensors are as large as that then spends half of its time on new pages. But free
    pages stay in the heap's holes, until a `Trimmer` gives them back.
    """
    with contextlib.suppress(AttributeError):  # not glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)


def pages(*shape: int) -> Tensor:
    """A float32 tensor of zeros in pages of its own, which are free as soon as it is.

    The kernel gives a page when it is first written to.
    """
    import torch

    return torch.frombuffer(mmap.mmap(-1, 4 * math.prod(shape)), dtype=torch.float32).view(shape)


def give_back() -> None:
    """Give the heap's free pages back to the kernel; otherwise glibc keeps them."""
    with contextlib.suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


class Trimmer:
    """Gives the free pages of a process back when it has grown by `growth` bytes."""

    def __init__(self, resident: Callable[[], int], growth: int) -> None:
        """`resident` tells the RSS in bytes."""
        self._resident = resident
        self._growth = growth
        self._at_first = self._at = resident() + growth

    def busy(self) -> None:
        """Look while it computes: at growth since the last time, because most pages are in use."""
        if self._resident() > self._at:
            self._give_back()

    def idle(self) -> None:
        """Look while it waits: at growth since the start."""
        if self._resident() > self._at_first:
            self._give_back()

    def _give_back(self) -> None:
        give_back()
        self._at = self._resident() + self._growth
