"""The state of the service as metrics, read when they are asked for. Runs in the front."""

from __future__ import annotations

import itertools
import os
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)

from ipc.engines import SERVING_KINDS
from supervisor.dispatch.backend import BackendStatus, ChildStatus
from supervisor.dispatch.dispatcher import REFUSALS
from supervisor.history import FRONT
from supervisor.memory.limits import MB
from supervisor.memory.recycling import Reason
from supervisor.memory.usage import Share, resident_bytes
from supervisor.service import VERSION, Service
from supervisor.workers.handle import Cause
from supervisor.workers.lifecycle import ModelState, State

_ROLES = ("worker", "template")

Rows = Iterable[tuple[tuple[str, ...], float]]
"""The values of a metric, each with those of its labels."""


class ConnectionCounts(Protocol):
    """What is to be known about connections."""

    limit: int
    refused: int

    @property
    def open(self) -> int:
        """How many are open."""


class ProcessNames:
    """Names for children that are used again, so that recycles do not make ever more series.

    A worker keeps its number while it lives; a new one gets the lowest that is free.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, dict[tuple[str | None, int], int]] = {}
        """The numbers of the workers that live, by model, then by machine and pid."""

    def name(self, model: str, children: Sequence[ChildStatus]) -> list[str]:
        """A name for each of all the children that a model has now."""
        before = self._numbers.get(model, {})
        workers = [(child.node, child.pid) for child in children if child.role == "worker"]
        numbers = {place: before[place] for place in workers if place in before}
        free = (number for number in itertools.count(1) if number not in numbers.values())
        for place in workers:
            if place not in numbers:
                numbers[place] = next(free)
        self._numbers[model] = numbers
        # While another template loads, it comes after the one that serves; each replica has one.
        templates = (f"{model}-template{'' if n == 1 else f'-{n}'}" for n in itertools.count(1))
        return [
            next(templates)
            if child.role == "template"
            else f"{model}-worker-{numbers[child.node, child.pid]}"
            for child in children
        ]


def state(
    service: Service,
    connections: ConnectionCounts,
    names: ProcessNames,
    voice_cache_bytes: int | None,
) -> Iterator[Metric]:
    """The metrics of everything that is read rather than counted, and those of `Tally`."""
    models = {model.name: model.backend.status() for model in service.models.shown}
    yield InfoMetricFamily(
        "voice_engine_build",
        "The version of the service and of its Python.",
        {"version": VERSION, "python": platform.python_version()},
    )
    yield _gauge(
        "uptime_seconds", "Time since the start.", (), [((), time.monotonic() - service.started)]
    )
    yield from _models(models)
    yield from _processes(service, models, names)
    yield from _tally(service, models)
    cached = [] if voice_cache_bytes is None else [((), float(voice_cache_bytes))]
    yield _gauge(
        "voice_cache_bytes",
        "Bytes on disk of encoded voices that are not registered; read at most once a minute.",
        (),
        cached,
    )
    voices = len(service.builtin_voices) + service.voices.count
    yield _gauge("voices", "Built-in and registered voices.", (), [((), voices)])
    yield _gauge("connections", "Open connections.", (), [((), connections.open)])
    sessions = service.sessions
    yield _gauge(
        "sessions",
        "Open live sessions.",
        ("kind",),
        [((kind.value,), sessions.count(kind)) for kind in SERVING_KINDS],
    )
    yield _gauge("sessions_limit", "Live sessions that may be open.", (), [((), sessions.limit)])
    yield _gauge(
        "connections_limit", "Connections that may be open.", (), [((), connections.limit)]
    )
    yield _counter(
        "connections_refused_total",
        "Connections that were refused because too many were open.",
        (),
        [((), connections.refused)],
    )


def _models(models: dict[str, BackendStatus]) -> Iterator[Metric]:
    def each(name: str, about: str, values: dict[str, float]) -> Metric:
        return _gauge(name, about, ("model",), [((model,), n) for model, n in values.items()])

    def of(read: str) -> dict[str, float]:
        return {model: float(getattr(status, read)) for model, status in models.items()}

    yield each("queue_length", "Requests that wait for a worker.", of("queued"))
    yield each(
        "queue_seconds",
        "Estimated work that waits or runs, in seconds that it takes one by one.",
        of("backlog"),
    )
    yield each("in_flight", "Requests that wait or run.", of("in_flight"))
    yield _gauge(
        "model_state",
        "1 for the state that a model is in, 0 for the others.",
        ("model", "state"),
        [
            ((model, state.value), status.state is state)
            for model, status in models.items()
            for state in ModelState
        ],
    )
    yield each("model_paused", "1 while an operator holds the queue.", of("paused"))
    yield _gauge(
        "workers",
        "Workers in each state.",
        ("model", "state"),
        [
            ((model, state.value), _workers_in(status, state))
            for model, status in models.items()
            for state in State
            if state is not State.DEAD
        ],
    )
    yield each("workers_wanted", "Workers that a model is to have.", of("workers"))
    yield each("free_slots", "Requests that its workers could begin now.", of("free_slots"))


def _workers_in(status: BackendStatus, state: State) -> int:
    workers = (child for child in status.children if child.role == "worker")
    return sum(worker.state == state.value for worker in workers)


def _processes(
    service: Service, models: dict[str, BackendStatus], names: ProcessNames
) -> Iterator[Metric]:
    memory: list[tuple[tuple[str, ...], float]] = []
    limits: list[tuple[tuple[str, ...], float]] = []

    def add(process: str, model: str, rss: int | None, share: Share | None) -> None:
        kinds = {"rss": rss}
        if share is not None:
            kinds |= {"uss": share.uss, "pss": share.pss}
        memory.extend(((process, model, k), v) for k, v in kinds.items() if v is not None)

    add(FRONT, "", resident_bytes(os.getpid()), service.host.shares.get(os.getpid()))
    for model, status in models.items():
        children = status.children
        for child, process in zip(children, names.name(model, children), strict=True):
            add(process, model, child.rss, child.share)
            bounds = {
                "baseline": child.baseline,
                "soft": child.soft_limit,
                "hard": child.hard_limit,
            }
            limits.extend(((process, model, k), v) for k, v in bounds.items() if v is not None)
    yield _gauge(
        "process_memory_bytes",
        "Memory of a process. uss is what its end would give back, pss adds its part of what is "
        "shared; both are read every ten seconds. The numbers of processes are used again.",
        ("process", "model", "type"),
        memory,
    )
    yield _gauge(
        "process_limit_bytes",
        "RSS at READY (baseline), at which a worker is replaced (soft) and killed (hard).",
        ("process", "model", "limit"),
        limits,
    )
    usage = service.host.usage
    yield _gauge(
        "memory_usage_bytes", "Memory of the container in use.", (), [((), usage)] if usage else []
    )
    yield _gauge(
        "memory_limit_bytes",
        "Memory that the container may use.",
        (),
        [((), service.host.container.limit)],
    )


def _tally(service: Service, models: Iterable[str]) -> Iterator[Metric]:
    """What `Tally` has counted; a series that may come later begins at 0, so that rates see it."""
    tally, models = service.tally, list(models)

    def each(name: str, about: str, counts: dict[str, int]) -> Metric:
        return _counter(name, about, ("model",), [((m,), counts.get(m, 0)) for m in models])

    yield _counter(
        "recycles_total",
        "Workers that were replaced.",
        ("model", "reason"),
        [
            ((model, reason.value), tally.recycles[model, reason.value])
            for model in models
            for reason in Reason
        ],
    )
    yield _counter(
        "recycled_bytes_total",
        "Memory that replaced workers have given back.",
        ("model",),
        [((model,), tally.recycled_mb[model] * MB) for model in models],
    )
    yield _counter(
        "deaths_total",
        "Workers and templates that have died.",
        ("model", "role", "cause"),
        [
            ((model, role, cause.value), tally.deaths[model, role, cause.value])
            for model in models
            for role in _ROLES
            for cause in Cause
        ],
    )
    yield each(
        "start_failures_total",
        "Templates and workers that could not start.",
        tally.start_failures,
    )
    yield each("replays_total", "Requests that ran again after their worker died.", tally.replays)
    yield _counter(
        "refusals_total",
        "Requests that got no result because of the state of the service.",
        ("model", "reason"),
        [
            ((model, reason), tally.refusals[model, reason])
            for model in models
            for reason in sorted(code.wire_name for code in REFUSALS)
        ],
    )
    yield each(
        "quarantines_total",
        "Requests whose content is refused because it has killed workers.",
        tally.quarantines,
    )
    yield _counter("events_total", "Events of each name.", ("event", "level"), tally.events.items())


def _gauge(name: str, about: str, labels: Sequence[str], rows: Rows) -> Metric:
    return _filled(GaugeMetricFamily(f"voice_engine_{name}", about, labels=labels), rows)


def _counter(name: str, about: str, labels: Sequence[str], rows: Rows) -> Metric:
    return _filled(CounterMetricFamily(f"voice_engine_{name}", about, labels=labels), rows)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, rows: Rows) -> Metric:
    for labels, value in rows:
        family.add_metric(labels, value)
    return family
