"""malloc settings that keep the memory of the front small. Runs in the front."""

from __future__ import annotations

import asyncio.selector_events
import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # <malloc.h>

_SOCKET_READ = 64 * 1024
"""Bytes that one read of a socket asks for."""


def keep_front_small() -> None:
    """Make glibc return freed memory: one heap for all threads, large blocks outside of it.

    The buffer for a read of a pipe (256 KiB) comes from the heap, and the heap keeps its last free
    megabyte: mapping such a buffer again, page by page, costs several times more than filling it.
    asyncio reads 256 KiB from a socket at once; this is reduced, because every upload holds such a
    buffer.
    """
    transport = getattr(asyncio.selector_events, "_SelectorTransport", None)
    # There is no public way to set it; without it the front only uses more memory.
    if transport is not None:
        transport.max_size = _SOCKET_READ
    with contextlib.suppress(AttributeError):  # not glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, 512 * 1024)
        libc.mallopt(_M_TRIM_THRESHOLD, 1024 * 1024)


def give_back() -> None:
    """Return the heap's free pages to the kernel: many uploads at once leave holes in the heap.

    Takes one or two milliseconds for a heap of this size. Call it off the event loop.
    """
    with contextlib.suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
