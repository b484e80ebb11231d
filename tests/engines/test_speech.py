"""What speech engines share: operations, voices, sentences and when each is spoken."""

from __future__ import annotations

import hashlib
import io
import itertools
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ipc.engines import Json
from ipc.errors import ErrorCode, ServiceError
from ipc.messages import Request
from model_procs.audio.pcm import Samples, pcm16, wav_header
from model_procs.engine import Cancelled, EngineConfig
from model_procs.engines.flite import VOICES, FliteEngine
from model_procs.engines.pocket import PocketEngine
from model_procs.speech.base import SpeechEngine, SpeechOptions
from tests.support.recordings import spoken

MB = 1024 * 1024
RATE = 16_000


class Beeps(SpeechEngine):
    """Says each word as a tenth of a second of sound, and each sentence's end as silence.

    The loudness of a word is its voice. A voice is the mean of the recording, in thousandths.
    """

    sample_rate = reference_rate = RATE
    voice_format = "beeps"
    options = ("temperature",)
    obeyed_tags = frozenset({"beep"})

    def __init__(self) -> None:
        self.heard: list[tuple[str, int]] = []
        self.encoded = 0

    def describe(self) -> Json:
        """A name."""
        return {"engine": "beeps"}

    def encode_voice(self, reference: Samples) -> int:
        """How loud it is."""
        self.encoded += 1
        return round(float(reference.mean()) * 1000)

    def export_voice(self, voice: int) -> bytes:
        """In decimal digits."""
        return b"%d" % voice

    def import_voice(self, data: memoryview) -> int:
        """From decimal digits."""
        return int(bytes(data))

    def synthesize(
        self, text: str, voice: int, options: SpeechOptions, stop: threading.Event
    ) -> Iterator[Samples]:
        """Each word is a piece."""
        self.heard.append((text, options.seed))
        time = np.arange(RATE // 10) / RATE
        word = np.sin(2 * np.pi * 440 * time).astype(np.float32) * (voice / 1000)
        for _ in text.split():
            yield word
        yield np.zeros(4 * RATE // 10, np.float32)


def recording(loudness: float) -> bytes:
    """Half a second, with a click at the end that makes it unlike others."""
    samples = np.full(RATE // 2, loudness, np.float32)
    return wav_header(RATE, len(samples)) + pcm16(samples)


def key(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


LOUD = recording(0.5)


def run(
    engine: SpeechEngine,
    operation: str = "speak",
    *,
    data: bytes | None = None,
    path: Path | None = None,
    stop: threading.Event | None = None,
    **params: Any,
) -> tuple[list[bytes], Json]:
    """What a request yields, and its description."""
    if operation == "speak":
        params = {"text": "One two.", "stream": False, **params}
    if data is not None:
        params["voice_key"] = key(data)
    request = Request(
        1,
        operation,
        {"seed": 7, **params},
        audio=data,
        audio_path=None if path is None else str(path),
    )
    answer = engine.run(request, stop or threading.Event())
    pieces = []
    try:
        while True:
            pieces.append(next(answer))
    except StopIteration as end:
        return pieces, end.value


def refused(engine: SpeechEngine, operation: str = "speak", **params: Any) -> ServiceError:
    with pytest.raises(ServiceError) as raised:
        run(engine, operation, **params)
    return raised.value


def keeping(folder: Path, cache_bytes: int = MB) -> Json:
    for name in ("cache", "named"):
        (folder / name).mkdir(exist_ok=True)
    return {
        "voice_dir": str(folder / "named"),
        "voice_cache_dir": str(folder / "cache"),
        "voice_cache_bytes": cache_bytes,
        "voice_cache_memory_bytes": MB,
    }


def files(folder: Path) -> set[str]:
    return {path.stem for path in folder.rglob("*.voice")}


# Operations and voices


def test_an_unknown_operation_is_refused() -> None:
    error = refused(Beeps(), "clone", data=LOUD, text="Hi.")
    assert error.code is ErrorCode.invalid_request
    assert "'clone'" in error.message


def test_an_option_of_another_engine_is_refused() -> None:
    run(Beeps(), data=LOUD, temperature=0.5, eos_threshold=None)
    error = refused(Beeps(), data=LOUD, eos_threshold=1.0)
    assert error.code is ErrorCode.unknown_option
    assert "beeps has no option eos_threshold" in error.message


def test_a_known_voice_needs_no_recording(tmp_path: Path) -> None:
    engine = Beeps()
    engine.keep_voices(keeping(tmp_path))
    first, result = run(engine, data=LOUD)
    assert result["voice_cached"] is False
    second, result = run(engine, voice_key=key(LOUD))
    assert result["voice_cached"] is True
    assert first == second
    assert engine.encoded == 1
    assert files(tmp_path / "cache") == {key(LOUD)}
    assert files(tmp_path / "named") == set()


def test_a_lost_voice_is_not_found(tmp_path: Path) -> None:
    engine = Beeps()
    engine.keep_voices(keeping(tmp_path))
    error = refused(engine, voice_key=key(LOUD))
    assert error.code is ErrorCode.not_found
    assert "send its recording" in error.message


def test_a_recording_deleted_meanwhile_is_not_found(tmp_path: Path) -> None:
    error = refused(Beeps(), path=tmp_path / "gone", voice_key="0" * 64)
    assert error.code is ErrorCode.not_found
    error = refused(Beeps(), "encode", path=tmp_path / "gone", voice_key="0" * 64)
    assert error.code is ErrorCode.not_found


def test_without_any_voice_a_recording_is_asked_for() -> None:
    error = refused(Beeps())
    assert error.code is ErrorCode.invalid_request
    assert "send a recording" in error.message
    error = refused(Beeps(), voice="slt")
    assert error.code is ErrorCode.not_found


def test_encoding_a_voice_makes_it_ready(tmp_path: Path) -> None:
    engine = Beeps()
    engine.keep_voices(keeping(tmp_path))
    pieces, result = run(engine, "encode", data=LOUD, keep_voice=True)
    assert pieces == []
    assert result == {"voice_key": key(LOUD), "seconds": 0.5, "voice_cached": False}
    assert engine.heard == [("Hello.", 7)]  # it has spoken
    assert files(tmp_path / "named") == {key(LOUD)}
    assert files(tmp_path / "cache") == set()
    successor = Beeps()
    successor.keep_voices(keeping(tmp_path, cache_bytes=0))
    _, result = run(successor, "encode", data=LOUD, keep_voice=True)
    assert result == {"voice_key": key(LOUD), "seconds": 0.5, "voice_cached": True}
    _, result = run(successor, voice_key=key(LOUD))
    assert result["voice_cached"] is True
    assert successor.encoded == 0


def test_a_cached_voice_is_kept_for_good_when_it_gets_a_name(tmp_path: Path) -> None:
    engine = Beeps()
    engine.keep_voices(keeping(tmp_path))
    run(engine, data=LOUD)
    _, result = run(engine, "encode", data=LOUD, keep_voice=True)
    assert result["voice_cached"] is True
    assert (files(tmp_path / "named"), files(tmp_path / "cache")) == ({key(LOUD)}, set())


def test_a_named_voice_is_encoded_again_for_another_model(tmp_path: Path) -> None:
    class OtherBeeps(Beeps):
        voice_format = "other"

    path = tmp_path / "recording"
    path.write_bytes(LOUD)
    Beeps().keep_voices(keeping(tmp_path))
    for engine in (Beeps(), OtherBeeps()):
        engine.keep_voices(keeping(tmp_path))
        _, result = run(engine, path=path, voice_key=key(LOUD), keep_voice=True)
        assert result["voice_cached"] is False
        assert engine.encoded == 1
        assert files(tmp_path / "named") == {key(LOUD)}


def test_a_voice_that_cannot_speak_is_refused(tmp_path: Path) -> None:
    class Mute(Beeps):
        def synthesize(self, *_: Any) -> Iterator[Samples]:
            yield np.full(9, np.nan, np.float32)

    error = refused(Mute(), "encode", data=LOUD)
    assert error.code is ErrorCode.invalid_audio


# Text


def test_sentences_are_spoken_in_order_without_tags() -> None:
    engine = Beeps()
    run(
        engine,
        data=LOUD,
        text="[Laughs] Dr. No [sigh]  came. \nWhy [beep]?\n\n[groans] 你好。再见。",
    )
    assert engine.heard == [
        ("Dr. No came.", 7),
        ("Why [beep]?", 8),
        ("你好。", 9),
        ("再见。", 10),
    ]


def test_the_first_sentence_streams_before_the_second_is_made() -> None:
    engine = Beeps()
    request = Request(
        1, "speak", {"text": "One. " * 9000, "stream": True, "seed": 2**32 - 1}, audio=LOUD
    )
    answer = engine.run(request, threading.Event())
    assert len(next(answer)) == 44 + 2 * RATE // 10
    assert engine.heard == [("One.", 2**32 - 1)]
    for _ in range(3):
        next(answer)
    assert engine.heard[1:] == [("One.", 0)]


def test_a_stop_is_noticed_within_a_sentence() -> None:
    engine = Beeps()
    stop = threading.Event()
    answer = engine.run(
        Request(1, "speak", {"text": "One two. " * 9, "stream": True, "seed": 1}, audio=LOUD), stop
    )
    next(answer)
    stop.set()
    with pytest.raises(Cancelled):
        next(answer)
    assert len(engine.heard) == 1


@pytest.mark.parametrize("text", ["", "[laughs]", " \n"])
def test_nothing_to_say_is_an_error(text: str) -> None:
    assert refused(Beeps(), data=LOUD, text=text).code is ErrorCode.empty_text


# Alignment


def sound(pieces: list[bytes]) -> tuple[Samples, int]:
    samples, rate = soundfile.read(io.BytesIO(b"".join(pieces)), dtype="float32")
    return samples, rate


@pytest.mark.parametrize("sample_rate", [None, 24_000])
@pytest.mark.parametrize("speed", [1.0, 0.5, 0.8, 2.0, 3.0])
def test_sentences_are_where_the_alignment_says(speed: float, sample_rate: int | None) -> None:
    words = [3, 1, 12, 5, 2]
    text = " ".join("Word" + " word" * (count - 1) + "." for count in words)
    pieces, result = run(
        Beeps(), data=LOUD, text=text, speed=speed, sample_rate=sample_rate, alignment=True
    )
    assert result["alignment_exact"] is False
    alignment = result["alignment"]
    assert " ".join(entry["text"] for entry in alignment) == text
    samples, rate = sound(pieces)
    assert len(samples) / rate == result["duration"]
    # A sentence begins where it gets loud after a pause.
    hop, gap = rate // 200, round(20 / max(1, speed))
    loud = [np.abs(samples[i : i + hop]).max() > 0.1 for i in range(0, len(samples), hop)]
    starts = [i / 200 for i in range(len(loud)) if loud[i] and not any(loud[max(0, i - gap) : i])]
    assert len(starts) == len(words)
    tolerance = 0.01 if speed == 1 else 0.1
    assert [entry["start"] for entry in alignment] == pytest.approx(starts, abs=tolerance)
    assert alignment[0]["start"] == 0
    assert alignment[-1]["end"] == pytest.approx(result["duration"], abs=0.001)
    assert alignment[-1]["end"] <= result["duration"]
    for entry, following in itertools.pairwise(alignment):
        assert entry["start"] < entry["end"] == following["start"]


def test_what_makes_no_sound_is_not_in_the_alignment() -> None:
    engine = FliteEngine(EngineConfig(Path("/nonexistent")))
    engine.load()
    _, result = run(engine, text="... Hello there.\n\n- - -\n\nGood bye.", alignment=True)
    spoken = [entry["text"].strip(".- ") for entry in result["alignment"]]
    assert spoken == ["Hello there", "Good bye"]
    assert "alignment" not in run(engine)[1]


def test_an_alignment_too_long_for_a_frame_is_refused() -> None:
    class Short(Beeps):
        def synthesize(self, *_: Any) -> Iterator[Samples]:
            yield np.zeros(1, np.float32)

    error = refused(Short(), data=LOUD, text="你好。" * 40_000, alignment=True)
    assert error.code is ErrorCode.text_too_long


def test_the_time_in_the_encoder_is_told() -> None:
    started = time.monotonic()
    _, result = run(Beeps(), data=LOUD, text="One two three. " * 20, response_format="mp3")
    assert 0 < result["encode_s"] < time.monotonic() - started


# Built-in voices


def test_flite_has_its_own_voices() -> None:
    engine = FliteEngine(EngineConfig(Path("/nonexistent")))
    engine.load()
    info = engine.info()
    assert [voice["id"] for voice in info["voices"]] == ["slt", "rms", "awb", "kal16"]
    assert {voice["language"] for voice in info["voices"]} == {"en"}
    assert {voice["id"] for voice in info["voices"]} == set(VOICES)
    assert (info["default_voice"], info["options"]) == ("slt", [])
    spoken = {voice: b"".join(run(engine, voice=voice)[0]) for voice in VOICES}
    assert len(set(spoken.values())) == 4
    pieces, result = run(engine)
    assert b"".join(pieces) == spoken["slt"]
    assert result["voice_cached"] is True
    assert "approximation" not in result
    error = refused(engine, voice="alba")
    assert error.code is ErrorCode.not_found
    assert "slt, rms, awb, kal16" in error.message


def test_flite_speaks_as_it_does_by_itself() -> None:
    engine = FliteEngine(EngineConfig(Path("/nonexistent")))
    engine.load()
    own, _ = soundfile.read(io.BytesIO(spoken("One two.", "awb")), dtype="float32")
    samples, _ = sound(run(engine, voice="awb")[0])
    assert len(samples) == pytest.approx(len(own), rel=0.02)


@pytest.fixture
def models(nano_models: Path, tmp_path: Path) -> Path:
    """A models folder that a test may change."""
    shutil.copytree(nano_models / "pocket-tts", tmp_path / "pocket-tts")
    return tmp_path


def pocket(models: Path) -> PocketEngine:
    engine = PocketEngine(EngineConfig(models, options={"exact": True}))
    engine.load()
    return engine


def test_pocket_has_the_voices_beside_its_weights(models: Path) -> None:
    engine = pocket(models)
    info = engine.info()
    assert info["voices"] == [
        {"id": "alba", "name": "Alba", "language": "en"},
        {"id": "marius", "name": "Marius", "language": "en"},
    ]
    assert info["default_voice"] == "alba"
    assert info["options"] == ["temperature", "decode_steps", "eos_threshold"]
    default, alba, marius, again = (
        b"".join(run(engine, voice=voice)[0]) for voice in (None, "alba", "marius", "alba")
    )
    assert default == alba == again != marius


def test_pocket_takes_voices_that_the_library_has_exported(models: Path) -> None:
    import torch
    from pocket_tts.models.model_state import export_model_state

    engine = pocket(models)
    noise = np.random.default_rng(0).standard_normal(24_000).astype(np.float32) * 0.05
    state = engine.encode_voice(noise)
    voices = models / "pocket-tts" / "voices"
    shutil.rmtree(voices)
    assert (pocket(models).info()["voices"], pocket(models).default_voice) == ([], None)
    voices.mkdir()
    export_model_state(state, voices / "my_voice.safetensors")
    # As the library's older versions wrote it.
    old = {
        module: {"cache": tensors["cache"], "current_end": torch.zeros(tensors["cache"].shape[2])}
        for module, tensors in state.items()
    }
    export_model_state(old, voices / "old.safetensors")
    engine = pocket(models)
    assert [voice["name"] for voice in engine.info()["voices"]] == ["My Voice", "Old"]
    assert engine.default_voice == "my_voice"
    options = SpeechOptions(seed=3)
    spoken = [
        np.concatenate(list(engine.synthesize("Hello.", voice, options, threading.Event())))
        for voice in (
            engine.encode_voice(noise),
            engine.load_builtin_voice("my_voice"),
            engine.load_builtin_voice("old"),
        )
    ]
    np.testing.assert_array_equal(spoken[0], spoken[1])
    np.testing.assert_array_equal(spoken[0], spoken[2])


def test_pocket_leaves_out_voices_of_other_weights(models: Path) -> None:
    import torch
    from safetensors.torch import save_file

    voices = models / "pocket-tts" / "voices"
    save_file({"transformer.layers.0.self_attn/cache": torch.zeros(9)}, voices / "a.safetensors")
    (voices / "b.safetensors").write_bytes(b"nothing like it")
    (voices / "not a name.safetensors").write_bytes(b"")
    info = pocket(models).info()
    assert [voice["id"] for voice in info["voices"]] == ["alba", "marius"]
    assert info["notes"][-2:] == [
        "the voice a does not fit the weights",
        "the voice b does not fit the weights",
    ]
