"""The parts of the running service, and the order of their start and stop. In the front."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import tempfile
import time
from pathlib import Path

from aiohttp import web

from ipc.engines import MODELS
from ipc.messages import Json
from supervisor.access.ratelimit import RateLimit
from supervisor.dispatch.admission import Limits
from supervisor.dispatch.cost import SOUND, Speed
from supervisor.dispatch.dispatcher import DispatchConfig, Dispatcher
from supervisor.dispatch.quarantine import Quarantine
from supervisor.dispatch.spool import Spool
from supervisor.log import logger
from supervisor.memory.cgroup import find_container
from supervisor.memory.limits import MB, plan
from supervisor.memory.recycling import Policy
from supervisor.settings import Settings
from supervisor.voices.store import CACHED, ENCODED, VoiceStore
from supervisor.workers.backoff import Backoff
from supervisor.workers.config import PoolConfig
from supervisor.workers.launch import LaunchConfig, LaunchError
from supervisor.workers.monitor import Watch, WatchConfig
from supervisor.workers.pool import Environment, Pool, PoolState
from supervisor.workers.process import become_subreaper

VERSION = importlib.metadata.version("voice-engine")

_INITIAL_SPEED = {
    # Seconds of computing per character, per voice to encode, per second of a recording, and per
    # byte of one whose seconds are not known, on one core; a moving average takes over with the
    # first request.
    "text": 0.02,
    "voice": 2.0,
    SOUND: 0.06,
    "bytes": 2e-5,
}


class Service:
    """Pools and dispatchers of both models, spool, voices, and the lifeline of all children."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.started = time.monotonic()
        self.stopping = False
        override = settings.memory_limit_mb
        self.container = find_container(None if override is None else override * MB)
        # Nothing is ever written: that the write end closes is what kills the children.
        self._lifeline, self._lifeline_writer = os.pipe()
        configs = self._pool_configs(settings)  # may refuse; nothing has been started yet
        self.spool = Spool(
            settings.spool_dir or Path(tempfile.gettempdir()), settings.spool_threshold_kb * 1024
        )
        self.voices = VoiceStore(settings.voices_dir.resolve(), settings.max_voices)
        self.voices.load()
        self.watch = Watch(_watch_config(settings), self.container)
        self.rate_limit = RateLimit(settings.rate_limit_per_minute)
        self.pools: dict[str, Pool] = {}
        self.dispatchers: dict[str, Dispatcher] = {}
        quarantine = Quarantine(settings.quarantine)
        for model in MODELS:
            self._add_model(model, configs[model], quarantine)
        self.watch.pools = self.pools
        self.serving = asyncio.Event()
        """Set once a model serves."""
        self._watching: asyncio.Task[None] | None = None

    def _add_model(self, model: str, config: PoolConfig, quarantine: Quarantine) -> None:
        settings = self.settings
        dispatcher = Dispatcher(
            _dispatch_config(settings),
            Speed(dict(_INITIAL_SPEED)),
            quarantine,
            lambda: self.pools[model],
        )
        self.dispatchers[model] = dispatcher
        self.pools[model] = Pool(
            config,
            Backoff(
                base=settings.backoff_base,
                maximum=settings.backoff_max,
                failures_max=settings.failures_max,
                failed_pause=settings.failed_pause,
            ),
            Environment(
                on_change=lambda: self._on_change(model),
                has_room=self.watch.has_room,
                kernel_killed=self.watch.kernel_killed,
            ),
        )

    def _on_change(self, model: str) -> None:
        self.dispatchers[model].match()
        if self.pools[model].state is PoolState.SERVING:
            self.serving.set()

    @property
    def builtin_voices(self) -> list[Json]:
        """The speech engine's own voices; none before it has loaded once."""
        voices: list[Json] = self.pools["tts"].info.get("voices", [])
        return voices

    def start(self) -> None:
        """Begin to load both models; returns at once."""
        become_subreaper()
        for pool in self.pools.values():
            self._announce(pool.config)
            pool.start()
        self._watching = asyncio.get_running_loop().create_task(self.watch.run())

    async def drain(self, end: float) -> None:
        """Refuse new requests and wait for those in flight, at most until `end` (loop's clock)."""
        self.stopping = True
        for dispatcher in self.dispatchers.values():
            dispatcher.drain()
        try:
            async with asyncio.timeout_at(end):
                for dispatcher in self.dispatchers.values():
                    await dispatcher.idle()
        except TimeoutError:
            left = sum(dispatcher.in_flight for dispatcher in self.dispatchers.values())
            logger.warning("drain_timeout", in_flight=left)

    async def reload(self, settings: Settings) -> None:
        """Take over weights, engines, limits, keys and numbers of workers, losing no request.

        A model that cannot be loaded goes on as it was; the log says why. Where the service listens
        and keeps things does not change, nor how long it pauses after failures.
        """
        configs = self._pool_configs(settings)
        self.settings = settings
        self.voices.max_voices = settings.max_voices
        self.watch.config = _watch_config(settings)
        for dispatcher in self.dispatchers.values():
            dispatcher.config = _dispatch_config(settings)
        if settings.rate_limit_per_minute != self.rate_limit.per_minute:
            self.rate_limit = RateLimit(settings.rate_limit_per_minute)

        async def reload_one(pool: Pool) -> None:
            config = configs[pool.config.model]
            try:
                await pool.reload(config)
            except LaunchError as error:
                logger.error("reload_failed", model=config.model, error=str(error))
            else:
                self._announce(config)
                logger.info("reloaded", model=config.model)

        await asyncio.gather(*(reload_one(pool) for pool in self.pools.values()))

    async def close(self) -> None:
        """Stop all children and remove what is on disk."""
        if self._watching is not None:
            self._watching.cancel()
        await asyncio.gather(*(pool.close() for pool in self.pools.values()))
        os.close(self._lifeline)
        os.close(self._lifeline_writer)
        self.spool.close()

    def _announce(self, config: PoolConfig) -> None:
        limits = config.policy.limits
        logger.info(
            "engine",
            model=config.model,
            engine=config.engine,
            profile=config.profile,
            soft_limit_mb=limits.soft.describe(),
            hard_limit_mb=limits.hard.describe(),
            memory_mb=self.container.limit // MB,
            memory_from=self.container.source,
        )
        if config.profile == "embedded":
            folder = self.settings.models_dir
            logger.warning(
                "embedded_engine",
                model=config.model,
                message=f"{config.engine} stands in until the real model's weights are in "
                f"{folder}; get them with: voice-engine models fetch {folder}",
            )

    def _pool_configs(self, settings: Settings) -> dict[str, PoolConfig]:
        """What each pool is made of. Raises `DoesNotFit`."""
        limits = plan(self.container.limit, {model: settings.need(model) for model in MODELS})
        voices = settings.voices_dir.resolve()
        voice_dir = _make_private(voices / ENCODED, settings.voices_dir)
        voice_cache_dir = None
        if voice_dir is not None and settings.voice_cache_mb:
            voice_cache_dir = _make_private(voices / CACHED, settings.voices_dir)
        return {
            model: PoolConfig(
                model=model,
                engine=settings.engine(model).name,
                profile=settings.engine(model).profile,
                size=settings.workers(model),
                start_method=settings.start_method,
                launch=LaunchConfig(
                    model=model,
                    factory=settings.engine(model).factory,
                    models_dir=str(settings.models_dir.resolve()),
                    threads=settings.threads,
                    options={"quantize": settings.quantize},
                    worker_options={
                        "trim_growth": settings.trim_growth_mb * MB,
                        "voice_dir": voice_dir,
                        "voice_cache_dir": voice_cache_dir,
                        "voice_cache_bytes": settings.voice_cache_mb * MB,
                        "voice_cache_memory_bytes": settings.voice_cache_memory_mb * MB,
                    },
                    lifeline=self._lifeline,
                    load_timeout=settings.load_timeout,
                    warm_up_timeout=settings.warm_up_timeout,
                ),
                policy=Policy(
                    limits=limits[model],
                    soft_samples=settings.soft_samples,
                    min_lifetime=settings.min_lifetime,
                    max_requests=settings.max_requests,
                    max_age=settings.max_age,
                    jitter=settings.recycle_jitter,
                ),
            )
            for model in MODELS
        }


def _watch_config(settings: Settings) -> WatchConfig:
    return WatchConfig(settings.ping_interval, settings.ping_timeout, settings.pressure)


def _dispatch_config(settings: Settings) -> DispatchConfig:
    return DispatchConfig(
        limits=Limits(settings.queue_size, settings.queue_seconds, settings.client_share),
        max_attempts=settings.max_attempts,
        cancel_grace=settings.cancel_grace,
    )


def _make_private(folder: Path, setting: Path) -> str | None:
    """The private folder in which workers keep encoded voices; None when there cannot be one."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(f"{folder} is not writable")
    except OSError as error:
        logger.warning(
            "voice_cache_off",
            error=str(error),
            message="encoded voices are lost with the worker that made them; make the folder "
            f"{setting} writable, or name another one in VOICES_DIR",
        )
        return None
    return str(folder)


SERVICE: web.AppKey[Service] = web.AppKey("service", Service)
