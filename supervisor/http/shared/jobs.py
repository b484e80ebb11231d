"""Make the job of a request, and report its times. Runs in the front."""

from __future__ import annotations

from typing import Any

from ipc.operations import Operation, ResultT
from supervisor.dispatch.cost import Work
from supervisor.dispatch.job import Job, Sink
from supervisor.dispatch.models import Model
from supervisor.http.api.operation import Call
from supervisor.http.context import client
from supervisor.http.record import RECORD


def make_job(
    call: Call[Any, Any], model: Model, operation: Operation[ResultT], work: Work, output: Sink
) -> Job[ResultT]:
    """The job that runs `operation` in `model` for this request."""
    job = Job(
        operation, output, call.deadline, client(call.request), work, continues=call.continues
    )
    record = call.request[RECORD]
    record.model, record.job = model.name, job
    return job


def timing(job: Job[Any]) -> str:
    """Server-Timing in milliseconds: waiting for a worker, computing, and encoding the sound."""
    parts = {"queue": job.queued_s, "inference": job.inference_s}
    if job.encode_s is not None:
        parts["encode"] = job.encode_s
    return ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in parts.items())
