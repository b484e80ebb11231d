"""When a request will start and end, if nothing else comes. Pure; used in the front."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """A request as work: the seconds that it, or the rest of it, takes alone."""

    cost: float
    live: bool = False
    """Whether it needs a slot for live streams."""


@dataclass(frozen=True, slots=True)
class Room:
    """How many requests run at once, and how many of them may be live streams."""

    slots: int
    live: int
    stretch: Callable[[int], float]
    """How many times as long as alone each takes when so many run at once."""


def forecast(
    running: Iterable[Load], waiting: Iterable[Load], newcomer: Load, room: Room
) -> tuple[float, float]:
    """The seconds until `newcomer` starts, as the last of those that wait, and until it ends.

    All that run get the same share. Live streams that wait for a slot do not hold up the others.
    """
    queues: dict[bool, deque[tuple[int, float]]] = {False: deque(), True: deque()}
    last = 0
    for last, load in enumerate([*waiting, newcomer]):
        queues[load.live].append((last, load.cost))
    heap = [(load.cost, load.live, -1) for load in running]
    heapq.heapify(heap)
    live = sum(is_live for _, is_live, _ in heap)
    start = clock = done = 0.0
    """`done`: seconds of work that a request would have got that ran from the beginning."""
    while True:
        while len(heap) < room.slots:
            ready = [kind for kind in queues if queues[kind] and (not kind or live < room.live)]
            if not ready:
                break
            is_live = min(ready, key=lambda kind: queues[kind][0])
            number, cost = queues[is_live].popleft()
            heapq.heappush(heap, (done + cost, is_live, number))
            live += is_live
            if number == last:
                start = clock
        at, is_live, number = heapq.heappop(heap)
        clock += (at - done) * room.stretch(len(heap) + 1)
        done = at
        live -= is_live
        if number == last:
            return start, clock
