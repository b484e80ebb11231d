"""How fast requests are that run at once, measured. Pure; used in the front.

The cost of a request is the seconds that it takes alone. Each other request that runs meanwhile
makes it longer by the part `slowdown`, between 0 (as if each had a machine of its own) and 1 (as if
they took turns). That is how a batch behaves: a step costs something once, and something more for
each request in it.
"""

from __future__ import annotations

from collections.abc import Sequence

_FIRST_SLOWDOWN = 1 / 3
"""The guess until the first measurement: that of a speech model on two cores."""
_WEIGHT = 0.1
"""How much the last request counts in the moving averages."""


class Company:
    """How many requests have run at once, and how long."""

    def __init__(self) -> None:
        self._running = 0
        self._since = 0.0
        self._seconds = [0.0]

    def changed(self, running: int, now: float) -> None:
        """From `now` on so many requests run."""
        self._seconds = self.seconds(now)
        self._seconds += [0.0] * (running + 1 - len(self._seconds))
        self._running, self._since = running, now

    def seconds(self, now: float) -> list[float]:
        """The seconds until `now` in which n requests ran, at index n."""
        seconds = self._seconds.copy()
        seconds[self._running] += now - self._since
        return seconds

    def since(self, before: Sequence[float], now: float) -> list[float]:
        """The same for the time since `seconds` was `before`."""
        seconds = self.seconds(now)
        for n, earlier in enumerate(before):
            seconds[n] -= earlier
        return seconds


class Throughput:
    """The slowdown of requests that run at once, learned from those that are finished.

    `spent` has the seconds that a request ran as one of n, at index n.
    """

    def __init__(self) -> None:
        self.slowdown = _FIRST_SLOWDOWN
        self._delay = self._exposure = 0.0
        """Moving averages: by how much requests took longer, and would have with a slowdown of 1.

        Both in seconds.
        """

    def stretch(self, n: int) -> float:
        """How many times as long as alone a request takes as one of `n`."""
        return 1 + self.slowdown * (n - 1)

    def speed(self, n: int) -> float:
        """Seconds of work that `n` requests at once get done in a second: 1 to n."""
        return n / self.stretch(n)

    def work(self, spent: Sequence[float]) -> float:
        """Seconds of work that a request has got: what it would have taken alone."""
        return sum(self._parts(spent))

    def alone(self, spent: Sequence[float]) -> float:
        """The part of that work that a request has got while no other one ran, 0 to 1."""
        work = self.work(spent)
        return spent[1] / work if work > 0 else 1.0

    def learn(self, spent: Sequence[float], cost: float) -> None:
        """A request of this cost is finished."""
        parts = self._parts(spent)
        work = sum(parts)
        if work <= 0 or cost <= 0:
            return
        others = sum(part * n for n, part in enumerate(parts)) / work  # on average
        if others <= 0:
            return  # it says nothing about company
        if self._exposure == 0:  # the guess weighs as much as the first request
            self._exposure = cost * others
            self._delay = self._exposure * self.slowdown
        self._delay += _WEIGHT * (sum(spent[1:]) - cost - self._delay)
        self._exposure += _WEIGHT * (cost * others - self._exposure)
        self.slowdown = min(max(self._delay / self._exposure, 0.0), 1.0)

    def _parts(self, spent: Sequence[float]) -> list[float]:
        """Seconds of work that a request got beside n others, at index n."""
        return [seconds / self.stretch(n) for n, seconds in enumerate(spent) if n]
