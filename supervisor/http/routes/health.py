"""GET /health, /livez, /readyz: the state of every child. They wait for nothing. In the front."""

from __future__ import annotations

import os
import time
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from ipc.errors import ErrorCode, ServiceError
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
from supervisor.memory.usage import resident_bytes, to_mb
from supervisor.service import VERSION, Service
from supervisor.workers.monitor import Watch
from supervisor.workers.pool import Pool, PoolState
from supervisor.workers.slot import Member
from supervisor.workers.template import Template

TAG = "Operation"


class Child(BaseModel):
    """A template or a worker; memory in MB."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "tts-1",
                    "role": "worker",
                    "model": "tts",
                    "engine": "pocket",
                    "pid": 4711,
                    "state": "IDLE",
                    "rss_mb": 746.2,
                    "uss_mb": 89.4,
                    "pss_mb": 417.0,
                    "baseline_mb": 702.5,
                    "soft_limit_mb": 1100.0,
                    "hard_limit_mb": 1500.0,
                    "uptime_s": 3600.5,
                    "requests": 812,
                    "restarts": 1,
                    "last_exit": "soft memory limit",
                }
            ]
        }
    )

    name: str
    role: Literal["template", "worker"]
    model: str
    engine: str
    pid: int
    state: str
    rss_mb: float | None
    uss_mb: Annotated[float | None, Field(description="what its end would give back")]
    pss_mb: float | None
    baseline_mb: Annotated[float | None, Field(description="RSS when it was ready")]
    soft_limit_mb: float | None
    hard_limit_mb: float | None
    uptime_s: float
    requests: int | None
    restarts: int
    last_exit: Annotated[str | None, Field(description="how its predecessor ended")]


class Model(BaseModel):
    """One model: its workers as a whole, and its queue."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "state": "SERVING",
                    "engine": "pocket",
                    "profile": "production",
                    "message": None,
                    "retry_in_s": 0.0,
                    "notes": [],
                    "in_flight": 1,
                    "queued": 0,
                    "backlog_s": 0.84,
                    "replays": 0,
                    "recycles": {"soft memory limit": 1},
                }
            ]
        }
    )

    state: str
    engine: str
    profile: str
    message: Annotated[str | None, Field(description="why it does not serve, and what mends it")]
    retry_in_s: float
    notes: list[str]
    in_flight: int
    queued: int
    backlog_s: Annotated[float, Field(description="work that waits or is under way, as estimated")]
    replays: int
    recycles: Annotated[dict[str, int], Field(description="replaced workers by reason")]


class Memory(BaseModel):
    """The container's memory, in MB."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "limit_mb": 4096.0,
                    "source": "cgroup v2",
                    "usage_mb": 2210.4,
                    "front_rss_mb": 58.1,
                }
            ]
        }
    )

    limit_mb: float
    source: str
    usage_mb: float | None
    front_rss_mb: float | None


class Health(BaseModel):
    """The state of the service and of every child."""

    status: Annotated[Literal["starting", "ok", "degraded"], Field(examples=["ok"])]
    version: Annotated[str, Field(examples=["0.1.0"])]
    uptime_s: Annotated[float, Field(examples=[3605.2])]
    asr_loaded: Annotated[bool, Field(examples=[True])]
    tts_loaded: Annotated[bool, Field(examples=[True])]
    voices_loaded: Annotated[int, Field(description="built-in and registered voices", examples=[9])]
    memory: Memory
    models: dict[str, Model]
    children: list[Child]


class Status(BaseModel):
    """All is well."""

    status: Literal["ok"]


async def health(call: Call[Nothing, Nothing]) -> web.StreamResponse:
    """200 as soon as one model serves, 503 before."""
    body = report(call.service)
    return json_answer(body, status=200 if body.asr_loaded or body.tts_loaded else 503)


async def livez(_: Call[Nothing, Nothing]) -> web.StreamResponse:
    """200: the front lives."""
    return web.json_response({"status": "ok"})


async def readyz(call: Call[Nothing, Nothing]) -> web.StreamResponse:
    """200 while a model serves and requests are taken."""
    if call.service.stopping:
        raise ServiceError(ErrorCode.shutting_down, "the service is shutting down")
    if not any(pool.state is PoolState.SERVING for pool in call.service.pools.values()):
        raise ServiceError(
            ErrorCode.model_unavailable, "no model serves yet; /health has the details"
        )
    return web.json_response({"status": "ok"})


def report(service: Service) -> Health:
    """What /health answers."""
    states = {model: pool.state for model, pool in service.pools.items()}
    return Health(
        status=_status(list(states.values())),
        version=VERSION,
        uptime_s=round(time.monotonic() - service.started, 1),
        asr_loaded=states["stt"] is PoolState.SERVING,
        tts_loaded=states["tts"] is PoolState.SERVING,
        voices_loaded=len(service.builtin_voices) + len(service.voices.list()),
        memory=Memory(
            limit_mb=to_mb(service.container.limit),
            source=service.container.source,
            usage_mb=to_mb(service.watch.usage),
            front_rss_mb=to_mb(resident_bytes(os.getpid())),
        ),
        models={model: _model(service, model) for model in service.pools},
        children=[
            child for pool in service.pools.values() for child in _children(pool, service.watch)
        ],
    )


def _status(states: list[PoolState]) -> Literal["starting", "ok", "degraded"]:
    if all(state is PoolState.SERVING for state in states):
        return "ok"
    if all(state in (PoolState.SERVING, PoolState.STARTING) for state in states):
        return "starting"
    return "degraded"


def _model(service: Service, model: str) -> Model:
    dispatcher, pool = service.dispatchers[model], service.pools[model]
    return Model(
        state=pool.state.value,
        engine=pool.config.engine,
        profile=pool.config.profile,
        message=pool.message,
        retry_in_s=round(pool.retry_after, 1),
        notes=pool.info.get("notes", []),
        in_flight=dispatcher.in_flight,
        queued=dispatcher.queued,
        backlog_s=round(dispatcher.backlog, 2),
        replays=dispatcher.replays,
        recycles={reason.value: count for reason, count in pool.recycles.items()},
    )


def _children(pool: Pool, watch: Watch) -> list[Child]:
    children = [_worker(pool, member, watch) for member in pool.members]
    template = pool.templates.current
    if template is not None and template.process is not None:
        children.insert(0, _template(pool, template, template.process.pid, watch))
    return children


def _template(pool: Pool, template: Template, pid: int, watch: Watch) -> Child:
    return Child(
        name=template.name,
        role="template",
        state="READY" if template.ready else "STARTING",
        **_process(pool, pid, resident_bytes(pid), template.started, watch),
        baseline_mb=to_mb(template.baseline_rss or None),
        soft_limit_mb=None,
        hard_limit_mb=None,
        requests=None,
        restarts=pool.templates.restarts,
        last_exit=pool.templates.last_exit,
    )


def _worker(pool: Pool, member: Member, watch: Watch) -> Child:
    worker = member.worker
    return Child(
        name=worker.name,
        role="worker",
        state=worker.state.value,
        **_process(pool, worker.process.pid, worker.rss or None, worker.started, watch),
        baseline_mb=to_mb(worker.baseline_rss or None),
        soft_limit_mb=to_mb(member.bounds.soft),
        hard_limit_mb=to_mb(member.bounds.hard),
        requests=worker.requests,
        restarts=member.lineage.restarts,
        last_exit=member.lineage.last_exit,
    )


def _process(pool: Pool, pid: int, rss: int | None, started: float, watch: Watch) -> dict[str, Any]:
    """What templates and workers have in common. USS and PSS are as old as the last reading."""
    share = watch.shares.get(pid)
    return {
        "model": pool.config.model,
        "engine": pool.config.engine,
        "pid": pid,
        "uptime_s": round(time.monotonic() - started, 1),
        "rss_mb": to_mb(rss),
        "uss_mb": to_mb(share.uss) if share else None,
        "pss_mb": to_mb(share.pss) if share else None,
    }


OPERATIONS: Operations = (
    operation(
        "GET",
        "/health",
        health,
        summary="The state of every child",
        tag=TAG,
        answers={
            200: Answer("A model serves.", {JSON: Health}),
            503: Answer("No model serves yet.", {JSON: Health}),
        },
        access=Access.OPEN,
    ),
    operation(
        "GET",
        "/livez",
        livez,
        summary="Does the front live?",
        tag=TAG,
        answers={200: Answer("It does.", {JSON: Status})},
        access=Access.OPEN,
    ),
    operation(
        "GET",
        "/readyz",
        readyz,
        summary="Are requests taken?",
        tag=TAG,
        answers={200: Answer("They are.", {JSON: Status})},
        errors=(ErrorCode.model_unavailable,),
        access=Access.OPEN,
    ),
)
