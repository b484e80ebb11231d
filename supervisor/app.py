"""The front process: wiring, sockets, signals, start and stop order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from supervisor import log
from supervisor.events import Listening, Reloading, ReloadRefused, Stopped, Stopping
from supervisor.http.access.auth import auth_middleware, rate_middleware
from supervisor.http.access.cors import add_cors, cors_middleware
from supervisor.http.access.served import note_answer, served_middleware
from supervisor.http.addresses import with_single_slashes
from supervisor.http.api.operation import Operations, add_operations
from supervisor.http.connection import Connections, Protocol
from supervisor.http.context import add_id, add_warnings, id_middleware
from supervisor.http.errors import error_middleware
from supervisor.http.routes import (
    admin,
    children,
    description,
    events,
    health,
    live_speech,
    live_transcription,
    metrics,
    native,
    page,
    voice_archives,
    voices,
)
from supervisor.http.routes.elevenlabs import account as elevenlabs_account
from supervisor.http.routes.elevenlabs import live_speech as elevenlabs_live_speech
from supervisor.http.routes.elevenlabs import live_transcription as elevenlabs_live_transcription
from supervisor.http.routes.elevenlabs import speech as elevenlabs_speech
from supervisor.http.routes.elevenlabs import transcription as elevenlabs_transcription
from supervisor.http.routes.elevenlabs import voices as elevenlabs_voices
from supervisor.http.routes.openai import realtime as openai_realtime
from supervisor.http.routes.openai import speech as openai_speech
from supervisor.log import logger
from supervisor.memory.limits import DoesNotFit
from supervisor.memory.malloc import keep_front_small
from supervisor.metrics.metrics import METRICS, METRICS_PORT, Metrics
from supervisor.service import SERVICE, VERSION, Service
from supervisor.settings import Settings
from supervisor.systemd import feed_watchdog, notify, reloading

if TYPE_CHECKING:
    from supervisor.tracing import Tracing

_BACKLOG = 512
_LINGER_SECONDS = 2.0
"""How long a refused client may still send before it is disconnected: it must read the refusal."""

_CANCEL_SECONDS = 0.2
"""How long a cancelled handler may take to end before its connection is closed."""

_COLLECTOR = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Variables with the address to which traces are sent."""


OPERATIONS: Operations = (
    *native.OPERATIONS,
    *live_speech.OPERATIONS,
    *live_transcription.OPERATIONS,
    *voices.OPERATIONS,
    *voice_archives.OPERATIONS,
    *elevenlabs_speech.OPERATIONS,
    *elevenlabs_live_speech.OPERATIONS,
    *elevenlabs_voices.OPERATIONS,
    *elevenlabs_transcription.OPERATIONS,
    *elevenlabs_live_transcription.OPERATIONS,
    *elevenlabs_account.OPERATIONS,
    *openai_speech.OPERATIONS,
    *openai_realtime.OPERATIONS,
    *health.OPERATIONS,
    *admin.OPERATIONS,
    *children.OPERATIONS,
    *events.OPERATIONS,
    *metrics.OPERATIONS,
    *description.OPERATIONS,
    *page.OPERATIONS,
)
"""All that the service offers."""

_BESIDE: Operations = (
    *metrics.OPERATIONS,
    *(each for each in health.OPERATIONS if each.path == "/livez"),
)
"""What is on the port of the metrics, if they have one of their own."""

_CONNECTIONS_BESIDE = 16
"""How many connections that port takes. They are left when all others are in use."""


def build_app(
    service: Service, operations: Operations = OPERATIONS, tracing: Tracing | None = None
) -> web.Application:
    """The routes of the service, or some of them."""
    app = web.Application(
        middlewares=[
            id_middleware,
            *([tracing.middleware] if tracing else []),
            served_middleware,
            error_middleware,
            cors_middleware,
            auth_middleware,
            rate_middleware,
        ]
    )
    # By signal, because the headers of a stream are sent before the middlewares see the response.
    app.on_response_prepare.extend([note_answer, add_id, add_warnings, add_cors])
    if tracing:
        app.on_response_prepare.append(tracing.add_parent)
    app[SERVICE] = service
    add_operations(app, operations)
    return app


def start_tracing(environment: Mapping[str, str]) -> Tracing | None:
    """The traces that the variables of OpenTelemetry ask for; None if they ask for none.

    The service serves without them when they cannot be had.
    """
    wanted = any(environment.get(name) for name in _COLLECTOR)
    disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if not wanted or disabled or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    try:
        from supervisor.tracing import Tracing

        return Tracing()
    except Exception:
        logger.exception("tracing_failed")
        return None


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. `::` also accepts IPv4, and means IPv4 only if there is no IPv6."""
    if host == "::" and socket.has_dualstack_ipv6():
        return socket.create_server(
            (host, port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True
        )
    if host == "::":
        host = "0.0.0.0"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)


@dataclass(frozen=True, slots=True)
class _Door:
    """A port, and the application that serves there."""

    runner: web.AppRunner
    manager: web.Server
    listener: asyncio.Server

    @classmethod
    async def open(
        cls,
        app: web.Application,
        sock: socket.socket,
        connections: Connections,
        idle_timeout: float,
    ) -> _Door:
        """Accept connections from now on."""
        loop = asyncio.get_running_loop()
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        manager = runner.server
        assert manager is not None
        manager.request_factory = with_single_slashes(manager.request_factory)
        connection: dict[str, Any] = {
            "access_log": None,
            "lingering_time": _LINGER_SECONDS,
            "keepalive_timeout": idle_timeout,
        }
        listener = await loop.create_server(
            lambda: Protocol(manager, connections, loop=loop, **connection),
            sock=sock,
            backlog=_BACKLOG,
        )
        return cls(runner, manager, listener)

    async def close(self, end: float) -> None:
        """Accept none any more, and send the remaining responses until `end` (loop's clock)."""
        self.listener.close()
        await _end_connections(self.manager, end)
        await self.runner.cleanup()


async def serve(load_settings: Callable[[], Settings]) -> None:
    """Run the service until SIGTERM or SIGINT; on SIGHUP it reloads its settings and models."""
    stop, reload = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    # For writing uploads to disk; more threads would only use more memory.
    loop.set_default_executor(ThreadPoolExecutor(max_workers=2, thread_name_prefix="disk"))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    settings = load_settings()
    sock = listen(settings.host, settings.port)
    metrics_port = settings.metrics_port or None
    metrics_sock = None if metrics_port is None else listen(settings.host, metrics_port)
    service = Service(settings)
    await service.voices.open()
    publish = service.events.publish
    tracing = start_tracing(os.environ)
    app = build_app(service, tracing=tracing)
    connections = Connections(settings.max_connections, publish)
    measured = Metrics(service, connections)
    if metrics_port is None:
        app[METRICS] = measured
    else:
        app[METRICS_PORT] = metrics_port
    doors = [await _Door.open(app, sock, connections, settings.idle_timeout)]
    if metrics_sock is not None:
        beside = build_app(service, _BESIDE)
        beside[METRICS] = measured
        room = Connections(_CONNECTIONS_BESIDE, publish)
        doors.append(await _Door.open(beside, metrics_sock, room, settings.idle_timeout))
    publish(
        Listening(
            host=settings.host,
            port=sock.getsockname()[1],
            version=VERSION,
            metrics_port=metrics_port,
        )
    )
    measured.start()
    service.start()
    background = [
        asyncio.create_task(_reload_on(reload, service, load_settings)),
        asyncio.create_task(_tell_ready(service)),
    ]
    feeding = asyncio.create_task(feed_watchdog())  # also while requests are finished at the end
    try:
        await stop.wait()
        notify("STOPPING=1")
        publish(Stopping(drain_s=settings.drain_timeout))
        for task in background:
            task.cancel()
        end = loop.time() + service.settings.drain_timeout
        await service.drain(end)
        for door in doors:
            await door.close(end)
        await measured.close()
        if tracing:
            await tracing.close(end)
    finally:
        await service.close()
        feeding.cancel()
    publish(Stopped())


async def _end_connections(manager: web.Server, end: float) -> None:
    """Send the remaining responses until `end` (loop's clock), then close the connections.

    aiohttp's own shutdown would start its full wait again, twice.
    """
    manager.pre_shutdown()  # idle connections
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(end):
            await manager.shutdown()
    await manager.shutdown(_CANCEL_SECONDS)


async def _tell_ready(service: Service) -> None:
    """Tell systemd once a model serves."""
    await service.serving.wait()
    notify("READY=1", f"STATUS=listening, version {VERSION}")


async def _reload_on(
    requested: asyncio.Event, service: Service, load_settings: Callable[[], Settings]
) -> None:
    """Run one reload at a time; a SIGHUP during a reload starts another one after it."""
    while True:
        await requested.wait()
        requested.clear()
        reloading()
        service.events.publish(Reloading())
        try:
            await service.reload(load_settings())
        except (ValueError, OSError, DoesNotFit) as error:
            service.events.publish(ReloadRefused(error=str(error)))
        except Exception:  # a bug here must be logged, and must not stop later reloads
            logger.exception("reload_failed")
        notify("READY=1")


def run(load_settings: Callable[[], Settings]) -> None:
    """Run the front process with the settings that `load_settings` returns, now and on SIGHUP."""
    # Until `serve` installs its handler, a SIGHUP would end the process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    settings = load_settings()
    log.configure(settings.log_level, settings.log_format)
    keep_front_small()
    asyncio.run(serve(load_settings))
