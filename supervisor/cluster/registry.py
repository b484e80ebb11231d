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
from supervisor.cluster.messages import Overview, ReplicaReport, ReplicaSpec
from supervisor.dispatch.quarantine import Quarantine

FORGET_SECONDS = 5.0
"""A replica that has not reported for so long is gone."""


class Registry:
    """States of replicas, quarantined content and rate limits of one cluster."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._reports: dict[str, tuple[float, ReplicaReport]] = {}
        self._specs: tuple[ReplicaSpec, ...] = ()
        self._quarantine = Quarantine(0.0)
        self._limits: dict[float, RateLimit] = {}
        self._chosen: dict[str, Json] = {}

    def describe(self, specs: Sequence[ReplicaSpec]) -> None:
        """These are the models now."""
        self._specs = tuple(specs)
        self._chosen = {}

    def report(self, report: ReplicaReport) -> dict[bytes, float]:
        """A replica tells its state; it is told which content to refuse, and for how long."""
        self._reports[report.replica] = self._clock(), report
        if report.status.info is not None:
            self._chosen.setdefault(report.spec.model, report.status.info.chosen)
        return self._quarantine.left(self._clock())

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

    def look(self) -> Overview:
        """The models and the replicas, for fronts."""
        reports = self.reports()
        reported = {report.spec.model: report.spec for report in reports}
        return Overview(
            self._specs or tuple(reported.values()),
            reports,
            complete=bool(self._specs),
            young=self._clock() < self._started + FORGET_SECONDS,
        )

    def choose(self, model: str, chosen: Json) -> Json:
        """What all replicas of a model choose, so that their sound is the same: what came first."""
        return self._chosen.setdefault(model, chosen)

    def quarantine(self, digest: bytes, seconds: float) -> None:
        """All replicas are to refuse this content for so long."""
        self._quarantine.hold_until(digest, self._clock() + seconds)

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
