"""The whole service, with events, access log and metrics or without, for the part `metrics`.

`python -m tests.bench.metrics_server WAY`, with settings in the environment. What a way leaves out
is replaced here, before it is imported: the service itself has no switch for it.

    off      no event is told to anybody, no request is noted, there are no metrics
    events   events are told, logged and counted, each request too; there are no metrics
    all      as it is
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from aiohttp import web

from supervisor.http.errors import Handler


class _NoMetrics:
    """In the place of `Metrics`."""

    def __init__(self, *_: Any) -> None:
        pass

    def start(self) -> None:
        """Measure nothing."""

    async def close(self) -> None:
        """There is nothing to end."""


def _leave_out_metrics() -> None:
    """Their module, and with it the library, is not imported."""
    module: Any = ModuleType("supervisor.metrics.metrics")
    module.Metrics = _NoMetrics
    module.METRICS = web.AppKey("metrics", _NoMetrics)
    module.METRICS_PORT = web.AppKey("metrics_port", int)
    sys.modules[module.__name__] = module


def _leave_out_events() -> None:
    from supervisor import service
    from supervisor.events import Event, Events

    class NoEvents(Events):
        """Tells nobody."""

        def publish(self, event: Event) -> None:
            pass

    setattr(service, "Events", NoEvents)  # noqa: B010 - mypy: it is imported there


@web.middleware
async def _serve(request: web.Request, handler: Handler) -> web.StreamResponse:
    """In the place of the middleware that tells each request."""
    return await handler(request)


def main(way: str) -> None:
    """Serve until SIGTERM."""
    if way in ("off", "events"):
        _leave_out_metrics()
    if way == "off":
        _leave_out_events()
    from supervisor import app
    from supervisor.settings import Settings

    if way == "off":
        setattr(app, "served_middleware", _serve)  # noqa: B010
    app.run(Settings)


if __name__ == "__main__":
    main(sys.argv[1])
