"""How much memory processes use. Runs in the front."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import psutil

_MB = 1024 * 1024

_process = functools.lru_cache(maxsize=256)(psutil.Process)
"""psutil reads the start time of each new `Process`, which takes longer than to read its memory."""


@dataclass(frozen=True, slots=True)
class Share:
    """Bytes of one process: `uss` is not shared; `pss` adds its part of the shared memory."""

    uss: int
    pss: int


def resident_bytes(pid: int) -> int | None:
    """RSS of a process in bytes; None when the process has ended. Takes microseconds (statm)."""
    try:
        rss: int = _process(pid).memory_info().rss
    except psutil.Error:
        return None
    return rss


def share(pid: int) -> Share | None:
    """USS and PSS of a process; None when the process has ended.

    Takes milliseconds, because the kernel walks the page tables. Call it off the event loop.
    """
    try:
        memory = _process(pid).memory_full_info()
    except psutil.Error:
        return None
    return Share(memory.uss, memory.pss)


def to_mb(size: int | None) -> float | None:
    """Bytes as megabytes, rounded for display."""
    return None if size is None else round(size / _MB, 1)
