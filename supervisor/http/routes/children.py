"""GET /v1/children: the memory of each child over time, its limits, its life. Runs in the front."""

from __future__ import annotations

import math
import time
from typing import Annotated

from aiohttp import web
from pydantic import ConfigDict, Field

from supervisor.dispatch.backend import ChildStatus
from supervisor.history import Samples, Track
from supervisor.http.api.api_model import ApiModel
from supervisor.http.api.operation import (
    JSON,
    Access,
    Answer,
    Call,
    Nothing,
    Operations,
    json_answer,
    operation,
)
from supervisor.http.routes.health import older_state
from supervisor.memory.usage import to_mb

Row = list[float | None]


class ChildrenParams(ApiModel):
    """Which samples."""

    since: Annotated[
        float,
        Field(
            ge=0,
            allow_inf_nan=False,
            description="only what came after this time, in seconds since the epoch",
        ),
    ] = 0.0


class ChildHistory(ApiModel):
    """The life of one child: times in seconds since the epoch, memory in MB."""

    name: str
    role: Annotated[str, Field(description="front, template or worker")]
    model: str | None
    pid: int
    started: float
    ready: float | None
    ended: float | None
    end_reason: str | None
    successor: str | None
    state: str
    baseline_mb: float | None
    soft_limit_mb: float | None
    hard_limit_mb: float | None
    requests: int | None
    samples: Annotated[list[Row], Field(description="pairs of time and RSS")]


class QueueHistory(ApiModel):
    """The queue of one model over time."""

    samples: Annotated[
        list[Row],
        Field(
            description="rows of time, queued, in flight, backlog in seconds, and seconds of "
            "computing for a second of sound"
        ),
    ]


class Children(ApiModel):
    """All children that live, then the last ones that have ended."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "now": 1764430908.2,
                    "interval_s": 1.0,
                    "children": [
                        {
                            "name": "tts-1",
                            "role": "worker",
                            "model": "tts",
                            "pid": 4711,
                            "started": 1764430000.1,
                            "ready": 1764430000.2,
                            "ended": 1764430900.5,
                            "end_reason": "recycled: soft memory limit",
                            "successor": "tts-2",
                            "state": "DEAD",
                            "baseline_mb": 702.5,
                            "soft_limit_mb": 1100.0,
                            "hard_limit_mb": 1500.0,
                            "requests": 812,
                            "samples": [[1764430001.0, 703.0], [1764430002.0, 731.5]],
                        }
                    ],
                    "models": {"tts": {"samples": [[1764430001.0, 0.0, 1.0, 0.8, 0.31]]}},
                }
            ]
        }
    )

    now: float
    interval_s: Annotated[float, Field(description="seconds between two samples, at first")]
    children: list[ChildHistory]
    models: dict[str, QueueHistory]


async def children(call: Call[Nothing, ChildrenParams]) -> web.StreamResponse:
    """The RSS of every process over its whole life, with its limits and how it ended.

    A child has at most 600 samples: when they are full, every second one goes.
    """
    history, since = call.service.history, call.params.since
    ended = [track for track in history.ended if (track.ended or 0.0) > since]
    return json_answer(
        Children(
            now=time.time(),
            interval_s=call.service.settings.ping_interval,
            children=[_child(track, since) for track in (*history.living.values(), *ended)],
            models={
                model: QueueHistory(samples=_rows(samples, since))
                for model, samples in history.queues.items()
            },
        )
    )


def _child(track: Track, since: float) -> ChildHistory:
    status = track.status
    return ChildHistory(
        name=track.name,
        role=track.role,
        model=track.model,
        pid=track.pid,
        started=track.started,
        ready=track.ready,
        ended=track.ended,
        end_reason=track.end_reason,
        successor=track.successor,
        state=_state(track, status),
        baseline_mb=to_mb(status.baseline) if status else None,
        soft_limit_mb=to_mb(status.soft_limit) if status else None,
        hard_limit_mb=to_mb(status.hard_limit) if status else None,
        requests=status.requests if status else None,
        samples=_rows(track.samples, since),
    )


def _state(track: Track, status: ChildStatus | None) -> str:
    if track.ended is not None:
        return "DEAD"
    if status is None:
        return "READY" if track.ready or track.role == "front" else "STARTING"
    return older_state(status)


def _rows(samples: Samples, since: float) -> list[Row]:
    return [
        [None if math.isnan(value) else round(value, 3) for value in row]
        for row in samples.since(since)
    ]


OPERATIONS: Operations = (
    operation(
        "GET",
        "/v1/children",
        children,
        summary="The memory of each child over time",
        tag="Operation",
        params=ChildrenParams,
        answers={200: Answer("All children.", {JSON: Children})},
        access=Access.OPERATOR,
    ),
)
