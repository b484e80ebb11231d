"""Who may wait, and who is next: cost, backlog, fairness. Pure; used in the front.

The cost of a request is how long a worker will compute for it, estimated from its size and the
speed measured on requests of its kind. Waiting requests are ordered by start-time fair queueing:
each client has a clock that runs by the cost of what it sent, and the client that is furthest
behind is served next. A client with one request does not wait for another's two hundred. Fairness
ends where it would break a promise: what was let in is served before its deadline.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

SOUND = "sound"
"""The kind of a recording whose seconds are known."""


@dataclass(slots=True)
class Speed:
    """How long requests compute: a part that each costs and a part by its size, per kind.

    `initial` is the guess in seconds per unit before anything was measured. Units are the caller's:
    characters of a text, seconds or bytes of a recording. A few words with a long reference
    recording take as long as many words do, and must not make a long text look hopeless: so both
    parts are fitted to what was measured, as moving averages.
    """

    initial: dict[str, float]
    weight: float = 0.2
    _measured: dict[str, _Moments] = field(default_factory=dict)

    def estimate(self, kind: str, size: float, longest: float | None = None) -> float:
        """Seconds that a request of this kind and size will take.

        `longest`: of a recording, how many seconds of sound it may hold. A dense file is taken for
        no longer, however many bytes it has.
        """
        estimate = self._estimate(kind, size)
        return estimate if longest is None else min(estimate, self._estimate(SOUND, longest))

    def _estimate(self, kind: str, size: float) -> float:
        moments = self._measured.get(kind)
        if moments is None:
            return self.initial[kind] * size
        fixed, per_unit = moments.fit(self.initial[kind])
        return fixed + per_unit * size

    def measured(self, kind: str, size: float, seconds: float, sound: float | None = None) -> None:
        """A request of this kind and size took that long; `sound`: it held so many seconds."""
        if sound is not None:
            self._measure(SOUND, sound, seconds)
        if sound is None or kind != SOUND:
            self._measure(kind, size, seconds)

    def _measure(self, kind: str, size: float, seconds: float) -> None:
        if kind in self._measured:
            self._measured[kind].add(size, seconds, self.weight)
        else:
            self._measured[kind] = _Moments(size, seconds)


_TRUSTED_SECONDS = 2.0
"""Sizes that differ by less than this much work say little of what size costs."""


@dataclass(slots=True)
class _Moments:
    """Moving averages of sizes and seconds, of their squares and products."""

    size: float
    seconds: float
    variance: float = 0.0
    covariance: float = 0.0

    def add(self, size: float, seconds: float, weight: float) -> None:
        by_size, by_seconds = size - self.size, seconds - self.seconds
        self.size += weight * by_size
        self.seconds += weight * by_seconds
        self.variance = (1 - weight) * (self.variance + weight * by_size**2)
        self.covariance = (1 - weight) * (self.covariance + weight * by_size * by_seconds)

    def fit(self, initial: float) -> tuple[float, float]:
        """Fixed seconds and seconds per unit; while all sizes are alike the guess stands for the
        latter (ridge regression towards it). Neither is below zero.
        """
        trust = (_TRUSTED_SECONDS / initial) ** 2
        per_unit = (self.covariance + trust * initial) / (self.variance + trust)
        per_unit = min(max(per_unit, 0.0), self.seconds / max(self.size, 1.0))
        return self.seconds - per_unit * self.size, per_unit


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may wait: requests, seconds of work, and what part of both may be one client's."""

    requests: int
    seconds: float
    client_share: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not let in, and in how many seconds it would be.

    `hopeless`: not in the time that it has, however little is waiting.
    """

    reason: str
    retry_after: float
    hopeless: bool = False


def admit(
    *,
    cost: float,
    allowed: float,
    running: float,
    waiting: list[tuple[float, bool]],
    workers: int,
    limits: Limits,
) -> Refusal | None:
    """Decide on one request.

    `cost`, `allowed` (until its deadline) and `running` (what the workers still have to do) are in
    seconds; `waiting` has the cost of each waiting request and whether it is of the same client.
    """
    backlog = running + sum(seconds for seconds, _ in waiting)
    wait = backlog / workers
    own = [seconds for seconds, same in waiting if same]
    if len(waiting) >= limits.requests:
        return Refusal(f"{len(waiting)} requests are waiting already", _first_leaves(wait, waiting))
    if waiting and wait > limits.seconds:
        return Refusal(f"{wait:.0f} s of work are waiting already", wait - limits.seconds)
    if own and len(own) >= limits.client_share * limits.requests:
        return Refusal(
            f"{len(own)} of your requests are waiting already", _first_leaves(wait, waiting)
        )
    if own and sum(own) / workers > limits.client_share * limits.seconds:
        excess = sum(own) / workers - limits.client_share * limits.seconds
        return Refusal(f"{sum(own):.0f} s of your work are waiting already", excess)
    if wait + cost > allowed:
        return Refusal(
            f"it would take {_short(wait + cost)} s, and must be answered in {_short(allowed)} s",
            wait + cost - allowed,
            hopeless=cost > allowed,
        )
    return None


def _short(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1g}"


def _first_leaves(wait: float, waiting: list[tuple[float, bool]]) -> float:
    """When about one place will be free."""
    return wait / max(1, len(waiting))


@dataclass(slots=True, eq=False)
class _Entry(Generic[T]):
    item: T
    client: str
    cost: float
    start: float
    deadline: float


class FairQueue(Generic[T]):
    """Waiting requests, in the order in which they should be served."""

    def __init__(self) -> None:
        self._entries: list[_Entry[T]] = []
        self._clocks: dict[str, float] = {}
        self._now = 0.0

    def __len__(self) -> int:
        return len(self._entries)

    def push(self, item: T, client: str, cost: float, deadline: float = math.inf) -> None:
        """Let a request wait."""
        start = max(self._now, self._clocks.get(client, 0.0))
        self._clocks[client] = start + cost
        self._entries.append(_Entry(item, client, cost, start, deadline))

    def push_front(self, item: T, client: str, cost: float) -> None:
        """Let a request wait that has waited before: it goes first, at no cost to its client."""
        self._entries.append(_Entry(item, client, cost, -1.0, math.inf))

    def pop(self, now: float = 0.0, workers: int = 1) -> T:
        """Take the next request; `now` is on the clock of the deadlines.

        Raises `IndexError` when none waits.
        """
        if not self._entries:
            raise IndexError("nothing waits")
        entry = min(self._entries, key=lambda entry: entry.start)
        if entry.start >= 0:
            entry = self._pressing(entry, now, workers) or entry
        self._entries.remove(entry)
        self._now = max(self._now, entry.start)
        self._forget_caught_up()
        return entry.item

    def _pressing(self, fair: _Entry[T], now: float, workers: int) -> _Entry[T] | None:
        """What must go before `fair`, since some request would be late otherwise.

        Served by deadline, as many are in time as can be. Each may take twice its cost; one that is
        late in any case presses nobody.
        """
        earlier = [entry for entry in self._entries if entry.deadline < fair.deadline]
        earlier.sort(key=lambda entry: entry.deadline)
        finish = now
        for entry in earlier:
            finish += entry.cost / workers
            spare = entry.deadline - finish - entry.cost
            if -entry.cost <= spare < fair.cost / workers:
                return earlier[0]
        return None

    def remove(self, item: T) -> None:
        """A request waits no more; its client gets back what it would have cost."""
        for index, entry in enumerate(self._entries):
            if entry.item is item:
                del self._entries[index]
                if entry.client in self._clocks and entry.start >= 0:
                    self._clocks[entry.client] -= entry.cost
                self._forget_caught_up()
                return

    def waiting(self, client: str) -> list[tuple[float, bool]]:
        """Cost of each waiting request, and whether it is of that client."""
        return [(entry.cost, entry.client == client) for entry in self._entries]

    def items(self) -> Iterator[T]:
        """Every waiting request, in no order."""
        return iter([entry.item for entry in self._entries])

    def _forget_caught_up(self) -> None:
        """A clock that is not ahead tells nothing, and none does when nobody waits."""
        if not self._entries:
            self._clocks.clear()
        self._clocks = {client: at for client, at in self._clocks.items() if at > self._now}
