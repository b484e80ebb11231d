"""How much memory a worker may hold: settings where given, else shares of the container. Pure.

Runs in the front, once at start. What the models need is declared in `ipc.engines`; what is left of
the container after the front and the templates is shared out over the workers and, for each model,
one successor, so that a replacement fits beside what it replaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MB = 1024 * 1024

FRONT_MB = 80
"""The front's share: what it holds under load, and room."""
USABLE = 0.92
"""The part of the container that is planned with; the rest is for the kernel and for surprises."""
SOFT_PART = 0.6
"""A soft limit's part of the hard one, which must leave room to finish what is in flight."""
MAX_HARD_MB = 1024
"""No worker needs more growth than this on however large a machine; then it leaks."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit in bytes, absolute or as growth over what a worker held at READY."""

    size: int
    growth: bool

    @classmethod
    def parse(cls, text: str) -> Limit | None:
        """`"900"` is 900 MB, `"+400"` is 400 MB of growth, `""` is none. Raises `ValueError`."""
        if not text:
            return None
        if not text.removeprefix("+").isascii() or not text.removeprefix("+").isdigit():
            raise ValueError(f"{text!r} is no limit; write 900 for 900 MB, +400 for growth by 400")
        return cls(int(text.removeprefix("+")) * MB, text.startswith("+"))

    def describe(self) -> str:
        """As `parse` reads it."""
        return f"{'+' if self.growth else ''}{self.size // MB}"

    def of(self, baseline: int) -> int:
        """The RSS in bytes that this means for a worker with that baseline."""
        return baseline + self.size if self.growth else self.size


@dataclass(frozen=True, slots=True)
class Need:
    """What one model needs, in MB, and what is wanted for it.

    `template` is the loaded model, `worker` what a worker holds at READY, its USS not its RSS, and
    `request` what a large request takes on top.
    """

    template: int
    worker: int
    request: int
    workers: int
    soft: Limit | None
    hard: Limit | None


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """What the workers of one model are held to."""

    soft: Limit
    hard: Limit


class DoesNotFit(Exception):  # noqa: N818 - named for what happened
    """The limits cannot be kept in this container; the message says so with the numbers."""


def plan(total: int, needs: Mapping[str, Need]) -> dict[str, MemoryLimits]:
    """The limits of each model in a container of `total` bytes. Raises `DoesNotFit`."""
    usable = int(total * USABLE) // MB
    fixed = FRONT_MB + sum(need.template + need.worker * need.workers for need in needs.values())
    claimed = {
        model: need.workers * _growth_mb(need.hard, need)
        for model, need in needs.items()
        if need.hard is not None
    }
    open_slots = sum(need.workers + 1 for model, need in needs.items() if model not in claimed)
    left = usable - fixed - sum(claimed.values())
    share = min(MAX_HARD_MB, left // open_slots) if open_slots else 0
    short = [
        model for model, need in needs.items() if model not in claimed and share < need.request
    ]
    if left < 0 or short:
        raise DoesNotFit(_explain(total, needs, claimed, left))
    return {model: _limits(model, need, share) for model, need in needs.items()}


def _limits(model: str, need: Need, share_mb: int) -> MemoryLimits:
    hard = need.hard or Limit(share_mb * MB, growth=True)
    soft = need.soft or Limit(int(hard.size * SOFT_PART), hard.growth)
    if soft.growth == hard.growth and soft.size >= hard.size:
        raise DoesNotFit(
            f"the soft limit of {model} ({soft.size // MB} MB) must be below its hard limit "
            f"({hard.size // MB} MB)"
        )
    return MemoryLimits(soft, hard)


def _growth_mb(hard: Limit, need: Need) -> int:
    """How much of the container a worker at its hard limit takes beyond what it starts with.

    RSS counts the template's pages too, which a worker shares.
    """
    size = hard.size // MB
    return size if hard.growth else max(0, size - need.template - need.worker)


def _explain(
    total: int,
    needs: Mapping[str, Need],
    claimed: Mapping[str, int],
    left: int,
) -> str:
    parts = [f"front {FRONT_MB}"]
    for model, need in needs.items():
        room = claimed.get(model, (need.workers + 1) * need.request)
        parts.append(
            f"{model} {need.template} for its template, {need.worker * need.workers} for "
            f"{need.workers} worker(s) and {room} for their growth"
        )
    wanted = (
        int(total * USABLE) // MB
        - left
        + sum(
            (need.workers + 1) * need.request
            for model, need in needs.items()
            if model not in claimed
        )
    )
    return (
        f"the memory limits cannot fit: {wanted} MB are needed ({', '.join(parts)}) and "
        f"{int(total * USABLE) // MB} MB of {total // MB} MB can be used; lower the hard limits or "
        "the number of workers, or give the container more memory"
    )
