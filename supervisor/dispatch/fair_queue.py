"""In which order waiting requests are served: start-time fair queueing. Pure; used in the front.

Each client has a clock that runs by the cost of what it sent, and the client that is furthest
behind is served next. A client with one request does not wait for another's two hundred. Fairness
ends where it would break a promise: what was admitted is served before its deadline.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


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

    def first(self) -> T | None:
        """The request that fairness would serve next; None when none waits."""
        entry = min(self._entries, key=lambda entry: entry.start, default=None)
        return None if entry is None else entry.item

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
