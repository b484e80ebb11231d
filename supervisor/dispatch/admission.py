"""Who may wait: decisions by cost, backlog and deadline. Pure; used in the front."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How much may wait: requests, seconds of work, and what part of both may be one client's."""

    requests: int
    seconds: float
    client_share: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not let in, and in how many seconds it would be.

    `hopeless`: not in the time that it has, however little is waiting.
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

    `cost`, `allowed` (until its deadline) and `running` (what the workers still have to do) are in
    seconds; `waiting` has the cost of each waiting request and whether it is of the same client.
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
            f"it would take {_short(wait + cost)} s, and must be answered in {_short(allowed)} s",
            wait + cost - allowed,
            hopeless=cost > allowed,
        )
    return None


def _short(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1g}"


def _first_leaves(wait: float, waiting: list[tuple[float, bool]]) -> float:
    """When about one place will be free."""
    return wait / max(1, len(waiting))
