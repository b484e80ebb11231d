"""How long to wait before the next attempt after a failed start. Pure; used in the front."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

_MOST_DOUBLINGS = 64
"""More doublings would exceed every maximum, and in the end overflow a float."""


@dataclass
class Backoff:
    """Counts failures in a row; a success resets the count. Times are in seconds.

    The first restart is immediate: one killed worker does not mean that the model cannot work.
    """

    base: float
    maximum: float
    failures_max: int
    failed_pause: float
    random: random.Random = field(default_factory=random.Random)
    failures: int = 0

    def succeeded(self) -> None:
        """Reset the count: something worked."""
        self.failures = 0

    def failed(self) -> float:
        """Count a failure; returns the seconds to wait before the next try."""
        self.failures += 1
        if self.exhausted:
            return self.failed_pause * self._jitter()
        if self.failures == 1:
            return 0.0
        doublings = min(self.failures - 2, _MOST_DOUBLINGS)
        return min(self.maximum, self.base * 2.0**doublings) * self._jitter()

    @property
    def exhausted(self) -> bool:
        """Whether the model counts as FAILED, until an attempt succeeds."""
        return self.failures >= self.failures_max

    def _jitter(self) -> float:
        """A factor from 0.75 to 1.25, so that models that failed together do not retry together."""
        return 0.75 + 0.5 * self.random.random()
