"""Counters and histograms of requests and replaced workers, filled by events. In the front.

What `Tally` counts is not counted here again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.metrics_core import Metric

from supervisor import events
from supervisor.events import Published

# Else each series has a second one with the time of its start, which is that of the service.
disable_created_metrics()  # type: ignore[no-untyped-call]

# Bounds of the buckets, in seconds.

_REQUEST = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""From what the front answers alone to the default time limit of a request."""
_STAGE = (0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
"""A free worker gets a request in less than 1 ms; most first bytes come within 0.1 to 1 s."""
_REAL_TIME_FACTOR = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0)
"""From engines without neural weights to 1, where a live stream falls behind, and worse."""
_SESSION = 101
"""The status of a session that has ended."""
_RECYCLE = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""A fork takes milliseconds, a load many seconds, and the old worker finishes its requests."""
_LAG = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Supervision aims at 5 ms for one step, and /health at 50 ms in all."""


_SeriesT = TypeVar("_SeriesT")


class _AllSeries(dict[tuple[str | int, ...], _SeriesT]):
    """The series of a metric by the values of its labels.

    The library needs as long to find a series as to count in it, and each request counts in ten.
    """

    def __init__(self, find: Callable[..., _SeriesT]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, labels: tuple[str | int, ...]) -> _SeriesT:
        series = self[labels] = self._find(*labels)
        return series


class Counted:
    """What has happened since the start. Subscribe `take`."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()

        def counter(name: str, about: str, *labels: str) -> _AllSeries[Counter]:
            name = f"voice_engine_{name}"
            return _AllSeries(Counter(name, about, labels, registry=self._registry).labels)

        def histogram(
            name: str, about: str, buckets: tuple[float, ...], *labels: str
        ) -> _AllSeries[Histogram]:
            name = f"voice_engine_{name}"
            found = Histogram(name, about, labels, buckets=buckets, registry=self._registry)
            return _AllSeries(found.labels)

        self._requests = counter(
            "requests_total",
            "HTTP requests. route is the path as declared, empty for unknown ones; status 499 is a "
            "client that went away; model is that of the job, empty without one.",
            *("method", "route", "status", "model"),
        )
        self._bytes = counter(
            "http_bytes_total",
            "Bytes of the bodies of requests (in) and answers (out).",
            "direction",
        )
        self._sound = counter(
            "sound_seconds_total",
            "Seconds of sound that was spoken (made) or transcribed (heard).",
            *("model", "direction"),
        )
        self._voice_cache = counter(
            "voice_cache_total",
            "Requests with a recording of a voice that was encoded before (hit) or not (miss).",
            "result",
        )
        for direction in ("in", "out"):  # a series begins at 0, so that rates see its first count
            self._bytes[(direction,)].inc(0)
        for result in ("hit", "miss"):
            self._voice_cache[(result,)].inc(0)
        self._request_seconds = histogram(
            "request_seconds",
            "Time of an HTTP request until it is answered.",
            _REQUEST,
            "route",
        )
        self._stage_seconds = histogram(
            "stage_seconds",
            "Time of a request in the queue, in the model (inference), in encode, and until the "
            "first_byte of an answer that is streamed.",
            _STAGE,
            *("model", "stage"),
        )
        self._real_time_factor = histogram(
            "real_time_factor",
            "Seconds of computing for a second of sound.",
            _REAL_TIME_FACTOR,
            "model",
        )
        self._recycle_seconds = histogram(
            "recycle_seconds",
            "Time from the decision to replace a worker until the old one is gone.",
            _RECYCLE,
            "model",
        )
        self.lag = Histogram(
            "voice_engine_event_loop_lag_seconds",
            "How much later than asked for the event loop went on.",
            buckets=_LAG,
            registry=self._registry,
        )

    def take(self, told: Published) -> None:
        """Count an event."""
        event = told.event
        match event:
            case events.Served():
                self._served(event)
            case events.Finished():
                self._finished(event)
            case events.Recycled():
                seconds = (event.ready_ms + event.drain_ms) / 1000
                self._recycle_seconds[(event.model,)].observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """All metrics. Safe in any thread."""
        return iter(self._registry.collect())

    def _served(self, event: events.Served) -> None:
        model = event.model or ""
        self._requests[event.method, event.route, event.status, model].inc()
        if event.status != _SESSION:  # it lasts as long as its client likes
            self._request_seconds[(event.route,)].observe(event.duration_s)
        self._bytes[("in",)].inc(event.bytes_in)
        self._bytes[("out",)].inc(event.bytes_out)
        if model:
            self._time(model, "first_byte", event.first_byte_s)

    def _finished(self, event: events.Finished) -> None:
        self._time(event.model, "queue", event.queue_s)
        self._time(event.model, "inference", event.inference_s)
        self._time(event.model, "encode", event.encode_s)
        if event.direction is not None and event.sound_s:
            self._sound[event.model, event.direction].inc(event.sound_s)
        if (factor := event.real_time_factor) is not None:
            self._real_time_factor[(event.model,)].observe(factor)
        if event.voice_cached is not None:
            self._voice_cache[("hit" if event.voice_cached else "miss",)].inc()

    def _time(self, model: str, stage: str, seconds: float | None) -> None:
        if seconds is not None:
            self._stage_seconds[model, stage].observe(seconds)
