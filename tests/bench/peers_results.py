"""What `make bench-peers` measured, as data and as JSON. Used in the bench's main process.

Every request is in it: a figure of a report is made of all of them, or of none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

SERVICE = "this service"
"""The arm whose figures stand above the line of every ratio."""


@dataclass(frozen=True, slots=True)
class Burst:
    """Clients of one arm that started together, and the end of the last one. Times in seconds."""

    kind: str
    arm: str
    clients: int
    beside: str
    """What else ran: nothing (""), "hog" or "both kinds"."""
    seconds: float
    """From the start to the end of the last answer."""
    sound: float
    """Seconds of sound that were spoken or transcribed."""
    first: list[float]
    """Of each client: until the first sound, or until the transcript."""
    gaps: list[float]
    """Of each stream: how far playback from its first sound on would have run dry."""
    health: list[float]
    """Times of GET /health meanwhile."""
    transcripts: list[str]
    """A hash of each transcript, of the same recordings in each burst."""
    failures: list[str]


@dataclass(frozen=True, slots=True)
class Join:
    """A stream that began while others were under way."""

    arm: str
    others: int
    ended: int
    """How many of the others had ended before its first sound."""
    first: float
    failures: list[str]


@dataclass(frozen=True, slots=True)
class Alone:
    """One arm while no other was in memory. PSS in MB of all its processes; times in seconds."""

    kind: str
    arm: str
    idle_mb: float
    busy_mb: float
    """The highest while the clients of a burst were served."""
    clients: int
    again: list[float]
    """From SIGKILL until the first sound, or transcript, of a request after it."""
    failures: list[str]


@dataclass(slots=True)
class Results:
    """One run."""

    machine: dict[str, Any]
    conditions: dict[str, Any]
    bursts: list[Burst] = field(default_factory=list)
    probes: list[Burst] = field(default_factory=list)
    """Bursts between the regular numbers of clients, to find how many streams stay live."""
    joins: list[Join] = field(default_factory=list)
    alone: list[Alone] = field(default_factory=list)
    minutes: float = 0.0

    def failures(self) -> list[str]:
        """Every request that failed, with the arm and what was measured."""
        told = [
            f"{burst.arm}, {burst.kind}, {burst.clients} clients{burst.beside and ', '}"
            f"{burst.beside}: {failure}"
            for burst in (*self.bursts, *self.probes)
            for failure in burst.failures
        ]
        told += [
            f"{j.arm}, joining {j.others}: {failure}" for j in self.joins for failure in j.failures
        ]
        told += [
            f"{a.arm}, {a.kind}, alone: {failure}" for a in self.alone for failure in a.failures
        ]
        return told

    def save(self, file: Path) -> None:
        """Write them as JSON."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_RESULTS.dump_json(self, indent=1) + b"\n")


def load(file: Path) -> Results:
    """Read what `Results.save` wrote."""
    return _RESULTS.validate_json(file.read_bytes())


_RESULTS = TypeAdapter(Results)
