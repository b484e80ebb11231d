"""How many requests a client may send: one token bucket each. Pure; used in the front."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

_MAX_CLIENTS = 10_000


class RateLimit:
    """Buckets of a minute's requests, refilled evenly.

    At most `max_clients` buckets are kept; the one that was used longest ago goes first, and starts
    full when its client comes again.
    """

    def __init__(
        self,
        per_minute: float,
        clock: Callable[[], float] = time.monotonic,
        max_clients: int = _MAX_CLIENTS,
    ) -> None:
        self.per_minute = per_minute
        self._capacity = max(1.0, per_minute)
        self._clock = clock
        self._max_clients = max_clients
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Tokens, and when there were so many; least recently used first."""

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, client: str) -> float:
        """Seconds until `client` may send a request; 0 when it may, which uses up one of its."""
        if self.per_minute == 0:
            return 0.0
        now = self._clock()
        tokens, since = self._buckets.pop(client, (self._capacity, now))
        tokens = min(self._capacity, tokens + (now - since) * self.per_minute / 60)
        wait = max(0.0, (1 - tokens) * 60 / self.per_minute)
        self._buckets[client] = (tokens if wait else tokens - 1, now)
        if len(self._buckets) > self._max_clients:
            self._buckets.popitem(last=False)
        return wait
