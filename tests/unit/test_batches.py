"""Which clips are computed next, and with which others."""

from __future__ import annotations

import threading
from collections.abc import Generator

import numpy as np
import pytest

from ipc.operations import Recording, Transcribe
from model_procs.listening import batches
from model_procs.listening.batches import BATCH_ROWS, Batches, Clip

LAYERS = 3

Made = Clip[str]


def clip(name: str, rows: int, due: float) -> Made:
    """A clip whose result is `name`, which stands in its options."""
    options = Transcribe(Recording(key=name))
    return Clip(np.zeros(1, np.float32), options, 0.0, rows, due)


def name(one: Made) -> str:
    return one.options.recording.key


class Model:
    """Takes `LAYERS` yields for a batch, and writes down what it is asked for."""

    def __init__(self) -> None:
        self.batches: Batches[str] = Batches(self._recognize)
        self.formed: list[list[str]] = []
        self.finished: list[str] = []
        self.bad: set[str] = set()
        self.layers_in_step = LAYERS + 1

    def _recognize(self, clips: list[Made]) -> Generator[None, None, list[str]]:
        names = [name(one) for one in clips]
        self.formed.append(names)
        for layer in range(1, LAYERS + 1):
            if layer % self.layers_in_step == 0:
                self.batches.wake()
            yield
        if self.bad & set(names):
            raise ValueError("bad")
        self.finished += names
        return names

    def add(self, *clips: Made) -> None:
        self.batches.add(list(clips))


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def layered() -> Model:
    """A model that computes one layer in a step."""
    model = Model()
    model.layers_in_step = 1
    return model


def run(model: Model, *clips: Made) -> None:
    while not all(one.result or one.error or one.dropped for one in clips):
        model.batches.step()


def test_clips_that_wait_are_computed_together(model: Model) -> None:
    clips = [clip(letter, 50, due) for due, letter in enumerate("abcd")]
    model.add(*clips)
    run(model, *clips)
    assert model.formed == [["a", "b", "c", "d"]]
    assert [one.result for one in clips] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("rows", "names"), [((150, 60, 60, 30), "a"), ((100, 100, 100), "a"), ((40, 40, 40, 40), "abc")]
)
def test_lanes_share_what_waits_unless_it_is_little(rows: tuple[int, ...], names: str) -> None:
    clips = [clip("abcd"[index], count, index) for index, count in enumerate(rows)]
    assert [name(one) for one in batches.together(clips, lanes=2)] == list(names)
    assert batches.together(clips, lanes=1) == clips


def test_the_one_that_is_due_first_is_computed_first(model: Model) -> None:
    clips = [clip("long", BATCH_ROWS, 3.0), clip("short", 40, 1.0), clip("middle", 100, 2.0)]
    model.add(*clips)
    run(model, *clips)
    assert model.formed == [["short", "middle"], ["long"]]


def test_a_clip_that_is_too_long_for_a_batch_is_computed_alone(model: Model) -> None:
    clips = [clip("long", BATCH_ROWS + 1, 1.0), clip("short", 1, 2.0)]
    model.add(*clips)
    run(model, *clips)
    assert model.formed == [["long"], ["short"]]


def test_a_short_clip_overtakes_a_long_one_that_is_being_computed(layered: Model) -> None:
    long, short = clip("long", 500, 5.0), clip("short", 50, 2.0)
    layered.add(long)
    layered.batches.step()
    layered.add(short)
    run(layered, long, short)
    assert layered.finished == ["short", "long"]


def test_a_long_clip_gets_its_turn_however_many_short_ones_come(layered: Model) -> None:
    long = clip("long", 500, 5.0)
    layered.add(long)
    for second in range(20):
        layered.add(clip(f"short {second}", 50, second + 0.5))
    run(layered, long)
    assert len(layered.finished) < 20


def test_the_clips_of_a_recording_come_in_order(layered: Model) -> None:
    clips = [clip(str(number), 400, float(number)) for number in range(4)]
    layered.add(*clips)
    run(layered, *clips)
    assert layered.finished == ["0", "1", "2", "3"]


def test_only_the_clip_at_fault_fails(model: Model) -> None:
    clips = [clip(letter, 50, due) for due, letter in enumerate("abc")]
    model.bad = {"b"}
    model.add(*clips)
    run(model, *clips)
    assert [one.result for one in clips] == ["a", None, "c"]
    assert isinstance(clips[1].error, ValueError)


def test_what_nobody_waits_for_is_not_computed(model: Model) -> None:
    clips = [clip(letter, 50, due) for due, letter in enumerate("ab")]
    clips[0].dropped = True
    model.add(*clips)
    run(model, *clips)
    assert model.formed == [["b"]]


def test_a_batch_that_nobody_waits_for_is_left(layered: Model) -> None:
    left, other = clip("left", 50, 1.0), clip("other", 50, 2.0)
    layered.add(left)
    layered.batches.step()
    left.dropped = True
    layered.add(other)
    run(layered, other)
    layered.batches.step()
    assert layered.finished == ["other"]


def test_waking_ends_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "TURN_SECONDS", 1e9)
    layers = 0

    def recognize(clips: list[Made]) -> Generator[None, None, list[str]]:
        nonlocal layers
        while True:
            layers += 1
            if layers == 5:
                made.wake()
            yield

    made = Batches(recognize)
    made.add([clip("endless", 1, 1.0)])
    made.step()
    assert layers == 5


def test_threads_compute_batches_at_once() -> None:
    both = threading.Barrier(2, timeout=60)

    def recognize(clips: list[Made]) -> Generator[None, None, list[str]]:
        both.wait()
        yield
        return [name(one) for one in clips]

    made = Batches(recognize)
    made.start_threads(2)
    clips = [clip(letter, 128, due) for due, letter in enumerate("abcd")]
    made.add(clips)
    while not all(one.result for one in clips):
        made.step()
    assert [one.result for one in clips] == ["a", "b", "c", "d"]


def test_no_memory_ends_everything() -> None:
    def recognize(clips: list[Made]) -> Generator[None, None, list[str]]:
        yield
        raise MemoryError

    made = Batches(recognize)
    made.add([clip("large", 1, 1.0)])
    with pytest.raises(MemoryError):
        made.step()
