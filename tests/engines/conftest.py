"""Engines that several files of this folder listen with."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_procs.engine import EngineConfig
from model_procs.engines.sensevoice.engine import SenseVoiceEngine
from model_procs.engines.sphinx import SphinxEngine
from model_procs.engines.whisper.engine import WhisperEngine


@pytest.fixture(scope="module")
def sphinx() -> SphinxEngine:
    engine = SphinxEngine(EngineConfig(Path("/nonexistent")))
    engine.load()
    return engine


@pytest.fixture(scope="module")
def whisper() -> WhisperEngine:
    """What understands speech, in the tests that must know what is said."""
    engine = WhisperEngine(EngineConfig(Path("/nonexistent")))
    engine.load()
    engine.warm_up()
    return engine


@pytest.fixture(scope="module")
def sensevoice(nano_models: Path) -> SenseVoiceEngine:
    engine = SenseVoiceEngine(EngineConfig(nano_models))
    engine.load()
    return engine
