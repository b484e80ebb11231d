"""How the tasks of a stream or a session end. Runs in the front."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any


def retrieve(task: asyncio.Task[Any]) -> None:
    """Mark the error of a task that is done as retrieved: somebody else reports it, or nobody."""
    if not task.cancelled():
        task.exception()


async def stop(tasks: Iterable[asyncio.Task[Any] | None]) -> None:
    """Cancel those that run, and wait until they have ended. Their errors are of no interest."""
    given = [task for task in tasks if task is not None]
    running = [task for task in given if not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
    for task in given:
        retrieve(task)
