"""How much of speech the default engines understand: their own, and that of people. It is printed.

Fifty sentences are spoken by /v1/tts and read back by /v1/transcribe; the recordings of people are
those of `tests/support/human.py`.
"""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import aiohttp
import pytest

from tests.support.human import HUMAN, human
from tests.support.service import MINIMAL, NET, RunningService, running
from tests.support.spoken import SENTENCES, word_error_rate

pytestmark = pytest.mark.neural

_AT_ONCE = 4
_FEW = 5
"""Of so many sentences the minimal engines, which are slow to listen, read one."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Word error rates, 0 to 1."""

    own: float
    people: float


@pytest.fixture(scope="module")
def defaults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service without any setting that names an engine, and without downloaded weights."""
    nothing = tmp_path_factory.mktemp("models")
    settings = {"VOICE_ENGINE_TTS_ENGINE": "", "VOICE_ENGINE_STT_ENGINE": ""}
    with running({**settings, "VOICE_ENGINE_MODELS_DIR": str(nothing)}) as service:
        service.wait_ready()
        yield service


async def _understood(service: RunningService, sentences: Sequence[str]) -> Rates:
    room = asyncio.Semaphore(_AT_ONCE)
    timeout = aiohttp.ClientTimeout(total=NET)
    async with aiohttp.ClientSession(service.url, timeout=timeout) as client:

        async def transcribe(recording: bytes) -> str:
            form = aiohttp.FormData()
            form.add_field("file", io.BytesIO(recording), filename="recording.wav")
            async with client.post("/v1/transcribe", data=form) as response:
                body = await response.json()
                assert response.status == 200, body
                return str(body["text"])

        async def read_back(sentence: str) -> str:
            async with room:
                async with client.post("/v1/tts", json={"text": sentence}) as response:
                    spoken = await response.read()
                    assert response.status == 200, spoken
                return await transcribe(spoken)

        own = await asyncio.gather(*map(read_back, sentences))
        people = [await transcribe(human(name)) for name in HUMAN]
    said = list(HUMAN.values())
    return Rates(word_error_rate(sentences, own), word_error_rate(said, people))


def _engines(service: RunningService) -> tuple[str, str]:
    models = service.health()["models"]
    return models["tts"]["engine"], models["stt"]["engine"]


async def test_the_default_engines_understand_themselves_and_people(
    defaults: RunningService, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _engines(defaults) == ("kokoro", "whisper")
    neural = await _understood(defaults, SENTENCES)
    with running(MINIMAL) as service:
        service.wait_ready()
        assert _engines(service) == ("flite", "sphinx")
        minimal = await _understood(service, SENTENCES[::_FEW])
    with capsys.disabled():
        print(
            "\nword error rates                     sentences, read back   recordings of people",
            f"\n  kokoro and whisper, 50 sentences  {neural.own:20.1%}   {neural.people:20.1%}",
            f"\n  flite and sphinx, 10 of them      {minimal.own:20.1%}   {minimal.people:20.1%}",
            file=sys.stderr,
        )
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
