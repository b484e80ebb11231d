"""How long to wait before the next try to start something that failed. Pure; used in the front."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

_MOST_DOUBLINGS = 64
"""More are beyond every maximum, and in the end beyond what a float can be."""


@dataclass
class Backoff:
    """Counts failures in a row; a success forgets them.

    The first restart is immediate: a worker that was killed once is not a model that cannot work.
    """

    base: float
    maximum: float
    failures_max: int
    failed_pause: float
    random: random.Random = field(default_factory=random.Random)
    failures: int = 0

    def succeeded(self) -> None:
        """Something worked: the failures so far say nothing about the next start."""
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
        """Whether so many tries failed that the model counts as FAILED until a probe succeeds."""
        return self.failures >= self.failures_max

    def _jitter(self) -> float:
        """Between 0.75 and 1.25, so that models that failed together do not retry together."""
        return 0.75 + 0.5 * self.random.random()
