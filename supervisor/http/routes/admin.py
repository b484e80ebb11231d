"""What operators can do: replace, end, add, reload, hold, unload, log more. Runs in the front.

Each act is an event that says who asked for it, and why. What comes of it are other events.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import ConfigDict, Field

from ipc.errors import ErrorCode, ServiceError
from supervisor import log
from supervisor.dispatch.models import Model
from supervisor.events import Acted, LogLevelChanged, Paused, Resumed
from supervisor.http.api.api_model import ApiModel
from supervisor.http.api.operation import (
    JSON,
    Access,
    Answer,
    Call,
    Nothing,
    Operation,
    Operations,
    json_answer,
    operation,
)
from supervisor.http.context import client
from supervisor.memory.limits import DoesNotFit
from supervisor.settings import MAX_WORKERS

TAG = "Operation"


class ChildPath(ApiModel):
    """Which child."""

    name: Annotated[str, Field(description="the child's name in /health", examples=["tts-1"])]


class ServedModelPath(ApiModel):
    """Which model."""

    model: Annotated[
        str, Field(description="the model's name in /health, or its engine's", examples=["tts"])
    ]


class Why(ApiModel):
    """Why it is done."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[
        str | None, Field(max_length=500, description="why, for the log and the other operators")
    ] = None


class ScaleFields(Why):
    """How many workers."""

    workers: Annotated[int, Field(ge=1, le=MAX_WORKERS, examples=[2])]


class LogLevelFields(Why):
    """The lowest level that is logged."""

    level: Literal["debug", "info", "warning", "error"]


class Act(ApiModel):
    """What has been done, or has begun."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"status": "recycling", "name": "tts-1"}]}
    )

    status: Literal[
        "recycling", "killed", "scaling", "reloading", "paused", "resumed", "unloading", "ok"
    ]
    name: str


async def recycle(call: Call[Why, ChildPath]) -> web.StreamResponse:
    """Replace a worker. Its successor is READY before it exits. The response comes at once."""
    name = call.params.name
    for model in call.service.models:
        if (begun := model.backend.recycle(name)) is None:
            continue
        if not begun:
            raise ServiceError(
                ErrorCode.conflict,
                f"{name} does not serve, or is already being replaced; see /health",
            )
        return _acted(call, "recycle", name, Act(status="recycling", name=name))
    raise _no_child(name)


async def kill(call: Call[Why, ChildPath]) -> web.StreamResponse:
    """End a worker or a template at once, as if it had crashed. No request is lost."""
    name = call.params.name
    if not any(model.backend.kill(name) for model in call.service.models):
        raise _no_child(name)
    return _acted(call, "kill", name, Act(status="killed", name=name))


async def scale(call: Call[ScaleFields, ServedModelPath]) -> web.StreamResponse:
    """Give a model another number of workers, until the settings are read again.

    With `VOICE_ENGINE_THREADS=auto` the workers share the cores, so all of them are replaced,
    without losing a request. The memory of the container is divided anew.
    """
    model, workers = _model(call), call.body.workers
    try:
        call.service.host.scale(model, workers)
    except DoesNotFit as error:
        raise ServiceError(ErrorCode.conflict, str(error)) from None
    act = Act(status="scaling", name=model.name)
    return _acted(call, "scale", model.name, act, detail=f"{workers} workers")


async def reload(call: Call[Why, ServedModelPath]) -> web.StreamResponse:
    """Load a model's files again and replace its workers, without losing a request.

    The events `reloaded` and `reload_failed` tell the end. Settings are read again on SIGHUP only.
    """
    model = _model(call)
    call.service.host.reload_model(model)
    return _acted(call, "reload", model.name, Act(status="reloading", name=model.name))


async def pause(call: Call[Why, ServedModelPath]) -> web.StreamResponse:
    """Finish the requests that run, and let new ones wait in the queue until `resume`."""
    model = _model(call)
    model.backend.pause()
    call.service.events.publish(Paused(model=model.name))
    return _acted(call, "pause", model.name, Act(status="paused", name=model.name), status=200)


async def resume(call: Call[Why, ServedModelPath]) -> web.StreamResponse:
    """Let a paused model go on."""
    model = _model(call)
    model.backend.resume()
    call.service.events.publish(Resumed(model=model.name))
    return _acted(call, "resume", model.name, Act(status="resumed", name=model.name), status=200)


async def unload(call: Call[Why, ServedModelPath]) -> web.StreamResponse:
    """End all processes of a model, to free its memory. The next request loads it again."""
    model = _model(call)
    if not model.backend.unload("asked by an operator"):
        raise ServiceError(
            ErrorCode.conflict,
            f"{model.name} has requests, starts, or does not serve, so it cannot be unloaded now; "
            "pause it first, wait until /health shows nothing in flight, then try again",
        )
    return _acted(call, "unload", model.name, Act(status="unloading", name=model.name))


async def log_level(call: Call[LogLevelFields, Nothing]) -> web.StreamResponse:
    """Log more, or less, until the service restarts."""
    level = call.body.level
    before = log.set_level(level)
    call.service.events.publish(LogLevelChanged(before=before, now=level))
    return _acted(call, "log-level", level, Act(status="ok", name=level), status=200)


def _acted(
    call: Call[Any, Any],
    act: str,
    target: str,
    answer: Act,
    *,
    detail: str | None = None,
    status: int = 202,
) -> web.Response:
    """Publish the act and answer."""
    who, why = client(call.request), call.body.reason
    call.service.events.publish(Acted(act=act, target=target, who=who, why=why, detail=detail))
    return json_answer(answer, status=status)


def _model(call: Call[Any, ServedModelPath]) -> Model:
    """The model in the path. Raises `ServiceError` (not_found)."""
    return call.service.models.named(call.params.model)


def _no_child(name: str) -> ServiceError:
    return ServiceError(
        ErrorCode.not_found,
        f"there is no child called {name[:64]} that this can be done to; see /health",
    )


def _act(
    path: str,
    handler: Any,
    summary: str,
    answer: str,
    *,
    body: type[Why] = Why,
    status: int = 202,
    method: str = "POST",
) -> Operation[Any, Any]:
    params = ChildPath if "{name}" in path else ServedModelPath if "{model}" in path else Nothing
    return operation(
        method,
        path,
        handler,
        summary=summary,
        tag=TAG,
        body=body,
        media=(JSON,),
        params=params,
        answers={status: Answer(answer, {JSON: Act})},
        errors=(ErrorCode.not_found, ErrorCode.conflict) if params is not Nothing else (),
        access=Access.OPERATOR,
    )


OPERATIONS: Operations = (
    _act("/v1/children/{name}/recycle", recycle, "Replace a worker", "It is being replaced."),
    _act("/v1/children/{name}/kill", kill, "End a child at once", "It has been killed."),
    _act(
        "/v1/models/{model}/scale",
        scale,
        "Change the number of workers",
        "Workers are being started, or end when they have finished.",
        body=ScaleFields,
    ),
    _act("/v1/models/{model}/reload", reload, "Load a model again", "It is being loaded."),
    _act("/v1/models/{model}/pause", pause, "Hold a model's queue", "It is paused.", status=200),
    _act("/v1/models/{model}/resume", resume, "Go on after a pause", "It goes on.", status=200),
    _act("/v1/models/{model}/unload", unload, "Free a model's memory", "It is being unloaded."),
    _act(
        "/v1/log-level",
        log_level,
        "Log more or less",
        "It is set.",
        body=LogLevelFields,
        status=200,
        method="PUT",
    ),
)
