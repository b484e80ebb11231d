"""What travels over the pipes: frozen dataclasses, one per message. Used in every process.

Front and worker speak over a pair of pipes, front and template over a socket pair. The codec checks
the fields' types, so they are limited to int, float, bool, str, bytes, None, and dicts with string
keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
"""A mapping with string keys and values that msgpack knows."""


# Front -> worker


@dataclass(frozen=True, slots=True)
class Request:
    """One unit of work for an engine.

    Exactly one of `audio` (the upload's bytes) and `audio_path` (a private file that holds them)
    is set when the operation takes audio. `skip` is how many bytes of the answer the client
    already has: the worker makes them again and leaves them out. `params` has been validated by
    the front and always holds `seed`.
    """

    id: int
    operation: str
    params: Json
    audio: bytes | None = None
    audio_path: str | None = None
    skip: int = 0


@dataclass(frozen=True, slots=True)
class Cancel:
    """The client of request `id` has gone: stop at the next step and answer Failed(cancelled)."""

    id: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Is anybody there? A thread that the model does not hold answers with the same number."""

    number: int


# Worker -> front


@dataclass(frozen=True, slots=True)
class Ready:
    """A template has loaded, or a worker is warm.

    `info` describes the engine; `rss` is in bytes.
    """

    info: Json
    rss: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next bytes of the answer to request `id`."""

    id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Done:
    """Request `id` is answered; `rss` (bytes) is the worker's after it tidied up."""

    id: int
    result: Json
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
class Fork:
    """Fork a worker called `name`. Three descriptors come along: requests, replies, log.

    `options` reaches the worker as it is.
    """

    name: str
    options: Json = field(default_factory=dict)


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


Message = Request | Cancel | Ping | Ready | Chunk | Done | Failed | Pong | Fork | Forked | Exited
