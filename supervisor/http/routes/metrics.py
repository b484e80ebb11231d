"""GET /metrics: what Prometheus scrapes. Runs in the front."""

from __future__ import annotations

from aiohttp import hdrs, web

from ipc.errors import ErrorCode, ServiceError
from supervisor.http.api.operation import (
    Access,
    Answer,
    Call,
    Nothing,
    Operations,
    operation,
)
from supervisor.metrics.metrics import METRICS, METRICS_PORT


async def metrics(call: Call[Nothing, Nothing]) -> web.StreamResponse:
    """Counts, times and states for Prometheus, in its text format or as OpenMetrics.

    With `VOICE_ENGINE_METRICS_PORT` they are on that port instead.
    """
    request = call.request
    found = request.app.get(METRICS)
    if found is None:
        raise ServiceError(
            ErrorCode.not_found,
            f"the metrics are on port {request.app[METRICS_PORT]}, at /metrics",
        )
    text, media_type = await found.render(request.headers.get(hdrs.ACCEPT, ""))
    return web.Response(body=text, headers={hdrs.CONTENT_TYPE: media_type})


OPERATIONS: Operations = (
    operation(
        "GET",
        "/metrics",
        metrics,
        summary="Metrics for Prometheus",
        tag="Operation",
        answers={
            200: Answer(
                "The metrics.",
                {
                    "text/plain": "Prometheus' text format",
                    "application/openmetrics-text": "OpenMetrics, if `Accept` asks for it",
                },
            )
        },
        errors=(ErrorCode.not_found,),
        access=Access.METRICS,
    ),
)
