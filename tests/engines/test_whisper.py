"""Whisper with the weights from packages: what it hears, with which options, and in the service."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import numpy as np
import pytest

from ipc.errors import ErrorCode, ServiceError
from ipc.operations import NO_LANGUAGE, Effort, Recording, Segment, Transcribe, Transcript
from ipc.spacing import join
from model_procs.audio.decode import decode
from model_procs.audio.pcm import Samples
from model_procs.engine import Cancelled, EngineConfig
from model_procs.engines.sphinx import SphinxEngine
from model_procs.engines.whisper import weights
from model_procs.engines.whisper.engine import CLIP_SECONDS, WhisperEngine
from model_procs.listening.base import RATE, finished
from tests.support.human import HUMAN, human, word_errors
from tests.support.service import RunningService, running

pytestmark = pytest.mark.neural

PLAIN = Transcribe(Recording(key=""))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def ears(cache: Path) -> WhisperEngine:
    engine = WhisperEngine(EngineConfig(Path("/nonexistent"), threads=2, cache_dir=cache))
    engine.load()
    engine.warm_up()
    return engine


def sound(name: str) -> Samples:
    return decode(human(name), rate=RATE, max_seconds=60, truncate=False)


def hear(ears: WhisperEngine, samples: Samples, options: Transcribe = PLAIN) -> Transcript:
    return finished(ears, ears.transcribe(samples, options, threading.Event()))


@pytest.fixture(scope="module")
def heard(ears: WhisperEngine) -> dict[str, Transcript]:
    """The transcripts of all human recordings, with words."""
    options = replace(PLAIN, words=True)
    return {name: hear(ears, sound(name), options) for name in HUMAN}


@pytest.mark.parametrize("name", HUMAN)
def test_people_are_understood(heard: dict[str, Transcript], name: str) -> None:
    transcript = heard[name]
    assert word_errors(transcript.text, name) < 0.1
    told = transcript.paralinguistics
    assert (told.language, told.emotion, told.events) == ("en", "EMO_UNKNOWN", ("Speech",))
    assert told.language_probability is not None
    assert 0.8 < told.language_probability <= 1
    assert transcript.text == join(segment.text for segment in transcript.segments)
    assert transcript.raw == f"<|en|><|EMO_UNKNOWN|><|Speech|><|withitn|>{transcript.text}"


@pytest.mark.parametrize("name", HUMAN)
def test_words_come_in_order_and_within_the_recording(
    heard: dict[str, Transcript], name: str
) -> None:
    transcript = heard[name]
    words = [word for segment in transcript.segments for word in segment.words or ()]
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= transcript.duration
    assert " ".join(word.word for word in words) == transcript.text
    for word in words:
        assert word.logprob is not None
        assert word.logprob <= 0
    spoken = np.abs(sound(name)) > 0.02
    loud = [spoken[int(word.start * RATE) : int(word.end * RATE)].any() for word in words]
    assert np.mean(loud) > 0.95


def test_segments_have_whispers_own_numbers(heard: dict[str, Transcript]) -> None:
    for before, segment in itertools.pairwise(heard["two_cities.wav"].segments):
        assert before.id + 1 == segment.id
        assert before.end <= segment.start < segment.end
        assert segment.avg_logprob is not None
        assert -1 < segment.avg_logprob < 0
        assert segment.no_speech is not None
        assert 0 <= segment.no_speech <= 1
        assert segment.compression_ratio is not None
        assert 0.5 < segment.compression_ratio < 2.4
        assert segment.temperature == 0
        assert segment.tokens


def test_words_only_when_asked(ears: WhisperEngine) -> None:
    transcript = hear(ears, sound("beckett.wav"))
    assert [segment.words for segment in transcript.segments] == [None] * len(transcript.segments)
    assert word_errors(transcript.text, "beckett.wav") < 0.1


SHORT = slice(int(1.73 * RATE), int(3.0 * RATE))
"""Of Beckett: "Ever failed", of which the network is not sure."""


@pytest.fixture
def tried(ears: WhisperEngine, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of silence behind each clip that the encoder sees."""
    encode, silences = ears.model.encode_clip, list[float]()

    def noted(samples: Samples, *, silence: float) -> Any:
        silences.append(silence)
        return encode(samples, silence=silence)

    monkeypatch.setattr(ears.model, "encode_clip", noted)
    return silences


@pytest.mark.parametrize(
    ("before", "expected"), [(None, "nl"), ("en", "en"), ("ja", "nl"), ("xx", "nl")]
)
def test_what_was_said_before_tells_the_language(
    ears: WhisperEngine, before: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        ears.model, "language_probabilities", lambda clip: {"nl": 0.95, "en": 0.04, "ja": 0.01}
    )
    options = replace(PLAIN, previous_language=before, effort="draft")
    assert hear(ears, sound("beckett.wav"), options).paralinguistics.language == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [30.0]),
        ({"effort": "soon"}, [8.0, 30.0]),
        ({"effort": "soon", "translate": True}, [30.0]),
        ({"effort": "draft"}, [5.0]),
        ({"effort": "full", "temperature": 0.2}, [30.0]),
    ],
)
def test_an_unlikely_text_is_tried_again_with_all_that_goes_in(
    ears: WhisperEngine, options: dict[str, Any], expected: list[float], tried: list[float]
) -> None:
    options = {"language": "en", **options}
    transcript = hear(ears, sound("beckett.wav")[SHORT], replace(PLAIN, **options))
    assert tried == expected
    assert bool(transcript.segments) != (
        options.get("effort") == "draft"
    )  # nothing rather than nonsense


@pytest.mark.parametrize(
    ("said", "silences"),
    [
        (" Try again.", [8.0]),
        (" Bye bye.", [8.0]),
        (" Try again. Try again.", [8.0, 30.0]),
        (" 再试一次吧。再试一次吧。", [8.0, 30.0]),
    ],
)
def test_what_repeats_itself_is_tried_again(
    ears: WhisperEngine,
    said: str,
    silences: list[float],
    tried: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With all that goes in, somebody may have said it twice."""
    found = SimpleNamespace(
        **{"text": said, "avg_logprob": -0.3, "compression_ratio": 1.0, "temperature": 0.0},
        **{"tokens": [], "words": None, "start": 0.0, "end": 1.0, "no_speech_prob": 0.0},
    )
    monkeypatch.setattr(ears.model, "decode_clip", lambda *_, **__: [found])
    transcript = hear(ears, sound("beckett.wav"), replace(PLAIN, language="en", effort="soon"))
    assert (transcript.text, tried) == (said.strip(), silences)


@pytest.mark.parametrize("name", HUMAN)
@pytest.mark.parametrize("effort", ["soon", "draft"])
def test_what_is_urgent_is_understood_too(ears: WhisperEngine, effort: Effort, name: str) -> None:
    transcript = hear(ears, sound(name), replace(PLAIN, effort=effort))
    assert word_errors(transcript.text, name) < 0.15


@pytest.mark.parametrize("kind", ["silence", "noise", "beep", "nothing"])
def test_what_is_no_speech_has_no_text(ears: WhisperEngine, kind: str) -> None:
    samples = {
        "silence": np.zeros(35 * RATE, np.float32),
        "noise": np.random.default_rng(0).standard_normal(5 * RATE).astype(np.float32) * 0.1,
        "beep": 0.3 * np.sin(np.arange(2 * RATE) * 2 * np.pi * 440 / RATE).astype(np.float32),
        "nothing": np.zeros(0, np.float32),
    }[kind]
    transcript = hear(ears, samples)
    assert (transcript.text, transcript.segments) == ("", ())
    assert transcript.paralinguistics.language == NO_LANGUAGE
    assert transcript.paralinguistics.events == ()


def test_silence_before_and_after_shifts_the_times(
    ears: WhisperEngine, heard: dict[str, Transcript]
) -> None:
    silence = np.zeros(int(2 * CLIP_SECONDS) * RATE, np.float32)
    samples = np.concatenate([silence, sound("beckett.wav"), silence])
    transcript = hear(ears, samples, replace(PLAIN, words=True))
    assert word_errors(transcript.text, "beckett.wav") < 0.1
    first = heard["beckett.wav"].segments[0].start
    assert transcript.segments[0].start == pytest.approx(2 * CLIP_SECONDS + first, abs=0.3)
    assert transcript.segments[-1].end < 2 * CLIP_SECONDS + 10


def test_a_prompt_changes_the_spelling(ears: WhisperEngine) -> None:
    samples = sound("beckett.wav")
    prompt = "ever tried ever failed no matter try again fail again fail better on"
    prompted = hear(ears, samples, replace(PLAIN, prompt=prompt))
    assert word_errors(prompted.text, "beckett.wav") < 0.1
    assert "." not in prompted.text
    assert "." in hear(ears, samples).text


def test_hotwords_change_the_spelling(ears: WhisperEngine) -> None:
    samples = sound("beckett.wav")
    plain = hear(ears, samples)
    assert "fail" in plain.text
    words = ("EVER", "TRIED", "FAILED", "MATTER", "AGAIN", "BETTER")
    assert "FAIL" in hear(ears, samples, replace(PLAIN, hotwords=words)).text
    # They leave room for the text, whatever was said before.
    prompted = replace(PLAIN, prompt="Ever tried. " * 200, hotwords=words * 4, temperature=0.0)
    assert hear(ears, samples, prompted).text
    with pytest.raises(ServiceError, match="tokens") as caught:
        hear(ears, samples, replace(PLAIN, hotwords=words * 20))
    assert caught.value.code is ErrorCode.invalid_option


def test_a_temperature_is_obeyed_and_reproducible(ears: WhisperEngine) -> None:
    samples = sound("beckett.wav")
    warm = replace(PLAIN, temperature=1.0)
    first = hear(ears, samples, warm)
    assert {segment.temperature for segment in first.segments} == {1.0}
    other = hear(ears, samples, replace(warm, recording=Recording(key="another")))
    assert hear(ears, samples, warm) == first
    assert other.segments != first.segments


def test_a_language_is_a_hint(ears: WhisperEngine) -> None:
    told = hear(ears, sound("beckett.wav"), replace(PLAIN, language="de")).paralinguistics
    assert told.language == "de"
    assert told.language_probability is not None
    assert told.language_probability < 0.1


def test_an_unknown_language_is_refused(ears: WhisperEngine) -> None:
    with pytest.raises(ServiceError) as caught:
        hear(ears, sound("beckett.wav"), replace(PLAIN, language="yue"))
    assert caught.value.code is ErrorCode.invalid_option
    assert "auto" in caught.value.message


def test_translation_is_another_task(ears: WhisperEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks: list[str] = []
    generate = ears.model.generate_segments

    def spy(features: Any, tokenizer: Any, *rest: Any) -> Any:
        tasks.append(tokenizer.tokenizer.id_to_token(tokenizer.task))
        return generate(features, tokenizer, *rest)

    monkeypatch.setattr(ears.model, "generate_segments", spy)
    hear(ears, sound("beckett.wav"))
    translated = hear(ears, sound("beckett.wav"), replace(PLAIN, translate=True))
    assert tasks == ["<|transcribe|>", "<|translate|>"]
    assert ears.info().translates
    assert word_errors(translated.text, "beckett.wav") < 0.2


def test_other_engines_refuse_to_translate() -> None:
    sphinx = SphinxEngine(EngineConfig(Path("/nonexistent")))
    asked = Transcribe(Recording("key", human("beckett.wav")), translate=True)
    with pytest.raises(ServiceError, match="whisper") as caught:
        next(sphinx.run(asked, threading.Event()))
    assert caught.value.code is ErrorCode.invalid_option


def test_a_request_is_cancelled_between_windows(ears: WhisperEngine) -> None:
    stop = threading.Event()
    work = ears.transcribe(sound("two_cities.wav"), PLAIN, stop)
    first = next(work)
    assert isinstance(first, Segment)
    stop.set()
    with pytest.raises(Cancelled):
        list(work)  # what its window has, and no more


def test_weights_in_the_models_folder_come_first(cache: Path, tmp_path: Path) -> None:
    folder = cache / "whisper-base"
    (tmp_path / "whisper").mkdir()
    for name in ("large", "small"):
        (tmp_path / "whisper" / name).symlink_to(folder)
    found, notes = weights.locate(tmp_path, tmp_path / "unused")
    assert found == tmp_path / "whisper" / "large"
    assert "small" in notes[0]
    assert not (tmp_path / "unused").exists()


@pytest.fixture(scope="module")
def service(ears: WhisperEngine, cache: Path) -> Iterator[RunningService]:
    settings = {
        "VOICE_ENGINE_STT_ENGINE": "whisper",
        "VOICE_ENGINE_CACHE_DIR": str(cache),
    }
    with running(settings) as service:
        service.wait_ready()
        yield service


async def stream(service: RunningService, *, kill: bool) -> list[dict[str, Any]]:
    """The events of a streamed transcript; with `kill` its worker dies after the first."""
    form = aiohttp.FormData({"stream": "true"})
    form.add_field("file", io.BytesIO(human("two_cities.wav")), filename="two_cities.wav")
    events: list[dict[str, Any]] = []
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post("/v1/audio/transcriptions", data=form) as response,
    ):
        assert response.status == 200
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            events.append(json.loads(line.removeprefix(b"data: ")))
            if kill and len(events) == 1:
                (worker,) = service.children(model="stt")
                os.kill(worker["pid"], signal.SIGKILL)
    return events


def test_a_killed_worker_costs_no_segment(service: RunningService) -> None:
    undisturbed = asyncio.run(stream(service, kill=False))
    assert word_errors(undisturbed[-1]["text"], "two_cities.wav") < 0.1
    assert asyncio.run(stream(service, kill=True)) == undisturbed
    service.wait_for("worker_died")
    (worker,) = service.children(model="stt")
    assert worker["sandbox"]["active"]
