"""What the parts of a cluster know of each other. Runs in an actor of the Ray cluster.

It keeps nothing that cannot be had again: replicas report each second, quarantine and rate limits
are short-lived. When its node dies, Ray starts it on another one, and for a second or two fronts go
on with what they know.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ipc.engines import Json
from supervisor.access.ratelimit import RateLimit
from supervisor.cluster.messages import Quarantined, ReplicaReport, ReplicaSpec

FORGET_SECONDS = 5.0
"""A replica that has not reported for so long is gone."""

_MOST_QUARANTINED = 1024


class Registry:
    """States of replicas, quarantined content and rate limits of one cluster."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reports: dict[str, tuple[float, ReplicaReport]] = {}
        self._specs: tuple[ReplicaSpec, ...] = ()
        self._quarantine: dict[bytes, float] = {}
        self._limits: dict[float, RateLimit] = {}
        self._chosen: dict[str, Json] = {}

    def describe(self, specs: Sequence[ReplicaSpec]) -> None:
        """These are the models now; of each kind, the default one first."""
        self._specs = tuple(specs)
        self._chosen = {}

    def specs(self) -> tuple[ReplicaSpec, ...]:
        """The models. After a restart of this actor, those whose replicas have reported."""
        if self._specs:
            return self._specs
        found = {report.spec.model: report.spec for report in self.reports()}
        return tuple(sorted(found.values(), key=lambda spec: spec.model != spec.kind.value))

    def report(self, report: ReplicaReport) -> list[Quarantined]:
        """A replica tells its state; it is told which content to refuse."""
        self._reports[report.replica] = self._clock(), report
        self._chosen.setdefault(report.spec.model, report.chosen)
        return self.quarantined()

    def leave(self, replica: str) -> None:
        """A replica ends."""
        self._reports.pop(replica, None)

    def reports(self) -> list[ReplicaReport]:
        """The replicas that live."""
        oldest = self._clock() - FORGET_SECONDS
        self._reports = {
            replica: seen for replica, seen in self._reports.items() if seen[0] >= oldest
        }
        return [report for _, report in self._reports.values()]

    def look(self) -> tuple[tuple[ReplicaSpec, ...], list[ReplicaReport]]:
        """The models and the replicas, for fronts."""
        return self.specs(), self.reports()

    def choose(self, model: str, chosen: Json) -> Json:
        """What all replicas of a model choose, so that their sound is the same: what came first."""
        return self._chosen.setdefault(model, chosen)

    def quarantine(self, digest: bytes, seconds: float) -> None:
        """All replicas are to refuse this content for so long."""
        self._quarantine.pop(digest, None)
        while len(self._quarantine) >= _MOST_QUARANTINED:
            del self._quarantine[next(iter(self._quarantine))]
        self._quarantine[digest] = self._clock() + seconds

    def quarantined(self) -> list[Quarantined]:
        """The content that is refused."""
        now = self._clock()
        self._quarantine = {
            digest: until for digest, until in self._quarantine.items() if until > now
        }
        return [Quarantined(digest, until - now) for digest, until in self._quarantine.items()]

    def take(self, client: str, per_minute: float) -> float:
        """Seconds until a client may send a request, as `RateLimit.take`, for all fronts at once.

        Fronts with different limits, while their settings change, have buckets of their own.
        """
        limit = self._limits.get(per_minute)
        if limit is None:
            self._limits = {
                kept: self._limits[kept] for kept in sorted(self._limits, reverse=True)[:3]
            }
            limit = self._limits[per_minute] = RateLimit(per_minute, self._clock)
        return limit.take(client)
