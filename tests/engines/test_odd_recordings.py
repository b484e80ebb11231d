"""The words that engines hear in recordings that readers find hard, and when they hear them."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import numpy as np
import pytest
import soundfile

from ipc.errors import ErrorCode, ServiceError
from ipc.operations import EncodeVoice, Recording, Sampling, Speak, Transcribe, Transcript, Voice
from model_procs.engine import EngineConfig
from model_procs.engines.flite import FliteEngine
from model_procs.engines.pocket.engine import PocketEngine
from model_procs.engines.sensevoice.engine import SenseVoiceEngine
from model_procs.engines.whisper.engine import WhisperEngine
from model_procs.listening.base import TranscriptionEngine
from model_procs.speech.base import SpeechEngine
from tests.support.odd_recordings import (
    ID3_TAG,
    Sound,
    box_first,
    encoded,
    muxed,
    with_edits,
    with_size,
    without_ftyp,
)
from tests.support.outputs import collected, transcript
from tests.support.recordings import spoken
from tests.support.service import RunningService, running
from tests.support.spoken import word_error_rate

RATE = 16_000


def sound_of(text: str) -> Sound:
    samples, rate = soundfile.read(io.BytesIO(spoken(text)), dtype="float32")
    assert rate == RATE
    return np.asarray(samples, np.float32)


FIRST, SECOND = "I walked along the river.", "Then it began to rain."
SAID = f"{FIRST} {SECOND}"


@pytest.fixture(scope="module")
def first() -> Sound:
    return sound_of(FIRST)


@pytest.fixture(scope="module")
def second() -> Sound:
    return sound_of(SECOND)


@pytest.fixture(scope="module", params=["flite", "pocket"])
def voices(request: pytest.FixtureRequest, nano_models: Path) -> SpeechEngine:
    engine: FliteEngine | PocketEngine
    engine = (FliteEngine if request.param == "flite" else PocketEngine)(EngineConfig(nano_models))
    engine.load()
    return engine


def hear(engine: TranscriptionEngine, data: bytes) -> Transcript:
    """Decode and recognize, as a worker does."""
    operation = Transcribe(Recording("key", data), words=True)
    return transcript(engine.run(operation, threading.Event()), engine)[1]


def words_of(heard: Transcript) -> list[tuple[str, float]]:
    """Each word and when it begins."""
    return [(word.word, word.start) for segment in heard.segments for word in segment.words or ()]


@pytest.fixture(scope="module")
def plain(whisper: WhisperEngine, first: Sound, second: Sound) -> list[tuple[str, float]]:
    """What is heard in a recording that is not odd."""
    words = words_of(hear(whisper, encoded(np.concatenate([first, second]), RATE, "wav")))
    assert word_error_rate([SAID], [text_of(words)]) == 0
    return words


def text_of(words: list[tuple[str, float]]) -> str:
    return " ".join(word for word, _ in words)


Make = Callable[[Sound, Sound], bytes]


def whole(first: Sound, second: Sound) -> Sound:
    return np.concatenate([first, second])


def in_stereo(left: float, right: float) -> Make:
    return lambda a, b: encoded(
        np.stack([left * whole(a, b), right * whole(a, b)], axis=1), RATE, "wav"
    )


def paused(container: str, gap: float) -> Make:
    """With a gap in the timestamps between the two parts."""
    return lambda a, b: muxed(whole(a, b), RATE, container, gap=gap, at=len(a) / RATE)


def chained(name: str) -> Make:
    """One part after the other, each a file of its own."""
    return lambda a, b: encoded(a, RATE, name) + encoded(b, RATE, name)


def sized(size: int) -> Make:
    """A WAV that says that it has `size` bytes of samples."""
    return lambda a, b: with_size(encoded(whole(a, b), RATE, "wav"), size)


def behind(front: bytes) -> Make:
    """An MP3 behind something else."""
    return lambda a, b: front + muxed(whole(a, b), RATE, "mp3")


CASES: dict[str, tuple[Make, float, float]] = {
    # How it is made, the gap before it and the gap within.
    **{
        f"chained {name}": (chained(name), 0.0, 0.0)
        for name in ("vorbis", "opus", "flac", "wav")
    },
    **{f"{name} with a gap": (paused(name, 5.0), 0.0, 5.0)
       for name in ("mp4", "webm", "matroska", "ogg")},
    "mp4 with a pause in its edit list": (
        lambda a, b: with_edits(
            muxed(whole(a, b), RATE, "mp4"),
            [(len(a) / RATE, 0.0), (4.0, None), (len(b) / RATE, len(a) / RATE)]),
        0.0, 4.0),
    "mp4 that begins late": (lambda a, b: muxed(whole(a, b), RATE, "mp4", gap=3.0), 3.0, 0.0),
    "webm that begins late": (lambda a, b: muxed(whole(a, b), RATE, "webm", gap=3.0), 3.0, 0.0),
    **{f"wav of {size:,} bytes": (sized(size), 0.0, 0.0)
        for size in (2_000_000_000, 0x7FFFFFDB, 0xFFFFFFD3)},
    "wav with a tail": (
        lambda a, b: encoded(whole(a, b), RATE, "wav") + b"\0garbage" * 40, 0.0, 0.0),
    "mov without ftyp": (lambda a, b: without_ftyp(muxed(whole(a, b), RATE, "mov")), 0.0, 0.0),
    "mov with wide first": (
        lambda a, b: box_first(muxed(whole(a, b), RATE, "mov"), b"wide"), 0.0, 0.0),
    **{f"mp3 behind {name}": (behind(front), 0.0, 0.0)
        for name, front in (("zeros", bytes(417)), ("a line", b"\r\n"), ("tags", ID3_TAG * 2))},
    "mp3 from within a frame": (lambda a, b: muxed(whole(a, b), RATE, "mp3")[1_000:], 0.0, 0.0),
    "aac from within a frame": (lambda a, b: muxed(whole(a, b), RATE, "adts")[150:], 0.0, 0.0),
    "left": (in_stereo(1.0, 0.0), 0.0, 0.0),
    "right": (in_stereo(0.0, 1.0), 0.0, 0.0),
    "opposite": (in_stereo(1.0, -1.0), 0.0, 0.0),
}  # fmt: skip


SPOKEN = (
    *("chained vorbis", "chained opus", "chained flac", "chained wav"),
    *("mp4 with a gap", "webm with a gap", "ogg with a gap", "mp4 with a pause in its edit list"),
    *("wav of 2,000,000,000 bytes", "mov without ftyp", "mp3 from within a frame"),
    *("left", "opposite"),
)
"""One or more for each kind of fault; recognition takes seconds."""


@pytest.mark.neural
@pytest.mark.parametrize("name", SPOKEN)
def test_every_word_is_heard_at_its_time(
    name: str, whisper: WhisperEngine, first: Sound, second: Sound, plain: list[tuple[str, float]]
) -> None:
    make, late, gap = CASES[name]
    words = words_of(hear(whisper, make(first, second)))
    assert word_error_rate([SAID], [text_of(words)]) < 0.15, text_of(words)
    assert abs(words[0][1] - plain[0][1] - late) < 0.25
    assert abs(words[-1][1] - plain[-1][1] - late - gap) < 0.25


@pytest.mark.parametrize("name", CASES)
def test_a_production_engine_gets_the_same_sound(
    name: str, sensevoice: SenseVoiceEngine, first: Sound, second: Sound
) -> None:
    make, late, gap = CASES[name]
    seconds = (len(first) + len(second)) / RATE + late + gap
    assert abs(hear(sensevoice, make(first, second)).duration - seconds) < 0.1


# References

REFUSED: dict[str, Sound] = {
    "silence": np.zeros(2 * RATE, np.float32),
    "a constant": np.full(2 * RATE, 0.01, np.float32),
    "a microphone in silence": (
        np.random.default_rng(0).standard_normal(2 * RATE) * 0.0002).astype("f4"),
    "one sample": np.full(1, 0.5, np.float32),
    "a blink": (0.5 * np.sin(np.arange(RATE // 20) / 10)).astype("f4"),
    "a blink in silence": np.concatenate(
        [np.zeros(RATE), 0.5 * np.sin(np.arange(RATE // 20) / 10), np.zeros(RATE)]).astype("f4"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_recording_without_a_voice_is_refused(name: str, voices: SpeechEngine) -> None:
    recording = Recording("key", encoded(REFUSED[name], RATE, "wav"))
    for operation in (
        EncodeVoice(recording),
        EncodeVoice(recording, registered=True),
        Speak("Hello.", Voice(recording=recording), Sampling(seed=0)),
    ):
        with pytest.raises(ServiceError) as caught:
            collected(voices.run(operation, threading.Event()), voices)
        assert caught.value.code is ErrorCode.empty_audio
        assert "speech" in caught.value.message


@pytest.mark.parametrize("loudness", [1.0, 0.02])
def test_a_short_or_quiet_voice_is_taken(
    loudness: float, voices: SpeechEngine, first: Sound
) -> None:
    recording = Recording("key", encoded(first[: RATE // 2] * loudness, RATE, "wav"))
    collected(voices.run(EncodeVoice(recording), threading.Event()), voices)


def test_a_voice_is_made_of_all_parts_and_of_the_better_channel(
    voices: SpeechEngine, first: Sound, second: Sound
) -> None:
    for make, seconds in (
        (CASES["chained opus"][0], whole(first, second)),
        (CASES["opposite"][0], whole(first, second)),
        (CASES["webm that begins late"][0], whole(first, second)),
    ):
        operation = EncodeVoice(Recording("key", make(first, second)))
        result = collected(voices.run(operation, threading.Event()), voices)[1]
        assert abs(result.seconds - len(seconds) / RATE) < 0.1


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    settings = {
        "VOICE_ENGINE_TTS_ENGINE": "tests.support.listening_engines:Hum",
        "VOICE_ENGINE_STT_ENGINE": "tests.support.listening_engines:Meter",
    }
    with running(settings) as service:
        service.wait_ready()
        yield service


@pytest.mark.parametrize("name", REFUSED)
async def test_clients_are_told_that_there_is_no_voice(service: RunningService, name: str) -> None:
    data = encoded(REFUSED[name], RATE, "wav")
    async with aiohttp.ClientSession(service.url) as client:
        for path, field, fields in (
            ("/v1/clone", "reference_audio", {"text": "Hm."}),
            ("/v1/tts", "reference_audio", {"text": "Hm."}),
            ("/v1/voices/register", "audio", {"voice_id": "nobody"}),
            ("/v1/voices/add", "files", {"name": "nobody"}),
        ):
            form = aiohttp.FormData(fields)
            form.add_field(field, data, filename="silent.wav")
            async with client.post(path, data=form) as response:
                assert response.status == 400
                assert (await response.json())["error"]["code"] == "empty_audio"
        async with client.get("/v1/voices") as response:
            assert "nobody" not in await response.text()
        form = aiohttp.FormData()
        form.add_field("file", data, filename="silent.wav")
        async with client.post("/v1/transcribe", data=form) as response:
            assert response.status == 200
