"""Blocking work off the event loop. Runs in the front."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")

SUPERVISION = ThreadPoolExecutor(max_workers=2, thread_name_prefix="supervision")
"""For what keeps the children alive: a disk that stands still, with the loop's own threads waiting
for it, must not keep workers from being watched and started."""


async def in_thread(work: Callable[[], _T], executor: ThreadPoolExecutor | None = None) -> _T:
    """What `work` returns, done in a thread of `executor`, else in one of the loop's own.

    A thread cannot be cancelled, and may need what its caller holds, or make what the caller is to
    remove: a caller that is cancelled goes on when the work is over.
    """
    running = asyncio.get_running_loop().run_in_executor(executor, work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # nobody will ask for it
        raise
