"""How many requests and threads a worker gets: from the settings, the memory and the cores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ipc.engines import ENGINES, EngineSpec, Footprint, Kind
from supervisor.http.routes.health import report
from supervisor.local import default_threads
from supervisor.memory.limits import MB, DoesNotFit
from supervisor.service import Service
from supervisor.settings import Settings
from tests.support.made_up import local_models

CHOIR = EngineSpec(
    "choir",
    Kind.TTS,
    "custom",
    "tests.support.script_engine:ScriptedBatch",
    Footprint(template=60, worker=30, request=60, further=20),
    capacity=8,
)

Make = Callable[..., AbstractAsyncContextManager[Service]]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Make:
    """A service with the engine `choir`, which could serve eight; nothing is started."""
    monkeypatch.setitem(ENGINES, "choir", CHOIR)

    @asynccontextmanager
    async def make(**settings: Any) -> AsyncIterator[Service]:
        engines = {"tts_engine": "choir", "stt_engine": "sphinx", "vad_engine": "off"}
        folders = {"voices_dir": tmp_path / "voices", "spool_dir": tmp_path}
        service = Service(Settings.model_validate({**engines, **folders, **settings}))
        yield service
        await service.close()

    return make


async def test_with_enough_memory_the_engine_decides(service: Make) -> None:
    async with service(memory_limit_mb=4096) as made:
        pool = local_models(made)._configs["tts"].pool
        assert (pool.capacity, pool.launch.capacity, pool.launch.live) == (8, None, None)
        assert report(made).models["tts"].notes == []


async def test_with_little_memory_it_is_told_to_serve_fewer(service: Make) -> None:
    # Usable 782, less 80, 90 and 170: 110 each for two workers of speech and two of transcription.
    async with service(memory_limit_mb=850) as made:
        pool = local_models(made)._configs["tts"].pool
        assert (pool.capacity, pool.launch.capacity) == (3, 3)
        assert report(made).models["tts"].notes == [
            "each worker serves 3 instead of 8 requests at once, because there is too little "
            "memory for more"
        ]
        assert local_models(made)._configs["stt"].pool.launch.capacity is None


async def test_what_is_set_is_obeyed_or_refused(service: Make) -> None:
    async with service(memory_limit_mb=850, tts_capacity="3", tts_live="2") as made:
        pool = local_models(made)._configs["tts"].pool
        assert (pool.capacity, pool.launch.capacity, pool.launch.live) == (3, 3, 2)
    with pytest.raises(DoesNotFit):
        async with service(memory_limit_mb=850, tts_capacity="20"):
            pass


async def test_four_models_fit_into_four_gigabytes(tmp_path: Path) -> None:
    names = ("pocket", "kokoro", "sensevoice", "whisper")
    settings = {"engines": ",".join(names), "memory_limit_mb": 4096}
    folders = {"voices_dir": tmp_path / "voices", "spool_dir": tmp_path}
    service = Service(Settings.model_validate({**settings, **folders}))
    try:
        pools = [config.pool for config in local_models(service)._configs.values()]
        assert {pool.engine.name for pool in pools} == {*names, "silero"}
        for pool in pools:
            footprint = pool.engine.footprint
            growth = footprint.request + (pool.capacity - 1) * footprint.further
            assert pool.capacity >= 1
            assert growth * MB <= pool.policy.limits.hard.size
    finally:
        await service.close()


@pytest.mark.parametrize(("memory", "listens"), [(1024, True), (640, False)])
async def test_live_transcription_gives_way_where_memory_is_short(
    service: Make, memory: int, listens: bool
) -> None:
    async with service(memory_limit_mb=memory, vad_engine="silero", tts_capacity="1") as made:
        assert [model.name for model in made.models] == ["tts", "stt", *["vad"] * listens]
        assert [model.name for model in made.models.shown] == ["tts", "stt"]


async def test_who_has_too_many_models_is_told_which_setting_chooses_them(tmp_path: Path) -> None:
    names = "pocket,kokoro,sensevoice,whisper"
    settings = Settings(engines=names, memory_limit_mb=2048, spool_dir=tmp_path)
    with pytest.raises(DoesNotFit, match="run fewer models \\(VOICE_ENGINE_MODELS\\)"):
        Service(settings)


@pytest.mark.parametrize(("setting", "workers"), [("auto", "1"), ("auto", "2"), ("3", "2")])
async def test_threads_are_the_cores_unless_they_are_set(
    service: Make, setting: str, workers: str
) -> None:
    async with service(threads=setting, tts_workers=workers) as made:
        body = report(made)
        assert (body.cores.count, body.cores.source) == (
            made.host.cores.count,
            made.host.cores.source,
        )
        cores = default_threads(made.host.cores, int(workers))
        assert body.models["tts"].threads == (cores if setting == "auto" else int(setting))
        assert local_models(made)._configs["tts"].pool.launch.threads == body.models["tts"].threads
