"""The states of a worker, as one table, and of a model as a whole. Runs in the front.

STARTING --ready--> READY --drain--> DRAINING --empty--> STOPPING --exit--> DEAD
    |                 |                  |                  ^
    +-----stop--------+-------stop-------+------------------+        any --exit--> DEAD

A READY worker has 0 to `capacity` requests in flight. A DRAINING one takes no new requests.

STARTING --worker READY--> SERVING --idle--> UNLOADED --request--> LOADING --worker READY--> SERVING

A model whose starts fail is in BACKOFF, then FAILED, until one works.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """The state of a worker."""

    STARTING = "STARTING"
    READY = "READY"
    DRAINING = "DRAINING"
    STOPPING = "STOPPING"
    DEAD = "DEAD"


class Event(Enum):
    """What can happen to a worker."""

    READY = "ready"
    DRAIN = "drain"
    EMPTY = "empty"
    STOP = "stop"
    EXIT = "exit"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.STARTING, Event.READY): State.READY,
    (State.STARTING, Event.STOP): State.STOPPING,
    (State.READY, Event.DRAIN): State.DRAINING,
    (State.READY, Event.STOP): State.STOPPING,
    (State.DRAINING, Event.EMPTY): State.STOPPING,
    (State.DRAINING, Event.STOP): State.STOPPING,
    **{(state, Event.EXIT): State.DEAD for state in State if state is not State.DEAD},
}


class IllegalTransition(Exception):  # noqa: N818 - named for what happened
    """An event that the table does not have for this state; the state is unchanged."""


def next_state(state: State, event: Event) -> State:
    """The state after `event`. Raises `IllegalTransition`."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"{event.value} in state {state.value}") from None


class ModelState(Enum):
    """The state of a model as a whole."""

    STARTING = "STARTING"
    SERVING = "SERVING"
    UNLOADED = "UNLOADED"
    """It has no processes, because it was idle; the next request loads it."""
    LOADING = "LOADING"
    """It was UNLOADED, and loads for a request."""
    BACKOFF = "BACKOFF"
    FAILED = "FAILED"
    STOPPING = "STOPPING"


AVAILABLE = (ModelState.SERVING, ModelState.UNLOADED, ModelState.LOADING)
"""The states in which a model serves, or is expected to as soon as a request asks for it."""
