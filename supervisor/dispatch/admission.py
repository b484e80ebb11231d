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
    start: float,
    end: float,
    waiting: list[tuple[float, bool]],
    speed: float,
    limits: QueueLimits,
) -> Refusal | None:
    """Decide on one request.

    It takes `cost` seconds alone, is expected to start and end in so many seconds, and is `allowed`
    so many until its deadline. `waiting` has the cost of each waiting request and whether it has
    the same client. The workers do `speed` seconds of work in a second.
    """
    own = [seconds for seconds, same in waiting if same]
    if len(waiting) >= limits.requests:
        return Refusal(f"{len(waiting)} requests are waiting already", start / len(waiting))
    if waiting and start > limits.seconds:
        return Refusal(f"{start:.0f} s of work are waiting already", start - limits.seconds)
    if own and len(own) >= limits.client_share * limits.requests:
        return Refusal(f"{len(own)} of your requests are waiting already", start / len(waiting))
    if own and sum(own) / speed > limits.client_share * limits.seconds:
        excess = sum(own) / speed - limits.client_share * limits.seconds
        return Refusal(f"{sum(own):.0f} s of your work are waiting already", excess)
    if end > allowed:
        return Refusal(
            f"it would take {_short(end)} s, but its time limit is {_short(allowed)} s",
            end - allowed,
            hopeless=cost > allowed,
        )
    return None


def _short(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1g}"
