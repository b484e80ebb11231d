"""What is known of a request while it is served, and told at its end. Runs in the front."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import hdrs, web

from ipc.operations import Speak, SpeechResult, Transcript
from supervisor.dispatch.job import Job
from supervisor.events import Probed, Served


@dataclass(slots=True)
class Record:
    """One request. Times are on the clock of `time.monotonic`."""

    arrived: float = field(default_factory=time.monotonic)
    reading: float | None = None
    """When it began to read the body of the request; None if there is none to read."""
    read: float | None = None
    """When it had all of it."""
    answered: float | None = None
    """When the headers of a response were sent whose body follows."""
    model: str | None = None
    voice: str | None = None
    """The id of the voice that speaks, if it is one with an id."""
    job: Job[Any] | None = None
    error: str | None = None
    """The code of the error in the response, or in the stream."""


RECORD: web.RequestKey[Record] = web.RequestKey("record", Record)


def declared_path(request: web.Request) -> str:
    """The path of the request's operation as it was declared, "" for none.

    A request may spell its path in several ways.
    """
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else ""


def told(
    request: web.Request, response: web.StreamResponse | None, *, client: str, probe: bool
) -> Served:
    """The event of a request that has been served; no `response`: the client has gone.

    Successful probes, such as /health, are told more quietly.
    """
    record, now = request[RECORD], time.monotonic()
    status = 499 if response is None else response.status
    kind = Probed if probe and status < 400 else Served
    return kind(
        method=request.method if request.method in hdrs.METH_ALL else "OTHER",
        route=declared_path(request),
        status=status,
        client=client,
        bytes_in=request.content.total_bytes,
        bytes_out=_size(response),
        duration_s=round(now - record.arrived, 4),
        first_byte_s=_since(record.arrived, record.answered),
        model=record.model,
        voice=record.voice,
        error="cancelled" if response is None else record.error,
        **_of_job(record.job),
    )


def _of_job(job: Job[Any] | None) -> dict[str, Any]:
    if job is None:
        return {}
    result = job.result
    sound = result.duration if isinstance(result, SpeechResult | Transcript) else None
    return {
        "characters": len(job.operation.text) if isinstance(job.operation, Speak) else None,
        "sound_s": None if sound is None else round(sound, 3),
        "queue_s": round(job.queued_s, 4),
        "inference_s": round(job.inference_s, 4),
        "encode_s": job.encode_s,
    }


def _size(response: web.StreamResponse | None) -> int:
    """The bytes of the body; of a stream those on the wire, with headers and framing."""
    if response is None:
        return 0
    if response.content_length is None and response.prepared:
        return response.body_length
    return response.content_length or 0


def _since(start: float, moment: float | None) -> float | None:
    return None if moment is None else round(moment - start, 4)
