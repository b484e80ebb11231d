"""Clients in JavaScript (tests/js/*.test.js), against a running service with keys.

OpenAI's own is tested in test_openai.py, where the scripted engines are that it needs too.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.node import run
from tests.support.service import MINIMAL, RunningService, running

KEY = "sesame"


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running({**MINIMAL, "VOICE_ENGINE_API_KEY": KEY}) as it:
        it.wait_ready()
        yield it


@pytest.mark.parametrize("name", ["ai", "elevenlabs"])
def test_a_javascript_client(service: RunningService, name: str) -> None:
    run(
        ["node", "--test", f"{name}.test.js"],
        {"VOICE_ENGINE_URL": service.url, "VOICE_ENGINE_KEY": KEY},
    )
