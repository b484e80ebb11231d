"""What came of a soak, from the clients, the chaos, the watcher and the service's own log. Pure."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from supervisor.threads import SUPERVISION
from tests.soak.chaos import Chaos, Deed
from tests.soak.traffic import Record, Traffic
from tests.soak.watcher import Census, Line

_BUGS = ("handler_failed", "supervision_failed", "watch_failed", "not_json", "reload_failed")
"""Log events that there must not be: each is a bug, whether a client noticed or not."""

FRONT_GROWTH_MB = 8
"""How much the front's RSS may differ between two quiet moments."""

_FRONT_THREADS = 1 + SUPERVISION._max_workers + min(32, (os.cpu_count() or 1) + 4)
"""The loop's, and those for the children and the disks, which start when they are first needed."""

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that the report tells."""

    command: str
    engines: str
    settings: dict[str, str]
    machine: dict[str, Any]
    seconds: float
    calm_seconds: float
    left_out: dict[str, str]
    """Kinds of chaos that were wanted and not possible, and why."""
    records: list[Record]
    failures: list[str]
    wrong: list[str]
    refusals: Counter[str]
    not_serving: int
    deeds: list[Deed]
    disk_full: list[tuple[float, float]]
    lines: list[Line]
    before: Census
    after: Census
    replays: int
    recycles: dict[str, Counter[str]]
    events: list[Event]
    leftovers: list[str]
    origin: datetime
    """The wall clock's time at second 0."""
    word_error_rate: float | None
    """Of the undisturbed transcripts; None for engines with random weights."""

    @property
    def bugs(self) -> list[str]:
        """What the log says that it must not say."""
        return [str(event)[:500] for event in self.events if event["event"] in _BUGS]

    @property
    def growth(self) -> list[str]:
        """In what the front has grown."""
        before, after = self.before, self.after
        grown = [
            f"the front's {what} grew from {old} to {new}"
            for what, old, new in (
                ("open files", before.front_fds, after.front_fds),
                ("asyncio tasks", before.front_tasks, after.front_tasks),
                ("threads", max(before.front_threads, _FRONT_THREADS), after.front_threads),
            )
            if new > old
        ]
        if after.front_rss - before.front_rss > FRONT_GROWTH_MB << 20:
            grown.append(
                f"the front's RSS grew from {before.front_rss >> 20} to {after.front_rss >> 20} MB"
            )
        return grown

    @property
    def problems(self) -> list[str]:
        """Everything that makes the soak fail."""
        return [
            *(f"failed: {failure}" for failure in self.failures),
            *(f"wrong answer: {wrong}" for wrong in self.wrong),
            *(f"in the log: {bug}" for bug in self.bugs),
            *self.growth,
            *(f"left over: {leftover}" for leftover in self.leftovers),
        ]

    @property
    def summary(self) -> str:
        """One line."""
        total = len(self.records) + len(self.failures) + len(self.wrong)
        verdict = "FAILED" if self.problems else "passed"
        recycled = sum(sum(counts.values()) for counts in self.recycles.values())
        return (
            f"soak {verdict}: {total} requests, {len(self.failures)} failed, {len(self.wrong)} "
            f"wrong answers, {len(self.deeds)} chaos events, {len(self.deaths)} deaths, "
            f"{recycled} recycles, {self.replays} replays, {sum(self.refusals.values())} refusals "
            f"retried, {len(self.leftovers)} left over, front "
            f"{(self.after.front_rss - self.before.front_rss) / 2**20:+.1f} MB"
        )

    @property
    def deaths(self) -> list[str]:
        """Why each worker or template died that was not replaced in good order."""
        causes = []
        for event in self.events:
            if _is_death(event) or event["event"] == "template_died":
                who = event["child"].split("-")[0]
                kind = "worker" if event["event"] == "worker_died" else "template"
                causes.append(f"{who} {kind}: {_cause(event['reason'])}")
            elif event["event"] == "hard_limit":
                causes.append(f"{event['child'].split('-')[0]} worker: hard memory limit")
        return causes

    def handovers(self) -> dict[str, list[float]]:
        """By reason, milliseconds from the decision to recycle to the successor's READY."""
        times = defaultdict(list)
        for event in self.events:
            if event["event"] == "recycled" and not event["gap"]:
                times[event["reason"]].append(float(event["ready_ms"]))
        return dict(times)

    def recoveries(self) -> list[float]:
        """Milliseconds from each death of a worker to the next READY worker of that model."""
        times = []
        waiting: dict[str, list[datetime]] = defaultdict(list)
        for event in self.events:
            model = event.get("child", "").split("-")[0]
            if event["event"] == "worker_ready":
                died = waiting.pop(model, [])
                times += [(_when(event) - when).total_seconds() * 1000 for when in died]
            elif event["event"] == "hard_limit" or _is_death(event):
                waiting[model].append(_when(event))
        return times

    def marks(self) -> list[tuple[float, str]]:
        """Seconds since the start at which a process was recycled, limited or died."""
        kinds = {
            "recycled": "recycled",
            "hard_limit": "hard limit",
            "worker_died": "worker died",
            "template_died": "template died",
        }
        return [
            ((_when(event) - self.origin).total_seconds(), kinds[event["event"]])
            for event in self.events
            if event["event"] in kinds
        ]


def percentile(values: Iterable[float], part: float) -> float | None:
    """Nearest rank; None of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else None


def _when(event: Event) -> datetime:
    return datetime.fromisoformat(event["timestamp"])


def _is_death(event: Event) -> bool:
    """Whether a worker died; the hard limit is an event of its own, before it."""
    return event["event"] == "worker_died" and not event["reason"].endswith("hard memory limit")


def _cause(reason: str) -> str:
    """The kind of death: without figures that differ from one to the next."""
    if reason.startswith("unresponsive"):
        return "unresponsive"
    if reason.startswith("broken pipe protocol"):
        return "garbage in its pipe"
    return re.sub(r"\s+", " ", reason)


def gather(traffic: Traffic, chaos: Chaos, **rest: Any) -> Outcome:
    """The outcome, from those who saw it."""
    return Outcome(
        records=traffic.records,
        failures=traffic.failures,
        wrong=traffic.wrong,
        refusals=traffic.refusals,
        not_serving=traffic.not_serving,
        deeds=chaos.deeds,
        disk_full=chaos.disk_full,
        **rest,
    )
