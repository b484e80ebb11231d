"""The models of a cluster, as a front has them. Runs in fronts.

The registry tells each second which models and replicas there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import ray

from ipc.engines import ENGINES, EngineSpec, Kind
from ipc.errors import ErrorCode, ServiceError
from supervisor.access.ratelimit import RateLimit
from supervisor.cluster.actors import registry_of
from supervisor.cluster.backend import ClusterBackend
from supervisor.cluster.connection import Connection, ConnectionFailed
from supervisor.cluster.messages import Overview, ReplicaReport, ReplicaSpec, aged
from supervisor.dispatch.models import Model, Models
from supervisor.events import Publish
from supervisor.local import container_of
from supervisor.log import logger
from supervisor.memory.cgroup import find_cores
from supervisor.memory.usage import Share
from supervisor.settings import Settings, custom_engine
from supervisor.threads import in_thread
from supervisor.workers.lifecycle import AVAILABLE

_LOOK_SECONDS = 1.0
"""Seconds between two looks at the registry."""

_RATE_SECONDS = 0.5
"""How long a request waits for the shared rate limit; then this front counts alone."""


class ClusterModels:
    """Where the models of a front run: in a cluster. A `Host`.

    Raises `ConnectionFailed` when there is no cluster, or no application on it.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        publish: Publish,
        on_serving: Callable[[], None],
        on_tick: Callable[[], None],
    ) -> None:
        self.settings = settings
        self._publish = publish
        self._on_serving = on_serving
        self._on_tick = on_tick
        self.container = container_of(settings)
        self.cores = find_cores()
        self.usage = 0
        self.shares: Mapping[int, Share] = {}
        self.models = Models([])
        self._reports: dict[str, ReplicaReport] = {}
        self._connection = Connection(settings.cluster)
        self._looking: asyncio.Task[None] | None = None
        self._registry: Any = None
        try:
            self._take(self._first_look())
        except BaseException:
            self._connection.close()
            raise

    @property
    def _application(self) -> str:
        return self.settings.application

    def _first_look(self) -> Overview:
        """Wait for the models; without them no request could be understood. It blocks."""
        self._registry = registry_of(self._application)
        end = time.monotonic() + self.settings.cluster_wait
        while True:
            seen: Overview = ray.get(self._registry.look.remote())
            if seen.specs:
                return seen
            if time.monotonic() >= end:
                break
            time.sleep(_LOOK_SECONDS)
        raise ConnectionFailed(
            f"the application {self._application} does not run on this cluster; start it "
            "with `voice-engine cluster up FILE`"
        )

    def start(self) -> None:
        """Begin to follow what the registry tells."""
        self._looking = asyncio.get_running_loop().create_task(self._look())

    async def reload(self, settings: Settings, taken: Callable[[], None]) -> None:
        """Take over settings of this front; those of replicas come with the cluster's file."""
        self.settings = settings
        for model in self.models:
            _backend(model).queue = settings.queue_size
        taken()

    def reload_model(self, model: Model) -> None:
        """Have all replicas of a model load their weights again."""
        _backend(model).reload_soon()

    def scale(self, model: Model, workers: int) -> None:
        """Refused: the number of replicas follows the load."""
        raise ServiceError(
            ErrorCode.conflict,
            f"the number of replicas of {model.name} follows the load; change its limits in the "
            "cluster's file and run `voice-engine cluster up` with it",
        )

    async def take(self, limit: RateLimit, client: str) -> float:
        """Seconds until a client may send a request, for all fronts together."""
        if limit.per_minute == 0:
            return 0.0
        try:
            async with asyncio.timeout(_RATE_SECONDS):
                wait: float = await self._registry.take.remote(client, limit.per_minute)
                return wait
        except Exception as error:  # better too many requests for a moment than none
            logger.warning("rate_limit_not_shared", error=str(error))
            return limit.take(client)

    async def close(self) -> None:
        """Leave the cluster."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        for model in self.models:
            await model.backend.close()
        await in_thread(self._connection.close)

    async def _look(self) -> None:
        """Look at the registry until cancelled."""
        while True:
            try:
                async with asyncio.timeout(2 * _LOOK_SECONDS):
                    self._take(await self._registry.look.remote())
            except Exception as error:  # it moves to another node, or the head is away
                logger.warning("registry_unreachable", error=str(error))
                with contextlib.suppress(Exception):
                    self._registry = await in_thread(partial(registry_of, self._application))
            self.usage = await in_thread(self.container.usage)
            self._on_tick()
            await asyncio.sleep(_LOOK_SECONDS)

    def _take(self, seen: Overview) -> None:
        """Take over what the registry has told."""
        now = time.monotonic()
        self.models = followed(self.models, seen, self._make)
        self._reports = (self._reports if seen.young else {}) | {
            report.replica: replace(report, status=aged(report.status, now))
            for report in seen.reports
        }
        for model in self.models:
            _backend(model).see(
                [each for each in self._reports.values() if each.spec.model == model.name]
            )
            if model.kind is not Kind.VAD and model.backend.state in AVAILABLE:
                self._on_serving()

    def _make(self, spec: ReplicaSpec) -> Model:
        backend = ClusterBackend(
            spec, _engine(spec), self.settings.queue_size, publish=self._publish
        )
        return Model(spec.model, spec.kind, backend)


def followed(models: Models, seen: Overview, make: Callable[[ReplicaSpec], Model]) -> Models:
    """`models` with those that are new, without those that are gone."""
    known = {model.name: model for model in models}
    told = {spec.model: spec for spec in seen.specs}
    new = [make(spec) for name, spec in told.items() if name not in known]
    kept = [model for name, model in known.items() if name in told or not seen.complete]
    return Models([*kept, *new]) if new or len(kept) < len(known) else models


def _backend(model: Model) -> ClusterBackend:
    assert isinstance(model.backend, ClusterBackend)
    return model.backend


def _engine(spec: ReplicaSpec) -> EngineSpec:
    """What is known of an engine before a replica has told."""
    return ENGINES.get(spec.engine) or custom_engine(spec.kind, spec.engine)
