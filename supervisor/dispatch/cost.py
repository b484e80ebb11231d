"""How long a request will compute, from its size and what was measured. Pure; used in the front."""

from __future__ import annotations

from dataclasses import dataclass, field

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
