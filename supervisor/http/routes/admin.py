"""Endpoints for operators: POST /v1/children/{name}/recycle. Runs in the front."""

from __future__ import annotations

from typing import Annotated, Literal

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


class ChildPath(BaseModel):
    """Which worker."""

    name: Annotated[str, Field(description="the worker's name in /health", examples=["tts-1"])]


class Recycling(BaseModel):
    """The replacement of the worker has begun."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"status": "recycling", "name": "tts-1"}]}
    )

    status: Literal["recycling"]
    name: str


async def recycle(call: Call[Nothing, ChildPath]) -> web.StreamResponse:
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
        return json_answer(Recycling(status="recycling", name=name), status=202)
    raise ServiceError(ErrorCode.not_found, f"there is no worker called {name[:64]}; see /health")


OPERATIONS: Operations = (
    operation(
        "POST",
        "/v1/children/{name}/recycle",
        recycle,
        summary="Replace a worker",
        tag="Operation",
        params=ChildPath,
        answers={202: Answer("It is being replaced.", {JSON: Recycling})},
        errors=(ErrorCode.conflict,),
        access=Access.OPERATOR,
    ),
)
