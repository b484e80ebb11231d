"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def nano_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with tiny random weights of both production engines; do not write to it."""
    from model_procs.checkpoints import synth

    folder = tmp_path_factory.mktemp("models")
    synth(folder, "nano")
    return folder
