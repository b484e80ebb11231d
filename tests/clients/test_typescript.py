"""The client that a TypeScript worker has (tests/js/client.ts), against a running service."""

from __future__ import annotations

from pathlib import Path

from tests.support.node import PACKAGE, compile_typescript, run
from tests.support.service import running


def test_a_typescript_worker_is_served(tmp_path: Path) -> None:
    compile_typescript(PACKAGE / "tsconfig.json", tmp_path)
    settings = {
        "VOICE_ENGINE_TTS_ENGINE": "flite",
        "VOICE_ENGINE_STT_ENGINE": "sphinx",
        "VOICE_ENGINE_QUEUE_SIZE": "1",
        "VOICE_ENGINE_CLIENT_SHARE": "1",
    }
    with running(settings) as service:
        service.wait_ready()
        run(
            ["node", "--test", str(tmp_path / "client.test.js")],
            {"VOICE_ENGINE_URL": service.url},
        )
