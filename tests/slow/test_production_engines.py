"""The real engines on tiny random weights: shapes, repeatability, cancellation, tags, forks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc.errors import ErrorCode, ServiceError
from ipc.operations import (
    Recording,
    Sampling,
    Speak,
    Transcribe,
    Transcript,
    Voice,
)
from ipc.wav_header import wav_header
from model_procs.audio.decode import decode
from model_procs.audio.pcm import Samples, pcm16
from model_procs.engine import Cancelled, EngineConfig
from model_procs.engines.pocket.engine import PocketEngine
from model_procs.engines.pocket.runs import split_runs
from model_procs.engines.sensevoice.engine import SenseVoiceEngine
from model_procs.listening import vad
from model_procs.listening.base import finished
from model_procs.weights.synthetic import NOTE
from tests.support.outputs import pieces_of, speech
from tests.support.recordings import spoken
from tests.support.sentences import SENTENCES
from tests.support.service import NET

ROOT = Path(__file__).resolve().parent.parent.parent
TEXT = "One two three four. The quick brown fox jumps over the lazy dog."
ROUNDING = 1e-5


def noise(seconds: float, rate: int, seed: int = 0) -> Samples:
    return (np.random.default_rng(seed).standard_normal(int(seconds * rate)) * 0.1).astype("f4")


def loaded_pocket(models: Path, **options: Any) -> PocketEngine:
    engine = PocketEngine(EngineConfig(models, options=options))
    engine.load()
    return engine


@pytest.fixture(scope="module")
def pocket(nano_models: Path) -> PocketEngine:
    return loaded_pocket(nano_models)


@pytest.fixture(scope="module")
def voice(pocket: PocketEngine) -> Any:
    return pocket.encode_voice(noise(2, 24_000))


@pytest.fixture(scope="module")
def ears(nano_models: Path) -> SenseVoiceEngine:
    engine = SenseVoiceEngine(EngineConfig(nano_models))
    engine.load()
    return engine


@pytest.fixture
def speak(pocket: PocketEngine, voice: Any) -> Callable[..., Samples]:
    def speak(text: str = TEXT, voice: Any = voice, **options: Any) -> Samples:
        wanted = Sampling(**({"seed": 1} | options))
        return np.concatenate(list(pieces_of(pocket, text, voice, wanted)))

    return speak


def hear(ears: SenseVoiceEngine, samples: Samples, **options: Any) -> Transcript:
    operation = Transcribe(Recording(key=""), **options)
    return finished(ears, ears.transcribe(samples, operation, threading.Event()))


# Pocket TTS


def test_speech_is_float_mono_at_the_models_rate(pocket: PocketEngine, voice: Any) -> None:
    pieces = list(pieces_of(pocket, TEXT, voice, Sampling(seed=1)))
    assert pocket.sample_rate == 24_000
    assert all(piece.dtype == np.float32 and piece.ndim == 1 for piece in pieces)
    sound = np.concatenate(pieces)
    assert len(sound) % 1920 == 0  # frames of 80 ms
    assert np.isfinite(sound).all()
    assert 0.02 < np.abs(sound).max() < 2


def test_a_seed_gives_its_speech_again_to_the_last_bit(speak: Callable[..., Samples]) -> None:
    first, again, other = speak(), speak(), speak(seed=2)
    assert np.array_equal(first, again)
    assert len(other) != len(first) or np.abs(first - other).max() > 0.01


def test_the_voice_is_heard(pocket: PocketEngine, speak: Callable[..., Samples]) -> None:
    other = speak(voice=pocket.encode_voice(noise(2, 24_000, seed=5)))
    first = speak()
    assert len(other) != len(first) or np.abs(first - other).max() > 0.01


def test_a_voice_serves_many_requests(pocket: PocketEngine, speak: Callable[..., Samples]) -> None:
    voice = pocket.encode_voice(noise(1, 24_000))
    first = speak(voice=voice)
    speak("Something else.", voice=voice)
    assert np.array_equal(first, speak(voice=voice))


@pytest.mark.parametrize("seconds", [0.001, 0.01, 0.1, 3])
def test_a_reference_may_be_short(
    pocket: PocketEngine, speak: Callable[..., Samples], seconds: float
) -> None:
    assert np.isfinite(speak("Hi.", voice=pocket.encode_voice(noise(seconds, 24_000)))).all()


@pytest.mark.parametrize("seconds", [0.01, 2.0, 7.3])
def test_a_reference_is_heard_in_blocks_as_it_would_be_at_once(
    nano_models: Path, seconds: float
) -> None:
    engine = loaded_pocket(nano_models, quantize=False)
    reference = noise(seconds, 24_000)
    in_blocks = engine.encode_voice(reference)
    for part in (engine._model.mimi.encoder, engine._model.mimi.encoder_transformer):
        del part.forward  # what was put before the library's own
    at_once = engine.encode_voice(reference)
    assert in_blocks.keys() == at_once.keys()
    for module, tensors in at_once.items():
        for name, tensor in tensors.items():
            np.testing.assert_allclose(in_blocks[module][name], tensor, atol=1e-5, rtol=1e-5)


def test_options_hold_for_one_request(speak: Callable[..., Samples]) -> None:
    plain = speak()
    changed = [
        speak(temperature=0.9),
        speak(decode_steps=4),
        speak(eos_threshold=1000.0),  # never ends by itself
    ]
    assert all(len(sound) != len(plain) or np.abs(sound - plain).max() > 0.01 for sound in changed)
    assert len(changed[2]) > len(plain)
    assert np.array_equal(speak(), plain)


@pytest.mark.parametrize("text", ["", " \n", "... !?", "🎉"])
def test_nothing_is_said_about_nothing(pocket: PocketEngine, voice: Any, text: str) -> None:
    assert list(pieces_of(pocket, text, voice, Sampling(seed=1))) == []


def prompts_for(pocket: PocketEngine, voice: Any, text: str) -> list[str]:
    """What the model is given to read for `text`."""
    prompts: list[str] = []

    class Silent:
        def join(self, *_: Any) -> None: ...
        def take(self, *_: Any) -> tuple[list[Any], bool]:
            return [], True

        def leave(self, *_: Any) -> None: ...

    conditioner, batch = pocket._model.flow_lm.conditioner, pocket._batch
    prepare = conditioner.prepare

    def note(prompt: str) -> Any:
        prompts.append(prompt)
        return prepare(prompt)

    conditioner.prepare, pocket._batch = note, Silent()
    try:
        assert list(pieces_of(pocket, text, voice, Sampling(seed=1))) == []
    finally:
        conditioner.prepare, pocket._batch = prepare, batch
    return prompts


def test_the_model_reads_the_text_as_it_is(pocket: PocketEngine, voice: Any) -> None:
    for text in ("See example.com/a.b, for 3.14 or 1,000.50", "E.g. at 10:30 in the U.S. today"):
        assert prompts_for(pocket, voice, text) == [f"{text}."]


def test_a_long_sentence_is_cut_behind_a_clause() -> None:
    text = "Well, " + "one two three four five, " * 12 + "and that is all there is to say."
    runs = split_runs(text, lambda _: 1)
    assert all(run.endswith((",", ".")) for run in runs)
    assert len(runs) == 2
    assert " ".join(runs) == text


def test_an_abandoned_request_gives_its_place_back(
    pocket: PocketEngine, voice: Any, speak: Callable[..., Samples]
) -> None:
    expected = speak()
    for _ in range(2 * pocket.capacity):  # more than there are places
        endless = Sampling(1, eos_threshold=1000.0)
        pieces = pieces_of(pocket, TEXT * 20, voice, endless)
        next(pieces)
        pieces.close()
    assert np.array_equal(speak(), expected)


@given(
    st.lists(st.from_regex(r"[a-z]{1,12}[.,;:!?]?", fullmatch=True), max_size=120),
    st.integers(1, 3),
)
def test_runs_lose_no_word(words: list[str], tokens_per_word: int) -> None:
    runs = split_runs(" ".join(words), lambda _: tokens_per_word)
    assert [word for run in runs for word in run.split()] == words
    for run in runs:
        assert len(run.split()) * tokens_per_word <= 45


@pytest.mark.parametrize(
    "text",
    [
        "plain words without any mark " * 170,
        "Short ones. " * 400,
        "x" * 5000,
        "这是一个没有空格的句子" * 450,
        "and so on, " * 450,
    ],
)
def test_no_chunk_is_longer_than_the_model_takes(
    pocket: PocketEngine, voice: Any, text: str
) -> None:
    from pocket_tts.default_parameters import MAX_TOKEN_PER_CHUNK

    prompts = prompts_for(pocket, voice, text)
    tokenizer = pocket._model.flow_lm.conditioner.tokenizer
    assert max(len(tokenizer.encode(prompt)) for prompt in prompts) <= MAX_TOKEN_PER_CHUNK
    # The library begins with a capital and ends with a full stop what did not.
    letters = [c for c in "".join(prompts).lower() if c.isalpha()]
    assert letters == [c for c in text.lower() if c.isalpha()]


def test_run_answers_with_a_wav(nano_models: Path) -> None:
    engine = loaded_pocket(nano_models)
    reference = noise(1, 24_000)
    recording = wav_header(24_000, len(reference)) + pcm16(reference)
    answers = []
    for streamed in (False, True):
        operation = Speak(
            TEXT,
            Voice(recording=Recording("reference", recording)),
            Sampling(seed=4),
            streamed=streamed,
        )
        pieces, result = speech(engine.run(operation, threading.Event()), engine)
        answers.append(b"".join(pieces))
        assert len(answers[-1]) == 44 + 2 * result.samples
    whole, streamed_whole = answers
    assert whole[:4] == streamed_whole[:4] == b"RIFF"
    assert whole[44:] == streamed_whole[44:]


@pytest.mark.parametrize("name", ["flac", "aac"])
def test_a_stream_whose_length_depends_on_bits_is_the_same_to_the_last(
    pocket: PocketEngine, name: str
) -> None:
    def streamed() -> bytes:
        operation = Speak(
            TEXT * 3,
            Voice(builtin="alba"),
            Sampling(seed=4),
            response_format=name,
            streamed=True,
        )
        return b"".join(speech(pocket.run(operation, threading.Event()), pocket)[0])

    assert streamed() == streamed()


def test_info_describes_the_weights(pocket: PocketEngine, ears: SenseVoiceEngine) -> None:
    for engine, name in ((pocket, "pocket"), (ears, "sensevoice")):
        info = engine.info()
        assert info.engine == name
        assert info.notes == (NOTE,)
        assert 0 < info.facts["parameters"] < 5_000_000
        assert re.fullmatch(r"[0-9a-f]{16}", info.facts["version"])


def test_weights_load_wherever_they_are_and_keep_their_version(
    nano_models: Path, pocket: PocketEngine, tmp_path: Path
) -> None:
    shutil.copytree(nano_models, tmp_path / "elsewhere")
    moved = loaded_pocket(tmp_path / "elsewhere", quantize=False)
    before = pocket.info()
    assert moved.info() == replace(
        before,
        voice_format=moved.voice_format,
        facts=before.facts | {"quantized": False, "linear": "oneDNN fp32"},
        chosen={},  # fp32 has one kernel
    )
    weights = tmp_path / "elsewhere" / "pocket-tts" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-4096:] = b"\0" * 4096
    weights.write_bytes(data)
    other = loaded_pocket(tmp_path / "elsewhere")
    assert other.info().facts["version"] != before.facts["version"]


@pytest.mark.parametrize("damage", ["missing", "cut short", "nonsense"])
@pytest.mark.parametrize(
    ("engine", "file"),
    [
        (PocketEngine, "pocket-tts/model.safetensors"),
        (PocketEngine, "pocket-tts/config.yaml"),
        (SenseVoiceEngine, "SenseVoiceSmall/model.pt"),
        (SenseVoiceEngine, "SenseVoiceSmall/chn_jpn_yue_eng_ko_spectok.bpe.model"),
    ],
)
def test_bad_weights_are_named_with_what_mends_them(
    nano_models: Path,
    tmp_path: Path,
    engine: type[PocketEngine | SenseVoiceEngine],
    file: str,
    damage: str,
) -> None:
    shutil.copytree(nano_models, tmp_path, dirs_exist_ok=True)
    path = tmp_path / file
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(data[: len(data) // 2] if damage == "cut short" else b"\1\2\3nonsense")
    with pytest.raises(ServiceError) as raised:
        engine(EngineConfig(tmp_path)).load()
    assert raised.value.code is ErrorCode.model_unavailable
    assert str(path.parent) in raised.value.message
    advice = f"voice-engine models pull {engine.name} {tmp_path} --force"
    assert advice in raised.value.message


# SenseVoice


@pytest.mark.parametrize("language", ["zh", "en", "yue", "ja", "ko", "nospeech"])
@pytest.mark.parametrize("itn", [True, False])
def test_tags_follow_the_hints(ears: SenseVoiceEngine, language: str, itn: bool) -> None:
    result = hear(ears, noise(2, 16_000), language=language, itn=itn)
    told = result.paralinguistics
    assert told.language == language
    assert result.raw.startswith(f"<|{language}|><|{told.emotion}|>")
    assert ("<|withitn|>" if itn else "<|woitn|>") in result.raw
    assert told.emotion in ("HAPPY", "SAD", "ANGRY", "NEUTRAL")
    assert len(told.events) == 1
    assert told.events[0] in ("Speech", "BGM", "Laughter", "Applause")
    assert result.text
    assert "<|" not in result.text
    assert result.text == result.text.strip()
    assert told.language_probability is not None
    assert told.emotion_probability is not None
    assert 0 < told.language_probability <= 1
    assert 0 < told.emotion_probability <= 1


def test_a_recording_is_heard_the_same_every_time(ears: SenseVoiceEngine) -> None:
    # Digital silence is where the frontend's dither would show.
    for samples in (noise(3, 16_000), np.zeros(16_000, "f4")):
        assert hear(ears, samples) == hear(ears, samples)


@pytest.mark.parametrize("count", [1, 100, 160, 399, 400, 1600])
def test_a_recording_may_be_short(ears: SenseVoiceEngine, count: int) -> None:
    told = hear(ears, noise(1, 16_000)[:count]).paralinguistics
    assert told.language in ("zh", "en", "yue", "ja", "ko")


def test_a_long_recording_is_heard_in_pieces(ears: SenseVoiceEngine) -> None:
    sentence = decode(spoken(SENTENCES[0]), rate=16_000, max_seconds=60, truncate=False)
    samples = np.tile(np.append(sentence, np.zeros(8_000, np.float32)), 20)
    result = hear(ears, samples, language="ko")
    ranges = vad.clips(vad.speech_probabilities(samples), len(samples), 30)
    assert result.raw.count("<|ko|>") == len(ranges) > 2
    assert result.paralinguistics.language == "ko"
    assert len(result.text) > len(hear(ears, samples[: 16_000 * 20]).text)


def test_a_cancelled_transcription_stops(ears: SenseVoiceEngine) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        finished(ears, ears.transcribe(noise(1, 16_000), Transcribe(Recording(key="")), stop))
    assert hear(ears, noise(1, 16_000)).text


def test_an_unknown_language_is_refused(ears: SenseVoiceEngine) -> None:
    with pytest.raises(ServiceError, match="auto, zh, en, yue, ja, ko, nospeech") as raised:
        hear(ears, noise(1, 16_000), language="tlh")
    assert raised.value.code is ErrorCode.invalid_option


def test_int8_hears_what_the_full_weights_hear(nano_models: Path, ears: SenseVoiceEngine) -> None:
    exact = SenseVoiceEngine(EngineConfig(nano_models, options={"quantize": False}))
    exact.load()
    samples = noise(5, 16_000)
    first, second = hear(ears, samples, language="ja"), hear(exact, samples, language="ja")
    assert ears.info().facts["quantized"] is True
    assert exact.info().facts["quantized"] is False
    one, two = first.paralinguistics, second.paralinguistics
    assert one.language == two.language
    assert one.emotion_probability == pytest.approx(two.emotion_probability, abs=0.1)
    assert first != second  # it really computes otherwise


# Both, as templates use them

FORKING = """
import os, sys, threading
from pathlib import Path
import numpy as np
from ipc.operations import Recording, Sampling, Transcribe
from model_procs.engine import EngineConfig
from model_procs.engines.pocket.engine import PocketEngine
from model_procs.engines.sensevoice.engine import SenseVoiceEngine
from model_procs.listening.base import finished
from tests.support.outputs import pieces_of

class Speak(PocketEngine):
    def work(self, noise):
        voice = self.encode_voice(noise)
        sampling = Sampling(seed=7)
        return np.concatenate(list(pieces_of(self, "Hello world.", voice, sampling)))

class Listen(SenseVoiceEngine):
    def work(self, noise):
        operation = Transcribe(Recording(key=""))
        result = finished(self, self.transcribe(noise, operation, threading.Event()))
        return np.frombuffer(result.raw.encode(), np.uint8).astype(float)

noise = (np.random.default_rng(0).standard_normal(24_000) * 0.1).astype("f4")
for cls in (Listen, Speak):
    engine = cls(EngineConfig(Path(sys.argv[1]), threads=2))
    engine.load()
    assert "torch._dynamo" not in sys.modules  # the compiler: a second and tens of megabytes
    print(cls.__name__, "threads", len(os.listdir("/proc/self/task")), flush=True)
    for worker in range(2):
        pid = os.fork()
        if pid == 0:
            engine.warm_up()
            np.save(f"{cls.__name__}-{worker}.npy", engine.work(noise))
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
"""


def test_workers_are_forked_from_one_thread_and_agree(nano_models: Path, tmp_path: Path) -> None:
    output = subprocess.run(
        [sys.executable, "-c", FORKING, str(nano_models)],
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=NET,
        check=False,
    )
    assert output.returncode == 0, output.stderr
    # Libraries talk too, each on its own machines.
    threads = [
        line for line in output.stdout.splitlines() if line.startswith(("Speak ", "Listen "))
    ]
    assert threads == ["Listen threads 1", "Speak threads 1"]
    for name in ("Speak", "Listen"):
        first, second = np.load(tmp_path / f"{name}-0.npy"), np.load(tmp_path / f"{name}-1.npy")
        assert len(first) == len(second) > 0
        assert np.abs(first - second).max() < ROUNDING
