"""The models that run on this machine, and what they share: its memory, its weights. In the front.

In a cluster each replica has one of these, with one model.
"""

from __future__ import annotations

import asyncio
import math
import os
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ipc.engines import ENGINES, Json, Kind, default_engine
from ipc.messages import WorkerOptions
from ipc.variants import VARIANT
from supervisor.access.ratelimit import RateLimit
from supervisor.dispatch.admission import QueueLimits
from supervisor.dispatch.backend import LocalBackend, LocalConfig
from supervisor.dispatch.dispatcher import DispatchConfig
from supervisor.dispatch.models import Model, Models
from supervisor.dispatch.quarantine import Quarantine
from supervisor.dispatch.spool import Spool
from supervisor.events import (
    EngineChosen,
    Noted,
    Publish,
    Reloaded,
    ReloadFailed,
    Scaled,
    WeightsFound,
)
from supervisor.log import logger
from supervisor.memory.cgroup import Container, Cores, find_container, find_cores
from supervisor.memory.limits import MB, DoesNotFit, plan, room_on_demand
from supervisor.memory.recycling import Policy
from supervisor.memory.usage import Share
from supervisor.settings import BEST_FIRST, ModelSettings, Settings
from supervisor.threads import in_thread
from supervisor.voices.folder import CACHED
from supervisor.voices.stores import encoded_folder
from supervisor.weights.folder import Seen, Watch, look
from supervisor.weights.pulling import Pulling
from supervisor.workers.backoff import Backoff
from supervisor.workers.child_log import close_logs
from supervisor.workers.config import PoolConfig
from supervisor.workers.launch import LaunchConfig, LaunchError
from supervisor.workers.monitor import Monitor, MonitorConfig
from supervisor.workers.on_demand import Residents
from supervisor.workers.process import become_subreaper

_MAX_THREADS = 8
"""The most threads of a worker by default; the models are small, and more were not measured."""

_RESTING = 5.0
"""Seconds until the settings are asked again whether the models folder is to be watched."""

_WEIGHTS = "weights"
"""What a note about weights that cannot be loaded is about."""
_IDLE_ON_DEMAND = 300.0
"""Seconds without a request after which a model that is loaded on demand is unloaded."""


class LocalModels:
    """The models on this machine: their backends, memory plan, monitor, weights and lifeline."""

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        *,
        publish: Publish,
        quarantine: Quarantine,
        beside: Sequence[str] = (),
        warm: bool = False,
        on_serving: Callable[[], None] = lambda: None,
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        """`beside` are engines elsewhere that use the same folders; with `warm` no model waits for
        a request to be loaded, or is unloaded. `on_serving` is called when a model serves,
        `on_tick` after each tick of the monitor.

        Raises `DoesNotFit` when the memory is not enough for the models.
        """
        self.settings = settings
        self._spool = spool
        self._publish = publish
        self._quarantine = quarantine
        self._beside = tuple(beside)
        self._warm = warm
        self._on_serving = on_serving
        self.options: Json = {}
        """What engines are told to choose; it counts from the next load on."""
        self._scaled: dict[str, int] = {}
        """Numbers of workers that operators have set since the settings were read."""
        self._changing = asyncio.Lock()
        """Held while models are reloaded or scaled."""
        self._notes: dict[str, dict[str, str]] = {}
        """What operators must know about models, by model and by what it is about."""
        self._watch = Watch(look(settings.models_dir))
        self._tasks: set[asyncio.Task[None]] = set()
        self.container = container_of(settings)
        self.cores = find_cores()
        # Nothing is ever written: the children are killed when the write end closes.
        self._lifeline, self._lifeline_writer = os.pipe()
        self._left_out: frozenset[str] = frozenset()
        """Models without which the service does what it can: there is no memory for them."""
        self.residents = Residents()
        self._configs: dict[str, LocalConfig] = {}
        self._configs = self._make_first_configs(settings)
        self.monitor = Monitor(_monitor_config(settings), self.container, publish, on_tick)
        self.models = Models([])
        self._add_models(settings)
        self._monitoring: asyncio.Task[None] | None = None

    @property
    def usage(self) -> int:
        """Bytes of the container in use, at the last tick of the monitor."""
        return self.monitor.usage

    @property
    def shares(self) -> Mapping[int, Share]:
        """USS and PSS by pid, of this process too; as old as the last reading."""
        return self.monitor.shares

    def _add_models(self, settings: Settings) -> list[Model]:
        """Make those that there are not yet."""
        known = [model.name for model in self.models]
        wanted = [
            each
            for each in settings.all_models
            if each.name in self._configs and each.name not in known
        ]
        backends = [self._make_backend(each.name) for each in wanted]
        added = [
            Model(each.name, each.kind, backend)
            for each, backend in zip(wanted, backends, strict=True)
        ]
        self.models = Models([*self.models, *added])
        self.monitor.pools = [*self.monitor.pools, *(backend.pool for backend in backends)]
        return added

    def _start_added(self, settings: Settings) -> list[Model]:
        """Make those that there are not yet, and start them."""
        added = self._add_models(settings)
        for model in added:
            self._announce(model)
            model.backend.start()
        return added

    def _make_backend(self, name: str) -> LocalBackend:
        settings = self.settings
        return LocalBackend(
            lambda: self._configs[name],
            Backoff(
                base=settings.backoff_base,
                maximum=settings.backoff_max,
                failures_max=settings.failures_max,
            ),
            self._quarantine,
            self.monitor,
            publish=self._publish,
            on_serving=(lambda: None) if name == Kind.VAD else self._on_serving,
            residents=self.residents,
        )

    def start(self) -> None:
        """Start to load all models; returns at once."""
        become_subreaper()
        for model in self.models:
            if model.kind is not Kind.VAD:
                self._announce(model)
            model.backend.start()
        self._monitoring = asyncio.get_running_loop().create_task(self.monitor.run())
        self._spawn_task(self._watch_models())
        if self.settings.pulled:
            self._spawn_task(self._pulling().run())

    async def reload(self, settings: Settings, taken: Callable[[], None]) -> None:
        """Apply new weights, engines, limits and numbers of workers; no request is lost.

        `taken` is called when the settings are in force, before the models are loaded. A model that
        cannot be loaded stays as it was; the log says why. Models that are loaded on demand are
        added; one whose weights are gone stays until the restart. Raises `ValueError` when
        `settings` add or remove another model, because that needs a restart of the service.
        """
        async with self._changing:
            await self._reload(settings, taken)

    async def _reload(self, settings: Settings, taken: Callable[[], None]) -> None:
        self.cores = find_cores()
        seen = await self._look()
        for notes in self._notes.values():
            notes.pop(_WEIGHTS, None)
        configs = self._make_configs(settings, {})
        if _always_there(configs) != _always_there(self._configs):
            raise ValueError(
                f"the settings ask for the models {', '.join(configs)}, but the service runs "
                f"{', '.join(self._configs)}; restart it to add or remove a model"
            )
        self._configs, self._scaled = configs, {}
        self._watch.accept(seen)
        self.settings = settings
        self.monitor.config = _monitor_config(settings)
        taken()
        added = self._start_added(settings)
        await asyncio.gather(
            *(self._reload_one(model) for model in self.models if model not in added)
        )

    def reload_model(self, model: Model) -> None:
        """Load a model again, with the settings as they are; returns at once, an event follows."""

        async def reload() -> None:
            async with self._changing:
                await self._reload_one(model)

        self._spawn_task(reload())

    def scale(self, model: Model, workers: int) -> None:
        """Give a model another number of workers, until the settings are read again.

        Returns at once; workers are added, or finish what they have and end. Raises `DoesNotFit`
        when the memory is not enough; then nothing changes.
        """
        scaled = self._scaled | {model.name: workers}
        configs = self._make_configs(self.settings, scaled)
        before = self._configs[model.name].pool.size
        self._configs, self._scaled = configs, scaled
        self._publish(Scaled(model=model.name, workers_before=before, workers=workers))

        async def adapt() -> None:
            async with self._changing:
                # All of them, because they share the memory.
                await asyncio.gather(*(self._reload_one(each, adapt=True) for each in self.models))

        self._spawn_task(adapt())

    async def take(self, limit: RateLimit, client: str) -> float:
        """Seconds until a client may send a request: nobody else counts."""
        return limit.take(client)

    # New weights

    async def _look(self) -> Seen:
        folder = self.settings.models_dir
        return await in_thread(lambda: look(folder))

    async def _watch_models(self) -> None:
        """Take up weights as soon as they are complete."""
        while True:
            pause = self.settings.watch_models
            await asyncio.sleep(pause or _RESTING)
            if not pause:
                continue
            try:
                async with self._changing:
                    if engines := self._watch.changed(await self._look()):
                        await self._take_up(engines)
            except Exception:  # a bug here must be logged, and must not end the watch
                logger.exception("watch_failed")

    async def _take_up(self, engines: list[str]) -> None:
        """Load the new weights of `engines` where the settings leave the choice, or name them.

        One model after the other, so that one that cannot be loaded does not hold up the others,
        and stays as it was. A model never gets a lesser engine than it has.
        """
        chosen = self.settings.chosen_again()
        await self._take_up_on_demand(
            [new for new in chosen if new.engine.on_demand and new.engine.name in engines]
        )
        for new in chosen:
            if new.engine.on_demand:
                continue
            model = self.models.named(new.name)
            before = model.backend.engine
            ranks = [
                BEST_FIRST.index(spec.profile)
                for spec in (before, new.engine)
                if spec.profile in BEST_FIRST
            ]
            if new.engine.name in engines and ranks == sorted(ranks, reverse=True):
                self._publish(
                    WeightsFound(
                        model=model.name, engine=new.engine.name, engine_before=before.name
                    )
                )
                await self._change_engine(model, new)

    async def _take_up_on_demand(self, found: Sequence[ModelSettings]) -> None:
        """Add models that will be loaded when a request wants them; load again what is loaded."""
        known = {model.name: model for model in self.models}
        await asyncio.gather(
            *(self._reload_one(known[each.name]) for each in found if each.name in known)
        )
        new = [each for each in found if each.name not in known]
        if not new:
            return
        settings = self.settings.with_added(new)
        self._configs = self._make_configs(settings, self._scaled)
        self.settings = settings
        for each in new:
            if each.name in self._configs:
                found_engine = each.engine.name
                self._publish(WeightsFound(model=each.name, engine=found_engine, engine_before=""))
        self._start_added(settings)
        await asyncio.gather(  # they share the memory
            *(self._reload_one(model, adapt=True) for model in known.values())
        )

    async def _change_engine(self, model: Model, new: ModelSettings) -> None:
        """Load the engine of `new` and replace the workers; if it fails, all is as before."""
        name, engine = model.name, new.engine.name
        notes = self._notes.pop(name, {})
        before = self.settings, self._configs
        settings = self.settings.with_model(new)
        try:
            self._configs = self._make_configs(settings, self._scaled)
            self.settings = settings
            await model.backend.reload()
        except (LaunchError, DoesNotFit) as error:
            self.settings, self._configs = before
            kept = model.backend.engine.name
            self._publish(ReloadFailed(model=name, error=str(error)))
            await self._note(
                model,
                _WEIGHTS,
                f"the weights of {engine} in {settings.models_dir} cannot be used, so {kept} "
                f"serves as before: {error}",
            )
        except BaseException:
            self.settings, self._configs = before
            self._notes[name] = notes
            raise
        else:
            self._announce(model)
            self._publish(Reloaded(model=name))
            others = [each for each in self.models if each is not model]  # they share the memory
            await asyncio.gather(*(self._reload_one(each, adapt=True) for each in others))

    def _pulling(self) -> Pulling:
        """The download that the settings ask for."""
        engines = self.settings.pulled
        kinds = {ENGINES[name].kind if name in ENGINES else Kind.TTS for name in engines}
        models = [self.models.default(kind) for kind in Kind if kind in kinds]

        def note(message: str | None) -> None:
            async def tell() -> None:
                async with self._changing:
                    for model in models:
                        await self._note(model, "pull", message)

            self._spawn_task(tell())

        folder = self.settings.models_dir.resolve()
        return Pulling(engines, folder, lifeline=self._lifeline, publish=self._publish, note=note)

    async def _note(self, model: Model, about: str, message: str | None) -> None:
        """Tell operators something about a model in /health, or take it back."""
        notes = self._notes.setdefault(model.name, {})
        notes.pop(about, None)
        if message is not None:
            notes[about] = message
        self._configs = self._make_configs(self.settings, self._scaled)
        await self._reload_one(model, adapt=True)

    async def _reload_one(self, model: Model, *, adapt: bool = False) -> None:
        try:
            await (model.backend.adapt() if adapt else model.backend.reload())
        except LaunchError as error:
            self._publish(ReloadFailed(model=model.name, error=str(error)))
        else:
            if not adapt and model.kind is not Kind.VAD:
                self._announce(model)
                self._publish(Reloaded(model=model.name))

    def _spawn_task(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stop all children."""
        for task in list(self._tasks):
            task.cancel()
        if self._monitoring is not None:
            self._monitoring.cancel()
        await asyncio.gather(*(model.backend.close() for model in self.models))
        await close_logs()
        os.close(self._lifeline)
        os.close(self._lifeline_writer)

    def _announce(self, model: Model) -> None:
        pool, engine = self._configs[model.name].pool, model.backend.engine
        limits = pool.policy.limits
        self._publish(
            EngineChosen(
                model=model.name,
                engine=engine.name,
                profile=engine.profile,
                soft_limit_mb=limits.soft.describe(),
                hard_limit_mb=limits.hard.describe(),
                memory_mb=self.container.limit // MB,
                memory_from=self.container.source,
                threads=pool.launch.threads,
                cores=self.cores.count,
                cores_from=self.cores.source,
            )
        )
        for about, note in pool.notes.items():
            self._publish(Noted(model=model.name, about=about, message=note))

    def _make_first_configs(self, settings: Settings) -> dict[str, LocalConfig]:
        """`_make_configs` at the start; without live transcription if there is no memory for it."""
        try:
            return self._make_configs(settings, {})
        except DoesNotFit:
            self._left_out = frozenset((Kind.VAD.value,))
            configs = self._make_configs(settings, {})
            logger.warning(
                "live_transcription_off",
                message="there is too little memory for the engine that finds speech in live "
                "sound; give the container more, or run fewer models (VOICE_ENGINE_MODELS)",
            )
            return configs

    def _make_configs(
        self, settings: Settings, scaled: Mapping[str, int]
    ) -> dict[str, LocalConfig]:
        """The configuration of each model's backend, by model name. Raises `DoesNotFit`.

        `scaled` has numbers of workers that are not those of the settings, by model.
        """
        models = [
            _with_workers(each, scaled.get(each.name))
            for each in settings.all_models
            if each.name not in self._left_out
        ]
        needs = {each.name: each.need for each in models}
        plans = plan(self.container.limit, needs)
        room = room_on_demand(self.container.limit, needs, plans)
        too_large = [each for each in models if each.name not in plans]
        voices = settings.voices_dir.resolve()
        voice_dir = _make_private(encoded_folder(settings), settings.voices_dir)
        voice_cache_dir = None
        if voice_dir is not None and settings.voice_cache_mb:
            voice_cache_dir = _make_private(voices / CACHED, settings.voices_dir)
        dispatch = _dispatch_config(settings)
        # A session has at most one step at a time, so these cannot pile up.
        steps = replace(dispatch, limits=QueueLimits(settings.max_sessions, math.inf, 1.0))

        def pool(model: ModelSettings) -> PoolConfig:
            planned = plans[model.name]
            lowered = planned.capacity < model.need.capacity
            notes = {}
            if lowered:
                notes["capacity_lowered"] = _too_little_memory(model, planned.capacity)
            told = self._notes.get(model.name, {})
            notes |= told
            if not told and (better := _better_engines(model, settings)):
                notes[f"{model.engine.profile}_engine"] = better
            if model.kind is Kind.TTS and model.name == model.kind.value:
                for other in too_large:
                    notes[f"left_out_{other.name}"] = _too_large(other, room)
            return PoolConfig(
                model=model.name,
                engine=model.engine,
                size=model.workers,
                capacity=planned.capacity,
                notes=notes,
                start_method=settings.start_method if model.engine.forks else "spawn",
                limit_setting=model.limit_setting,
                idle=0.0 if self._warm else _idle(model, settings),
                on_demand=(model.kind is Kind.VAD or model.engine.on_demand) and not self._warm,
                claim=planned.claim if model.engine.on_demand else 0,
                launch=LaunchConfig(
                    model=model.name,
                    factory=model.engine.factory,
                    models_dir=str(settings.models_dir.resolve()),
                    cache_dir=str(settings.cache_dir.resolve()),
                    threads=1
                    if model.kind is Kind.VAD
                    else (
                        default_threads(self.cores, model.workers)
                        if settings.threads == "auto"
                        else settings.threads
                    ),
                    options={
                        "quantize": settings.quantize,
                        **self.options,
                        **({VARIANT: model.engine.variant} if model.engine.variant else {}),
                    },
                    capacity=planned.capacity if lowered else model.capacity,
                    live=model.live,
                    worker_options=WorkerOptions(
                        trim_growth=settings.trim_growth_mb * MB,
                        voice_dir=voice_dir,
                        voice_cache_dir=voice_cache_dir,
                        voice_cache_bytes=settings.voice_cache_mb * MB,
                        voice_cache_memory_bytes=settings.voice_cache_memory_mb * MB,
                        other_engines=(
                            *self._beside,
                            *(
                                other.engine.name
                                for other in settings.models
                                if other.kind is model.kind and other is not model
                            ),
                        ),
                        sandbox=settings.sandbox == "auto",
                        recordings=_readable(model.kind, self._spool, voices),
                    ),
                    lifeline=self._lifeline,
                    load_timeout=settings.load_timeout,
                    warm_up_timeout=settings.warm_up_timeout,
                ),
                policy=Policy(
                    limits=planned.limits,
                    soft_samples=settings.soft_samples,
                    min_lifetime=settings.min_lifetime,
                    max_requests=0 if model.kind is Kind.VAD else settings.max_requests,
                    max_age=settings.max_age,
                    jitter=settings.recycle_jitter,
                ),
            )

        self.residents.room = room
        made = {
            each.name: LocalConfig(pool(each), steps if each.kind is Kind.VAD else dispatch)
            for each in models
            if each.name in plans
        }
        # Weights that are loaded on demand, and are not there any more, stay until the restart.
        gone = {
            name: config
            for name, config in self._configs.items()
            if config.pool.claim and name not in made
        }
        return {**made, **gone}


def container_of(settings: Settings) -> Container:
    """The container of this process, or the part of its memory that the settings leave."""
    override = settings.memory_limit_mb
    return find_container(None if override is None else override * MB)


def open_spool(settings: Settings) -> Spool:
    """The private folder of this process for what does not fit into memory."""
    return Spool(
        settings.spool_dir or Path(tempfile.gettempdir()), settings.spool_threshold_kb * 1024
    )


def _readable(kind: Kind, spool: Spool, voices: Path) -> tuple[str, ...]:
    """The folders with recordings that workers of one kind read. Live sound is in the request."""
    match kind:
        case Kind.TTS:
            return (str(spool.folder.resolve()), str(voices))
        case Kind.STT:
            return (str(spool.folder.resolve()),)
        case Kind.VAD:
            return ()


def _idle(model: ModelSettings, settings: Settings) -> float:
    """Seconds without a request after which a model is unloaded; 0 = never."""
    if model.engine.on_demand:
        return settings.on_demand_unload
    return settings.idle_unload or (_IDLE_ON_DEMAND if model.kind is Kind.VAD else 0.0)


def _always_there(configs: Mapping[str, LocalConfig]) -> set[str]:
    """The models that do not share memory on demand."""
    return {name for name, config in configs.items() if not config.pool.claim}


def _too_large(model: ModelSettings, room: int) -> str:
    return (
        f"{model.name} cannot be loaded: it needs {model.need.smallest.size} MB, and the memory "
        f"plan has {max(0, room)} MB for models that are loaded on demand; give the container more "
        "memory, or run fewer models (VOICE_ENGINE_MODELS)"
    )


def _with_workers(model: ModelSettings, workers: int | None) -> ModelSettings:
    if workers is None:
        return model
    return replace(model, workers=workers, need=replace(model.need, workers=workers))


def default_threads(cores: Cores, workers: int) -> int:
    """How many threads each of so many workers of a model gets: together what the cores carry.

    A quota a little below a whole number counts as that number: the threads do not always run.
    """
    return max(1, min(_MAX_THREADS, int(cores.count + 0.25) // workers))


def _too_little_memory(model: ModelSettings, capacity: int) -> str:
    return (
        f"each worker serves {capacity} instead of {model.need.capacity} requests at once, because "
        "there is too little memory for more"
    )


def _better_engines(model: ModelSettings, settings: Settings) -> str | None:
    """What operators must know if a better engine than this one could serve its kind."""
    kind = [each.engine for each in settings.models if each.kind is model.kind]
    if (
        model.kind is Kind.VAD
        or model.engine.profile not in ("embedded", "minimal")
        or any(engine.profile == "production" for engine in kind)
    ):
        return None
    advice = (
        f"the production engine {default_engine(model.kind, 'production').name} serves once its "
        f"weights are in {settings.models_dir}: voice-engine models pull {settings.models_dir}"
    )
    embedded = default_engine(model.kind, "embedded")
    if model.engine.profile == "minimal" and not embedded.installed(settings.models_dir):
        advice = f"`make setup` without SLIM=1 installs the neural engine {embedded.name}; {advice}"
    return f"the {model.engine.profile} engine {model.engine.name} serves; {advice}"


def _monitor_config(settings: Settings) -> MonitorConfig:
    return MonitorConfig(settings.ping_interval, settings.ping_timeout, settings.pressure)


def _dispatch_config(settings: Settings) -> DispatchConfig:
    return DispatchConfig(
        limits=QueueLimits(settings.queue_size, settings.queue_seconds, settings.client_share),
        max_attempts=settings.max_attempts,
        cancel_grace=settings.cancel_grace,
    )


def _make_private(folder: Path, setting: Path) -> str | None:
    """A private folder for the workers' encoded voices; None when it cannot be used."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(f"{folder} is not writable")
    except OSError as error:
        logger.warning(
            "voice_cache_off",
            error=str(error),
            message="encoded voices are not kept on disk and are lost when their worker ends; make "
            f"the folder {setting} writable, or set VOICES_DIR to another one",
        )
        return None
    return str(folder)
