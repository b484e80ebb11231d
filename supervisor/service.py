"""The parts of the running service, and the order of their start and stop. In the front."""

from __future__ import annotations

import asyncio
import importlib.metadata
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from aiohttp import web

from ipc.engines import BuiltinVoice, Kind
from supervisor.access.ratelimit import RateLimit
from supervisor.dispatch.models import Model, Models
from supervisor.dispatch.quarantine import Quarantine
from supervisor.events import DrainTimeout, Events, SettingsChanged
from supervisor.history import History
from supervisor.local import LocalModels, open_spool
from supervisor.memory.cgroup import Container, Cores
from supervisor.memory.usage import Share
from supervisor.sessions import Sessions
from supervisor.settings import Settings
from supervisor.tally import Tally
from supervisor.voices.stores import open_store

VERSION = importlib.metadata.version("voice-engine")


class Host(Protocol):
    """Where the models run: on this machine, or in a cluster."""

    settings: Settings
    """The settings in force."""
    models: Models
    container: Container
    """The memory of this machine, or of the part of it that the service may use."""
    cores: Cores

    @property
    def usage(self) -> int:
        """Bytes of the container in use, as last read."""

    @property
    def shares(self) -> Mapping[int, Share]:
        """USS and PSS of processes on this machine by pid, as last read."""

    def start(self) -> None:
        """Start to load all models; returns at once."""

    async def reload(self, settings: Settings, taken: Callable[[], None]) -> None:
        """Take over `settings`, and call `taken` once they are in force. Raises `ValueError`."""

    def reload_model(self, model: Model) -> None:
        """Load a model again; returns at once, an event follows. Raises `ServiceError`."""

    def scale(self, model: Model, workers: int) -> None:
        """Give a model another number of workers. Raises `DoesNotFit` or `ServiceError`."""

    async def take(self, limit: RateLimit, client: str) -> float:
        """Seconds until a client may send a request, see `RateLimit.take`."""

    async def close(self) -> None:
        """End what belongs to the models."""


class Service:
    """All parts: where the models run, spool, voices, sessions, and what counts events."""

    def __init__(self, settings: Settings) -> None:
        self.started = time.monotonic()
        self.draining = asyncio.Event()
        """Set when the shutdown begins."""
        self.events = Events()
        self.tally = Tally()
        self.events.subscribe(self.tally.take)
        self.history = History()
        self.events.subscribe(self.history.take)
        self.spool = open_spool(settings)
        self.serving = asyncio.Event()
        """Set once a model serves."""
        try:
            self.host = self._make_host(settings)
        except BaseException:
            self.spool.close()
            raise
        self.voices = open_store(settings)
        self._following: asyncio.Task[None] | None = None
        self.rate_limit = RateLimit(settings.rate_limit_per_minute)
        self.sessions = Sessions(settings.max_sessions, settings.client_share)

    def _make_host(self, settings: Settings) -> Host:
        if settings.cluster:
            try:
                from supervisor.cluster.models import ClusterModels
            except ModuleNotFoundError as error:
                from supervisor.cluster import MISSING

                raise OSError(f"{MISSING} ({error})") from error

            return ClusterModels(
                settings,
                publish=self.events.publish,
                on_serving=self.serving.set,
                on_tick=self._sample,
            )
        return LocalModels(
            settings,
            self.spool,
            publish=self.events.publish,
            quarantine=Quarantine(settings.quarantine),
            on_serving=self.serving.set,
            on_tick=self._sample,
        )

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.host.settings

    @property
    def models(self) -> Models:
        """All models."""
        return self.host.models

    @property
    def stopping(self) -> bool:
        """Whether the shutdown has begun."""
        return self.draining.is_set()

    @property
    def builtin_voices(self) -> list[tuple[BuiltinVoice, Model]]:
        """The built-in voices, each with its model; none before an engine has loaded."""
        found: dict[str, tuple[BuiltinVoice, Model]] = {}
        for model in self.models.of(Kind.TTS):
            for voice in model.backend.info.voices if model.backend.info else ():
                found.setdefault(voice.id, (voice, model))
        return list(found.values())

    def start(self) -> None:
        """Start to load all models; returns at once."""
        self.host.start()
        self._following = asyncio.get_running_loop().create_task(self.voices.run())

    async def drain(self, end: float) -> None:
        """Refuse new requests and wait for those in flight, at most until `end` (loop's clock)."""
        self.draining.set()
        try:
            async with asyncio.timeout_at(end), asyncio.TaskGroup() as group:
                for model in self.models:
                    group.create_task(model.backend.drain())
                group.create_task(self.sessions.drain())
        except TimeoutError:
            left = sum(model.backend.status().in_flight for model in self.models)
            self.events.publish(DrainTimeout(in_flight=left))

    async def reload(self, settings: Settings) -> None:
        """Apply new weights, engines, limits, keys and numbers of workers; no request is lost.

        A model that cannot be loaded stays as it was; the log says why. Addresses, folders and the
        pauses after failures do not change. Raises `ValueError` when `settings` need a restart of
        the service.
        """
        before = self.settings

        def taken() -> None:
            if changed := _changed(before, settings):
                self.events.publish(SettingsChanged(changed=changed))
            self.voices.max_voices = settings.max_voices
            self.sessions.limit = settings.max_sessions
            self.sessions.client_share = settings.client_share
            if settings.rate_limit_per_minute != self.rate_limit.per_minute:
                self.rate_limit = RateLimit(settings.rate_limit_per_minute)

        await self.host.reload(settings, taken)

    def _sample(self) -> None:
        statuses = {model.name: model.backend.status() for model in self.models.shown}
        self.history.sample(statuses, self.tally.real_time_factor)

    async def close(self) -> None:
        """Stop all children and remove the spool from the disk."""
        if self._following is not None:
            self._following.cancel()
        await self.host.close()
        await self.voices.close()
        self.spool.close()


def _changed(before: Settings, now: Settings) -> list[str]:
    """The names of the settings that differ."""
    return [name for name in Settings.model_fields if getattr(before, name) != getattr(now, name)]


SERVICE: web.AppKey[Service] = web.AppKey("service", Service)
