"""What fronts, replicas and the registry of a cluster say to each other. Used in all of them.

An operation and its result travel as frames of `ipc.codec`, so that they are checked as those of
workers are. What is here goes beside them, and Ray pickles it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ipc.codec import Decoder, FrameError
from ipc.engines import Json, Kind
from ipc.messages import Message
from supervisor.dispatch.backend import BackendStatus, ChildStatus
from supervisor.dispatch.cost import Work


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """One model of the cluster, as each of its replicas gets it.

    - `model` is its name: the kind's for the default model of a kind, else the engine's;
    - `engine` is a name in the table of engines, or `module:Class`; `others` are those of the
      other models of its kind, which may use the same folders;
    - `settings` has settings of the service by their names, beside those of the environment.
    """

    application: str
    model: str
    kind: Kind
    engine: str
    cpus: float
    memory_mb: int
    others: tuple[str, ...] = ()
    settings: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route:
    """What comes with a request besides its operation; the router reads it too.

    - `voice`: the key of its voice; requests of one voice go to the same replica if it is free;
    - `avoid`: ids of replicas that have refused it; `only`: the replica that it is for;
    - `slots`: how many requests a replica runs at once;
    - `seconds`: how long it may take; clocks differ, so this is no point in time;
    - `attempts`: how many workers it may have killed before;
    - `has_recording`: the front has the recording of its voice, and sends it if it is missing.
    """

    seconds: float
    client: str
    work: Work
    voice: str | None = None
    slots: int = 1
    avoid: frozenset[str] = frozenset()
    only: str | None = None
    attempts: int = 0
    continues: bool = False
    has_recording: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a request at a replica: who ran it, for how long, and what it has cost."""

    replica: str
    worker: str | None
    queued_s: float
    running_s: float
    attempts: int
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class RecordingMissing:
    """The replica does not have the recording of the voice: send the request again, with it."""

    replica: str


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """The state of a replica. `started` of its children is their age in seconds."""

    replica: str
    node: str
    pid: int
    spec: ReplicaSpec
    status: BackendStatus


@dataclass(frozen=True, slots=True)
class Overview:
    """What the registry tells fronts.

    - `complete`: there are no other models than those of `specs`. A registry that has been started
      anew knows only those whose replicas have reported to it;
    - `young`: not all replicas may have reported to it yet.
    """

    specs: tuple[ReplicaSpec, ...]
    reports: list[ReplicaReport]
    complete: bool
    young: bool


def aged(status: BackendStatus, now: float) -> BackendStatus:
    """`status` with the age of each child instead of its start, or the other way round.

    Clocks differ between machines: `started` becomes `now - started`, and on the other machine that
    becomes a start on its own clock.
    """

    def turn(child: ChildStatus) -> ChildStatus:
        return replace(child, started=now - child.started)

    return replace(status, children=tuple(map(turn, status.children)))


def only_message(frame: bytes) -> Message:
    """The message in a frame. Raises `FrameError` if there is not exactly one."""
    decoder = Decoder()
    found = decoder.feed(frame)
    decoder.end()
    if len(found) != 1:
        raise FrameError(f"{len(found)} messages where one is expected")
    return found[0]
