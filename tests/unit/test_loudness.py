"""Loudness against the standard's own numbers, fades, silence; on samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import pytest

from ipc.operations import Sampling, Speak, Voice
from model_procs.audio.edges import Fades, Trim
from model_procs.audio.loudness import PEAK, Meter, StreamLevel, WholeLevel
from model_procs.audio.pcm import Samples
from model_procs.speech.finish import Finish

RATE = 24_000


class Stage(Protocol):
    """What samples go through."""

    def feed(self, samples: Samples) -> Samples: ...

    def end(self) -> Samples: ...


def sine(seconds: float, level: float, rate: int = RATE, hertz: float = 997.0) -> Samples:
    """A tone with its peaks at `level` dB."""
    times = np.arange(int(seconds * rate)) / rate
    return (10 ** (level / 20) * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def babble(seconds: float, level: float, seed: int = 0) -> Samples:
    """Noise in syllables, with pauses."""
    draw = np.random.default_rng(seed)
    count = int(seconds * RATE)
    times = np.arange(count) / RATE
    shape = np.abs(np.sin(2 * np.pi * 2 * times)) * (np.sin(2 * np.pi * 0.3 * times) > -0.6)
    noise = np.convolve(draw.standard_normal(count), np.full(8, 1 / 8), "same")
    return (10 ** (level / 20) * shape * noise).astype(np.float32)


def measured(samples: Samples, rate: int = RATE) -> float:
    meter = Meter(rate)
    meter.feed(samples)
    assert meter.loudness is not None
    return meter.loudness


def through(stage: Stage, samples: Samples, sizes: Iterator[int] | None = None) -> Samples:
    """All that comes out, if it goes in in pieces of these sizes."""
    out, start = [], 0
    while start < len(samples):
        size = len(samples) if sizes is None else next(sizes)
        out.append(stage.feed(samples[start : start + size]))
        start += size
    return np.concatenate([*out, stage.end()])


def odd_sizes(seed: int) -> Iterator[int]:
    draw = np.random.default_rng(seed)
    while True:
        yield int(draw.integers(1, 4000))


# The standard


@pytest.mark.parametrize("rate", [16_000, 22_050, 24_000, 44_100, 48_000])
def test_a_full_scale_tone_has_the_loudness_that_the_standard_says(rate: int) -> None:
    """BS.1770: a 997 Hz sine at 0 dB full scale in one channel is -3.01 LKFS."""
    assert measured(sine(5, 0.0, rate), rate) == pytest.approx(-3.01, abs=0.05)
    assert measured(sine(5, -20.0, rate), rate) == pytest.approx(-23.01, abs=0.05)


def test_silence_and_soft_parts_do_not_count() -> None:
    """EBU 3341: what is more than 10 below the rest is behind the gate; so is silence."""
    loud = sine(20, -20.0)
    quiet = sine(10, -33.0)
    assert measured(np.concatenate([quiet, loud, quiet])) == pytest.approx(-23.0, abs=0.1)
    silence = np.zeros(10 * RATE, np.float32)
    assert measured(np.concatenate([silence, loud])) == pytest.approx(-23.0, abs=0.1)
    meter = Meter(RATE)
    meter.feed(silence)
    assert meter.loudness is None
    short = Meter(RATE)
    short.feed(loud[: RATE // 4])
    assert short.loudness is None


def test_high_tones_count_more_and_low_ones_less() -> None:
    middle, high, low = (measured(sine(3, -20.0, hertz=hertz)) for hertz in (997, 4000, 40))
    assert high - middle == pytest.approx(3.3, abs=0.3)
    assert low < middle - 5


# Levels


@pytest.mark.parametrize("wanted", [-16.0, -23.0, -30.0])
@pytest.mark.parametrize("level", [-4.0, -16.0])
def test_a_whole_answer_has_the_loudness_that_is_asked_for(wanted: float, level: float) -> None:
    sound = through(WholeLevel(RATE, wanted), babble(6, level))
    assert np.abs(sound).max() <= PEAK + 1e-6
    if np.abs(sound).max() < PEAK * 0.999:
        assert measured(sound) == pytest.approx(wanted, abs=0.1)
    else:  # its peaks do not let it
        assert measured(sound) < wanted


@pytest.mark.parametrize("level", [-4.0, -12.0, -20.0])
def test_a_stream_comes_to_it_in_its_first_seconds(level: float) -> None:
    sound = through(StreamLevel(RATE, -20.0), babble(10, level))
    assert measured(sound[3 * RATE :]) == pytest.approx(-20.0, abs=1.0)
    assert np.abs(sound).max() <= PEAK + 1e-6


def test_a_gain_of_nothing_changes_nothing_but_the_scale() -> None:
    sound = babble(3, -20.0)
    out = through(WholeLevel(RATE, -26.0), sound)
    kept = np.abs(sound) > 1e-3
    ratios = out[kept] / sound[kept]
    assert ratios.max() - ratios.min() < 1e-5
    silence = np.zeros(RATE, np.float32)
    for make in (WholeLevel, StreamLevel):
        assert not through(make(RATE, -16.0), silence).any()


def test_a_gain_makes_no_steps() -> None:
    """A tone stays a tone, although its gain moves."""
    tone = sine(5, -30.0, hertz=100)
    out = through(StreamLevel(RATE, -16.0), tone)
    steepest = np.abs(np.diff(tone)).max() / np.abs(tone).max()
    for start in range(0, len(out) - RATE // 10, RATE // 10):
        part = out[start : start + RATE // 10]
        assert np.abs(np.diff(part)).max() <= 1.1 * steepest * np.abs(part).max()


# Edges


def test_parts_are_faded_and_nothing_is_lost() -> None:
    fades = Fades(RATE)
    part = np.full(RATE, 0.5, np.float32)
    out = through(fades, part)
    again = through(fades, part)
    assert len(out) == len(part)
    assert np.array_equal(out, again)
    assert out[0] == out[-1] == 0
    assert np.abs(np.diff(np.concatenate([out, again]))).max() < 0.01
    assert np.array_equal(out[200:-200], part[200:-200])
    for length in (0, 1, 119, 121, 200):
        assert len(through(Fades(RATE), part[:length])) == length


def test_parts_that_begin_softly_are_faded_at_their_ends_only() -> None:
    part = np.full(RATE, 0.5, np.float32)
    out = through(Fades(RATE, begin=False), part)
    assert (out[0], out[-1]) == (0.5, 0)


def test_silence_around_speech_is_left_out_and_pauses_stay() -> None:
    def silence(seconds: float) -> Samples:
        return 0.001 * sine(seconds, 0.0)

    speech = sine(1, -20.0)
    sound = np.concatenate([silence(0.7), speech, silence(2), speech, silence(1.5)])
    trim = Trim(RATE)
    out = through(trim, sound)
    assert trim.skipped == pytest.approx(0.68 * RATE, abs=10)
    assert len(out) == pytest.approx((0.02 + 1 + 2 + 1 + 0.1) * RATE, abs=20)
    assert np.array_equal(out, sound[trim.skipped : trim.skipped + len(out)])
    assert len(through(Trim(RATE), silence(3))) == 0


# All together


def finished(
    sentences: list[Samples], sizes: Callable[[], Iterator[int]], **fields: object
) -> Samples:
    speak = Speak("x", Voice(), Sampling(0), **fields)  # type: ignore[arg-type]
    finish = Finish(speak, RATE)
    out = []
    for sentence in sentences:
        size, start = sizes(), 0
        while start < len(sentence):
            taken = next(size)
            piece = sentence[start : start + taken]
            out.append(finish.feed(piece, begins=start == 0))
            start += taken
    return np.concatenate([*out, finish.end()])


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("trim", [False, True])
@pytest.mark.parametrize("loudness", [None, -18.0])
def test_the_size_of_pieces_changes_no_sample(
    *, streamed: bool, trim: bool, loudness: float | None
) -> None:
    sentences = [babble(2.3, -20, seed) for seed in range(3)]
    fields = {"streamed": streamed, "trim": trim, "loudness": loudness}
    expected = finished(sentences, lambda: iter([10**9]), **fields)
    for seed in range(3):
        found = finished(sentences, lambda: odd_sizes(seed), **fields)  # noqa: B023
        assert np.array_equal(found, expected)
    if not trim:
        assert len(expected) == sum(map(len, sentences))


def test_sentences_that_end_in_the_middle_of_a_wave_join_without_a_click() -> None:
    rough = [sine(0.5013, -6.0, hertz=220) for _ in range(4)]
    inside = max(np.abs(np.diff(each)).max() for each in rough)
    joined = finished(rough, lambda: iter([10**9]))
    assert np.abs(np.diff(np.concatenate(rough))).max() > 3 * inside
    assert np.abs(np.diff(joined)).max() <= inside + 0.003
