"""A service without processes, whose metrics have values: of made-up events and statuses."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from ipc.engines import Kind
from supervisor import events
from supervisor.dispatch.backend import Backend, BackendStatus, ChildStatus
from supervisor.dispatch.models import Model, Models
from supervisor.local import LocalModels
from supervisor.memory.limits import MB
from supervisor.memory.usage import Share
from supervisor.metrics.metrics import Metrics
from supervisor.service import Service
from supervisor.settings import Settings
from supervisor.workers.lifecycle import ModelState

TEMPLATE, WORKER = 11, 12
"""Their pids."""


class Connections:
    """Counts of connections."""

    open = 3
    limit = 512
    refused = 1


class MadeUp:
    """A backend that says what it is told to say."""

    info = None

    def __init__(self, told: BackendStatus) -> None:
        self.told = told

    @property
    def engine(self) -> Any:
        """The engine."""
        return self.told.engine

    def status(self) -> BackendStatus:
        """What it was told."""
        return self.told

    async def close(self) -> None:
        """There is nothing to end."""


def child(pid: int = WORKER, **facts: Any) -> ChildStatus:
    """A READY worker; `facts` say otherwise."""
    worker: dict[str, Any] = {
        "name": f"tts-{pid}",
        "role": "worker",
        "state": "READY",
        "started": 0.0,
        "rss": 800 * MB,
        "share": None,
        "baseline": 700 * MB,
        "soft_limit": 1100 * MB,
        "hard_limit": 1500 * MB,
        "requests": 1,
        "in_flight": 0,
        "live_in_flight": 0,
        "capacity": 8,
        "live": 4,
        "restarts": 0,
        "last_exit": None,
        "sandbox": None,
    }
    return ChildStatus(pid=pid, **(worker | facts))


def template(pid: int = TEMPLATE) -> ChildStatus:
    """A template."""
    return child(pid, name="tts-template", role="template", soft_limit=None, hard_limit=None)


def status(service: Service, **facts: Any) -> BackendStatus:
    """A model that serves, with work in its queue; `facts` say otherwise."""
    told = replace(
        service.models.default(Kind.TTS).backend.status(),
        state=ModelState.SERVING,
        queued=2,
        backlog=12.5,
        in_flight=3,
        workers=2,
        free_slots=7,
        children=(template(), child(share=Share(100 * MB, 300 * MB))),
    )
    return replace(told, **facts)


def made_up(folder: Path) -> tuple[Service, MadeUp, Metrics]:
    """A service with one model, called tts; close the service in the end."""
    service = Service(Settings(profile="minimal", voices_dir=folder))
    backend = MadeUp(status(service))
    host = local_models(service)
    host.models = Models([Model("tts", Kind.TTS, cast(Backend, backend))])
    host.monitor.shares = {os.getpid(): Share(40 * MB, 45 * MB)}
    host.monitor.usage = 900 * MB
    return service, backend, Metrics(service, Connections())


def happen(service: Service) -> None:
    """One event of each kind that something is counted of."""
    for event in (
        events.Served(
            method="POST",
            route="/v1/tts",
            status=200,
            client="anna",
            bytes_in=300,
            bytes_out=90_000,
            duration_s=2.4,
            first_byte_s=0.15,
            model="tts",
        ),
        events.Probed(
            method="GET",
            route="/livez",
            status=200,
            client="10.0.0.1",
            bytes_in=0,
            bytes_out=16,
            duration_s=0.0004,
        ),
        events.Finished(
            model="tts",
            queue_s=0.02,
            inference_s=1.5,
            encode_s=0.5,
            direction="made",
            sound_s=8.0,
            voice_cached=True,
        ),
        events.Finished(model="tts", queue_s=0.0, inference_s=1.0, voice_cached=False),
        events.Recycled(
            model="tts",
            child="tts-1",
            successor="tts-2",
            reason="soft memory limit",
            gap=False,
            ready_ms=30.0,
            drain_ms=170.0,
            rss_mb=900.0,
            given_back_mb=200.5,
        ),
        events.WorkerDied(
            model="tts", child="tts-2", pid=1, reason="SIGSEGV", cause="signal", requests=3
        ),
        events.TemplateDied(model="tts", child="tts-template", reason="SIGKILL", cause="signal"),
        events.StartFailed(model="tts", error="x", failures=1, kills=0, retry_in_s=1.0),
        events.RequestLostWorker(
            model="tts", request=1, child="tts-2", reason="SIGSEGV", attempts=1, replayed=True
        ),
        events.Refused(model="tts", reason="overloaded", client="anna", message="busy"),
        events.Quarantined(model="tts", request=1),
    ):
        service.events.publish(event)


def local_models(service: Service) -> LocalModels:
    """The models of a service that runs them itself."""
    assert isinstance(service.host, LocalModels)
    return service.host
