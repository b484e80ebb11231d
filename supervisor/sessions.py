"""The open sessions: how many there are, how many there may be, and their end. Runs in the front.

A session is one WebSocket over which a client speaks or listens for as long as it likes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ipc.engines import Kind
from ipc.errors import ErrorCode, ServiceError

_RETRY_SECONDS = 5.0


class Sessions:
    """All open sessions.

    At most `limit` may be open; of them one client may have the share `client_share`.
    """

    def __init__(self, limit: int, client_share: float) -> None:
        self.limit = limit
        self.client_share = client_share
        self._by_kind: Counter[Kind] = Counter()
        self._by_client: Counter[str] = Counter()
        self._on_drain: set[Callable[[], None]] = set()
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    def count(self, kind: Kind) -> int:
        """How many sessions of one kind are open."""
        return self._by_kind[kind]

    @contextmanager
    def open(self, kind: Kind, client: str, on_drain: Callable[[], None]) -> Iterator[None]:
        """Count a session while the context is open. `on_drain` is called when it must end soon.

        Raises `ServiceError` when there are too many, or when the service shuts down.
        """
        if self._draining:
            raise ServiceError(
                ErrorCode.shutting_down,
                "the service is shutting down; try again",
                retry_after=_RETRY_SECONDS,
            )
        if len(self._on_drain) >= self.limit:
            raise ServiceError(
                ErrorCode.overloaded,
                f"all {self.limit} sessions of the service are open; try again later, and close "
                "sessions that you do not use",
                retry_after=_RETRY_SECONDS,
            )
        share = max(1, int(self.limit * self.client_share))
        if self._by_client[client] >= share:
            raise ServiceError(
                ErrorCode.overloaded,
                f"you have {share} sessions open, which is all that one client may have; close "
                "those that you do not use",
                retry_after=_RETRY_SECONDS,
            )
        self._by_kind[kind] += 1
        self._by_client[client] += 1
        self._on_drain.add(on_drain)
        self._idle.clear()
        try:
            yield
        finally:
            self._on_drain.discard(on_drain)
            self._by_kind[kind] -= 1
            self._by_client[client] -= 1
            if not self._by_client[client]:
                del self._by_client[client]  # clients come and go; their names must not pile up
            if not self._on_drain:
                self._idle.set()

    async def drain(self) -> None:
        """Open no more sessions, tell all to finish what they have, and wait until none is open."""
        self._draining = True
        for tell in tuple(self._on_drain):
            tell()
        await self._idle.wait()
