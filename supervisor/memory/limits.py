"""The memory limits of workers: from the settings, else a share of the container's memory. Pure.

Runs in the front, once at start. `ipc.engines` declares what the models need. The front and the
templates take their part of the container. The rest is divided among the workers and, for each
model, one successor, so that a new worker fits beside the one it replaces. Where that is too much,
no successor is planned for: a worker then ends before the one that replaces it starts.

Models that are loaded on demand are not all loaded at once. They share the room that is planned for
successors, so that other models' workers are not smaller than without them, if at all possible.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

MB = 1024 * 1024

FRONT_MB = 80
"""Memory reserved for the front, in MB: its usage under load, with a margin."""
USABLE = 0.92
"""The part of the container's memory that may be planned. The kernel needs some of the rest."""
SOFT_PART = 0.6
"""The soft limit as a part of the hard limit. The gap lets requests in progress finish."""
MAX_HARD_MB = 1024
"""The highest default hard limit, in MB of growth. A worker that grows more than this leaks."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit in bytes: absolute, or as growth over the worker's memory at READY."""

    size: int
    growth: bool

    @classmethod
    def parse(cls, text: str) -> Limit | None:
        """`"900"` is 900 MB, `"+400"` is 400 MB of growth, `""` is None. Raises `ValueError`."""
        if not text:
            return None
        if not text.removeprefix("+").isascii() or not text.removeprefix("+").isdigit():
            raise ValueError(
                f"{text!r} is not a limit; write 900 for 900 MB, +400 for 400 MB of growth"
            )
        return cls(int(text.removeprefix("+")) * MB, text.startswith("+"))

    def describe(self) -> str:
        """The limit in the notation that `parse` reads."""
        return f"{'+' if self.growth else ''}{self.size // MB}"

    def of(self, baseline: int) -> int:
        """The limit as RSS in bytes, for a worker that had `baseline` bytes at READY."""
        return baseline + self.size if self.growth else self.size


@dataclass(frozen=True, slots=True)
class Need:
    """What one model needs, in MB, and what the settings ask for.

    `template` is the memory of the loaded model. `worker` is the USS (not the RSS) of a worker at
    READY. `request` is what a large request needs in addition, and `further` what each further
    request at once does. A worker serves `capacity` requests at once; where memory is short this
    may be lowered as far as to `least`. A model may be loaded `on_demand` only.
    """

    template: int
    worker: int
    request: int
    workers: int
    soft: Limit | None
    hard: Limit | None
    further: int = 0
    capacity: int = 1
    least: int = 1
    on_demand: bool = False

    @property
    def growth(self) -> int:
        """What a worker needs, beyond its memory at READY, for all requests that it serves."""
        return self.request + (self.capacity - 1) * self.further

    @property
    def fixed(self) -> int:
        """What it needs before any request."""
        return self.template + self.worker * self.workers

    @property
    def size(self) -> int:
        """What it needs with all requests that it serves, or at its hard limit."""
        growth = self.growth if self.hard is None else _growth_mb(self.hard, self)
        return self.fixed + self.workers * growth

    @property
    def smallest(self) -> Need:
        """The same with the lowest capacity that is allowed."""
        return replace(self, capacity=self.least)

    def within(self, growth: int) -> Need:
        """The same with the highest capacity for which `growth` MB are enough, if there is one."""
        if self.growth <= growth or not self.further:
            return self
        fitting = 1 + (growth - self.request) // self.further
        return replace(self, capacity=max(self.least, fitting))


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """The memory limits of one model's workers."""

    soft: Limit
    hard: Limit


class DoesNotFit(Exception):  # noqa: N818 - named for what happened
    """The limits do not fit into the container. The message gives the numbers."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one model gets: its memory limits, and how many requests a worker serves at once.

    `claim` is what it takes, in MB, when it is loaded.
    """

    limits: MemoryLimits
    capacity: int
    claim: int


def plan(total: int, needs: Mapping[str, Need]) -> dict[str, Plan]:
    """The plan for each model in a container of `total` bytes. Raises `DoesNotFit`.

    A model that is loaded on demand is left out where it does not fit beside the others.
    """
    steady = {model: need for model, need in needs.items() if not need.on_demand}
    demanded = [need for need in needs.values() if need.on_demand]
    usable = int(total * USABLE) // MB
    fixed = FRONT_MB + sum(need.fixed for need in steady.values())
    claimed = {
        model: need.workers * _growth_mb(need.hard, need)
        for model, need in steady.items()
        if need.hard is not None
    }
    left = usable - fixed - sum(claimed.values())
    sharing = [need for model, need in steady.items() if model not in claimed]
    level = _level_beside(left, sharing, demanded)
    if level is None:
        raise DoesNotFit(_explain(total, steady, claimed, left))

    def planned(model: str, need: Need) -> Plan:
        growth = _growth_mb(need.hard, need) if need.hard else max(level, need.smallest.growth)
        return _plan(model, need, growth)

    plans = {model: planned(model, need) for model, need in steady.items()}
    room = room_on_demand(total, needs, plans)
    for model, need in needs.items():
        if not need.on_demand or need.smallest.size > room:
            continue
        if need.hard is None:
            # Twice what it needs, if there is so much: what it needs is an estimate.
            growth = min(2 * need.growth, (room - need.fixed) // need.workers)
        else:
            growth = _growth_mb(need.hard, need)
        plans[model] = _plan(model, need, growth)
    return plans


def room_on_demand(total: int, needs: Mapping[str, Need], plans: Mapping[str, Plan]) -> int:
    """How many MB models that are loaded on demand may claim together."""
    steady = sum(each.claim for model, each in plans.items() if not needs[model].on_demand)
    return int(total * USABLE) // MB - FRONT_MB - steady


def _plan(model: str, need: Need, growth: int) -> Plan:
    fitting = need.within(growth)
    claim = need.fixed + need.workers * growth
    return Plan(_limits(model, fitting, growth), fitting.capacity, claim)


def _level_beside(left: int, needs: Sequence[Need], demanded: Sequence[Need]) -> int | None:
    """The share of each worker; None: `left` MB are not enough.

    Beside the workers there is room for the largest of `demanded` models, and for as many of its
    requests as nobody else must serve fewer for; at least for the fewest. Those for which there is
    no room are left out.
    """
    by_size = sorted(demanded, key=lambda need: need.smallest.size)
    while True:
        largest = by_size[-1] if by_size else None
        for room in _sizes(largest) if largest else (0,):
            level = _level(left, needs, successors=1, beside=room)
            if level is None:
                level = _level(left, needs, successors=0, beside=room)
            enough = level is not None and all(need.growth <= level for need in needs)
            if level is not None and (enough or largest is None or room == largest.smallest.size):
                return level
        if not by_size:
            return None
        by_size.pop()


def _sizes(need: Need) -> list[int]:
    """What a model needs with each capacity that it may have, the highest first."""
    return [
        replace(need, capacity=capacity).size
        for capacity in range(need.capacity, need.least - 1, -1)
    ]


def _level(left: int, needs: Sequence[Need], *, successors: int, beside: int) -> int | None:
    """The highest share, in MB, of each worker and of so many successors of each model.

    A worker whose large request needs more gets that much. With the workers alone, `beside` MB are
    free. None: `left` MB are not enough.
    """

    def taken(level: int, count: int) -> int:
        return sum((need.workers + count) * max(level, need.smallest.growth) for need in needs)

    def too_much(level: int) -> bool:
        return taken(level, successors) > left or taken(level, 0) + beside > left

    if too_much(0):
        return None
    return bisect_right(range(MAX_HARD_MB + 1), False, key=too_much) - 1


def _limits(model: str, need: Need, share_mb: int) -> MemoryLimits:
    hard = need.hard or Limit(share_mb * MB, growth=True)
    soft = need.soft or Limit(int(hard.size * SOFT_PART), hard.growth)
    if soft.growth == hard.growth and soft.size >= hard.size:
        raise DoesNotFit(
            f"the soft limit of {model} ({soft.size // MB} MB) must be below its hard limit "
            f"({hard.size // MB} MB)"
        )
    return MemoryLimits(soft, hard)


def _growth_mb(hard: Limit, need: Need) -> int:
    """How much memory a worker at its hard limit takes beyond its memory at the start.

    An absolute limit counts RSS, which includes the pages that are shared with the template.
    """
    size = hard.size // MB
    return size if hard.growth else max(0, size - need.template - need.worker)


def _explain(
    total: int,
    needs: Mapping[str, Need],
    claimed: Mapping[str, int],
    left: int,
) -> str:
    parts = [f"front {FRONT_MB}"]
    wanted = int(total * USABLE) // MB - left
    for model, need in needs.items():
        room = claimed.get(model, need.workers * need.smallest.growth)
        parts.append(
            f"{model} {need.template} for its template, {need.worker * need.workers} for "
            f"{need.workers} worker(s) and {room} for their growth"
        )
        wanted += 0 if model in claimed else room
    return (
        f"the memory limits cannot fit: {wanted} MB are needed ({', '.join(parts)}) and "
        f"{int(total * USABLE) // MB} MB of {total // MB} MB can be used; lower the hard limits, "
        "the number of workers or their capacity, run fewer models (VOICE_ENGINE_MODELS), or give "
        "the container more memory"
    )
