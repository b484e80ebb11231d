"""Clients in Python with dependencies of their own, each in a process of .venv-clients.

What each must do is in its file in tests/clients/python/. Their list with versions is
requirements.txt there, the table for users is in docs/clients.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.node import run
from tests.support.service import MINIMAL, ROOT, RunningService, running

FOLDER = Path(__file__).parent / "python"
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
KEY = "sesame"

ALONE = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # its list of prices comes with it
    "LOGURU_LEVEL": "WARNING",
}
"""Variables with which clients ask nobody but the service, and say less."""


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    settings = {"VOICE_ENGINE_API_KEY": KEY, "VOICE_ENGINE_PUBLIC_LISTS": "true"}
    with running({**MINIMAL, **settings}) as it:
        it.wait_ready()
        yield it


@pytest.mark.parametrize("name", ["litellm", "livekit", "pipecat", "wyoming"])
def test_a_python_client(service: RunningService, name: str) -> None:
    assert PYTHON.exists(), "run `make setup`"
    run(
        [
            *(str(PYTHON), "-m", "pytest", "--quiet"),
            # Not the configuration and the fixtures of this pytest.
            *("-c", str(FOLDER / "pytest.ini"), "--confcutdir", str(FOLDER)),
            str(FOLDER / f"{name}_client.py"),
        ],
        {
            **ALONE,
            "PYTHONPATH": str(ROOT),
            "VOICE_ENGINE_URL": service.url,
            "VOICE_ENGINE_KEY": KEY,
        },
        ROOT,
    )
