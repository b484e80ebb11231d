"""How much memory processes hold. Runs in the front."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

_MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Share:
    """Bytes of a process: `uss` is its alone, `pss` adds its part of what it shares."""

    uss: int
    pss: int


def resident_bytes(pid: int) -> int | None:
    """RSS of a process in bytes, from statm: microseconds. None when the process has ended."""
    try:
        rss: int = psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return None
    return rss


def share(pid: int) -> Share | None:
    """USS and PSS of a process: milliseconds, for the kernel walks its page tables.

    None when the process has ended. Call it off the event loop.
    """
    try:
        memory = psutil.Process(pid).memory_full_info()
    except psutil.Error:
        return None
    return Share(memory.uss, memory.pss)


def to_mb(size: int | None) -> float | None:
    """Bytes as megabytes, for people."""
    return None if size is None else round(size / _MB, 1)
