"""What the theory of queues says in closed form, for the simulation to be compared with.

Computes only; used by `tests.bench.simulate` and its test.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Expected:
    """A queue in equilibrium."""

    waits: float
    """The share of requests that find no free place."""
    wait: float
    """Mean seconds until a place is free, of all requests."""
    response: float
    """Mean seconds from arrival to the end."""


def erlang_c(arrivals: float, service: float, servers: int) -> Expected:
    """M/M/c: requests per second, mean seconds of one, and how many are served at once."""
    offered = arrivals * service
    if offered >= servers:
        raise ValueError(f"{offered:.2f} servers are needed, there are {servers}")
    blocked = 1.0  # Erlang B, by its recursion
    for count in range(1, servers + 1):
        blocked = offered * blocked / (count + offered * blocked)
    waits = blocked / (1 - offered / servers * (1 - blocked))
    wait = waits * service / (servers - offered)
    return Expected(waits, wait, wait + service)


def shared(arrivals: float, work: float, speed: tuple[float, ...]) -> Expected:
    """The same for one replica that does `speed[n - 1]` of work in a second with n at once.

    The number of requests in it is a birth-death process: they end at `speed[n - 1] / work`, and
    beyond `len(speed)` the others wait. M/M/c is the case in which speed grows with n.
    """
    rates = [each / work for each in speed]
    ratio = arrivals / rates[-1]
    if ratio >= 1:
        raise ValueError("it would never end")
    shares = [1.0]
    for rate in rates:
        shares.append(shares[-1] * arrivals / rate)
    places = len(rates)
    full = shares[-1]
    total = sum(shares[:-1]) + full / (1 - ratio)
    queued = full * ratio / (1 - ratio) ** 2 / total
    served = (
        sum(n * share for n, share in enumerate(shares[:-1])) + places * full / (1 - ratio)
    ) / total
    wait = queued / arrivals
    return Expected(full / (1 - ratio) / total, wait, wait + served / arrivals)
