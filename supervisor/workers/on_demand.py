"""Which of the models that are loaded on demand may have memory. Runs in the front.

The memory plan has room for some of them at once (`supervisor.memory.limits`). A model that is to
load waits here for its share. The one that was used least recently is unloaded for it; if all are
busy, the one that has been loaded for longest finishes its requests, and those that wait for it
wait for its next turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Protocol

TURN_SECONDS = 10.0
"""For so long a model keeps its memory, if it has requests: loading takes about as long."""


class Resident(Protocol):
    """A model that is loaded on demand."""

    @property
    def claim(self) -> int:
        """How many MB it needs, as planned."""

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for it to load."""

    @property
    def idle_since(self) -> float:
        """When its last request ended."""

    @property
    def ready_since(self) -> float:
        """When it was loaded."""

    @property
    def ending(self) -> bool:
        """Whether it is about to end all of its processes."""

    def make_way(self, *, at_once: bool) -> bool:
        """Unload it, so that another one can load. False: that is not possible now.

        `at_once`: only if it has no requests; otherwise it finishes those that run.
        """


class Residents:
    """The models that are loaded, or load, on demand."""

    def __init__(self) -> None:
        self.room = 0
        """How many MB all of them may claim together."""
        self._holding: list[Resident] = []
        self._waiting: list[Resident] = []
        self._changed = asyncio.Event()

    async def admit(self, model: Resident) -> bool:
        """Wait until the memory of `model` is free; False when nobody wants it any more.

        Who came first is first.
        """
        self._waiting.append(model)
        try:
            while model.wanted:
                if self._fits(model):
                    self._holding.append(model)
                    return True
                self._changed.clear()
                self._make_way(model)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TURN_SECONDS):
                        await self._changed.wait()
            return False
        finally:
            self._waiting.remove(model)
            self._changed.set()

    def gone(self, model: Resident) -> None:
        """No process of `model` is left."""
        if model in self._holding:
            self._holding.remove(model)
        self._changed.set()

    def changed(self) -> None:
        """A model may have become idle."""
        self._changed.set()

    def _fits(self, model: Resident) -> bool:
        if self._waiting[0] is not model:
            return False
        taken = sum(other.claim for other in self._holding)
        return not self._holding or taken + model.claim <= self.room

    def _make_way(self, model: Resident) -> None:
        """Have one other model unloaded, unless one already ends."""
        others = self._holding
        if self._waiting[0] is not model or any(other.ending for other in others):
            return
        for other in sorted(others, key=lambda other: other.idle_since):
            if other.make_way(at_once=True):
                return
        latest = time.monotonic() - TURN_SECONDS
        for other in sorted(others, key=lambda other: other.ready_since):
            if other.ready_since <= latest and other.make_way(at_once=False):
                return
