"""The service takes up weights that have come into its models folder; the backends are made up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from ipc.engines import SERVING_KINDS, EngineSpec, Kind
from supervisor.dispatch.backend import Backend
from supervisor.dispatch.models import Model, Models
from supervisor.events import EngineChosen, Event, ReloadFailed, WeightsFound
from supervisor.local import LocalModels
from supervisor.service import Service
from supervisor.settings import Settings
from supervisor.workers.config import PoolConfig
from supervisor.workers.launch import LaunchError
from tests.support.made_up import local_models
from tests.unit.test_models_folder import put


class Running:
    """A backend that runs what it loaded last; `broken` engines cannot be loaded."""

    info = None

    def __init__(self, host: LocalModels, name: str, broken: set[str]) -> None:
        self._host, self._name = host, name
        self._broken = broken
        self.pool = self._wanted()
        self.loads = 0

    def _wanted(self) -> PoolConfig:
        return self._host._configs[self._name].pool

    @property
    def engine(self) -> EngineSpec:
        return self.pool.engine

    async def reload(self) -> None:
        wanted = self._wanted()
        if wanted.engine.name in self._broken:
            raise LaunchError("its weights are damaged")
        self.loads += 1
        self.pool = wanted

    async def adapt(self) -> None:
        wanted = self._wanted()
        assert wanted.engine is self.pool.engine
        self.pool = replace(self.pool, notes=wanted.notes, policy=wanted.policy)

    async def close(self) -> None:
        pass


class Setup:
    """A service with an empty models folder, and all that happens in it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder / "models"
        self.broken: set[str] = set()
        given = {"models_dir": self.folder, "voices_dir": folder / "voices", **settings}
        self.service = Service(Settings.model_validate(given))
        self.host = local_models(self.service)
        self.backends = {
            model.kind: Running(self.host, model.name, self.broken) for model in self.service.models
        }
        self.host.models = Models(
            [Model(kind.value, kind, cast(Backend, each)) for kind, each in self.backends.items()]
        )
        self.events: list[Event] = []
        self.service.events.subscribe(lambda told: self.events.append(told.event))

    @property
    def engines(self) -> list[str]:
        return [self.backends[kind].engine.name for kind in SERVING_KINDS]

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def notes(self, kind: Kind) -> str:
        return "\n".join(self.backends[kind].pool.notes.values())


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    made = Setup(tmp_path, memory_limit_mb=6000)
    yield made
    await made.service.close()


async def test_a_better_engine_is_taken_up(setup: Setup) -> None:
    before = setup.engines
    put(setup.folder, "pocket")
    await setup.host._take_up(["pocket"])
    assert setup.engines == ["pocket", before[1]]
    (found,) = setup.of(WeightsFound)
    assert found.facts() == {"model": "tts", "engine": "pocket", "engine_before": before[0]}
    (chosen,) = setup.of(EngineChosen)
    assert chosen.facts()["engine"] == "pocket"
    assert setup.notes(Kind.TTS) == ""
    assert [model.engine.name for model in setup.service.settings.models] == setup.engines


async def test_weights_that_cannot_be_loaded_leave_everything_as_it_was(setup: Setup) -> None:
    before, settings = setup.engines, setup.service.settings
    setup.broken.add("pocket")
    put(setup.folder, "pocket")
    put(setup.folder, "sensevoice")
    await setup.host._take_up(["pocket", "sensevoice"])
    assert setup.engines == [before[0], "sensevoice"]
    (failed,) = setup.of(ReloadFailed)
    assert failed.facts() == {"model": "tts", "error": "its weights are damaged"}
    assert f"so {before[0]} serves as before: its weights are damaged" in setup.notes(Kind.TTS)
    assert setup.service.settings.models[0] == settings.models[0]
    setup.broken.clear()
    await setup.host._take_up(["pocket"])
    assert setup.engines == ["pocket", "sensevoice"]
    assert setup.notes(Kind.TTS) == ""


async def test_an_engine_that_does_not_fit_is_not_taken_up(tmp_path: Path) -> None:
    setup = Setup(tmp_path, memory_limit_mb=1500)
    try:
        before = setup.engines
        put(setup.folder, "pocket")
        await setup.host._take_up(["pocket"])
        assert setup.engines == before
        assert len(setup.of(ReloadFailed)) == 1
        assert "cannot be used" in setup.notes(Kind.TTS)
    finally:
        await setup.service.close()


async def test_other_weights_of_the_same_engine_are_loaded(setup: Setup) -> None:
    put(setup.folder, "pocket")
    await setup.host._take_up(["pocket"])
    await setup.host._take_up(["pocket"])
    assert setup.backends[Kind.TTS].loads == 2


async def test_a_lesser_engine_is_never_taken_up(setup: Setup) -> None:
    put(setup.folder, "pocket")
    await setup.host._take_up(["pocket"])
    for file in (setup.folder / "pocket-tts").iterdir():
        file.unlink()
    put(setup.folder, "kokoro")
    await setup.host._take_up(["kokoro"])
    assert setup.engines[0] == "pocket"


async def test_an_engine_that_a_setting_names_stays(tmp_path: Path) -> None:
    setup = Setup(tmp_path, memory_limit_mb=6000, tts_engine="flite", stt_engine="sphinx")
    try:
        put(setup.folder, "pocket")
        await setup.host._take_up(["pocket"])
        assert setup.engines == ["flite", "sphinx"]
        assert setup.events == []
    finally:
        await setup.service.close()


async def test_a_pull_that_fails_is_noted_at_the_models_that_wait_for_it(tmp_path: Path) -> None:
    setup = Setup(tmp_path, memory_limit_mb=6000, pull="pocket")
    try:
        pulling = setup.host._pulling()
        for message in ("there is no space", None):
            pulling._note(message)
            await asyncio.gather(*setup.host._tasks)
            assert ("there is no space" in setup.notes(Kind.TTS)) is (message is not None)
            assert "there is no space" not in setup.notes(Kind.STT)
    finally:
        await setup.service.close()


async def test_the_folder_is_watched(tmp_path: Path) -> None:
    setup = Setup(tmp_path, memory_limit_mb=6000, watch_models=0.001)
    found = asyncio.Event()
    setup.service.events.subscribe(
        lambda told: found.set() if isinstance(told.event, WeightsFound) else None
    )
    watching = asyncio.create_task(setup.host._watch_models())
    try:
        put(setup.folder, "sensevoice")
        await asyncio.wait_for(found.wait(), 60)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await setup.service.close()
