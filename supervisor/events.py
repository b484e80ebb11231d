"""What happens in the service, as typed events, each published once. Runs in the front.

    pool, dispatcher, monitor, routes --publish--> Events --> log, counts, /v1/events, metrics

Whoever notices that something has happened publishes one event and counts nothing itself. Memory is
in MB (2^20 bytes), times are in seconds, unless a name says otherwise.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from supervisor import log

Level = Literal["debug", "info", "warning", "error"]

_KEPT = 200
"""How many events of each name are kept for later readers."""
_UNREAD = 1000
"""How many events may wait for a reader; a slower one loses the oldest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that has happened. A subclass has its facts as fields, None where one is missing.

    Those that are not `kept` are only for those who subscribe: each request has some.
    """

    name: ClassVar[str]
    level: ClassVar[Level] = "info"
    logged: ClassVar[bool] = True
    kept: ClassVar[bool] = True

    def facts(self) -> dict[str, Any]:
        """The fields that have a value."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


# The service


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening(Event):
    """The front accepts connections."""

    name = "listening"
    host: str
    port: int
    version: str
    metrics_port: int | None = None
    """The port for metrics, if they have one of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping(Event):
    """The service refuses new requests and finishes those it has."""

    name = "stopping"
    drain_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainTimeout(Event):
    """Requests were not finished in the time that a shutdown has."""

    name = "drain_timeout"
    level = "warning"
    in_flight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped(Event):
    """All children have ended."""

    name = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloading(Event):
    """The settings are read again."""

    name = "reloading"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadRefused(Event):
    """The settings have an error, so that the old ones stay."""

    name = "reload_refused"
    level = "error"
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsChanged(Event):
    """A reload found other settings. Their names only: some values are secrets."""

    name = "settings_changed"
    changed: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLevelChanged(Event):
    """Other events are logged from now on."""

    name = "log_level"
    before: str
    now: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Acted(Event):
    """An operator has asked for something; what comes of it are other events."""

    name = "act"
    act: str
    target: str
    who: str
    why: str | None = None
    detail: str | None = None


# Models


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEvent(Event):
    """Something that has happened to one model."""

    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChosen(ModelEvent):
    """Which engine a model has, and what the memory plan gives it."""

    name = "engine"
    engine: str
    profile: str
    soft_limit_mb: str
    hard_limit_mb: str
    memory_mb: int
    memory_from: str
    threads: int
    cores: float
    cores_from: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted(ModelEvent):
    """Something about a model that operators must know; `about` says what it is about."""

    name = "note"
    level = "warning"
    about: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateReady(ModelEvent):
    """A template has loaded the model."""

    name = "template_ready"
    child: str
    pid: int
    engine: str
    rss_mb: float | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateDied(ModelEvent):
    """A template has ended by itself."""

    name = "template_died"
    level = "warning"
    child: str
    reason: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReady(ModelEvent):
    """A worker serves."""

    name = "worker_ready"
    child: str
    pid: int
    rss_mb: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDied(ModelEvent):
    """A worker has ended that should not. `cause` is one of few words, `reason` has the details."""

    name = "worker_died"
    level = "warning"
    child: str
    pid: int
    reason: str
    cause: str
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEnded(ModelEvent):
    """A worker has ended as planned."""

    name = "worker_ended"
    level = "debug"
    child: str
    pid: int
    reason: str
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recycled(ModelEvent):
    """A worker was replaced: its successor serves, and it is gone."""

    name = "recycled"
    child: str
    successor: str
    reason: str
    gap: bool
    """Whether the old worker had to end before its successor could start."""
    ready_ms: float
    drain_ms: float
    rss_mb: float | None
    given_back_mb: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HardLimitPassed(ModelEvent):
    """A worker is over its hard limit and is killed."""

    name = "hard_limit"
    level = "warning"
    child: str
    rss_mb: float | None
    limit_mb: float | None
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPressure(ModelEvent):
    """The container is nearly full, so the worker that has grown most is replaced."""

    name = "memory_pressure"
    level = "warning"
    child: str
    usage_mb: float | None
    limit_mb: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitTooLow(ModelEvent):
    """A new worker is already over a limit, which is therefore not applied."""

    name = "limit_too_low"
    level = "error"
    baseline_mb: float | None
    soft_limit_mb: float | None
    hard_limit_mb: float | None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandboxed(ModelEvent):
    """What the workers gave up; by the name of each layer, what it leaves open."""

    name = "sandbox"
    layers: Mapping[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxRefused(ModelEvent):
    """The layers of the sandbox that the kernel refuses, and why."""

    name = "sandbox_refused"
    level = "warning"
    layers: Mapping[str, str | None]
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartFailed(ModelEvent):
    """A template or a worker could not start."""

    name = "start_failed"
    level = "error"
    error: str
    failures: int
    kills: int
    retry_in_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldingOff(ModelEvent):
    """Requests have killed workers, so the next start waits."""

    name = "holding_off"
    level = "warning"
    retry_in_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading(ModelEvent):
    """A model that was unloaded loads again."""

    name = "loading"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unloaded(ModelEvent):
    """A model has no process any more, until a request asks for it."""

    name = "unloaded"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded(ModelEvent):
    """A model runs with what the settings, and its files, say now."""

    name = "reloaded"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadFailed(ModelEvent):
    """A model could not be loaded again and stays as it was."""

    name = "reload_failed"
    level = "error"
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFound(ModelEvent):
    """The models folder has complete weights that the model does not run with yet; it loads them.

    Then the model is `reloaded`, or `reload_failed` says why it stays as it was. A model that was
    not there before has an empty `engine_before`, and is loaded when a request wants it.
    """

    name = "weights_found"
    engine: str
    engine_before: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PullStarted(Event):
    """Published weights are being downloaded into the models folder."""

    name = "pull_started"
    engines: list[str]
    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PullFinished(Event):
    """The weights are in the models folder."""

    name = "pull_finished"
    engines: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PullFailed(Event):
    """Weights could not be downloaded; without `retry_in_s` it is not tried again."""

    name = "pull_failed"
    level = "error"
    engines: list[str]
    error: str
    retry_in_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled(ModelEvent):
    """A model is to have another number of workers."""

    name = "scaled"
    workers_before: int
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused(ModelEvent):
    """A model gives no more requests to its workers; new ones wait."""

    name = "paused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed(ModelEvent):
    """A paused model goes on."""

    name = "resumed"


# Requests


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLostWorker(ModelEvent):
    """A worker died on a request. `replayed`: it runs again on another one, else it fails."""

    name = "request_lost_worker"
    level = "warning"
    request: int
    child: str
    reason: str
    attempts: int
    replayed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined(ModelEvent):
    """The content of a request that killed workers is refused for some time."""

    name = "quarantined"
    level = "warning"
    request: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(ModelEvent):
    """A request got no result because of the state of the service. `reason` is an error code."""

    name = "refused"
    level = "debug"  # the request's own line has its status
    reason: str
    client: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(ModelEvent):
    """A worker has finished a request. `direction`: whether its sound was made or heard."""

    name = "finished"
    level = "debug"
    logged = False
    kept = False
    queue_s: float
    inference_s: float
    encode_s: float | None = None
    direction: Literal["made", "heard"] | None = None
    sound_s: float | None = None
    voice_cached: bool | None = None

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of computing for a second of sound; None without sound."""
        if not self.sound_s:
            return None
        return (self.inference_s + (self.encode_s or 0.0)) / self.sound_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Served(Event):
    """A request over HTTP has its response, or its client has gone (status 499).

    `route` is the path as it is declared, "" for none; `client` the name of the key, else the
    address. `first_byte_s` is for a body that was sent in parts; the times of the worker, the sizes
    of text and sound are those of a request that had a job.
    """

    name = "request"
    kept = False
    method: str
    route: str
    status: int
    client: str
    bytes_in: int
    bytes_out: int
    duration_s: float
    first_byte_s: float | None = None
    model: str | None = None
    voice: str | None = None
    characters: int | None = None
    sound_s: float | None = None
    queue_s: float | None = None
    inference_s: float | None = None
    encode_s: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed(Served):
    """The same for what others ask again and again, such as /health."""

    name = "probe"
    level = "debug"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionsFull(Event):
    """A connection is refused, because there are too many; told once, until half are closed."""

    name = "connections_full"
    level = "warning"
    connections: int


# Publishing


@dataclass(frozen=True, slots=True)
class Published:
    """An event with its id, its time (seconds since the epoch), and the request that caused it."""

    id: str
    number: int
    time: float
    event: Event
    request_id: str | None


Subscriber = Callable[[Published], None]
Publish = Callable[[Event], None]


class Events:
    """Gives each event to all who subscribe, and keeps the last ones of each name.

    They are kept by name, so that many of one kind do not push out the others.
    """

    def __init__(self) -> None:
        self._run = f"{int(time.time() * 1000):x}"
        """Different in each run of the service, so that ids of an earlier run are not mistaken."""
        self._numbers = itertools.count(1)
        self._kept: dict[str, deque[Published]] = {}
        self._subscribers: list[Subscriber] = [_log]

    def publish(self, event: Event) -> None:
        """Tell everybody. A subscriber that fails is logged and does not disturb the others."""
        number = next(self._numbers)
        told = Published(f"{self._run}-{number}", number, time.time(), event, log.current_request())
        if event.kept:
            self._kept.setdefault(event.name, deque(maxlen=_KEPT)).append(told)
        for subscriber in tuple(self._subscribers):
            try:
                subscriber(told)
            except Exception:  # a bug there must not reach the pool or the request
                log.logger.exception("event_not_told", name=event.name)

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber` with each event from now on; returns what ends that."""
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber)

    def kept(self, last_id: str | None = None) -> list[Published]:
        """The kept events in their order: all, or those after the event with the id `last_id`.

        An id of another run counts as none: that reader has missed everything of this one.
        """
        run, _, number = (last_id or "").rpartition("-")
        after = int(number) if run == self._run and number.isdecimal() else 0
        events = [each for kept in self._kept.values() for each in kept if each.number > after]
        return sorted(events, key=lambda each: each.number)

    def read(self, last_id: str | None = None) -> Reader:
        """The kept events after `last_id`, and all that come."""
        return Reader(self, last_id)


class Reader:
    """One reader of kept events and of all that follow; close it in the end."""

    def __init__(self, events: Events, last_id: str | None) -> None:
        self._unread: deque[Published] = deque(events.kept(last_id))
        self._arrived = asyncio.Event()
        self._end = events.subscribe(self._take)

    def _take(self, told: Published) -> None:
        if told.event.kept:
            if len(self._unread) >= _UNREAD:
                self._unread.popleft()
            self._unread.append(told)
            self._arrived.set()

    def waiting(self) -> Iterator[Published]:
        """The events that wait to be read."""
        while self._unread:
            yield self._unread.popleft()

    async def arrived(self) -> None:
        """Wait until there is one to be read."""
        while not self._unread:
            self._arrived.clear()
            await self._arrived.wait()

    def close(self) -> None:
        """Take no more events."""
        self._end()


def _log(told: Published) -> None:
    """The event as a line of the log."""
    event = told.event
    if event.logged and log.takes(event.level):
        getattr(log.logger, event.level)(log_name(event), **event.facts())


def log_name(event: Event) -> str:
    """The name of an event in the log: that of a note is what it is about."""
    return event.about if isinstance(event, Noted) else event.name
