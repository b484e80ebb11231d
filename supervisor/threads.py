"""Blocking work off the event loop. Runs in the front."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")

SUPERVISION = ThreadPoolExecutor(max_workers=2, thread_name_prefix="supervision")
"""Threads for supervising the children. They are separate from the loop's own threads: when a disk
hangs and blocks those, workers must still be watched and started."""


async def in_thread(work: Callable[[], _T], executor: ThreadPoolExecutor | None = None) -> _T:
    """Run `work` in a thread of `executor`, or of the loop's own executor, and return its result.

    A cancelled caller waits until `work` is done. A thread cannot be cancelled, and it may use
    something that the caller releases, or create something that the caller must remove.
    """
    running = asyncio.get_running_loop().run_in_executor(executor, work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # marks it as retrieved; nobody else will read it
        raise
