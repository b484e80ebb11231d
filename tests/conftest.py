"""What all tests have in common: their surroundings, and fixtures that several files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.service import Gate

# The same cases every time, however slow the machine is.
settings.register_profile(
    "steady",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("steady")

# Nothing from outside: no setting of a service, and no proxy between it and its clients.
for name in list(os.environ):
    if name.startswith("VOICE_ENGINE_") or name in ("PORT", "VOICES_DIR", "NOTIFY_SOCKET"):
        del os.environ[name]
for name in ("no_proxy", "NO_PROXY"):
    os.environ[name] = "localhost,127.0.0.1"


@pytest.fixture(scope="session")
def nano_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with tiny random weights of both production engines; do not write to it."""
    from model_procs.weights.fetch import synth

    folder = tmp_path_factory.mktemp("models")
    synth(folder, "nano")
    return folder


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """A closed one."""
    return Gate(tmp_path / "gate")
