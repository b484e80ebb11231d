"""The order of waiting requests: start-time fair queueing. Pure; used in the front.

Each client has a clock, which advances by the cost of its requests. The client with the lowest
clock is served next, so a client with one request does not wait for two hundred of another client.
Deadlines come before fairness: an admitted request should be finished before its deadline.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


def anything(_: object) -> bool:
    """Fits whatever waits."""
    return True


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast requests are served.

    All together get `speed` seconds of work done in a second; each takes `stretch` times its cost.
    """

    speed: float = 1.0
    stretch: float = 1.0


_ONE_BY_ONE = Pace()


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
        """Add a request."""
        start = max(self._now, self._clocks.get(client, 0.0))
        self._clocks[client] = start + cost
        self._entries.append(_Entry(item, client, cost, start, deadline))

    def push_front(self, item: T, client: str, cost: float) -> None:
        """Add a request that has waited before: it goes first, at no cost to its client."""
        self._entries.append(_Entry(item, client, cost, -1.0, math.inf))

    def first(self, fits: Callable[[T], bool] = anything) -> T | None:
        """The request that is next by fairness alone; None when none waits that `fits`."""
        entry = self._first(fits)
        return None if entry is None else entry.item

    def pop(
        self, now: float = 0.0, pace: Pace = _ONE_BY_ONE, fits: Callable[[T], bool] = anything
    ) -> T:
        """Take the next request that `fits`; `now` is on the clock of the deadlines.

        Raises `IndexError` when none waits. Those that do not fit keep their place.
        """
        entry = self._first(fits)
        if entry is None:
            raise IndexError("nothing waits")
        if entry.start >= 0:
            entry = self._pressing(entry, now, pace, fits) or entry
        self._entries.remove(entry)
        self._now = max(self._now, entry.start)
        self._forget_caught_up()
        return entry.item

    def _first(self, fits: Callable[[T], bool]) -> _Entry[T] | None:
        fitting = (entry for entry in self._entries if fits(entry.item))
        return min(fitting, key=lambda entry: entry.start, default=None)

    def _pressing(
        self, fair: _Entry[T], now: float, pace: Pace, fits: Callable[[T], bool]
    ) -> _Entry[T] | None:
        """The entry that must go before `fair` so that no request is late; None without one.

        Entries with an earlier deadline are considered in the order of their deadlines, which keeps
        as many as possible in time. Each is allowed twice its time. An entry that will be late in
        any case is not considered.
        """
        earlier = [
            entry for entry in self._entries if entry.deadline < fair.deadline and fits(entry.item)
        ]
        earlier.sort(key=lambda entry: entry.deadline)
        finish = now
        for entry in earlier:
            finish += entry.cost / pace.speed
            time = entry.cost * pace.stretch
            if -time <= entry.deadline - finish - time < fair.cost / pace.speed:
                return earlier[0]
        return None

    def remove(self, item: T) -> None:
        """Remove a request; its client gets back the cost."""
        for index, entry in enumerate(self._entries):
            if entry.item is item:
                del self._entries[index]
                if entry.client in self._clocks and entry.start >= 0:
                    self._clocks[entry.client] -= entry.cost
                self._forget_caught_up()
                return

    def waiting(self, client: str) -> list[tuple[float, bool]]:
        """Cost of each waiting request, and whether it is from `client`."""
        return [(entry.cost, entry.client == client) for entry in self._entries]

    def items(self) -> Iterator[T]:
        """Every waiting request, in no order."""
        return iter([entry.item for entry in self._entries])

    def _forget_caught_up(self) -> None:
        """Drop clocks that are not ahead; all of them when no request waits."""
        if not self._entries:
            self._clocks.clear()
        self._clocks = {client: at for client, at in self._clocks.items() if at > self._now}
