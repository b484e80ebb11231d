"""The messages between processes: one frozen dataclass for each. Used in every process.

The front and a worker use a pair of pipes; the front and a template use a socket pair. The codec
checks the types of all fields.
"""

from __future__ import annotations

from dataclasses import dataclass

from ipc.engines import EngineInfo
from ipc.operations import AnyOperation, AnyResult, Segment, SpokenSentence

# Front -> worker


@dataclass(frozen=True, slots=True)
class Request:
    """One operation for the engine.

    `skip` is how much of the stream the client already has: bytes of speech, or segments of a
    transcript. The worker generates that part again, but does not send it.
    """

    id: int
    operation: AnyOperation
    skip: int = 0


@dataclass(frozen=True, slots=True)
class Cancel:
    """The client of request `id` has gone: stop at the next step and send Failed(cancelled)."""

    id: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Checks that the worker is alive. A thread without the model replies with the same number."""

    number: int


# Worker -> front


@dataclass(frozen=True, slots=True)
class SandboxLayer:
    """One layer of a worker's sandbox: whether the kernel has it, and why not or with which gap."""

    name: str
    active: bool
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """A template has loaded its model, or a worker has warmed up.

    `rss` is in bytes; `capacity` is how many requests the engine serves at once, `live` how many of
    them may be live streams; `sandbox` is empty without one.
    """

    info: EngineInfo
    rss: int
    capacity: int = 1
    live: int = 1
    sandbox: tuple[SandboxLayer, ...] = ()


@dataclass(frozen=True, slots=True)
class Live:
    """`count` of the worker's requests may be live streams from now on: it is faster or slower."""

    count: int


@dataclass(frozen=True, slots=True)
class Begun:
    """The engine has begun request `id`: if the worker dies from now on, it may be the cause.

    Only workers with a capacity above 1 send it; in other workers a request begins on arrival.
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
class Spoken:
    """The bytes of request `id` so far are the speech up to the end of this sentence.

    A replay sends all sentences again, also those whose bytes it leaves out.
    """

    id: int
    sentence: SpokenSentence


@dataclass(frozen=True, slots=True)
class Done:
    """Request `id` is finished; `rss` is that of the worker after its cleanup, in bytes."""

    id: int
    result: AnyResult
    rss: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Request `id` has failed, or (id 0) the process cannot become READY.

    `code` is the wire name of an `ipc.errors.ErrorCode`. The sender continues, unless id is 0.
    """

    id: int
    code: str
    message: str
    rss: int = 0


@dataclass(frozen=True, slots=True)
class Pong:
    """The reply to Ping `number`."""

    number: int


# Front <-> template


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """The options of a worker. Sizes are in bytes, folders are paths or None.

    - `trim_growth`: the growth of RSS above which a worker gives free pages back;
    - `voice_dir`: folder for the encoded voices of registered voices;
    - `voice_cache_dir`: folder for other encoded voices, up to `voice_cache_bytes` (0 = none);
    - `voice_cache_memory_bytes`: how many of them are also kept in memory;
    - `other_engines`: other engines that use the same folders;
    - `sandbox`: whether the worker gives up what it does not need;
    - `recordings`: folders with recordings that it then may still read.
    """

    trim_growth: int = 0
    voice_dir: str | None = None
    voice_cache_dir: str | None = None
    voice_cache_bytes: int = 0
    voice_cache_memory_bytes: int = 0
    other_engines: tuple[str, ...] = ()
    sandbox: bool = False
    recordings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fork:
    """Fork a worker called `name`. Three descriptors come with it: requests, replies, log."""

    name: str
    options: WorkerOptions


@dataclass(frozen=True, slots=True)
class Forked:
    """The worker called `name` runs as `pid`. Its pidfd comes with it."""

    name: str
    pid: int


@dataclass(frozen=True, slots=True)
class ForkFailed:
    """The worker called `name` could not be forked, for example because memory is short."""

    name: str
    message: str


@dataclass(frozen=True, slots=True)
class Exited:
    """The template reaped a worker; `status` is its exit code, or minus the number of a signal."""

    pid: int
    status: int


Message = (
    Request
    | Cancel
    | Ping
    | Ready
    | Live
    | Begun
    | Chunk
    | Recognized
    | Spoken
    | Done
    | Failed
    | Pong
    | Fork
    | Forked
    | ForkFailed
    | Exited
)
