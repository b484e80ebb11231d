"""From a request to its job, and what a job took. Shared by all operations. Runs in the front."""

from __future__ import annotations

import hashlib
import json
import secrets

from aiohttp import web

from ipc.messages import Json
from supervisor.dispatch.dispatcher import Job
from supervisor.dispatch.response_buffer import Answer
from supervisor.http.context import client, deadline
from supervisor.service import Service

MAX_SEED = 2**32
"""Seeds are below it."""


def make_job(
    request: web.Request,
    service: Service,
    operation: str,
    params: Json,
    *,
    kind: str,
    size: float,
    seed: int | None = None,
    audio: bytes | None = None,
    audio_path: str | None = None,
    digest: bytes = b"",
    longest: float | None = None,
) -> Job:
    """A job of this request; `digest` is of what a worker gets beside `params`."""
    content = json.dumps([operation, params], sort_keys=True).encode()
    # Drawn here when the client gives none: a replay on another worker must make the same samples.
    params = {**params, "seed": secrets.randbelow(MAX_SEED) if seed is None else seed}
    return Job(
        operation=operation,
        params=params,
        answer=Answer(service.spool),
        deadline=deadline(request),
        client=client(request),
        kind=kind,
        size=size,
        digest=hashlib.sha256(content + digest).digest(),
        longest=longest,
        audio=audio,
        audio_path=audio_path,
    )


def timing(job: Job, result: Json) -> str:
    """Server-Timing in milliseconds: waiting for a worker, computing, and encoding the sound."""
    parts = {"queue": job.queued_s, "inference": job.running_s}
    if (encode := result.get("encode_s")) is not None:
        parts |= {"inference": job.running_s - encode, "encode": encode}
    return ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in parts.items())
