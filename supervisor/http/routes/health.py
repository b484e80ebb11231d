"""GET /health, /livez, /readyz: the state of the service and its children. Runs in the front.

They respond at once, without waiting for children or locks.
"""

from __future__ import annotations

import os
import time
from typing import Annotated, Literal

from aiohttp import web
from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from ipc.engines import Kind
from ipc.errors import ErrorCode, ServiceError
from ipc.messages import SandboxLayer
from supervisor.dispatch.backend import BackendStatus, ChildStatus
from supervisor.dispatch.models import Model as ServedModel
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
from supervisor.memory.usage import resident_bytes, to_mb
from supervisor.service import VERSION, Service
from supervisor.tally import Tally
from supervisor.workers.lifecycle import AVAILABLE, ModelState, State

TAG = "Operation"

_SERVING = "IDLE", "BUSY"
"""`state` of a READY worker without and with requests."""
_DRAINING = "RETIRING"
"""`state` of a DRAINING worker."""


class Sandbox(ApiModel):
    """The sandbox of workers: by the name of each layer, its gap or the reason of its refusal."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "enabled": True,
                    "active": {"rlimits": None, "no_new_privs": None, "seccomp": None},
                    "refused": {"landlock": "OSError: [Errno 38] Function not implemented"},
                }
            ]
        }
    )

    enabled: Annotated[bool, Field(description="VOICE_ENGINE_SANDBOX is not off")]
    active: Annotated[
        dict[str, str | None], Field(description="layers in force, and what they leave open")
    ]
    refused: Annotated[
        dict[str, str | None], Field(description="layers that the kernel refused, and why")
    ]


_SANDBOX_EXAMPLE: JsonDict = {
    "enabled": True,
    "active": {"rlimits": None, "no_new_privs": None, "landlock": None, "seccomp": None},
    "refused": {},
}


class Child(ApiModel):
    """A template or a worker; memory in MB."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "tts-1",
                    "role": "worker",
                    "model": Kind.TTS,
                    "kind": Kind.TTS,
                    "engine": "pocket",
                    "pid": 4711,
                    "state": "BUSY",
                    "lifecycle": "READY",
                    "in_flight": 3,
                    "live_in_flight": 2,
                    "capacity": 8,
                    "live": 4,
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
                    "node": None,
                    "sandbox": _SANDBOX_EXAMPLE,
                }
            ]
        }
    )

    name: str
    role: Literal["template", "worker"]
    model: Annotated[
        str,
        Field(description="name of the model: of the kind for its default one, else the engine"),
    ]
    kind: Annotated[str, Field(description="tts or stt")]
    engine: str
    pid: int
    state: Annotated[
        str,
        Field(description="IDLE or BUSY for READY workers, RETIRING for DRAINING ones"),
    ]
    lifecycle: Annotated[str, Field(description="STARTING, READY, DRAINING or STOPPING")]
    in_flight: Annotated[int | None, Field(description="number of requests it works on")]
    live_in_flight: Annotated[int | None, Field(description="number of live streams among them")]
    capacity: Annotated[int | None, Field(description="number of requests it can work on at once")]
    live: Annotated[
        int | None,
        Field(description="number of them that may be live streams: more would fall behind"),
    ]
    rss_mb: float | None
    uss_mb: Annotated[
        float | None, Field(description="unshared memory in MB, which its end would give back")
    ]
    pss_mb: float | None
    baseline_mb: Annotated[float | None, Field(description="RSS in MB when it became READY")]
    soft_limit_mb: float | None
    hard_limit_mb: float | None
    uptime_s: float
    requests: int | None
    restarts: int
    last_exit: Annotated[str | None, Field(description="how its predecessor ended")]
    node: Annotated[str | None, Field(description="the machine that it runs on, in a cluster")]
    sandbox: Annotated[Sandbox | None, Field(description="of a worker since READY")]


class Model(ApiModel):
    """One model: its workers as a whole, and its queue."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kind": Kind.TTS,
                    "state": "SERVING",
                    "engine": "pocket",
                    "profile": "production",
                    "message": None,
                    "retry_in_s": 0.0,
                    "notes": [],
                    "in_flight": 1,
                    "queued": 0,
                    "backlog_s": 0.84,
                    "speed": 2.31,
                    "threads": 2,
                    "workers": 1,
                    "free_slots": 7,
                    "paused": False,
                    "real_time_factor": 0.31,
                    "hint": None,
                    "replays": 0,
                    "recycles": {"soft memory limit": 1},
                    "sandbox": _SANDBOX_EXAMPLE,
                }
            ]
        }
    )

    kind: Annotated[str, Field(description="tts or stt")]
    state: Annotated[
        str,
        Field(
            description="STARTING, SERVING, UNLOADED (it was idle, the next request loads it), "
            "LOADING (again, for a request), BACKOFF, FAILED or STOPPING"
        ),
    ]
    engine: str
    profile: str
    message: Annotated[str | None, Field(description="why the last start failed, and what to do")]
    retry_in_s: float
    notes: list[str]
    in_flight: int
    queued: int
    backlog_s: Annotated[
        float,
        Field(description="estimated work that waits or runs, in seconds that it takes one by one"),
    ]
    speed: Annotated[
        float,
        Field(description="seconds of such work done in a second by full workers, as measured"),
    ]
    threads: Annotated[int, Field(description="compute threads of each worker")]
    workers: Annotated[int, Field(description="number of workers that it is to have")]
    free_slots: Annotated[int, Field(description="number of requests it could begin now")]
    paused: Annotated[bool, Field(description="an operator has paused it: requests wait")]
    real_time_factor: Annotated[
        float | None,
        Field(description="seconds of computing for a second of sound, a moving average"),
    ]
    hint: Annotated[
        str | None, Field(description="what is degraded, and the command that mends it")
    ]
    replays: int
    recycles: Annotated[dict[str, int], Field(description="number of replaced workers by reason")]
    sandbox: Annotated[Sandbox | None, Field(description="of the last worker that was READY")]


class Memory(ApiModel):
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


class Cores(ApiModel):
    """The processor cores that the service may use; a quota of time may be a fraction."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"count": 2, "source": "cgroup v2"}]})

    count: float
    source: Annotated[str, Field(description="machine, affinity, cgroup v1 or cgroup v2")]


class Health(ApiModel):
    """The state of the service and of every child."""

    status: Annotated[Literal["starting", "ok", "degraded"], Field(examples=["ok"])]
    version: Annotated[str, Field(examples=[VERSION])]
    uptime_s: Annotated[float, Field(examples=[3605.2])]
    asr_loaded: Annotated[
        bool,
        Field(
            description="whether a model for transcription serves, or was unloaded because it was "
            "idle and loads at the next request",
            examples=[True],
        ),
    ]
    tts_loaded: Annotated[bool, Field(description="the same for speech", examples=[True])]
    voices_loaded: Annotated[
        int, Field(description="number of built-in and registered voices", examples=[9])
    ]
    memory: Memory
    cores: Cores
    sessions: OpenSessions
    models: dict[str, Model]
    children: list[Child]


class OpenSessions(ApiModel):
    """The live sessions that are open now."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"speech": 2, "transcription": 5, "limit": 400}]}
    )

    speech: int
    transcription: int
    limit: Annotated[int, Field(description="number of sessions that may be open")]


class Status(ApiModel):
    """The check is passed."""

    status: Literal["ok"]


async def health(call: Call[Nothing, Nothing]) -> web.StreamResponse:
    """The state of every child. The status is 200 as soon as one model serves, 503 before.

    A model that was unloaded because it was idle counts as one that serves.
    """
    body = report(call.service)
    return json_answer(body, status=200 if body.asr_loaded or body.tts_loaded else 503)


async def livez(_: Call[Nothing, Nothing]) -> web.StreamResponse:
    """200 while the front lives."""
    return web.json_response({"status": "ok"})


class ReadyParams(ApiModel):
    """Of what."""

    model: Annotated[
        str | None,
        Field(description="a model's name in /health, or its engine's; left out: any model"),
    ] = None


async def readyz(call: Call[Nothing, ReadyParams]) -> web.StreamResponse:
    """200 while a model serves, or loads when it is asked, and the service accepts requests.

    A model that an operator has paused does not count.
    """
    if call.service.stopping:
        raise ServiceError(ErrorCode.shutting_down, "the service is shutting down")
    models, name = call.service.models, call.params.model
    asked = models.serving if name is None else [models.named(name)]
    statuses = [model.backend.status() for model in asked]
    serves = _serves if name is None else _can_serve
    if not any(serves(status) and not status.paused for status in statuses):
        who = "no model serves" if name is None else f"the model {asked[0].name} does not serve"
        raise ServiceError(ErrorCode.model_unavailable, f"{who}; /health has the details")
    return web.json_response({"status": "ok"})


def report(service: Service) -> Health:
    """The body of the response of /health."""
    statuses = [(model, model.backend.status()) for model in service.models.shown]

    def loaded(kind: Kind) -> bool:
        return any(model.kind is kind and _serves(status) for model, status in statuses)

    return Health(
        status=_status([status for _, status in statuses]),
        version=VERSION,
        uptime_s=round(time.monotonic() - service.started, 1),
        asr_loaded=loaded(Kind.STT),
        tts_loaded=loaded(Kind.TTS),
        voices_loaded=len(service.builtin_voices) + service.voices.count,
        memory=Memory(
            limit_mb=to_mb(service.host.container.limit),
            source=service.host.container.source,
            usage_mb=to_mb(service.host.usage),
            front_rss_mb=to_mb(resident_bytes(os.getpid())),
        ),
        cores=Cores(count=service.host.cores.count, source=service.host.cores.source),
        sessions=OpenSessions(
            speech=service.sessions.count(Kind.TTS),
            transcription=service.sessions.count(Kind.STT),
            limit=service.sessions.limit,
        ),
        models={model.name: _model(model, status, service.tally) for model, status in statuses},
        children=[
            _child(model, status, child) for model, status in statuses for child in status.children
        ],
    )


def _can_serve(status: BackendStatus) -> bool:
    return status.state in AVAILABLE


def _serves(status: BackendStatus) -> bool:
    """Whether a model is there for requests that name none.

    One that is loaded on demand counts while it is loaded: it has not shown before that it can be.
    """
    if status.engine.on_demand:
        return status.state is ModelState.SERVING
    return _can_serve(status)


def _status(statuses: list[BackendStatus]) -> Literal["starting", "ok", "degraded"]:
    states = [status.state for status in statuses]
    if any(status.paused for status in statuses):
        return "degraded"
    if all(state in AVAILABLE for state in states):
        return "ok"
    if all(state in (*AVAILABLE, ModelState.STARTING) for state in states):
        return "starting"
    return "degraded"


def _model(model: ServedModel, status: BackendStatus, tally: Tally) -> Model:
    factor = tally.real_time_factor.get(model.name)
    return Model(
        kind=model.kind,
        state=status.state.value,
        engine=status.engine.name,
        profile=status.engine.profile,
        message=status.message,
        retry_in_s=round(status.retry_after, 1),
        notes=[*(status.info.notes if status.info else ()), *status.notes],
        in_flight=status.in_flight,
        queued=status.queued,
        backlog_s=round(status.backlog, 2),
        speed=round(status.speed, 2),
        threads=status.threads,
        workers=status.workers,
        free_slots=status.free_slots,
        paused=status.paused,
        real_time_factor=None if factor is None else round(factor, 3),
        hint=_hint(model, status),
        replays=tally.replays[model.name],
        recycles=tally.recycles_of(model.name),
        sandbox=_sandbox(status.sandbox),
    )


def _hint(model: ServedModel, status: BackendStatus) -> str | None:
    """What is degraded, and the command that mends it."""
    if status.paused:
        return f"it is paused, so requests wait: voice-engine resume {model.name}"
    if status.state in (ModelState.BACKOFF, ModelState.FAILED):
        return (
            f"it cannot start: {status.message}; `voice-engine doctor` looks for the cause, "
            f"`voice-engine reload {model.name}` tries again at once"
        )
    return None


def _child(model: ServedModel, status: BackendStatus, child: ChildStatus) -> Child:
    """One child; its USS and PSS are from the last reading."""
    return Child(
        name=child.name,
        role=child.role,
        model=model.name,
        kind=model.kind,
        engine=status.engine.name,
        pid=child.pid,
        state=older_state(child),
        lifecycle=child.state,
        in_flight=child.in_flight,
        live_in_flight=child.live_in_flight,
        capacity=child.capacity,
        live=child.live,
        rss_mb=to_mb(child.rss),
        uss_mb=to_mb(child.share.uss) if child.share else None,
        pss_mb=to_mb(child.share.pss) if child.share else None,
        baseline_mb=to_mb(child.baseline),
        soft_limit_mb=to_mb(child.soft_limit),
        hard_limit_mb=to_mb(child.hard_limit),
        uptime_s=round(time.monotonic() - child.started, 1),
        requests=child.requests,
        restarts=child.restarts,
        last_exit=child.last_exit,
        node=child.node,
        sandbox=_sandbox(child.sandbox),
    )


def _sandbox(layers: tuple[SandboxLayer, ...] | None) -> Sandbox | None:
    if layers is None:
        return None
    return Sandbox(
        enabled=bool(layers),
        active={layer.name: layer.detail for layer in layers if layer.active},
        refused={layer.name: layer.detail for layer in layers if not layer.active},
    )


def older_state(child: ChildStatus) -> str:
    """The state in the words of the first version, for older clients."""
    if child.role == "worker" and child.state == State.READY.value:
        return _SERVING[bool(child.in_flight)]
    return _DRAINING if child.state == State.DRAINING.value else child.state


OPERATIONS: Operations = (
    operation(
        "GET",
        "/health",
        health,
        summary="The state of every child",
        tag=TAG,
        answers={
            200: Answer("A model serves.", {JSON: Health}),
            503: Answer("No model serves.", {JSON: Health}),
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
        summary="Does the service accept requests?",
        tag=TAG,
        params=ReadyParams,
        answers={200: Answer("It does.", {JSON: Status})},
        errors=(ErrorCode.model_unavailable, ErrorCode.not_found),
        access=Access.OPEN,
    ),
)
