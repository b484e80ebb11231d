"""Estimates of computing time, from sizes and earlier measurements. Pure; used in the front."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Unit(Enum):
    """The unit of a request's size."""

    CHARACTERS = "characters of a text"
    VOICES = "voices to encode"
    SECONDS = "seconds of a recording"
    BYTES = "bytes of a recording whose seconds are not known"


@dataclass(frozen=True, slots=True)
class Work:
    """The work of one request. `longest` is the longest its recording may be, in seconds."""

    unit: Unit
    size: float
    longest: float | None = None


INITIAL_SPEED = {
    Unit.CHARACTERS: 0.02,
    Unit.VOICES: 2.0,
    Unit.SECONDS: 0.06,
    Unit.BYTES: 2e-5,
}
"""Seconds of computing per unit, on one core: the guess until the first measurement."""

_COMPANY = 0.25
"""How much a request counts that never ran alone."""


@dataclass(slots=True)
class CostModel:
    """Estimates how long requests compute: for each unit a fixed part, and a part by size.

    `initial` is the guess in seconds per unit before the first measurement. Both parts are fitted
    to moving averages of the measurements. With a part by size alone, a few words with a long
    reference recording, which take as long as many words, would make the estimate for a long text
    far too high.
    """

    initial: dict[Unit, float] = field(default_factory=lambda: dict(INITIAL_SPEED))
    weight: float = 0.2
    _measured: dict[Unit, _Moments] = field(default_factory=dict)

    def estimate(self, work: Work) -> float:
        """Seconds that a request of this size will take, alone.

        The estimate for a recording is never above that for the longest one allowed, however many
        bytes it has.
        """
        estimate = self._estimate(work.unit, work.size)
        if work.longest is None:
            return estimate
        return min(estimate, self._estimate(Unit.SECONDS, work.longest))

    def _estimate(self, unit: Unit, size: float) -> float:
        moments = self._measured.get(unit)
        if moments is None:
            return self.initial[unit] * size
        fixed, per_unit = moments.fit(self.initial[unit])
        return fixed + per_unit * size

    def knows(self, work: Work) -> bool:
        """Whether a request of this unit has been measured, so that an estimate is no guess."""
        return work.unit in self._measured

    def measured(
        self, work: Work, seconds: float, sound: float | None = None, alone: float = 1.0
    ) -> None:
        """Record that a request of this size took `seconds`; `sound`: seconds of its recording.

        `alone` is the part of it during which no other request ran. What ran in company counts
        less: its seconds follow from the estimated slowdown, which itself follows from the costs.
        """
        weight = self.weight * (alone + _COMPANY * (1 - alone))
        if sound is not None:
            self._measure(Unit.SECONDS, sound, seconds, weight)
        if sound is None or work.unit is not Unit.SECONDS:
            self._measure(work.unit, work.size, seconds, weight)

    def _measure(self, unit: Unit, size: float, seconds: float, weight: float) -> None:
        if unit in self._measured:
            self._measured[unit].add(size, seconds, weight)
        else:
            self._measured[unit] = _Moments(size, seconds)


_TRUSTED_SECONDS = 2.0
"""Sizes that differ by less than this many seconds of work say little about the cost by size."""


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
        """Fixed seconds, and seconds per unit; neither is below zero.

        While all sizes are similar, seconds per unit stay near the guess (ridge regression).
        """
        trust = (_TRUSTED_SECONDS / initial) ** 2
        per_unit = (self.covariance + trust * initial) / (self.variance + trust)
        per_unit = min(max(per_unit, 0.0), self.seconds / max(self.size, 1.0))
        return self.seconds - per_unit * self.size, per_unit
