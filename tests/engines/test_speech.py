"""What speech engines share: operations, voices, sentences and when each is spoken."""

from __future__ import annotations

import hashlib
import io
import itertools
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

from ipc.engines import BuiltinVoice
from ipc.errors import ErrorCode, ServiceError
from ipc.messages import WorkerOptions
from ipc.operations import (
    AnyOperation,
    EncodeVoice,
    Recording,
    Sampling,
    Speak,
    SpeechResult,
    Transcribe,
    Voice,
    VoiceResult,
)
from ipc.wav_header import wav_header
from model_procs.audio.pcm import Samples, pcm16
from model_procs.engine import Cancelled, EngineConfig
from model_procs.engines.flite import VOICES, FliteEngine
from model_procs.engines.pocket.engine import PocketEngine
from model_procs.speech.base import SpeechEngine
from tests.support.outputs import collected, pieces_of, speech
from tests.support.recordings import spoken

MB = 1024 * 1024
RATE = 16_000


class Beeps(SpeechEngine):
    """Says each word as a tenth of a second of sound, and each sentence's end as silence.

    The loudness of a word is its voice. A voice is the mean of the recording, in thousandths.
    """

    name = "beeps"
    sample_rate = reference_rate = RATE
    voice_format = "beeps"
    options = ("temperature",)
    obeyed_tags = frozenset({"beep"})

    def __init__(self) -> None:
        self.heard: list[tuple[str, int]] = []
        self.encoded = 0

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
        self, text: str, voice: int, sampling: Sampling, stop: threading.Event
    ) -> Iterator[Samples | None]:
        """Each word is a piece."""
        self.heard.append((text, sampling.seed))
        time = np.arange(RATE // 10) / RATE
        word = np.sin(2 * np.pi * 440 * time).astype(np.float32) * (voice / 1000)
        for _ in text.split():
            yield word
        yield np.zeros(4 * RATE // 10, np.float32)


def recording(loudness: float) -> bytes:
    """Half a second, with a click at the end that makes it unlike others."""
    samples = np.full(RATE // 2, loudness, np.float32)
    return wav_header(RATE, len(samples)) + pcm16(samples)


def key_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


LOUD = recording(0.5)
UPLOAD = Recording(key_of(LOUD), LOUD)


def run(engine: SpeechEngine, operation: AnyOperation) -> tuple[list[Any], Any]:
    """What an operation yields, and its result."""
    return collected(engine.run(operation, threading.Event()), engine)


_SAMPLING = {field.name for field in fields(Sampling)}


def asked(
    *,
    data: bytes | None = None,
    path: Path | None = None,
    key: str | None = None,
    voice: str | None = None,
    registered: bool = False,
    **options: Any,
) -> Speak:
    """What asks for a text in the voice of a recording, or in a built-in voice."""
    sampling = {name: options.pop(name) for name in _SAMPLING & options.keys()}
    return Speak(
        **{"text": "One two.", **options},
        voice=Voice(voice, recording_of(data, path, key), registered),
        sampling=Sampling(**{"seed": 7, **sampling}),
    )


def recording_of(data: bytes | None, path: Path | None, key: str | None) -> Recording | None:
    """What is known of a recording; nothing where nothing is given."""
    if data is not None:
        return Recording(key_of(data), data)
    if key is not None:
        return Recording(key, path=None if path is None else str(path))
    return None


def speak(engine: SpeechEngine, **options: Any) -> tuple[list[bytes], SpeechResult]:
    """What `asked` makes the engine say, and the result."""
    return speech(engine.run(asked(**options), threading.Event()), engine)


def encode(engine: SpeechEngine, recording: Recording) -> tuple[list[bytes], VoiceResult]:
    """What comes of a voice that is to be registered."""
    pieces, result = run(engine, EncodeVoice(recording))
    assert isinstance(result, VoiceResult)
    return pieces, result


def refused(engine: SpeechEngine, operation: AnyOperation) -> ServiceError:
    with pytest.raises(ServiceError) as raised:
        run(engine, operation)
    return raised.value


def test_an_engine_without_an_encoder_refuses_recordings_and_speaks_without_them() -> None:
    class Reader(Beeps):
        no_cloning = "get other weights"
        default_voice = "anna"

        def builtin_voices(self) -> list[BuiltinVoice]:
            return [BuiltinVoice("anna", "Anna")]

        def load_builtin_voice(self, name: str) -> int:
            return 500

    engine = Reader()
    assert engine.info().no_cloning == "get other weights"
    for operation in (EncodeVoice(UPLOAD), asked(data=LOUD), asked(data=LOUD, registered=True)):
        error = refused(engine, operation)
        assert (error.code, error.message) == (ErrorCode.cloning_unavailable, "get other weights")
    assert engine.encoded == 0
    pieces, _ = speak(engine)
    assert pieces


def keeping(folder: Path, cache_bytes: int = MB) -> WorkerOptions:
    for name in ("cache", "named"):
        (folder / name).mkdir(exist_ok=True)
    return WorkerOptions(
        voice_dir=str(folder / "named"),
        voice_cache_dir=str(folder / "cache"),
        voice_cache_bytes=cache_bytes,
        voice_cache_memory_bytes=MB,
    )


def files(folder: Path) -> set[str]:
    return {path.stem for path in folder.rglob("*.voice")}


# Operations and voices


def test_an_operation_of_another_kind_is_refused() -> None:
    error = refused(Beeps(), Transcribe(UPLOAD))
    assert error.code is ErrorCode.invalid_request
    assert "beeps has no operation Transcribe" in error.message


def test_an_option_of_another_engine_is_refused() -> None:
    speak(Beeps(), data=LOUD, temperature=0.5, eos_threshold=None)
    error = refused(Beeps(), asked(data=LOUD, eos_threshold=1.0))
    assert error.code is ErrorCode.unknown_option
    assert "beeps has no option eos_threshold" in error.message


def test_a_known_voice_needs_no_recording(tmp_path: Path) -> None:
    engine = Beeps()
    engine.keep_voices(keeping(tmp_path))
    first, result = speak(engine, data=LOUD)
    assert result.voice_cached is False
    second, result = speak(engine, key=key_of(LOUD))
    assert result.voice_cached is True
    assert first == second
    assert engine.encoded == 1
    assert files(tmp_path / "cache") == {key_of(LOUD)}
    assert files(tmp_path / "named") == set()


def test_a_lost_voice_is_not_found(tmp_path: Path) -> None:
    engine = Beeps()
    engine.keep_voices(keeping(tmp_path))
    error = refused(engine, asked(key=key_of(LOUD)))
    assert error.code is ErrorCode.not_found
    assert "send its recording" in error.message


def test_a_recording_deleted_meanwhile_is_not_found(tmp_path: Path) -> None:
    gone = Recording("0" * 64, path=str(tmp_path / "gone"))
    error = refused(Beeps(), asked(path=tmp_path / "gone", key=gone.key))
    assert error.code is ErrorCode.not_found
    error = refused(Beeps(), EncodeVoice(gone))
    assert error.code is ErrorCode.not_found


def test_without_any_voice_a_recording_is_asked_for() -> None:
    error = refused(Beeps(), asked())
    assert error.code is ErrorCode.invalid_request
    assert "send a recording" in error.message
    error = refused(Beeps(), asked(voice="slt"))
    assert error.code is ErrorCode.not_found


def test_encoding_a_voice_makes_it_ready(tmp_path: Path) -> None:
    engine = Beeps()
    engine.keep_voices(keeping(tmp_path))
    pieces, result = encode(engine, UPLOAD)
    assert pieces == []
    assert result == VoiceResult(seconds=0.5, cached=False)
    assert engine.heard == [("Hello.", 0)]  # it has spoken
    assert files(tmp_path / "named") == {key_of(LOUD)}
    assert files(tmp_path / "cache") == set()
    successor = Beeps()
    successor.keep_voices(keeping(tmp_path, cache_bytes=0))
    _, result = encode(successor, UPLOAD)
    assert result == VoiceResult(seconds=0.5, cached=True)
    _, spoken = speak(successor, key=key_of(LOUD))
    assert spoken.voice_cached is True
    assert successor.encoded == 0


def test_a_voice_may_be_encoded_without_a_name(tmp_path: Path) -> None:
    engine = Beeps()
    engine.keep_voices(keeping(tmp_path))
    _, result = run(engine, EncodeVoice(UPLOAD, registered=False))
    assert result == VoiceResult(seconds=0.5, cached=False)
    assert (files(tmp_path / "named"), files(tmp_path / "cache")) == (set(), {key_of(LOUD)})


def test_a_cached_voice_is_kept_for_good_when_it_gets_a_name(tmp_path: Path) -> None:
    engine = Beeps()
    engine.keep_voices(keeping(tmp_path))
    speak(engine, data=LOUD)
    _, result = encode(engine, UPLOAD)
    assert result.cached is True
    assert (files(tmp_path / "named"), files(tmp_path / "cache")) == ({key_of(LOUD)}, set())


def test_a_named_voice_is_encoded_again_for_another_model(tmp_path: Path) -> None:
    class OtherBeeps(Beeps):
        voice_format = "other"

    path = tmp_path / "recording"
    path.write_bytes(LOUD)
    Beeps().keep_voices(keeping(tmp_path))
    for engine in (Beeps(), OtherBeeps()):
        engine.keep_voices(keeping(tmp_path))
        _, result = speak(engine, path=path, key=key_of(LOUD), registered=True)
        assert result.voice_cached is False
        assert engine.encoded == 1
        assert files(tmp_path / "named") == {key_of(LOUD)}


def test_a_voice_that_cannot_speak_is_refused(tmp_path: Path) -> None:
    class Mute(Beeps):
        def synthesize(self, *_: Any, **__: Any) -> Iterator[Samples]:
            yield np.full(9, np.nan, np.float32)

    error = refused(Mute(), EncodeVoice(UPLOAD))
    assert error.code is ErrorCode.invalid_audio


# Text


def test_sentences_are_spoken_in_order_without_tags() -> None:
    engine = Beeps()
    speak(
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
    operation = asked(data=LOUD, text="One. " * 9000, streamed=True, seed=2**32 - 1)
    output = engine.run(operation, threading.Event())
    first = next(output)
    assert isinstance(first, bytes)
    # The last 5 ms are the end of the sentence, unless more of it comes.
    assert len(first) == 44 + 2 * (RATE // 10 - RATE // 200)
    assert engine.heard == [("One.", 2**32 - 1)]
    for _ in range(3):
        next(output)
    assert engine.heard[1:] == [("One.", 0)]


def test_a_stop_is_noticed_within_a_sentence() -> None:
    engine = Beeps()
    stop = threading.Event()
    output = engine.run(asked(data=LOUD, text="One two. " * 9, streamed=True), stop)
    next(output)
    stop.set()
    with pytest.raises(Cancelled):
        next(output)
    assert len(engine.heard) == 1


@pytest.mark.parametrize("text", ["", "[laughs]", " \n"])
def test_nothing_to_say_is_an_error(text: str) -> None:
    assert refused(Beeps(), asked(data=LOUD, text=text)).code is ErrorCode.empty_text


def test_a_sentence_may_wait_for_steps_of_a_batch(tmp_path: Path) -> None:
    class Waiting(Beeps):
        def synthesize(self, *arguments: Any, **options: Any) -> Iterator[Samples | None]:
            for piece in super().synthesize(*arguments, **options):
                yield from (None, piece)

    plain, _ = speak(Beeps(), data=LOUD, streamed=True)
    output = Waiting().run(asked(data=LOUD, streamed=True), threading.Event())
    found = list(output)
    assert [piece for piece in found if piece is not None] == plain
    assert found.count(None) == 3  # two words and the silence behind them
    engine = Waiting()
    engine.keep_voices(keeping(tmp_path))
    assert list(engine.run(EncodeVoice(UPLOAD), threading.Event())) == [None]
    assert files(tmp_path / "named") == {key_of(LOUD)}


# Alignment


def sound(pieces: list[bytes]) -> tuple[Samples, int]:
    samples, rate = soundfile.read(io.BytesIO(b"".join(pieces)), dtype="float32")
    return samples, rate


@pytest.mark.parametrize("sample_rate", [None, 24_000])
@pytest.mark.parametrize("speed", [1.0, 0.5, 0.8, 2.0, 3.0])
def test_sentences_are_where_the_alignment_says(speed: float, sample_rate: int | None) -> None:
    words = [3, 1, 12, 5, 2]
    text = " ".join("Word" + " word" * (count - 1) + "." for count in words)
    pieces, result = speak(
        Beeps(), data=LOUD, text=text, speed=speed, sample_rate=sample_rate, alignment=True
    )
    assert result.alignment_exact is False
    alignment = result.alignment
    assert alignment is not None
    assert " ".join(entry.text for entry in alignment) == text
    samples, rate = sound(pieces)
    assert len(samples) / rate == result.duration
    # A sentence begins where it gets loud after a pause.
    hop, gap = rate // 200, round(20 / max(1, speed))
    loud = [np.abs(samples[i : i + hop]).max() > 0.1 for i in range(0, len(samples), hop)]
    starts = [i / 200 for i in range(len(loud)) if loud[i] and not any(loud[max(0, i - gap) : i])]
    assert len(starts) == len(words)
    tolerance = 0.01 if speed == 1 else 0.1
    assert [entry.start for entry in alignment] == pytest.approx(starts, abs=tolerance)
    assert alignment[0].start == 0
    assert alignment[-1].end == pytest.approx(result.duration, abs=0.001)
    assert alignment[-1].end <= result.duration
    for entry, following in itertools.pairwise(alignment):
        assert entry.start < entry.end == following.start


def test_each_sentence_tells_which_part_of_the_text_it_stands_for() -> None:
    text = "# Five\n\nIt is **5 %** [sighs] now. 🎉"
    _, result = speak(Beeps(), data=LOUD, text=text, alignment=True)
    assert result.alignment is not None
    assert [
        (entry.text, text[entry.source_start : entry.source_end]) for entry in result.alignment
    ] == [
        ("Five.", "Five"),
        ("It is five percent now.", "It is **5 %** [sighs] now."),
    ]


def test_pocket_speaks_what_a_person_reads_in_the_language_of_its_weights(
    nano_models: Path, tmp_path: Path
) -> None:
    shutil.copytree(nano_models / "pocket-tts", tmp_path / "pocket-tts")
    engine = PocketEngine(EngineConfig(tmp_path))
    engine.load()
    text = '**5 %** [Level Up] ("🎉") - <3 \u00ad\ud83d мир'

    def sentence(**options: Any) -> str:
        _, result = speak(engine, text=text, data=LOUD, alignment=True, **options)
        assert result.samples > 0
        assert result.alignment is not None
        return " ".join(entry.text for entry in result.alignment)

    assert engine.language == "en"
    assert sentence() == 'Five percent Level Up (" ") - less than three мир.'
    assert sentence(language="de").startswith("Fünf Prozent Level Up")
    assert sentence(normalize=False) == '**5 %** [Level Up] ("🎉") - <3 мир'
    config = tmp_path / "pocket-tts" / "config.yaml"
    settings = yaml.safe_load(config.read_text())
    settings["weights_path"] = "hf://kyutai/pocket-tts/languages/german/model.safetensors@0"
    config.write_text(yaml.safe_dump(settings))
    engine.load()
    assert engine.language == "de"
    assert sentence().startswith("Fünf Prozent Level Up")


def test_what_makes_no_sound_is_not_in_the_alignment() -> None:
    engine = FliteEngine(EngineConfig(Path("/nonexistent")))
    engine.load()
    _, result = speak(engine, text="... Hello there.\n\n- - -\n\nGood bye.", alignment=True)
    assert result.alignment is not None
    spoken = [entry.text.strip(".- ") for entry in result.alignment]
    assert spoken == ["Hello there", "Good bye"]
    assert speak(engine)[1].alignment is None


def test_an_alignment_too_long_for_a_frame_is_refused() -> None:
    class Short(Beeps):
        def synthesize(self, *_: Any, **__: Any) -> Iterator[Samples]:
            yield np.zeros(1, np.float32)

    error = refused(Short(), asked(data=LOUD, text="你好。" * 40_000, alignment=True))
    assert error.code is ErrorCode.text_too_long


def test_the_time_in_the_encoder_is_told() -> None:
    started = time.monotonic()
    _, result = speak(Beeps(), data=LOUD, text="One two three. " * 20, response_format="mp3")
    assert result.encode_seconds is not None
    assert 0 < result.encode_seconds < time.monotonic() - started


# Built-in voices


def test_flite_has_its_own_voices() -> None:
    engine = FliteEngine(EngineConfig(Path("/nonexistent")))
    engine.load()
    info = engine.info()
    assert [voice.id for voice in info.voices] == ["slt", "rms", "awb", "kal16"]
    assert {voice.language for voice in info.voices} == {"en"}
    assert {voice.id for voice in info.voices} == set(VOICES)
    assert (info.engine, info.default_voice, info.options) == ("flite", "slt", ())
    spoken = {voice: b"".join(speak(engine, voice=voice)[0]) for voice in VOICES}
    assert len(set(spoken.values())) == 4
    pieces, result = speak(engine)
    assert b"".join(pieces) == spoken["slt"]
    assert result.voice_cached is True
    error = refused(engine, asked(voice="alba"))
    assert error.code is ErrorCode.not_found
    assert "slt, rms, awb, kal16" in error.message


def test_flite_speaks_as_it_does_by_itself() -> None:
    engine = FliteEngine(EngineConfig(Path("/nonexistent")))
    engine.load()
    own, _ = soundfile.read(io.BytesIO(spoken("One two.", "awb")), dtype="float32")
    samples, _ = sound(speak(engine, voice="awb")[0])
    assert len(samples) == pytest.approx(len(own), rel=0.02)


@pytest.fixture
def models(nano_models: Path, tmp_path: Path) -> Path:
    """A models folder that a test may change."""
    shutil.copytree(nano_models / "pocket-tts", tmp_path / "pocket-tts")
    return tmp_path


def pocket(models: Path) -> PocketEngine:
    engine = PocketEngine(EngineConfig(models))
    engine.load()
    return engine


def test_pocket_has_the_voices_beside_its_weights(models: Path) -> None:
    engine = pocket(models)
    info = engine.info()
    assert info.voices == (
        BuiltinVoice("alba", "Alba", "en"),
        BuiltinVoice("marius", "Marius", "en"),
    )
    assert info.default_voice == "alba"
    assert info.options == (
        *("temperature", "decode_steps", "eos_threshold"),
        *("noise_clamp", "cfg_guidance"),
    )
    default, alba, marius, again = (
        b"".join(speak(engine, voice=voice)[0]) for voice in (None, "alba", "marius", "alba")
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
    assert (pocket(models).info().voices, pocket(models).default_voice) == ((), None)
    voices.mkdir()
    export_model_state(state, voices / "my_voice.safetensors")
    # As the library's older versions wrote it.
    old = {
        module: {"cache": tensors["cache"], "current_end": torch.zeros(tensors["cache"].shape[2])}
        for module, tensors in state.items()
    }
    export_model_state(old, voices / "old.safetensors")
    engine = pocket(models)
    assert [voice.name for voice in engine.info().voices] == ["My Voice", "Old"]
    assert engine.default_voice == "my_voice"
    sampling = Sampling(seed=3)
    spoken = [
        np.concatenate(list(pieces_of(engine, "Hello.", voice, sampling)))
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
    assert [voice.id for voice in info.voices] == ["alba", "marius"]
    assert info.notes[-2:] == (
        "the voice a does not fit the weights",
        "the voice b does not fit the weights",
    )
