"""Which replica gets a request. Runs in fronts, inside the handle of Ray Serve.

Requests of one voice go to the same replica, which has it encoded, as long as that one has a free
slot, or no other one has less to do. All fronts agree on it without asking each other: each ranks
the replicas by a hash of voice and replica (rendezvous hashing), so that a new replica takes over a
part of the voices, and the others stay where they are.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from supervisor.cluster.messages import Route


def home(voice: str, replicas: Sequence[str]) -> str:
    """The replica that this voice prefers."""
    return min(
        replicas,
        key=lambda replica: hashlib.blake2b(f"{voice}\0{replica}".encode(), digest_size=8).digest(),
    )


def choose(
    route: Route, load: Mapping[str, int], draw: random.Random | None = None
) -> list[list[str]]:
    """Groups of replicas to try, one group after the other; of a group the least busy one.

    `load` is how many requests each has, as far as known.
    """
    if route.only is not None:
        return [[route.only]] if route.only in load else []
    ids = [replica for replica in load if replica not in route.avoid] or list(load)
    two = (draw or random).sample(ids, min(2, len(ids)))
    if route.voice is None or not ids:
        return [two]
    first = home(route.voice, ids)
    if load[first] < route.slots or load[first] <= min(load[replica] for replica in ids):
        return [[first], two]
    return [two]


class VoiceRouter(RequestRouter):
    """The router of a model's handles. A request waits until one of its replicas takes it."""

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """The replicas to try, in groups."""
        by_id = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        load = {
            replica: self.replica_queue_len_cache.get(each.replica_id) or 0
            for replica, each in by_id.items()
        }
        groups = choose(_route_of(pending_request), load)
        if groups:
            # Ray would rather take the busier of two than ask the other one how busy it is.
            chosen = min(groups[0], key=lambda replica: load[replica])
            groups = [[chosen], *groups]
            # Another request may choose before this one is sent. Ray puts the true number here as
            # soon as the replica has accepted it.
            self.replica_queue_len_cache.update(by_id[chosen].replica_id, load[chosen] + 1)
        return [[by_id[replica] for replica in group] for group in groups]


def _route_of(request: PendingRequest | None) -> Route:
    given: Sequence[Any] = request.args if request is not None else ()
    route = given[0] if given else None
    if isinstance(route, Route):
        return route
    raise TypeError("the first argument of a call to a replica is its Route")
