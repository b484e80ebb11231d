"""Loudness, silence and joins, on what an engine says."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ipc.operations import Sampling, Speak, SpeechResult, Voice
from model_procs.audio.loudness import PEAK, Meter
from model_procs.audio.pcm import Samples
from model_procs.engine import EngineConfig, alone
from model_procs.engines.flite import FliteEngine

TEXT = "This is one sentence. And here comes another one, which is longer than that."


@pytest.fixture(scope="module")
def flite() -> FliteEngine:
    engine = FliteEngine(EngineConfig(Path("/nonexistent")))
    engine.load()
    return engine


def spoken(engine: FliteEngine, **fields: Any) -> tuple[bytes, SpeechResult]:
    """The bytes, and the result."""
    asked: dict[str, Any] = {"response_format": "pcm", **fields}
    output = alone(
        engine, engine.run(Speak(TEXT, Voice(), Sampling(1), **asked), threading.Event())
    )
    pieces = []
    while True:
        try:
            pieces.append(next(output))
        except StopIteration as end:
            return b"".join(piece for piece in pieces if isinstance(piece, bytes)), end.value


def samples(data: bytes) -> Samples:
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32767)


def loudness(engine: FliteEngine, data: bytes, skip: float = 0.0) -> float:
    meter = Meter(engine.sample_rate)
    meter.feed(samples(data)[int(skip * engine.sample_rate) :])
    assert meter.loudness is not None
    return meter.loudness


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("wanted", [-24.0, -30.0])
def test_speech_has_the_loudness_that_is_asked_for(
    flite: FliteEngine, wanted: float, *, streamed: bool
) -> None:
    before, _ = spoken(flite)
    assert abs(loudness(flite, before) - wanted) > 1
    data, _ = spoken(flite, loudness=wanted, streamed=streamed)
    assert len(data) == len(before)
    skip, error = (2.0, 1.5) if streamed else (0.0, 0.1)
    assert loudness(flite, data, skip) == pytest.approx(wanted, abs=error)
    assert np.abs(samples(data)).max() <= PEAK + 1e-3
    # A replay, which leaves out what has been sent, has the same bytes.
    assert spoken(flite, loudness=wanted, streamed=streamed)[0] == data


@pytest.mark.parametrize("streamed", [False, True])
def test_silence_is_left_out_and_times_move_with_it(flite: FliteEngine, *, streamed: bool) -> None:
    usual, before = spoken(flite, alignment=True)
    trimmed, after = spoken(flite, alignment=True, trim=True)
    assert spoken(flite, trim=True, streamed=streamed)[0] == trimmed
    at = usual.find(trimmed)
    assert at >= 0
    assert at % 2 == 0
    assert len(trimmed) < len(usual)
    assert after.duration < before.duration
    assert before.alignment is not None
    assert after.alignment is not None
    moved = at / 2 / flite.sample_rate
    assert after.alignment[1].start == pytest.approx(before.alignment[1].start - moved, abs=0.002)
    assert after.alignment[-1].end <= after.duration
    loud = np.abs(samples(trimmed)) > 0.003
    assert loud[: int(0.03 * flite.sample_rate)].any()


def test_sentences_join_without_a_step(flite: FliteEngine) -> None:
    data, result = spoken(flite, alignment=True)
    assert result.alignment is not None
    sound = samples(data)
    join = round(result.alignment[1].start * flite.sample_rate)
    steps = np.abs(np.diff(sound))
    assert steps[join - 50 : join + 50].max() <= steps.max() / 2
    assert abs(sound[join - 1]) < 0.01
