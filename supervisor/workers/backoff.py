"""How long to wait before the next attempt after a failed start. Pure; used in the front."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

_MOST_DOUBLINGS = 64
"""More doublings would exceed every maximum, and in the end overflow a float."""


@dataclass
class Backoff:
    """Counts failures in a row; a success resets the count. Times are in seconds.

    The first restart is immediate: one dead worker does not mean that the model cannot work. The
    pause after the second failure is `base`, and it doubles with each further one.
    """

    base: float
    maximum: float
    failures_max: int
    random: random.Random = field(default_factory=random.Random)
    failures: int = 0
    """Starts in a row that failed by themselves."""
    kills: int = 0
    """Starts in a row that were killed from outside; they do not make a model FAILED."""

    def succeeded(self) -> None:
        """Reset the counts: something worked."""
        self.failures = self.kills = 0

    def failed(self) -> float:
        """Count a failure; returns the seconds to wait before the next try."""
        self.failures += 1
        return self._pause(self.failures, self.maximum)

    def killed(self, *, out_of_memory: bool) -> float:
        """Count a start that was killed from outside; returns the seconds to wait.

        The pause grows only when memory ran out: then each try takes memory from other processes.
        """
        self.kills += 1
        return self._pause(self.kills, self.maximum if out_of_memory else self.base)

    @property
    def exhausted(self) -> bool:
        """Whether the model counts as FAILED, until an attempt succeeds."""
        return self.failures >= self.failures_max

    def _pause(self, count: int, longest: float) -> float:
        """With a factor from 0.75 to 1.25: models that failed together do not retry together."""
        if count == 1:
            return 0.0
        doublings = min(count - 2, _MOST_DOUBLINGS)
        return min(longest, self.base * 2.0**doublings) * (0.75 + 0.5 * self.random.random())
