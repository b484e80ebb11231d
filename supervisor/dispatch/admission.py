"""Whether a request may wait: decided by cost, backlog and deadline. Pure; used in the front."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How much may wait: requests, seconds of work, and the share of both for one client."""

    requests: int
    seconds: float
    client_share: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused, and in how many seconds it may be admitted.

    `hopeless`: it cannot meet its deadline even when nothing else waits.
    """

    reason: str
    retry_after: float
    hopeless: bool = False


def admit(
    *,
    cost: float,
    allowed: float,
    running: float,
    waiting: list[tuple[float, bool]],
    workers: int,
    limits: QueueLimits,
) -> Refusal | None:
    """Decide on one request.

    `cost`, `allowed` (until its deadline) and `running` (the rest of the work in the workers) are
    in seconds. `waiting` has the cost of each waiting request and whether it has the same client.
    """
    backlog = running + sum(seconds for seconds, _ in waiting)
    wait = backlog / workers
    own = [seconds for seconds, same in waiting if same]
    if len(waiting) >= limits.requests:
        return Refusal(f"{len(waiting)} requests are waiting already", _first_leaves(wait, waiting))
    if waiting and wait > limits.seconds:
        return Refusal(f"{wait:.0f} s of work are waiting already", wait - limits.seconds)
    if own and len(own) >= limits.client_share * limits.requests:
        return Refusal(
            f"{len(own)} of your requests are waiting already", _first_leaves(wait, waiting)
        )
    if own and sum(own) / workers > limits.client_share * limits.seconds:
        excess = sum(own) / workers - limits.client_share * limits.seconds
        return Refusal(f"{sum(own):.0f} s of your work are waiting already", excess)
    if wait + cost > allowed:
        return Refusal(
            f"it would take {_short(wait + cost)} s, but its time limit is {_short(allowed)} s",
            wait + cost - allowed,
            hopeless=cost > allowed,
        )
    return None


def _short(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1g}"


def _first_leaves(wait: float, waiting: list[tuple[float, bool]]) -> float:
    """About how many seconds pass until a place is free."""
    return wait / max(1, len(waiting))
