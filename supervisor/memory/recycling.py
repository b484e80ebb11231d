"""When a worker is replaced. Pure functions: facts in, a reason out. Used in the front."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from supervisor.memory.limits import MemoryLimits

WorkerT = TypeVar("WorkerT")


class Reason(Enum):
    """Why the front replaces a worker that has not failed."""

    SOFT_LIMIT = "soft memory limit"
    HARD_LIMIT = "hard memory limit"
    PRESSURE = "memory of the container"
    REQUESTS = "number of requests"
    AGE = "age"
    FORCED = "forced by an operator"
    RELOADED = "reloaded"
    TEMPLATE_DIED = "its template died"


@dataclass(frozen=True, slots=True)
class Policy:
    """The replacement rules of one model's workers. Times are in seconds; 0 = unlimited.

    `max_requests` and `max_age` vary by the part `jitter` from worker to worker, so that workers
    that started together are not replaced together.
    """

    limits: MemoryLimits
    soft_samples: int
    min_lifetime: float
    max_requests: int
    max_age: float
    jitter: float


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits of one worker, in bytes of RSS; None where the limit is below its RSS at READY.

    No worker can stay below such a limit. Enforcing it would replace workers for ever.
    """

    soft: int | None
    hard: int | None


def bounds_for(baseline_rss: int, limits: MemoryLimits) -> Bounds:
    """The bounds of a worker whose RSS at READY was `baseline_rss` bytes."""
    soft, hard = limits.soft.of(baseline_rss), limits.hard.of(baseline_rss)
    return Bounds(
        soft if soft > baseline_rss else None,
        hard if hard > baseline_rss else None,
    )


@dataclass(frozen=True, slots=True)
class Sample:
    """The state of one worker at one moment.

    `over_soft` counts consecutive samples over the soft limit, including this one. `spread`, in
    [-1, 1], was drawn at random when the worker started; it scales the jitter.
    """

    rss: int
    bounds: Bounds
    over_soft: int
    age: float
    requests: int
    spread: float


def decide(sample: Sample, policy: Policy) -> Reason | None:
    """Why to replace the worker now, or None.

    `HARD_LIMIT` means: kill it at once. With every other reason a successor starts first.
    """
    if sample.bounds.hard is not None and sample.rss > sample.bounds.hard:
        return Reason.HARD_LIMIT
    if sample.age < policy.min_lifetime:
        return None
    factor = 1 + policy.jitter * sample.spread
    if sample.over_soft >= policy.soft_samples:
        return Reason.SOFT_LIMIT
    if policy.max_requests and sample.requests >= policy.max_requests * factor:
        return Reason.REQUESTS
    if policy.max_age and sample.age >= policy.max_age * factor:
        return Reason.AGE
    return None


def relieve(
    usage: int, limit: int, threshold: float, growth: Iterable[tuple[WorkerT, int]]
) -> WorkerT | None:
    """The worker to replace because the container is nearly full; None while it is not.

    `growth` has each worker that can be replaced, with its growth over its baseline in bytes. The
    worker with the largest growth is chosen, but only if it frees more than a tenth of the excess:
    replacing workers does not help when other processes hold the memory.
    """
    excess = usage - int(limit * threshold)
    if excess <= 0:
        return None
    worker, most = max(growth, key=lambda entry: entry[1], default=(None, 0))
    return worker if most > excess // 10 else None
