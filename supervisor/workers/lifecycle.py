"""The life of a worker, as one table. Runs in the front.

STARTING --ready--> IDLE <--finish/assign--> BUSY
    |                |                        |retire
    |stop            |retire, stop            v
    |                v                     RETIRING
    +----------> STOPPING <--finish, stop-----+
any --exit--> DEAD
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """Where a worker is in its life."""

    STARTING = "STARTING"
    IDLE = "IDLE"
    BUSY = "BUSY"
    RETIRING = "RETIRING"
    STOPPING = "STOPPING"
    DEAD = "DEAD"


class Event(Enum):
    """What can happen to a worker."""

    READY = "ready"
    ASSIGN = "assign"
    FINISH = "finish"
    RETIRE = "retire"
    STOP = "stop"
    EXIT = "exit"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.STARTING, Event.READY): State.IDLE,
    (State.STARTING, Event.STOP): State.STOPPING,
    (State.IDLE, Event.ASSIGN): State.BUSY,
    (State.IDLE, Event.RETIRE): State.STOPPING,
    (State.IDLE, Event.STOP): State.STOPPING,
    (State.BUSY, Event.FINISH): State.IDLE,
    (State.BUSY, Event.RETIRE): State.RETIRING,
    (State.BUSY, Event.STOP): State.STOPPING,
    (State.RETIRING, Event.FINISH): State.STOPPING,
    (State.RETIRING, Event.STOP): State.STOPPING,
    **{(state, Event.EXIT): State.DEAD for state in State if state is not State.DEAD},
}


class IllegalTransition(Exception):  # noqa: N818 - named for what happened
    """An event that the table does not know in this state; the state is unchanged."""


def next_state(state: State, event: Event) -> State:
    """The state after `event`. Raises `IllegalTransition`."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"{event.value} in state {state.value}") from None
