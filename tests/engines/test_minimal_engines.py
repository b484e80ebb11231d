"""The engines that need no download: flite speaks, pocketsphinx reads it back."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from ipc.errors import ErrorCode, ServiceError
from ipc.operations import (
    Paralinguistics,
    Recording,
    Sampling,
    Speak,
    SpeechResult,
    Transcribe,
    Transcript,
    Voice,
)
from ipc.wav_header import wav_header
from model_procs.audio.decode import decode
from model_procs.audio.pcm import Samples, pcm16
from model_procs.audio.pitch import median_pitch
from model_procs.engine import Cancelled, EngineConfig
from model_procs.engines import sphinx
from model_procs.engines.flite import LONGEST_PIECE, VOICES, FliteEngine, FliteVoice, latin, pieces
from model_procs.engines.sphinx import SphinxEngine
from model_procs.listening.base import finished
from tests.support.outputs import speech
from tests.support.recordings import spoken
from tests.support.sentences import SENTENCES

RATE = 16_000
SLT = FliteVoice("slt", VOICES["slt"])
NOTHING = Sampling(seed=0)
PLAIN = Transcribe(Recording(key=""))


@pytest.fixture(scope="module")
def flite() -> FliteEngine:
    engine = FliteEngine(EngineConfig(Path("/nonexistent")))
    engine.load()
    engine.warm_up()
    return engine


@pytest.fixture(scope="module")
def ears() -> SphinxEngine:
    engine = SphinxEngine(EngineConfig(Path("/nonexistent")))
    engine.load()
    engine.warm_up()
    return engine


def speak(flite: FliteEngine, text: str, voice: FliteVoice = SLT) -> Samples:
    return np.concatenate(list(flite.synthesize(text, voice, NOTHING, threading.Event())))


def hear(ears: SphinxEngine, samples: Samples) -> Transcript:
    return finished(ears, ears.transcribe(samples, PLAIN, threading.Event()))


def silence(seconds: float) -> Samples:
    return np.zeros(int(seconds * RATE), np.float32)


def hum(hz: float, seconds: float = 1.0) -> Samples:
    """A voiced sound of pitch `hz`: its first harmonics."""
    time = np.arange(int(seconds * RATE)) / RATE
    waves = [np.sin(2 * np.pi * hz * n * time) / n for n in (1, 2, 3, 4)]
    return np.asarray(0.2 * np.sum(waves, axis=0), np.float32)


def words(text: str) -> str:
    return " ".join(re.sub(r"[^a-z' ]", " ", text.lower()).split())


def clone(
    flite: FliteEngine, text: str, reference: Samples, *, streamed: bool = False, **options: Any
) -> tuple[bytes, SpeechResult]:
    """Run a whole request; what it yields and what it returns."""
    upload = wav_header(RATE, len(reference)) + pcm16(reference)
    operation = Speak(
        text,
        Voice(recording=Recording("reference", upload)),
        Sampling(seed=1, **options),
        streamed=streamed,
    )
    pieces, result = speech(flite.run(operation, threading.Event()))
    return b"".join(pieces), result


# flite: what it speaks


def test_clone_answers_a_wav_and_says_that_it_is_approximate(flite: FliteEngine) -> None:
    answer, result = clone(flite, "Hello there.", hum(200))
    samples = decode(answer, rate=RATE, max_seconds=60, truncate=False)
    assert result.samples == len(samples)
    assert result.duration == result.samples / RATE
    assert 0.5 < result.duration < 3
    assert result.sample_rate == RATE
    info = flite.info()
    assert info.approximation is not None
    assert "only the pitch" in info.approximation
    assert info.approximation in info.notes


def test_a_streamed_clone_holds_the_same_sound(flite: FliteEngine) -> None:
    whole, _ = clone(flite, "One thing. And another.", hum(200))
    streamed, _ = clone(flite, "One thing. And another.", hum(200), streamed=True)
    assert streamed == wav_header(RATE, None) + whole[44:]


@pytest.mark.parametrize("kills", [1, 5])
def test_the_program_runs_again_if_somebody_kills_it(
    flite: FliteEngine, kills: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = speak(flite, "Hello.")
    program = tmp_path / "flite"
    left = tmp_path / "left"
    left.mkdir()
    for number in range(kills):
        (left / str(number)).touch()
    program.write_text(
        f"""#!/bin/sh
        for one in {left}/*; do
            if [ -e "$one" ]; then rm "$one"; kill -9 $$; fi
        done
        exec {flite._program} "$@"
        """
    )
    program.chmod(0o700)
    monkeypatch.setattr(flite, "_program", str(program))
    if kills == 1:
        np.testing.assert_array_equal(speak(flite, "Hello."), expected)
    else:
        with pytest.raises(ServiceError, match="status -9"):
            speak(flite, "Hello.")


def test_a_machine_that_is_slow_to_send_the_text_has_it_spoken(
    flite: FliteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = speak(flite, "All is well.")
    communicate = subprocess.Popen.communicate
    looks: list[float] = []

    def look(process: Any, sent: Any = None, *, timeout: float) -> Any:
        looks.append(timeout)
        # The first look at the program ends before anything can be sent to it.
        return communicate(process, sent, timeout=timeout if len(looks) > 1 else 0.0)

    monkeypatch.setattr(subprocess.Popen, "communicate", look)
    np.testing.assert_array_equal(speak(flite, "All is well."), calm)
    assert len(looks) > 1


def test_each_sentence_is_spoken_by_itself(flite: FliteEngine) -> None:
    answer, result = clone(flite, " ".join(SENTENCES), hum(VOICES["slt"]))
    alone = [clone(flite, sentence, hum(VOICES["slt"]))[1].samples for sentence in SENTENCES]
    assert result.samples == sum(alone)
    assert len(answer) == 44 + 2 * sum(alone)


@pytest.mark.parametrize("name", VOICES)
def test_the_same_text_gives_the_same_samples(flite: FliteEngine, name: str) -> None:
    voice = FliteVoice(name, 1.05 * VOICES[name])
    assert np.array_equal(speak(flite, SENTENCES[0], voice), speak(flite, SENTENCES[0], voice))


@pytest.mark.parametrize("text", ["...", "!?", "😀", "\x01\x02", "—", "  \n\n . "])
@pytest.mark.parametrize("streamed", [False, True])
def test_text_without_a_word_is_refused_before_anything_is_sent(
    flite: FliteEngine, text: str, streamed: bool
) -> None:
    with pytest.raises(ServiceError) as caught:
        clone(flite, text, hum(200), streamed=streamed)
    assert caught.value.code is ErrorCode.empty_text


@pytest.mark.parametrize("text", ["你好", "Привет, world", "γειά σου"])
def test_text_that_flite_cannot_read_is_refused(flite: FliteEngine, text: str) -> None:
    with pytest.raises(ServiceError, match="Latin letters") as caught:
        clone(flite, text, hum(200))
    assert caught.value.code is ErrorCode.invalid_request


@pytest.mark.parametrize(
    ("text", "alike"),
    [
        ("Hello мир and 你好 there.", "Hello mir and NiHao there."),
        ("The price is ٣ dollars.", "The price is three dollars."),
        ("The angle α is π.", "The angle alpha is pi."),
        ("Well \u0416 here \ud83d now.", "Well Zh here now."),
    ],
)
def test_an_odd_character_is_read_or_left_out(flite: FliteEngine, text: str, alike: str) -> None:
    assert clone(flite, text, hum(200))[0] == clone(flite, alike, hum(200))[0]


@pytest.mark.parametrize(
    ("text", "alike"),
    [
        ("[Level Up]", "Level Up."),
        ("He cast [Fireball] *sighs* at 5 °C.", "He cast Fireball at five degrees Celsius."),
        (
            "# The **weather**\n\n- It was −5 °C\n- See [the park](https://a.b/c) 🎉",
            "The weather. It was minus five degrees Celsius. See the park.",
        ),
    ],
)
def test_a_text_is_spoken_as_a_person_reads_it(flite: FliteEngine, text: str, alike: str) -> None:
    assert clone(flite, text, hum(172))[0] == clone(flite, alike, hum(172))[0]


def test_the_words_of_a_formatted_text_are_heard(flite: FliteEngine, ears: SphinxEngine) -> None:
    text = (
        "## Plans\n\n1. **Please** call me back before 5 o'clock this *afternoon*.\n"
        "2. They have been living in [this house](https://x.y) for 20 years. 🎉\n"
    )
    answer, _ = clone(flite, text, hum(VOICES["slt"]))
    heard = hear(ears, decode(answer, rate=RATE, max_seconds=60, truncate=False)).text
    expected = words(
        "plans one please call me back before five o'clock this afternoon "
        "two they have been living in this house for twenty years"
    )
    assert jiwer.wer(expected, heard) < 0.25


def test_a_line_end_is_a_pause(flite: FliteEngine) -> None:
    _, together = clone(flite, "One line and another line", hum(172))
    _, apart = clone(flite, "One line\nand another line", hum(172))
    assert apart.duration > together.duration + 0.1


def test_without_normalization_the_engine_gets_the_text(flite: FliteEngine) -> None:
    def spoken_as(text: str, *, normalize: bool) -> int:
        operation = Speak(text, Voice(builtin="slt"), Sampling(seed=1), normalize=normalize)
        return speech(flite.run(operation, threading.Event()))[1].samples

    assert spoken_as("a b", normalize=False) == spoken_as("a b.", normalize=False)
    assert spoken_as("snake_case", normalize=True) == spoken_as("snake case.", normalize=False)
    assert spoken_as("snake_case", normalize=False) != spoken_as("snake case.", normalize=False)


@pytest.mark.parametrize("text", ["...", "🎉", " ", "[laughs]"])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_text_without_words_may_be_a_short_silence(
    flite: FliteEngine, text: str, normalize: bool
) -> None:
    operation = Speak(
        text,
        Voice(builtin="slt"),
        Sampling(seed=1),
        alignment=True,
        normalize=normalize,
        silence=True,
    )
    pieces, result = speech(flite.run(operation, threading.Event()))
    samples = decode(b"".join(pieces), rate=RATE, max_seconds=60, truncate=False)
    assert 0.1 < result.duration < 1
    assert len(samples) == result.samples
    assert not samples.any()
    assert result.alignment == ()


def test_accents_and_typographic_signs_are_read(flite: FliteEngine) -> None:
    assert latin("Søren’s café – “naïve”…") == 'Soren\'s cafe - "naive"...'
    assert np.array_equal(speak(flite, "The café is naïve."), speak(flite, "The cafe is naive."))
    assert len(speak(flite, "Hello 😀 there.")) > RATE // 2


@pytest.mark.parametrize(
    "text", ["-o /tmp/x hello", "$(touch {})", "'; touch {}; '", "`touch {}`", "/etc/hostname"]
)
def test_text_is_never_a_command(flite: FliteEngine, text: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    assert len(speak(flite, text.format(made))) > RATE // 4
    assert not made.exists()


@pytest.mark.parametrize(
    "option", ["temperature", "decode_steps", "eos_threshold", "noise_clamp", "cfg_guidance"]
)
def test_options_of_other_engines_are_refused(flite: FliteEngine, option: str) -> None:
    with pytest.raises(ServiceError, match=f"flite has no option {option}") as caught:
        clone(flite, "Hello.", hum(200), streamed=True, **{option: 1})
    assert caught.value.code is ErrorCode.unknown_option


# flite: how it cuts text


@given(st.text(st.sampled_from("ab I.!?,;:\"')( \n…"), max_size=900))
def test_cutting_loses_nothing_but_blanks(text: str) -> None:
    cut = list(pieces(text))
    assert "".join("".join(cut).split()) == "".join(text.split())
    assert all(0 < len(piece) <= LONGEST_PIECE for piece in cut)


def test_a_long_sentence_is_cut_at_clauses() -> None:
    cut = list(pieces("we went on, " * 40 + "and on."))
    assert len(cut) > 1
    assert all(piece.endswith((",", ".")) for piece in cut)


# flite: the voice


@pytest.mark.parametrize(("name", "own_pitch"), VOICES.items())
def test_the_table_of_pitches_is_true(flite: FliteEngine, name: str, own_pitch: float) -> None:
    native = []
    for sentence in SENTENCES:
        wav = spoken(sentence, name)
        native.append(decode(wav, rate=RATE, max_seconds=60, truncate=False))
    assert median_pitch(np.concatenate(native), RATE) == pytest.approx(own_pitch, rel=0.01)


@pytest.mark.parametrize("hz", [80, 90, 98, 105, 114, 120, 145, 155, 180, 220, 300])
def test_the_speech_has_the_pitch_of_the_reference(flite: FliteEngine, hz: float) -> None:
    voice = flite.encode_voice(hum(hz))
    nearest = min(VOICES, key=lambda name: max(VOICES[name] / hz, hz / VOICES[name]))
    assert voice.name == nearest
    spoken = speak(flite, " ".join(SENTENCES[:3]), voice)
    assert median_pitch(spoken, RATE) == pytest.approx(hz, rel=0.06)


def test_another_pitch_of_the_fixed_voice_keeps_the_tempo(flite: FliteEngine) -> None:
    low, high = (speak(flite, SENTENCES[0], FliteVoice("rms", hz)) for hz in (98, 114))
    assert len(low) == pytest.approx(len(high), rel=0.02)


@pytest.mark.parametrize("name", VOICES)
def test_a_flite_voice_is_found_again(flite: FliteEngine, name: str) -> None:
    reference = speak(flite, " ".join(SENTENCES[:5]), FliteVoice(name, VOICES[name]))
    assert flite.encode_voice(reference).name == name


def test_a_reference_without_voice_gives_the_default_voice(flite: FliteEngine) -> None:
    noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32) * 0.1
    for reference in (silence(1), silence(0.001), noise):
        assert flite.encode_voice(reference) == SLT


# flite: the program


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> FliteEngine:
    """A program called flite that lists flite's voices and otherwise runs `script`."""
    program = folder / "flite"
    program.write_text(
        f'#!/bin/sh\nif [ "$1" = -lv ]; then echo {" ".join(VOICES)}; exit; fi\n{script}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    engine = FliteEngine(EngineConfig(Path("/nonexistent")))
    engine.load()
    return engine


def test_a_missing_program_is_told_with_what_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ServiceError, match="apt-get install flite") as caught:
        FliteEngine(EngineConfig(Path("/nonexistent"))).load()
    assert caught.value.code is ErrorCode.model_unavailable


def test_a_program_without_the_voices_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flite").write_text("#!/bin/sh\necho Voices available: kal slt\n")
    (tmp_path / "flite").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ServiceError, match="lacks the voices awb, kal16, rms"):
        FliteEngine(EngineConfig(Path("/nonexistent"))).load()


def test_a_failing_program_is_an_error_of_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = install(tmp_path, monkeypatch, "echo no memory >&2; exit 3")
    with pytest.raises(ServiceError, match="status 3: no memory") as caught:
        speak(engine, "Hello.")
    assert caught.value.code is ErrorCode.engine_error


def test_stop_ends_a_program_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pid"
    os.mkfifo(pipe)
    engine = install(tmp_path, monkeypatch, f"echo $$ > {pipe}; exec sleep 600")
    stop = threading.Event()
    started: list[int] = []

    def stop_when_started() -> None:
        started.append(int(pipe.read_text()))
        stop.set()

    thread = threading.Thread(target=stop_when_started)
    thread.start()
    with pytest.raises(Cancelled):
        list(engine.synthesize("Hello.", SLT, NOTHING, stop))
    thread.join()
    assert not Path(f"/proc/{started[0]}").exists()


# sphinx


@pytest.mark.parametrize(("name", "hz"), [("slt", 172), ("awb", 120), ("rms", 110)])
def test_what_flite_says_is_understood(
    flite: FliteEngine, ears: SphinxEngine, name: str, hz: float
) -> None:
    voice = FliteVoice(name, hz)
    sentences = SENTENCES if name == "slt" else SENTENCES[::2]
    heard = [hear(ears, speak(flite, sentence, voice)).text for sentence in sentences]
    assert jiwer.wer([words(sentence) for sentence in sentences], heard) < 0.15


def test_the_result_has_the_shape_of_sensevoice(flite: FliteEngine, ears: SphinxEngine) -> None:
    heard = hear(ears, speak(flite, "Hello."))
    assert replace(heard, segments=(), duration=0.0) == Transcript(
        text="hello",
        raw="<|en|><|EMO_UNKNOWN|><|Speech|><|woitn|>hello",
        duration=0.0,
        paralinguistics=Paralinguistics("en", "EMO_UNKNOWN", ("Speech",)),
    )


@pytest.mark.parametrize("samples", [1, 399, RATE, 5 * RATE])
def test_silence_is_no_speech(ears: SphinxEngine, samples: int) -> None:
    assert hear(ears, np.zeros(samples, np.float32)) == Transcript(
        text="",
        raw="<|nospeech|><|EMO_UNKNOWN|><|Event_UNK|><|woitn|>",
        duration=round(samples / RATE, 3),
        paralinguistics=Paralinguistics("nospeech", "EMO_UNKNOWN"),
    )


def test_loud_noise_of_any_length_is_survived(ears: SphinxEngine) -> None:
    noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32) * 0.3
    for samples in (1, 2, 100, 399, 400, 500, 3_201, RATE):
        assert hear(ears, noise[:samples]).paralinguistics.language in ("en", "nospeech")


def test_the_same_recording_gives_the_same_text_whatever_was_heard_before(
    flite: FliteEngine, ears: SphinxEngine
) -> None:
    recording = speak(flite, SENTENCES[1])
    fresh = SphinxEngine(EngineConfig(Path("/nonexistent")))
    fresh.load()
    first = hear(fresh, recording)
    hear(ears, 0.05 * speak(flite, SENTENCES[3], FliteVoice("rms", 103)))
    hear(ears, np.random.default_rng(1).standard_normal(RATE).astype(np.float32) * 0.5)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        finished(ears, ears.transcribe(recording, PLAIN, stop))
    assert hear(ears, recording) == hear(ears, recording) == first


def test_a_quiet_recording_is_understood_as_well(flite: FliteEngine, ears: SphinxEngine) -> None:
    recording = speak(flite, SENTENCES[4])
    expected = words(SENTENCES[4])
    for gain in (1.0, 0.03):
        assert jiwer.wer(expected, hear(ears, gain * recording).text) < 0.25


def test_a_long_recording_is_cut_into_utterances(flite: FliteEngine, ears: SphinxEngine) -> None:
    recording = np.concatenate(
        [silence(20), speak(flite, " ".join(SENTENCES[:6])), silence(30), speak(flite, "No.")]
    )
    ranges = sphinx._utterances(recording, threading.Event())
    lengths = [(end - start) / RATE for start, end in ranges]
    assert max(lengths) <= sphinx.UTTERANCE_SECONDS
    assert sum(lengths) < len(recording) / RATE - 45
    spoken = np.zeros(len(recording), bool)
    for start, end in ranges:
        spoken[start:end] = True
    assert np.abs(recording[~spoken]).max() < 0.02
    expected = words(" ".join(SENTENCES[:6]) + " no")
    heard = hear(ears, recording).text
    assert jiwer.wer(expected, heard) < 0.15
    assert heard.endswith(" no")


def test_stop_is_noticed_in_the_middle(flite: FliteEngine, ears: SphinxEngine) -> None:
    recording = np.tile(speak(flite, SENTENCES[0]), 20)

    class StopsLater(threading.Event):
        """Set after it has been asked often enough to be in the second pass."""

        asked = 0

        def is_set(self) -> bool:
            self.asked += 1
            return self.asked > 40

    stop = StopsLater()
    with pytest.raises(Cancelled):
        finished(ears, ears.transcribe(recording, PLAIN, stop))
    assert stop.asked < 50
    assert hear(ears, speak(flite, "Hello.")).text == "hello"


def test_other_languages_are_refused(ears: SphinxEngine) -> None:
    with pytest.raises(ServiceError, match="English only, not 'zh'") as caught:
        finished(
            ears, ears.transcribe(silence(1), replace(PLAIN, language="zh"), threading.Event())
        )
    assert caught.value.code is ErrorCode.invalid_option
    assert any("itn" in note for note in ears.info().notes)


def test_a_request_goes_through_the_base_class(flite: FliteEngine, ears: SphinxEngine) -> None:
    answer, _ = clone(flite, "Hello.", hum(172), streamed=True)
    output = ears.run(Transcribe(Recording("recording", answer)), threading.Event())
    with pytest.raises(StopIteration) as end:
        next(output)
    heard = end.value.value
    assert isinstance(heard, Transcript)
    assert heard.text == "hello"
    assert heard.duration == pytest.approx((len(answer) - 44) / 2 / RATE, abs=0.001)


@pytest.mark.parametrize(
    ("operation", "complaint"),
    [
        (Speak("Hello.", Voice(), NOTHING), "sphinx has no operation Speak"),
        (PLAIN, "no recording"),
    ],
)
def test_what_is_no_recording_to_transcribe_is_refused(
    ears: SphinxEngine, operation: Speak | Transcribe, complaint: str
) -> None:
    with pytest.raises(ServiceError, match=complaint) as caught:
        next(ears.run(operation, threading.Event()))
    assert caught.value.code is ErrorCode.invalid_request


FORKED = """
import os, pathlib, sys, threading
import soundfile
from ipc.operations import Recording, Transcribe
from model_procs.engine import EngineConfig
from model_procs.engines.flite import FliteEngine
from model_procs.engines.sphinx import SphinxEngine
from model_procs.listening.base import finished
engines = [factory(EngineConfig(pathlib.Path("/"))) for factory in (FliteEngine, SphinxEngine)]
for engine in engines:
    engine.load()
print("threads", len(os.listdir("/proc/self/task")), flush=True)
for worker in range(2):
    if os.fork() == 0:
        for engine in engines:
            engine.warm_up()
        samples, _ = soundfile.read(sys.argv[1], dtype="float32")
        operation = Transcribe(Recording(key=""))
        result = finished(engines[1], engines[1].transcribe(samples, operation, threading.Event()))
        print("heard", result.text, flush=True)
        os._exit(0)
    os.wait()
"""


def test_templates_stay_single_threaded_and_fork(flite: FliteEngine, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "hello.wav", speak(flite, "Hello."), RATE)
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORKED, str(tmp_path / "hello.wav")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == ["threads 1", "heard hello", "heard hello"]
