"""When a worker is replaced. Pure: facts in, a reason out. Used in the front."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from supervisor.memory.limits import MemoryLimits

WorkerT = TypeVar("WorkerT")


class Reason(Enum):
    """Why the front ends a worker that has done nothing wrong."""

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
    """What one model's workers are held to; times in seconds, 0 for no bound.

    `jitter` is the part by which each worker's bounds on requests and age differ, so that workers
    that were born together are not replaced together.
    """

    limits: MemoryLimits
    soft_samples: int
    min_lifetime: float
    max_requests: int
    max_age: float
    jitter: float


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one worker is held to; None where the limit lies below what it held at READY.

    Such a limit cannot be kept by any worker. Obeying it would replace workers for ever.
    """

    soft: int | None
    hard: int | None


def bounds_for(baseline_rss: int, limits: MemoryLimits) -> Bounds:
    """The bounds, in bytes of RSS, of a worker that held `baseline_rss` at READY."""
    soft, hard = limits.soft.of(baseline_rss), limits.hard.of(baseline_rss)
    return Bounds(
        soft if soft > baseline_rss else None,
        hard if hard > baseline_rss else None,
    )


@dataclass(frozen=True, slots=True)
class Sample:
    """What is known of one worker at one moment.

    `over_soft` counts the samples in a row, this one included, that were over the soft limit;
    `spread` in [-1, 1] was drawn when it was born.
    """

    rss: int
    bounds: Bounds
    over_soft: int
    age: float
    requests: int
    spread: float


def decide(sample: Sample, policy: Policy) -> Reason | None:
    """Why to end the worker now, or None. `HARD_LIMIT` means at once, the rest with a successor."""
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
    """Which worker to replace because the container is nearly full; None while it is not.

    `growth` has, for each worker that can be replaced, the bytes it holds over its baseline. The
    one that gives back most goes. Nobody goes for less than a tenth of what is missing: replacing
    workers cannot mend memory that others hold.
    """
    excess = usage - int(limit * threshold)
    if excess <= 0:
        return None
    worker, most = max(growth, key=lambda entry: entry[1], default=(None, 0))
    return worker if most > excess // 10 else None
