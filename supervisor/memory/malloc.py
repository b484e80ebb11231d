"""Settings of malloc with which the front stays small. Runs in the front."""

from __future__ import annotations

import asyncio.selector_events
import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # <malloc.h>


_SOCKET_READ = 64 * 1024


def keep_front_small() -> None:
    """Have glibc give freed buffers back: one heap for all threads, large blocks outside of it.

    What a read of a pipe takes (256 KiB) comes from the heap, whose last free megabyte is kept:
    mapping such a buffer anew, page by page, costs several times what filling it does. Reads of
    sockets are made shorter than asyncio's 256 KiB, which each upload would hold at a time.
    """
    transport = getattr(asyncio.selector_events, "_SelectorTransport", None)
    if transport is not None:  # no public way to set it; Pythons without it only hold more
        transport.max_size = _SOCKET_READ
    with contextlib.suppress(AttributeError):  # not glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, 512 * 1024)
        libc.mallopt(_M_TRIM_THRESHOLD, 1024 * 1024)


def give_back() -> None:
    """Return the heap's free pages to the kernel: a burst of uploads leaves holes in it.

    A millisecond or two for a heap of this size. Call it off the event loop.
    """
    with contextlib.suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
