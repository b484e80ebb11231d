"""Where speech is in recordings, in noise too; where they are cut; and that templates can fork."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import os
import subprocess
import sys
import threading
import warnings
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st

from ipc.operations import Recording
from ipc.wav_header import wav_header
from model_procs.audio.decode import decode
from model_procs.audio.pcm import Samples, pcm16
from model_procs.engine import Cancelled, EngineConfig
from model_procs.engines.flite import FliteEngine
from model_procs.listening import vad
from model_procs.weights.packages import package_folder
from supervisor.workers.launch import CHILD_ENVIRONMENT
from tests.support.recordings import spoken
from tests.support.service import NET, ROOT

RATE = vad.RATE
READINGS = ("beckett", "two_cities", "endgame_nagg_nell")


def reading(name: str) -> Samples:
    """A person's voice, from the assets of a package."""
    found = importlib.util.find_spec("moonshine_voice")
    assert found is not None
    assert found.origin is not None
    with wave.open(str(Path(found.origin).parent / "assets" / f"{name}.wav")) as file:
        pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        sound = soxr.resample(pcm.astype(np.float32) / 32768, file.getframerate(), RATE)
    return np.asarray(sound, np.float32)


def silence(seconds: float) -> Samples:
    return np.zeros(int(seconds * RATE), np.float32)


def noise(seconds: float, level: float, seed: int = 0) -> Samples:
    sound = np.random.default_rng(seed).standard_normal(int(seconds * RATE)) * level
    return sound.astype(np.float32)


def sine(seconds: float, hz: float) -> Samples:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE)).astype("f4")


def sentence(text: str, voice: str = "slt") -> Samples:
    """`text` by flite, without the silence around it."""
    samples = decode(spoken(text, voice), rate=RATE, max_seconds=60, truncate=False)
    loud = np.flatnonzero(np.abs(samples) > 0.02)
    return samples[loud[0] : loud[-1]]


def ranges_of(samples: Samples) -> list[tuple[int, int]]:
    return vad.speech_ranges(vad.speech_probabilities(samples), len(samples))


# The network


@pytest.fixture(scope="module")
def package() -> Any:
    """The package's own way to run the network, one window at a time."""
    utils_vad = importlib.import_module("silero_vad.utils_vad")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = package_folder("silero_vad") / "data" / "silero_vad.onnx"
        return utils_vad, utils_vad.OnnxWrapper(str(file), force_onnx_cpu=True)


@pytest.mark.parametrize("name", READINGS)
def test_probabilities_are_those_of_the_package(name: str, package: Any) -> None:
    import torch

    samples = reading(name)
    utils, model = package
    expected = model.audio_forward(torch.from_numpy(samples), RATE)[0].numpy()
    found = vad.speech_probabilities(samples)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-3
    told = utils.get_speech_timestamps(torch.from_numpy(samples), model, speech_pad_ms=0)
    heard = vad.speech_ranges(found, len(samples))
    assert len(told) > 1
    for one in told:  # what the package finds lies in our ranges, with sound around it
        assert any(
            start <= max(one["start"] - 0.29 * RATE, 0)
            and min(one["end"] + 0.29 * RATE, len(samples)) <= end
            for start, end in heard
        )


@pytest.mark.parametrize("count", [0, 1, 511, 512, 513, 256 * 512, 256 * 512 + 1])
def test_there_is_a_probability_for_each_window(count: int) -> None:
    samples = noise(9, 0.1)[:count]
    assert len(vad.speech_probabilities(samples)) == -(-count // 512)
    assert ranges_of(samples) == []


def test_a_long_recording_is_probed_in_turns_and_can_be_stopped() -> None:
    samples = np.resize(reading("beckett"), 60 * RATE)
    stop = threading.Event()
    work = vad.probing(samples, stop)
    next(work)
    next(work)
    stop.set()
    with pytest.raises(Cancelled):
        next(work)
    with pytest.raises(Cancelled):
        vad.speech_probabilities(samples, stop)
    turns = sum(1 for _ in vad.probing(samples))
    assert turns == -(-60 * RATE // (256 * 512))


# Speech


SOUNDS: dict[str, Samples] = {
    "silence": silence(4),
    "soft noise": noise(4, 0.003),
    "noise": noise(4, 0.1),
    "loud noise": noise(4, 0.4),
    "a tone": sine(4, 440),
    "hum": np.sum([sine(4, 50 * place) / place for place in range(1, 20)], axis=0),
    "beeps": np.tile(np.append(sine(0.2, 1000), silence(0.3)), 8),
    "clicks": np.tile(np.append(np.full(1, 0.9, np.float32), silence(0.5)), 8),
}


@pytest.mark.parametrize("name", SOUNDS)
def test_other_sounds_are_no_speech(name: str) -> None:
    assert ranges_of(SOUNDS[name]) == []


@pytest.mark.parametrize("voice", ["slt", "rms", "awb", "kal16"])
@pytest.mark.parametrize("word", ["Yes.", "No.", "Hi.", "It."])
def test_a_short_word_is_speech_all_of_it(word: str, voice: str) -> None:
    said = sentence(word, voice)
    ((start, end),) = ranges_of(np.concatenate([silence(2), said, silence(2)]))
    assert start <= 2 * RATE
    assert end >= 2 * RATE + len(said)
    assert end - start < len(said) + 0.9 * RATE


@pytest.mark.parametrize("decibels", [0, 5, 10])
def test_speech_is_found_in_noise(decibels: int) -> None:
    """Where loudness says nothing: there are moments of speech below the noise of the pauses."""
    said = [sentence("The children played in the garden until dark."), sentence("Now they sleep.")]
    parts = [silence(4), said[0], silence(5), said[1], silence(4)]
    level = float(np.sqrt(np.square(np.concatenate(said)).mean())) / 10 ** (decibels / 20)
    clean = np.concatenate(parts)
    found = ranges_of(clean + noise(len(clean) / RATE, level))
    edges = np.cumsum([0, *(len(part) for part in parts)])
    assert len(found) == 2
    for (start, end), first, last in zip(found, edges[1::2], edges[2::2], strict=False):
        assert first - 0.5 * RATE < start < first
        assert last < end < last + 0.75 * RATE


# Clips


@pytest.mark.parametrize(("name", "seconds"), [("two_cities", 10), ("endgame_nagg_nell", 10)])
def test_readings_are_cut_between_words(name: str, seconds: int) -> None:
    samples = reading(name)
    probabilities = vad.speech_probabilities(samples)
    clips = vad.clips(probabilities, len(samples), seconds)
    assert len(clips) >= 3
    loudness = np.sqrt(np.square(samples).mean())
    cuts = [end for _, end in clips[:-1]]
    for cut in cuts:
        assert probabilities[cut // 512 - 1 : cut // 512 + 1].max() < 0.35
        near = samples[cut - RATE // 50 : cut + RATE // 50]
        assert np.sqrt(np.square(near).mean()) < loudness / 4


def test_a_clip_is_cut_in_the_longest_pause_of_its_second_half() -> None:
    probabilities = np.full(40 * 32, 0.9, np.float32)
    for first, last in ((2, 14), (18, 24), (26, 34), (35, 38)):
        probabilities[first * 31 : first * 31 + (last - first)] = 0.1
    cut = vad.clips(probabilities, len(probabilities) * 512, 30)[0][1]
    assert cut == pytest.approx((26 * 31 + 4) * 512, abs=512)


def test_without_a_pause_it_is_cut_where_speech_is_least_likely() -> None:
    probabilities = np.full(1250, 0.9, np.float32)
    probabilities[700:709] = 0.5
    probabilities[800] = 0.36  # the lowest, but between loud ones
    (start, cut), rest = vad.clips(probabilities, 1250 * 512, 30)
    assert (start, rest) == (0, (cut, 1250 * 512))
    assert cut == pytest.approx(704.5 * 512, abs=256)


def test_long_pauses_are_left_out_and_short_ones_kept() -> None:
    said = sentence("The children played in the garden until dark.")
    samples = np.concatenate([silence(20), said, silence(2), said, silence(6), said, silence(20)])
    probabilities = vad.speech_probabilities(samples)
    length = len(said) / RATE
    lengths = [(end - start) / RATE for start, end in vad.clips(probabilities, len(samples), 30)]
    assert lengths == pytest.approx([2 * length + 2.6, length + 0.6], abs=0.3)
    closer = vad.clips(probabilities, len(samples), 30, pause_seconds=0)
    assert closer == vad.speech_ranges(probabilities, len(samples))
    assert len(closer) == 3


@given(
    st.lists(st.tuples(st.floats(0, 1, width=32), st.integers(1, 80)), max_size=30),
    st.integers(1, 511),
    st.integers(2, 30),
    st.sampled_from([0.0, 0.5, 3.0]),
)
def test_clips_contain_all_speech_and_fit(
    levels: list[tuple[float, int]], rest: int, limit: int, pause: float
) -> None:
    parts = [np.full(count, level, np.float32) for level, count in levels]
    probabilities = np.concatenate([*parts, np.zeros(1, np.float32)])
    length = (len(probabilities) - 1) * 512 + rest
    ranges = vad.speech_ranges(probabilities, length)
    clips = vad.clips(probabilities, length, limit, pause_seconds=pause)
    assert all(0 <= start < end <= length for start, end in [*ranges, *clips])
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(clips))
    assert all(end - start <= limit * RATE for start, end in clips)
    covered = np.zeros(length, bool)
    for start, end in clips:
        covered[start:end] = True
    assert all(covered[start:end].all() for start, end in ranges)


# References of voices


def reference(*parts: Samples) -> Samples:
    engine = FliteEngine(EngineConfig(Path("/nonexistent")))
    samples = np.concatenate(parts)
    data = wav_header(RATE, len(samples)) + pcm16(samples)
    return engine._decode(Recording("key", data))


def test_a_reference_is_trimmed_to_its_speech() -> None:
    said = sentence("The children played in the garden until dark.")
    hiss = noise(6, 0.01)
    found = reference(hiss, said, silence(2), said, hiss)
    assert len(found) / RATE == pytest.approx(2 * len(said) / RATE + 2.4, abs=0.3)
    assert np.array_equal(found, reference(hiss, said, silence(2), said, hiss))


@pytest.mark.parametrize(
    "make",
    [lambda: sine(2, 172), lambda: noise(2, 0.1), lambda: np.append(silence(3), sentence("Hi."))],
    ids=["a tone", "noise", "one short word"],
)
def test_a_reference_with_hardly_any_speech_stays_as_it_is(make: Callable[[], Samples]) -> None:
    samples = make()
    assert len(reference(samples)) == len(samples)


def test_trimming_is_at_the_rate_of_the_recording() -> None:
    said = sentence("The children played in the garden until dark.")
    samples = np.concatenate([silence(2), said, silence(2)])
    for rate in (22_050, 24_000):
        trimmed = vad.trimmed(np.asarray(soxr.resample(samples, RATE, rate), np.float32), rate)
        assert len(trimmed) / rate == pytest.approx(len(said) / RATE + 0.4, abs=0.2)


# Processes

FORKING = """
import os, sys, threading
from pathlib import Path
import numpy as np
from model_procs.engine import EngineConfig
from model_procs.listening import vad
from model_procs.sandbox import Sandbox
from ipc.messages import WorkerOptions

class Nothing:
    pass

samples = np.load(sys.argv[1])
vad.load()
assert len(os.listdir("/proc/self/task")) == 1
assert "torch" not in sys.modules and "silero_vad" not in sys.modules
folder = Path("/nonexistent")
options = WorkerOptions(sandbox=True)
sandbox = Sandbox(Nothing(), EngineConfig(folder, folder), options)
for worker in range(2):
    pid = os.fork()
    if pid == 0:
        try:
            assert len(sandbox.enter(options)) == 4
            found = []
            hear = lambda: found.append(vad.speech_probabilities(samples))
            hear()
            thread = threading.Thread(target=hear)
            thread.start()
            thread.join()
            assert np.array_equal(*found)
            sys.stdout.write(found[0].tobytes().hex() + "\\n")
            sys.stdout.flush()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""


def test_workers_are_forked_from_one_thread_and_agree_in_their_sandbox(tmp_path: Path) -> None:
    samples = reading("beckett")
    np.save(tmp_path / "samples.npy", samples)
    output = subprocess.run(
        [sys.executable, "-c", FORKING, str(tmp_path / "samples.npy")],
        cwd=tmp_path,
        env=os.environ | CHILD_ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=NET,
        check=False,
    )
    assert output.returncode == 0, output.stderr
    expected = vad.speech_probabilities(samples)
    for line in output.stdout.split():
        assert np.array_equal(np.frombuffer(bytes.fromhex(line), np.float32), expected)
    assert len(output.stdout.split()) == 2
