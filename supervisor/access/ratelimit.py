"""Rate limits: one token bucket for each client. Pure; used in the front."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

_MAX_CLIENTS = 10_000


class RateLimit:
    """Token buckets that hold the requests of a minute and refill evenly. 0 = unlimited.

    At most `max_clients` buckets are kept; the least recently used one is dropped. A dropped client
    starts again with a full bucket.
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
        """Number of tokens, and the time of that count. The least recently used client is first."""

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, client: str) -> float:
        """Seconds until `client` may send a request. 0 means now, and takes one of its tokens."""
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
