"""A new format and a new engine are a change in one place: made in a copy of the tree, and used."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import av
import numpy as np
import pytest

from ipc.wav_header import wav_header
from model_procs.audio.pcm import pcm16
from tests.support.service import ROOT, Gate, RunningService, running

FORMAT = """
FORMATS["ac3"] = AudioFormat(
    "audio/ac3",
    (32_000, 44_100, 48_000),
    (32_000, 640_000),
    codec=("ac3", "ac3"),
    variants=("48000_96",),
)
"""
"""What is added to ipc/formats.py, behind the table."""

ENGINE = '''
"""Beeps: each sentence is a tone, in whatever voice. Runs in templates and workers."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np

from ipc.engines import BuiltinVoice
from ipc.operations import Sampling
from model_procs.audio.pcm import Samples
from model_procs.engine import EngineConfig
from model_procs.speech.base import SpeechEngine


class BeepEngine(SpeechEngine):
    """A tone for each sentence; its voices are frequencies in Hz."""

    name = "beep"
    sample_rate = reference_rate = 16_000
    default_voice = "low"

    def __init__(self, config: EngineConfig) -> None: ...

    def load(self) -> None: ...

    def warm_up(self) -> None: ...

    def builtin_voices(self) -> list[BuiltinVoice]:
        return [BuiltinVoice("low", "Low"), BuiltinVoice("high", "High")]

    def load_builtin_voice(self, name: str) -> float:
        return {"low": 200.0, "high": 800.0}[name]

    def encode_voice(self, reference: Samples) -> float:
        return 400.0

    def synthesize(
        self, text: str, voice: float, sampling: Sampling, stop: threading.Event
    ) -> Iterator[Samples]:
        time = np.arange(self.sample_rate // 2) / self.sample_rate
        yield (0.5 * np.sin(2 * np.pi * voice * time)).astype(np.float32)
'''
"""The file model_procs/engines/beep.py."""

ENTRY = """
ENGINES["beep"] = EngineSpec(
    "beep",
    Kind.TTS,
    "custom",
    "model_procs.engines.beep:BeepEngine",
    Footprint(template=60, worker=30, request=60),
)
"""
"""What is added to ipc/engines.py, behind the table."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the product's packages."""
    copy = tmp_path / "tree"
    for package in ("ipc", "model_procs", "supervisor"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("*.pyc"))
    (copy / "tests").symlink_to(ROOT / "tests")
    return copy


def add_behind(path: Path, marker: str, text: str) -> None:
    """Insert `text` before the line that begins with `marker`."""
    before, found, after = path.read_text().partition(f"\n{marker}")
    assert found
    path.write_text(before + "\n" + text + found + after)


# A format


@pytest.fixture
def service(tree: Path) -> Iterator[RunningService]:
    add_behind(tree / "ipc" / "formats.py", "if TYPE_CHECKING", FORMAT)
    settings = {"VOICE_ENGINE_TTS_ENGINE": "tests.support.listening_engines:GatedHum"}
    with running(settings, folder=tree) as service:
        service.wait_ready()
        yield service


def seconds_of(ac3: bytes) -> float:
    """How long the sound is, to a tenth of a second; fails for what is no AC-3."""
    with av.open(io.BytesIO(ac3), "r", format="ac3") as container:
        frames = list(container.decode(container.streams.audio[0]))
    return round(sum(frame.samples / frame.sample_rate for frame in frames), 1)


async def test_a_format_added_in_one_place_works_at_every_speech_endpoint(
    service: RunningService,
) -> None:
    text = "One. Two. Three."
    form = aiohttp.FormData({"text": text, "response_format": "ac3", "sample_rate": "48000"})
    recording = io.BytesIO(wav_of_a_tone())
    form.add_field("reference_audio", recording, filename="reference.wav")
    body = {"text": text, "response_format": "ac3", "sample_rate": 48_000}
    openai = {"model": "tts-1", "voice": "hum", "input": text, "response_format": "ac3"}
    path = "/v1/text-to-speech/hum{}?output_format=ac3_48000_96"
    async with aiohttp.ClientSession(service.url) as client:

        async def answer(url: str, **request: object) -> bytes:
            async with client.post(url, **request) as response:  # type: ignore[arg-type]
                assert response.status == 200, await response.text()
                return await response.read()

        answers = {
            "clone": await answer("/v1/clone", data=form),
            "tts": await answer("/v1/tts", json=body),
            "tts streamed": await answer("/v1/tts", json=body | {"stream": True}),
            "ElevenLabs": await answer(path.format(""), json={"text": text}),
            "ElevenLabs streamed": await answer(path.format("/stream"), json={"text": text}),
        }
        timed = await answer(path.format("/with-timestamps"), json={"text": text})
        answers["ElevenLabs with times"] = base64.b64decode(json.loads(timed)["audio_base64"])
        answers["OpenAI"] = await answer("/v1/audio/speech", json=openai)
        async with client.get("/openapi.json") as response:
            description = await response.text()
    lengths = {name: seconds_of(data) for name, data in answers.items()}
    assert set(lengths.values()) == {lengths["tts"]}, lengths
    assert lengths["tts"] > 0
    assert "audio/ac3" in description
    assert "ac3_48000_96" in description


def wav_of_a_tone() -> bytes:
    tone = (np.sin(np.arange(24_000) / 10) / 2).astype(np.float32)
    return wav_header(24_000, len(tone)) + pcm16(tone)


async def test_a_format_added_in_one_place_is_replayed_without_a_seam(
    service: RunningService, gate: Gate
) -> None:
    request = {"response_format": "ac3", "sample_rate": 48_000, "stream": True, "seed": 1}
    request["text_normalization"] = "off"  # it would spell out the path of the gate
    sentences = " ".join(f"Sentence number {n}." for n in range(100))
    text = f"{sentences} Wait {gate}. The end."
    async with aiohttp.ClientSession(service.url) as client:
        async with client.post("/v1/tts", json=request | {"text": text}) as response:
            assert response.status == 200
            received = await response.content.readany()
            (worker,) = service.children(model="tts")
            os.kill(worker["pid"], signal.SIGKILL)
            gate.open()
            received += await response.read()
        async with client.post("/v1/tts", json=request | {"text": text}) as response:
            whole = await response.read()
    assert service.health()["models"]["tts"]["replays"] == 1
    assert received == whole


# An engine


async def test_an_engine_added_by_one_file_and_one_entry_serves(tree: Path) -> None:
    (tree / "model_procs" / "engines" / "beep.py").write_text(ENGINE.lstrip())
    add_behind(tree / "ipc" / "engines.py", "def default_engine", ENTRY)
    with running({"VOICE_ENGINE_TTS_ENGINE": "beep"}, folder=tree) as service:
        service.wait_ready()
        form = aiohttp.FormData({"text": "One. Two."})
        recording = io.BytesIO(wav_of_a_tone())
        form.add_field("reference_audio", recording, filename="reference.wav")
        async with aiohttp.ClientSession(service.url) as client:
            async with client.post("/v1/clone", data=form) as response:
                assert (response.status, response.headers["X-Voice-Engine"]) == (200, "beep")
                assert response.headers["X-Audio-Duration"] == "1.000"
                cloned = await response.read()
            async with client.post(
                "/v1/tts", json={"text": "One.", "voice_id": "high"}
            ) as response:
                assert response.status == 200
                high = np.frombuffer((await response.read())[44:], "<i2")
        health = service.health()
    tone = np.frombuffer(cloned[44:], "<i2")
    assert [crossings(tone), crossings(high)] == pytest.approx([400, 400], abs=4)
    assert health["models"]["tts"]["engine"] == "beep"
    assert {child["engine"] for child in health["children"] if child["kind"] == "tts"} == {"beep"}


def crossings(samples: np.ndarray[tuple[int], np.dtype[np.int16]]) -> int:
    """Periods of a tone: how often it rises through zero."""
    return int(np.count_nonzero((samples[:-1] < 0) & (samples[1:] >= 0)))


async def test_an_engine_added_beside_another_is_a_model_of_its_own(tree: Path) -> None:
    (tree / "model_procs" / "engines" / "beep.py").write_text(ENGINE.lstrip())
    add_behind(tree / "ipc" / "engines.py", "def default_engine", ENTRY)
    hum = "tests.support.listening_engines:Hum"
    settings = {
        "VOICE_ENGINE_TTS_ENGINE": f"{hum},beep",
        "VOICE_ENGINE_TTS_WORKERS": "1,beep=2",
    }
    with running(settings, folder=tree) as service:
        service.wait_until(
            lambda health: all(model["state"] == "SERVING" for model in health["models"].values())
        )
        health = service.wait_until(
            lambda health: (
                [c["model"] for c in health["children"] if c["role"] == "worker"].count("beep") == 2
            )
        )
        assert {name: model["engine"] for name, model in health["models"].items()} == {
            "tts": "Hum",
            "beep": "beep",
            "stt": "ScriptedRecognizer",
        }
        assert {child["name"] for child in health["children"] if child["kind"] == "tts"} == {
            *("tts-template", "tts-1", "beep-template", "beep-1", "beep-2"),
        }
        async with aiohttp.ClientSession(service.url) as client:

            async def engine_of(url: str, **body: object) -> str:
                async with client.post(url, json=body) as response:
                    assert response.status == 200, await response.text()
                    return response.headers["X-Voice-Engine"]

            # By default, by a voice that only one has, by the name of the engine.
            assert await engine_of("/v1/tts", text="One.") == "Hum"
            assert await engine_of("/v1/tts", text="One.", voice_id="high") == "beep"
            speech = {"input": "One.", "voice": "alloy"}
            assert await engine_of("/v1/audio/speech", model="beep", **speech) == "beep"
            assert await engine_of("/v1/audio/speech", model="tts-1", **speech) == "Hum"
            async with client.get("/v1/models") as response:
                models = {entry["id"]: entry["engine"] for entry in (await response.json())["data"]}
            async with client.get("/v1/voices") as response:
                voices = {v["id"]: v["engine"] for v in (await response.json())["voices"]}
        assert (models["beep"], models["tts-1"]) == ("beep", "Hum")
        assert voices == {"hum": "Hum", "low": "beep", "high": "beep"}
