"""How the memory of each child, and the queue of each model, went: for /v1/children. In the front.

A track begins with its child and has its whole life: when it is full, every second sample goes and
the next ones are further apart. So a chart shows the sawtooth of successive workers.
"""

from __future__ import annotations

import os
import time
from array import array
from collections import deque
from collections.abc import Iterator, Mapping

from supervisor import events
from supervisor.dispatch.backend import BackendStatus, ChildStatus
from supervisor.events import Published
from supervisor.memory.usage import resident_bytes, to_mb

_SAMPLES = 600
"""How many samples a track has at most."""
_ENDED = 50
"""How many children that have ended are kept."""

FRONT = "front"
"""The name and the role of the front's own track."""


class Samples:
    """Samples of some values over time, at most `_SAMPLES`; floats of eight bytes."""

    def __init__(self, width: int) -> None:
        self._width = 1 + width
        self._data = array("d")
        self._every = 1
        self._skipped = 0

    def add(self, now: float, *values: float) -> None:
        """Add a sample, or leave it out if the samples have to be further apart."""
        self._skipped += 1
        if self._skipped < self._every:
            return
        self._skipped = 0
        self._data.extend((now, *values))
        if len(self._data) >= _SAMPLES * self._width:
            thinned = array("d")
            for index in range(0, len(self._data), 2 * self._width):
                thinned.extend(self._data[index : index + self._width])
            self._data = thinned
            self._skipped = self._every  # the last one, which has gone
            self._every *= 2

    def since(self, start: float) -> Iterator[tuple[float, ...]]:
        """The samples after `start`: the time, in seconds since the epoch, and the values."""
        for index in range(0, len(self._data), self._width):
            if self._data[index] > start:
                yield tuple(self._data[index : index + self._width])


Place = tuple[str | None, int]
"""The machine of a process, None for this one, and its pid."""


class Track:
    """One child from its start to its end. Times are in seconds since the epoch."""

    def __init__(self, name: str, role: str, model: str | None, pid: int, started: float) -> None:
        self.name = name
        self.role = role
        self.model = model
        self.pid = pid
        self.started = started
        self.ready: float | None = None
        self.ended: float | None = None
        self.end_reason: str | None = None
        self.successor: str | None = None
        self.status: ChildStatus | None = None
        """As it was last seen."""
        self.samples = Samples(1)
        """Its RSS in MB."""

    def see(self, child: ChildStatus, now: float) -> None:
        """Take a sample of the child."""
        self.status = child
        if child.rss is not None:
            self.samples.add(now, to_mb(child.rss) or 0.0)


class History:
    """The tracks of all children. Subscribe `take`; call `sample` at each tick of the monitor."""

    def __init__(self) -> None:
        self._front: Place = None, os.getpid()
        self.living: dict[Place, Track] = {
            self._front: Track(FRONT, FRONT, None, os.getpid(), time.time())
        }
        """By machine and pid."""
        self.ended: deque[Track] = deque(maxlen=_ENDED)
        self.queues: dict[str, Samples] = {}
        """By model: queued, in flight, backlog in seconds, real-time factor (NaN: not known)."""
        self._ends: dict[str, tuple[str, str | None]] = {}
        """By name of a child that is about to vanish: why, and its successor."""

    def sample(
        self, models: Mapping[str, BackendStatus], real_time_factors: Mapping[str, float]
    ) -> None:
        """Take a sample of every process and every queue."""
        now = time.time()
        front = self.living[self._front]
        front.samples.add(now, to_mb(resident_bytes(os.getpid())) or 0.0)
        seen = {self._front}
        for model, status in models.items():
            factor = real_time_factors.get(model, float("nan"))
            queue = self.queues.setdefault(model, Samples(4))
            queue.add(now, status.queued, status.in_flight, status.backlog, factor)
            for child in status.children:
                seen.add((child.node, child.pid))
                started = now - (time.monotonic() - child.started)
                place = child.node, child.pid
                self._track(place, child.name, child.role, model, started).see(child, now)
        for place in self.living.keys() - seen:
            self._end(place, now)

    def take(self, told: Published) -> None:
        """Follow the events of children, which may live shorter than a tick."""
        event = told.event
        match event:
            case events.WorkerReady():
                track = self._track(
                    (None, event.pid), event.child, "worker", event.model, told.time
                )
                track.ready = told.time
                track.samples.add(told.time, event.rss_mb or 0.0)
            case events.TemplateReady():
                started = told.time - event.seconds
                track = self._track(
                    (None, event.pid), event.child, "template", event.model, started
                )
                track.ready = told.time
            case events.WorkerDied() | events.WorkerEnded():
                self._track((None, event.pid), event.child, "worker", event.model, told.time)
                self._note_end(event.child, event.reason, None)
                self._end((None, event.pid), told.time)
            case events.TemplateDied():
                self._note_end(event.child, event.reason, None)
            case events.HardLimitPassed():
                self._note_end(event.child, "recycled: hard memory limit", None)
            case events.Recycled():
                self._note_end(event.child, f"recycled: {event.reason}", event.successor)

    def _track(self, place: Place, name: str, role: str, model: str, started: float) -> Track:
        """The track of a living child; a new one has `started` then."""
        track = self.living.get(place)
        if track is None or track.name != name:
            if track is not None:  # the pid has been given to another process
                self._end(place, started)
            track = self.living[place] = Track(name, role, model, place[1], started)
        return track

    def _note_end(self, child: str, reason: str, successor: str | None) -> None:
        for track in self.ended:
            if track.name == child and track.role == "worker":
                track.end_reason, track.successor = reason, successor or track.successor
                return
        self._ends[child] = reason, successor

    def _end(self, place: Place, now: float) -> None:
        track = self.living.pop(place, None)
        if track is not None:
            track.ended = now
            track.end_reason, track.successor = self._ends.pop(track.name, (None, None))
            self.ended.append(track)
