"""Voices of new recordings are encoded beside the batch of Pocket TTS, each of them once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipc.messages import WorkerOptions
from ipc.operations import EncodeVoice, Recording, Sampling, Speak, SpeechResult, Voice, VoiceResult
from model_procs.audio.pcm import Samples
from model_procs.engine import Cancelled, EngineConfig
from model_procs.engines.pocket.engine import PocketEngine
from tests.support.outputs import speech
from tests.support.recordings import spoken
from tests.support.service import NET

TEXT = "One two three four. The quick brown fox jumps over the lazy dog."


class GatedPocket(PocketEngine):
    """Pocket TTS; encodes no voice before its gate is open."""

    encoded = 0
    """How many voices it has begun to encode."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        self.gate = threading.Event()
        self.begun = threading.Event()

    def encode_voice(self, reference: Samples) -> Any:
        self.encoded += 1
        self.begun.set()
        self.wake()
        assert self.gate.wait(NET)
        return super().encode_voice(reference)


@pytest.fixture(scope="module")
def loaded(nano_models: Path) -> GatedPocket:
    engine = GatedPocket(EngineConfig(nano_models))
    engine.gate.set()
    engine.load()
    engine._batch.start(1)
    return engine


@pytest.fixture
def engine(loaded: GatedPocket, tmp_path: Path) -> Iterator[GatedPocket]:
    """With a closed gate, and no voices yet."""
    loaded.keep_voices(WorkerOptions(voice_cache_dir=str(tmp_path), voice_cache_bytes=10**8))
    loaded.gate.clear()
    loaded.begun.clear()
    loaded.encoded = 0
    yield loaded
    loaded.gate.set()


RECORDING = Recording("new", spoken("The voice of a new recording."))


def speak(voice: Voice, seed: int = 1) -> Speak:
    return Speak(TEXT, voice, Sampling(seed=seed), streamed=True)


class Request:
    """One request, as a worker has it."""

    def __init__(self, engine: GatedPocket, operation: Speak | EncodeVoice) -> None:
        self.output = engine.run(operation, threading.Event())
        self.received = b""
        self.result: Any = None

    def advance(self) -> None:
        """Work on it until it waits for a step."""
        if self.result is not None:
            return
        try:
            while (item := next(self.output)) is not None:
                assert isinstance(item, bytes)
                self.received += item
        except StopIteration as end:
            self.result = end.value


def finish(engine: GatedPocket, *requests: Request) -> None:
    """Work on all of them until they are over."""
    while True:
        for request in requests:
            request.advance()
        if all(request.result is not None for request in requests):
            return
        engine.step()


def begin(engine: GatedPocket, *requests: Request) -> None:
    """Work on all of them until the first voice is being encoded."""
    while not engine.begun.is_set():
        for request in requests:
            request.advance()
        engine.step()


def alone(engine: GatedPocket, operation: Speak) -> bytes:
    return b"".join(speech(engine.run(operation, threading.Event()), engine)[0])


def test_others_go_on_while_a_voice_is_encoded(engine: GatedPocket) -> None:
    new = Request(engine, speak(Voice(recording=RECORDING)))
    other = Request(engine, speak(Voice(builtin="alba")))
    begin(engine, new, other)
    finish(engine, other)
    later = Request(engine, speak(Voice(builtin="alba"), seed=2))
    finish(engine, later)
    new.advance()
    assert new.received == b""
    engine.gate.set()
    finish(engine, new)
    assert engine.encoded == 1
    assert new.received == alone(engine, speak(Voice(recording=RECORDING)))
    assert other.received == alone(engine, speak(Voice(builtin="alba")))
    assert later.received == alone(engine, speak(Voice(builtin="alba"), seed=2))


@pytest.mark.parametrize("first", ["speak", "encode"])
@pytest.mark.parametrize("second", ["speak", "encode"])
def test_a_recording_of_two_requests_is_encoded_once(
    engine: GatedPocket, first: str, second: str
) -> None:
    operations: dict[str, Speak | EncodeVoice] = {
        "speak": speak(Voice(recording=RECORDING)),
        "encode": EncodeVoice(RECORDING),
    }
    one, two = Request(engine, operations[first]), Request(engine, operations[second])
    begin(engine, one)
    two.advance()
    engine.gate.set()
    finish(engine, one, two)
    assert engine.encoded == 1
    for request, known in ((one, False), (two, True)):
        assert isinstance(request.result, SpeechResult | VoiceResult)
        if isinstance(request.result, SpeechResult):
            assert request.result.voice_cached is known
            assert request.received == alone(engine, speak(Voice(recording=RECORDING)))
        else:
            assert request.result.cached is known


def test_who_is_cancelled_leaves_at_once_and_another_gets_the_voice(engine: GatedPocket) -> None:
    leaving = Request(engine, speak(Voice(recording=RECORDING)))
    staying = Request(engine, speak(Voice(recording=RECORDING), seed=2))
    begin(engine, leaving, staying)
    with pytest.raises(Cancelled):
        leaving.output.throw(Cancelled())
    staying.advance()
    assert staying.received == b""
    engine.gate.set()
    finish(engine, staying)
    assert staying.received == alone(engine, speak(Voice(recording=RECORDING), seed=2))


def test_who_is_cancelled_before_its_turn_is_not_encoded(engine: GatedPocket) -> None:
    first = Request(engine, speak(Voice(recording=RECORDING)))
    begin(engine, first)
    leaving = Request(engine, speak(Voice(recording=Recording("other", spoken("Not this")))))
    leaving.advance()
    with pytest.raises(Cancelled):
        leaving.output.throw(Cancelled())
    engine.gate.set()
    finish(engine, first)
    assert engine.encoded == 1
