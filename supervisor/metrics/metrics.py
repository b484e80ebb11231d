"""All metrics of a service, as Prometheus asks for them. Runs in the front."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from aiohttp import web
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from supervisor.metrics.counted import Counted
from supervisor.metrics.state import ConnectionCounts, ProcessNames, state
from supervisor.service import Service
from supervisor.threads import SUPERVISION, in_thread
from supervisor.voices.folder import cached_bytes

_LAG_INTERVAL = 0.5
"""Seconds between two looks at how late the event loop is."""
_CACHE_INTERVAL = 60.0
"""Seconds between two readings of the folder of encoded voices."""
_CACHE_WAIT = 1.0
"""Seconds that a scrape waits for such a reading; then it has the value before."""


class Metrics:
    """The metrics of one service. `start` what they measure by themselves, `close` in the end."""

    def __init__(self, service: Service, connections: ConnectionCounts) -> None:
        self._service = service
        self._connections = connections
        self._counted = Counted()
        self._unsubscribe = service.events.subscribe(self._counted.take)
        self._names = ProcessNames()
        self._lag: asyncio.Task[None] | None = None
        self._cache_bytes: int | None = None
        self._cache_read = float("-inf")
        self._reading: asyncio.Future[int] | None = None

    def start(self) -> None:
        """Begin to measure the event loop."""
        self._lag = asyncio.get_running_loop().create_task(self._measure_lag())

    async def close(self) -> None:
        """Measure and count nothing more."""
        self._unsubscribe()
        if self._lag is not None:
            self._lag.cancel()
            await asyncio.wait([self._lag])

    async def render(self, accept: str) -> tuple[bytes, str]:
        """The metrics in the format that the header Accept asks for, and its media type."""
        await self._read_cache()
        now = self.state()
        encode, media_type = choose_encoder(accept)
        # Thousands of lines take longer than the event loop may be held.
        text = await in_thread(lambda: encode(_All([*now, *self._counted.collect()])), SUPERVISION)
        return text, media_type

    def state(self) -> list[Metric]:
        """Those metrics that are read now, in the event loop."""
        return list(state(self._service, self._connections, self._names, self._cache_bytes))

    async def _read_cache(self) -> None:
        """Read the size of the folder of encoded voices again, if that was long ago."""
        if self._reading is None and time.monotonic() - self._cache_read > _CACHE_INTERVAL:
            folder = self._service.settings.voices_dir.resolve()
            loop = asyncio.get_running_loop()
            self._reading = loop.run_in_executor(None, cached_bytes, folder)
        if self._reading is None:
            return
        await asyncio.wait([self._reading], timeout=_CACHE_WAIT)  # a disk may hang
        if self._reading is not None and self._reading.done():
            self._cache_bytes, self._reading = self._reading.result(), None
            self._cache_read = time.monotonic()

    async def _measure_lag(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + _LAG_INTERVAL
            await asyncio.sleep(_LAG_INTERVAL)
            self._counted.lag.observe(max(0.0, clock() - due))


class _All(Collector):
    """Metrics that have been collected."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


METRICS: web.AppKey[Metrics] = web.AppKey("metrics", Metrics)
"""The metrics that an application serves."""

METRICS_PORT: web.AppKey[int] = web.AppKey("metrics_port", int)
"""The port on which they are instead, for an application that does not serve them."""
