"""When to look again at voices that other fronts change too. Runs in the front."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from supervisor.log import logger

PERIOD = 1.0
"""Seconds between looks; so long a front may not know what another one has changed."""

GAP = 0.25
"""Seconds between the starts of two looks, at least, however many requests ask for one."""

_PATIENCE = 10.0
"""Seconds that a request waits for a look, at most."""


class Refresh:
    """Calls `look` each `period` seconds, and when it is asked to; never twice at a time."""

    def __init__(
        self, look: Callable[[], Awaitable[None]], *, period: float = PERIOD, gap: float = GAP
    ) -> None:
        self._look = look
        self._period = period
        self._gap = gap
        self._lock = asyncio.Lock()
        self._begun = float("-inf")
        self._next: asyncio.Task[None] | None = None

    async def again(self) -> None:
        """Wait for the end of a look that begins after this call; many callers share one."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._look_next())
        await asyncio.shield(self._next)

    async def soon(self) -> None:
        """The same, but wait only for so long as a request can."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await self.again()

    async def run(self) -> None:
        """Look again and again, until it is cancelled."""
        while True:
            await asyncio.sleep(self._period)
            try:
                await self.again()
            except Exception:  # a bug must be logged, and must not end the looks
                logger.exception("voices_refresh_failed")

    async def _look_next(self) -> None:
        async with self._lock:
            loop = asyncio.get_running_loop()
            if (pause := self._begun + self._gap - loop.time()) > 0:
                await asyncio.sleep(pause)
            self._begun = loop.time()
            self._next = None  # who asks from now on needs a later look
            await self._look()
