"""Counts of events since the start, for /health and /metrics. Runs in the front."""

from __future__ import annotations

from collections import Counter, defaultdict

from supervisor import events
from supervisor.events import Published
from supervisor.memory.recycling import Reason

_WEIGHT = 0.2
"""How much the last request counts in the moving average."""


class Tally:
    """Counts, by model and what else tells events of a name apart. Subscribe `take`."""

    def __init__(self) -> None:
        self.events: Counter[tuple[str, str]] = Counter()
        """By name and level."""
        self.recycles: Counter[tuple[str, str]] = Counter()
        """Replaced workers, by model and reason."""
        self.recycled_mb: defaultdict[str, float] = defaultdict(float)
        """Memory that they have given back, by model."""
        self.deaths: Counter[tuple[str, str, str]] = Counter()
        """Children that died, by model, role (worker, template) and cause."""
        self.start_failures: Counter[str] = Counter()
        self.replays: Counter[str] = Counter()
        self.quarantines: Counter[str] = Counter()
        self.refusals: Counter[tuple[str, str]] = Counter()
        """By model and error code."""
        self.real_time_factor: dict[str, float] = {}
        """Seconds of computing for a second of sound, a moving average, by model."""

    def recycles_of(self, model: str) -> dict[str, int]:
        """How many workers of a model were replaced, by reason."""
        return {reason: count for (name, reason), count in self.recycles.items() if name == model}

    def take(self, told: Published) -> None:
        """Count an event."""
        event = told.event
        self.events[event.name, event.level] += 1
        match event:
            case events.Recycled():
                self.recycles[event.model, event.reason] += 1
                self.recycled_mb[event.model] += max(0.0, event.given_back_mb or 0.0)
            case events.HardLimitPassed():
                self.recycles[event.model, Reason.HARD_LIMIT.value] += 1
            case events.WorkerDied():
                self.deaths[event.model, "worker", event.cause] += 1
            case events.TemplateDied():
                self.deaths[event.model, "template", event.cause] += 1
            case events.StartFailed():
                self.start_failures[event.model] += 1
            case events.RequestLostWorker():
                self.replays[event.model] += event.replayed
            case events.Quarantined():
                self.quarantines[event.model] += 1
            case events.Refused():
                self.refusals[event.model, event.reason] += 1
            case events.Finished():
                self._measure(event)

    def _measure(self, event: events.Finished) -> None:
        if (factor := event.real_time_factor) is not None:
            before = self.real_time_factor.get(event.model, factor)
            self.real_time_factor[event.model] = before + _WEIGHT * (factor - before)
