"""Where the workers of one model come from: its template, and those after it. In the front."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from supervisor.launcher import Launcher, SpawnLauncher, Template
from supervisor.log import logger
from supervisor.memory import to_mb
from supervisor.pool_config import PoolConfig


class Templates:
    """The template of one model, loaded when it is asked for and there is none.

    With the start method `spawn` there never is one. `on_death` is called when it has died.
    """

    def __init__(self, config: PoolConfig, on_death: Callable[[], None]) -> None:
        self.current: Template | None = None
        self.restarts = 0
        """How many have died."""
        self.last_exit: str | None = None
        """How the last of them did."""
        self._config = config
        self._on_death = on_death
        self._spawner = SpawnLauncher(config.launch)
        self._lock = asyncio.Lock()

    async def launcher(self) -> Launcher:
        """What new workers are to come from. Raises `LaunchError`."""
        if self._config.start_method == "spawn":
            return self._spawner
        if self.current is None:
            async with self._lock:  # whoever comes while it loads waits until it has
                if self.current is None:
                    self.current = await self._load(self._config)
        return self.current

    async def reload(self, config: PoolConfig) -> Template | None:
        """From now on go by `config`; returns the template that has had its day, to be closed.

        Raises `LaunchError` when a new one cannot be loaded; then everything stays as it was.
        """
        if config.start_method == "spawn":
            self._spawner = SpawnLauncher(config.launch)
            old, self.current = self.current, None
        else:
            async with self._lock:
                template = await self._load(config)
                old, self.current = self.current, template
        self._config = config
        return old

    async def close(self) -> None:
        """Have the template leave."""
        if self.current is not None:
            await self.current.close()

    async def _load(self, config: PoolConfig) -> Template:
        template = Template(config.launch, self._on_exit)
        started = time.monotonic()
        await template.start()
        logger.info(
            "template_ready",
            child=template.name,
            engine=config.engine,
            rss_mb=to_mb(template.baseline_rss),
            seconds=round(time.monotonic() - started, 3),
        )
        return template

    def _on_exit(self, template: Template) -> None:
        if template.closing or self.current is not template:
            return
        self.current = None
        self.restarts += 1
        self.last_exit = template.last_exit
        logger.warning("template_died", child=template.name, reason=template.last_exit)
        self._on_death()
