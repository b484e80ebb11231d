"""How much of speech the default engines understand: their own, and that of people. It is printed.

Two sentences of each kind are spoken by /v1/tts and read back by /v1/transcribe; the part
`understood` of the bench does the same with all fifty.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import aiohttp
import pytest

from tests.bench.understood import FEW, table, understood
from tests.support.service import MINIMAL, RunningService, running
from tests.support.spoken import SENTENCES

pytestmark = pytest.mark.neural


@pytest.fixture(scope="module")
def defaults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service without any setting that names an engine, and without downloaded weights."""
    nothing = tmp_path_factory.mktemp("models")
    settings = {"VOICE_ENGINE_TTS_ENGINE": "", "VOICE_ENGINE_STT_ENGINE": ""}
    with running({**settings, "VOICE_ENGINE_MODELS_DIR": str(nothing)}) as service:
        service.wait_ready()
        yield service


def _engines(service: RunningService) -> tuple[str, str]:
    models = service.health()["models"]
    return models["tts"]["engine"], models["stt"]["engine"]


async def test_the_default_engines_understand_themselves_and_people(
    defaults: RunningService, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _engines(defaults) == ("kokoro", "whisper")
    neural = await understood(defaults, FEW)
    with running(MINIMAL) as service:
        service.wait_ready()
        assert _engines(service) == ("flite", "sphinx")
        minimal = await understood(service, FEW)
    rates = [("kokoro and whisper", len(FEW), neural), ("flite and sphinx", len(FEW), minimal)]
    with capsys.disabled():
        print(f"\n{table(rates).text()}", file=sys.stderr)
    assert len(FEW) == 10
    assert len(SENTENCES) == len(set(SENTENCES)) == 50
    assert neural.own < 0.03
    assert neural.people < 0.10
    assert minimal.own > neural.own
    assert minimal.people > neural.people


async def test_what_is_spoken_in_spanish_is_detected_and_translated(
    defaults: RunningService,
) -> None:
    asked = {"text": "Hola, me gusta mucho la música.", "language": "es"}
    async with aiohttp.ClientSession(defaults.url) as client:
        async with client.post("/v1/tts", json=asked) as response:
            recording = await response.read()
            assert response.status == 200, recording
        form = aiohttp.FormData({"response_format": "verbose_json"})
        form.add_field("file", recording, filename="spanish.wav")
        async with client.post("/v1/audio/translations", data=form) as response:
            translated = await response.json()
            assert response.status == 200, translated
    assert translated["language_code"] == "es"
    assert "music" in translated["text"].lower()
    assert {"hello", "hi"} & set(translated["text"].lower().replace(",", " ").split())
