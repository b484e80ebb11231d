"""What travels over the pipes: frozen dataclasses, one for each message. Used in every process.

Front and worker talk over a pair of pipes, front and template over a socket pair. The codec checks
the types of all fields.
"""

from __future__ import annotations

from dataclasses import dataclass

from ipc.engines import EngineInfo
from ipc.operations import AnyOperation, AnyResult, Segment

# Front -> worker


@dataclass(frozen=True, slots=True)
class Request:
    """One operation for the engine.

    `skip` is how much of the stream the client has already: bytes of speech, segments of a
    transcript. The worker makes that part again and does not send it.
    """

    id: int
    operation: AnyOperation
    skip: int = 0


@dataclass(frozen=True, slots=True)
class Cancel:
    """The client of request `id` has gone: stop at the next step and answer Failed(cancelled)."""

    id: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Is the worker alive? A thread that the model does not hold answers with the same number."""

    number: int


# Worker -> front


@dataclass(frozen=True, slots=True)
class Ready:
    """A template has loaded, or a worker is warm.

    `rss` is in bytes; `capacity` is how many requests the engine serves at once.
    """

    info: EngineInfo
    rss: int
    capacity: int = 1


@dataclass(frozen=True, slots=True)
class Begun:
    """The engine has taken up request `id`, so that a death from now on may be its fault.

    Only workers with a capacity over 1 send it: in others a request begins when it arrives.
    """

    id: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next bytes of the response to request `id`."""

    id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Recognized:
    """The next segment of the transcript that request `id` streams."""

    id: int
    segment: Segment


@dataclass(frozen=True, slots=True)
class Done:
    """Request `id` is answered; `rss` (bytes) is the worker's after it tidied up."""

    id: int
    result: AnyResult
    rss: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Request `id` cannot be answered, or (id 0) the process cannot become READY.

    `code` is the wire name of an `ipc.errors.ErrorCode`. The sender lives on, unless id is 0.
    """

    id: int
    code: str
    message: str
    rss: int = 0


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to Ping `number`."""

    number: int


# Front <-> template


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What a worker is told when it starts. Sizes are in bytes, folders are paths or None.

    - `trim_growth`: by how much an idle worker may have grown before it trims its heap;
    - `voice_dir`: where the encoded voices of registered voices are kept;
    - `voice_cache_dir`: where others are kept, up to `voice_cache_bytes` (0 = none), and in memory
      up to `voice_cache_memory_bytes`;
    - `other_engines`: the engines that use the same folders.
    """

    trim_growth: int = 0
    voice_dir: str | None = None
    voice_cache_dir: str | None = None
    voice_cache_bytes: int = 0
    voice_cache_memory_bytes: int = 0
    other_engines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fork:
    """Fork a worker called `name`. Three descriptors come along: requests, replies, log."""

    name: str
    options: WorkerOptions


@dataclass(frozen=True, slots=True)
class Forked:
    """The worker called `name` runs as `pid`."""

    name: str
    pid: int


@dataclass(frozen=True, slots=True)
class Exited:
    """A worker has been reaped; `status` is its exit code, or minus the signal that ended it."""

    pid: int
    status: int


Message = (
    Request
    | Cancel
    | Ping
    | Ready
    | Begun
    | Chunk
    | Recognized
    | Done
    | Failed
    | Pong
    | Fork
    | Forked
    | Exited
)
