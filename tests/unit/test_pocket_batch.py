"""Which runs the batch of Pocket TTS computes next, with a model that only notes what it is asked.

Without threads each `wait` computes one thing, so the order is known. A clock that stands still
tells how far a listener is ahead.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from model_procs.engines.pocket import batch as batch_module
from model_procs.engines.pocket.batch import BLOCK, Batch, Listener, Speech
from model_procs.engines.pocket.flow_lm import Prefix, Run
from model_procs.engines.pocket.mimi import Sound
from model_procs.engines.pocket.pace import Pace
from tests.support.service import NET

FRAME = 0.08
NOW = 100.0
"""What the clock shows."""

Call = tuple[str, str] | tuple[str, str, int]
"""("step", names of its runs), or ("decode", names, frames of each)."""


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_module, "time", SimpleNamespace(monotonic=lambda: NOW))


def listener(ahead: float) -> Listener:
    """One who has heard something, and has so many seconds of sound left."""
    return Listener(seconds=FRAME, began=NOW + ahead - FRAME)


class Model:
    """The flow LM and Mimi of no weights: a run's latents, and samples, are the numbers 0, 1, 2...

    A text is read in as many steps as it has tokens, and one gives no latent but the last.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.names: dict[Run | int, str] = {}
        """Of runs, and of slots."""
        self.broken: set[tuple[str, str]] = set()
        """What fails: ("step", name) or ("decode", name)."""
        self.held: threading.Event | None = None
        """A step lasts until this is set, if there is one."""
        self.stepping = threading.Event()
        self.slots = 0
        self.closed: list[str] = []
        self.decoding: set[int] = set()
        self.clashes: list[str] = []
        """Runs that two threads decoded at once."""
        self._lock = threading.Lock()

    # FlowLM, and Mimi, which have one `open` each

    def open(self, run: Run | None = None) -> Sound | None:
        if run is not None:
            return None
        self.slots += 1
        return Sound(self.slots - 1, [])

    def step(self, runs: Sequence[Run]) -> None:
        names = "".join(self.names[run] for run in runs)
        self.calls.append(("step", names))
        self.stepping.set()
        if self.held is not None:
            assert self.held.wait(NET)
        self._fail("step", names)
        for run in runs:
            if not run.speaks:
                run.read += 1
            if run.speaks:
                run.latents.append(torch.tensor([float(run.frame)]))
                run.frame += 1
                run.over = run.frame == run.most_frames

    def decode(self, sounds: Sequence[Sound], latents: Tensor) -> Tensor:
        slots = {sound.slot for sound in sounds}
        with self._lock:
            names = "".join(self.names[sound.slot] for sound in sounds)
            self.clashes += [self.names[slot] for slot in slots & self.decoding]
            self.decoding |= slots
            self.calls.append(("decode", names, latents.shape[1]))
        self._fail("decode", names)
        os.sched_yield()  # another thread, if there is one
        with self._lock:
            self.decoding -= slots
        return latents[:, :, 0]

    def close(self, sound: Sound) -> None:
        self.closed.append(self.names[sound.slot])

    def _fail(self, what: str, names: str) -> None:
        if any((what, name) in self.broken for name in names):
            raise RuntimeError(f"{what} {names}")


class Told(Pace):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.made_of: list[tuple[int, float]] = []
        self.runs: list[int] = []

    def made(self, now: float, streams: int, seconds: float) -> None:
        self.made_of.append((streams, seconds))

    def changes(self, now: float, runs: int) -> None:
        self.runs.append(runs)


class Company:
    """A batch with a `Model`, and runs with names of one letter."""

    def __init__(self) -> None:
        self.model = Model()
        self.pace = Told()
        self.batch = Batch(self.model, self.model, FRAME, self.pace)  # type: ignore[arg-type]
        self.speeches: dict[str, Speech] = {}

    def join(
        self,
        name: str,
        hearer: Listener | None = None,
        *,
        waiting: int = 0,
        frames: int = 1000,
        tokens: int = 1,
    ) -> Speech:
        """A run of so many frames, the first of which are `waiting` to be decoded."""
        run = Run(
            prefix=Prefix((), 0),
            tokens=torch.zeros(tokens, dtype=torch.int64),
            generator=torch.Generator(),
            temperature=0.0,
            decode_steps=1,
            eos_threshold=0.0,
            frames_after_eos=0,
            most_frames=frames,
        )
        if waiting:
            run.read, run.frame, run.over = tokens, waiting, waiting == frames
            run.latents.extend(torch.tensor([float(frame)]) for frame in range(waiting))
        self.model.names[run] = self.model.names[self.model.slots] = name
        self.speeches[name] = self.batch.join(run, hearer or Listener())
        return self.speeches[name]

    def compute(self, count: int = 1) -> list[Call]:
        """The next things that are computed."""
        before = len(self.model.calls)
        for _ in range(count):
            self.batch.wait()
        return self.model.calls[before:]

    def heard(self, name: str) -> list[float]:
        """What there is to hear of a run now."""
        pieces, _ = self.batch.take(self.speeches[name])
        return [sample for piece in pieces for sample in piece.tolist()]


@pytest.fixture
def company() -> Company:
    return Company()


# Who comes first


def test_the_first_sound_comes_alone_and_then_blocks(company: Company) -> None:
    company.join("a", frames=12)
    decoded = [call[2] for call in company.compute(30) if len(call) == 3]
    assert decoded[0] == 1
    assert max(decoded) == decoded[-2] == BLOCK
    assert sum(decoded) == 12
    assert company.heard("a") == list(range(12))


def test_a_step_is_made_for_all_that_want_latents(company: Company) -> None:
    for name in "abc":
        company.join(name)
    company.join("d", listener(0.5), waiting=BLOCK)
    assert company.compute() == [("step", "abc")]
    assert company.compute() == [("decode", "abc", 1)]


@pytest.mark.parametrize("ahead", [0.5, 5.0])
def test_a_newcomer_is_heard_before_others_hear_more(company: Company, ahead: float) -> None:
    for name in "abc":
        company.join(name, listener(ahead), waiting=BLOCK)
    company.join("n", tokens=2)
    assert company.compute(3) == [("step", "n"), ("step", "n"), ("decode", "n", 1)]


def test_no_step_slows_the_first_sound_down_when_it_serves_nobody_else(company: Company) -> None:
    company.join("a", waiting=1)
    decode = company.batch._next()
    assert decode is not None
    assert company.batch._next() is None
    # With somebody else in the batch a step is made for both.
    company.join("b", listener(0.5))
    step = company.batch._next()
    assert step is not None
    step()
    decode()
    assert company.model.calls == [("step", "ab"), ("decode", "a", 1)]


def test_sound_of_one_that_is_over_is_made_beside_the_first_of_another(company: Company) -> None:
    company.join("a", waiting=1)
    first = company.batch._next()
    company.join("b", listener(0.5), waiting=2, frames=2)
    assert company.compute() == [("decode", "b", 2)]
    assert first is not None


def test_a_newcomers_text_is_read_before_an_old_ones_next(company: Company) -> None:
    company.join("a", listener(5.0))
    company.join("b", listener(0.5))
    company.join("n")
    assert company.compute() == [("step", "nba")]


def test_old_ones_in_need_do_not_keep_a_newcomer_out(company: Company) -> None:
    for name in "abcd":
        company.join(name, listener(-1.0), waiting=BLOCK)
    company.join("n")
    assert company.compute(4) == [
        ("decode", "ab", BLOCK),
        ("decode", "cd", BLOCK),
        ("step", "abcdn"),
        ("decode", "n", 1),
    ]


def test_who_has_little_sound_left_gets_what_there_is_at_once(company: Company) -> None:
    company.join("a", listener(0.1), waiting=1)
    company.join("b", listener(0.5), waiting=2)
    assert company.compute() == [("decode", "ab", 1)]
    assert company.compute() == [("step", "ab")]


def test_who_is_far_ahead_yields(company: Company) -> None:
    company.join("a", listener(5.0), waiting=BLOCK)
    company.join("b", listener(0.5), waiting=BLOCK)
    assert company.compute() == [("decode", "b", BLOCK)]
    assert company.compute() == [("step", "b")]  # not the sound of a


@pytest.mark.parametrize(("least", "most"), [(0.1, 0.9), (0.9, 5.0)])
def test_who_needs_a_latent_more_than_others_their_sound_gets_it(
    company: Company, least: float, most: float
) -> None:
    for name in "abc":
        company.join(name, listener(most), waiting=BLOCK)
    company.join("d", listener(least), frames=1)
    assert company.compute() == [("step", "d")]


@pytest.mark.parametrize("ahead", [0.5, 5.0])
def test_sound_comes_before_a_step_for_few_in_no_more_need(company: Company, ahead: float) -> None:
    for name in "abc":
        company.join(name, listener(ahead), waiting=BLOCK)
    company.join("d", listener(ahead))
    assert company.compute() == [("decode", "ab", BLOCK)]
    assert company.compute() == [("step", "dab")]


def test_nobody_has_more_latents_than_a_block(company: Company) -> None:
    for index, name in enumerate("abcde"):
        company.join(name, frames=10 + 7 * index, tokens=1 + index)
    most = 0
    for _ in range(200):
        company.compute()
        most = max(most, *(len(speech.run.latents) for speech in company.speeches.values()))
    assert most == BLOCK
    assert [len(company.heard(name)) for name in "abcde"] == [10, 17, 24, 31, 38]


def test_a_run_that_ends_without_another_latent_is_done(company: Company) -> None:
    speech = company.join("a", frames=1)
    company.compute(2)
    assert company.heard("a") == [0]
    assert speech.done
    company.batch.leave(speech)
    assert company.model.closed == ["a"]
    assert company.compute() == []


# Errors


def test_an_error_in_a_step_fails_those_in_it(company: Company) -> None:
    full = company.join("a", listener(0.5), waiting=BLOCK, frames=BLOCK)
    company.join("b")
    company.join("c")
    company.model.broken.add(("step", "b"))
    assert company.compute() == [("step", "bc")]
    for name in "bc":
        with pytest.raises(RuntimeError, match="step bc"):
            company.batch.take(company.speeches[name])
    assert company.compute(3) == [("decode", "a", BLOCK)]  # nothing more for the others
    assert company.batch.take(full)[1]
    for name in "bc":
        company.batch.leave(company.speeches[name])
    assert company.model.closed == ["b", "c"]


def test_an_error_in_decoding_fails_those_in_it(company: Company) -> None:
    company.join("a", listener(0.1), waiting=2, frames=3)
    company.join("b", listener(0.2), waiting=1, frames=3)
    company.join("c", listener(0.15), waiting=2, frames=3)
    company.model.broken.add(("decode", "c"))
    assert company.compute() == [("decode", "ac", 2)]
    for name in "ac":
        with pytest.raises(RuntimeError, match="decode ac"):
            company.batch.take(company.speeches[name])
    calls = company.compute(10)
    assert calls
    assert {call[1] for call in calls} == {"b"}
    assert company.heard("b") == [0, 1, 2]


# Threads


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """`wait` ends for a reason, or the test hangs."""
    monkeypatch.setattr(batch_module, "_WAIT_SECONDS", NET)


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def held(company: Company) -> Iterator[threading.Event]:
    """Steps last until it is set."""
    company.model.held = threading.Event()
    yield company.model.held
    company.model.held.set()


@pytest.mark.usefixtures("patient")
def test_a_run_that_leaves_while_it_is_computed_keeps_its_place_until_then(
    company: Company, held: threading.Event
) -> None:
    leaving = company.join("a")
    company.batch.start(1)
    assert company.model.stepping.wait(NET)
    thread = in_thread(lambda: company.batch.leave(leaving))
    while leaving in company.batch._runs:
        os.sched_yield()
    staying = company.join("b", frames=2)
    assert company.model.closed == []
    held.set()
    thread.join(NET)
    assert company.model.closed == ["a"]
    done = False
    while not done:
        company.batch.wait()
        done = company.batch.take(staying)[1]
    assert not leaving.pieces
    assert company.model.calls[0] == ("step", "a")
    assert all(call[1] == "b" for call in company.model.calls[1:])


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("ahead", "waiting", "last", "decoded"),
    [
        (0.3, BLOCK - 1, False, BLOCK - 1),  # soon there will be silence
        (0.5, BLOCK - 1, False, 0),
        (9.0, 1, False, 0),
        (0.5, BLOCK, False, BLOCK),
        (0.5, BLOCK - 1, True, BLOCK - 1),  # no more will come
    ],
)
def test_who_has_time_waits_for_a_block_while_a_step_is_made(
    company: Company,
    held: threading.Event,
    *,
    ahead: float,
    waiting: int,
    last: bool,
    decoded: int,
) -> None:
    company.join("b", listener(0.3))
    stepping = in_thread(company.batch.wait)
    assert company.model.stepping.wait(NET)
    company.join("a", listener(ahead), waiting=waiting, frames=waiting if last else 100)
    assert company.compute() == ([("decode", "a", decoded)] if decoded else [])
    held.set()
    stepping.join(NET)
    assert company.model.calls[0] == ("step", "b")


@pytest.mark.usefixtures("patient")
def test_a_wait_can_be_ended(company: Company) -> None:
    company.batch.start(1)
    waiting = in_thread(company.batch.wait)
    company.batch.wake()
    waiting.join(NET / 2)
    assert not waiting.is_alive()


@pytest.mark.usefixtures("patient")
def test_an_error_ends_a_wait(company: Company) -> None:
    company.model.broken.add(("step", "a"))
    company.batch.start(1)
    speech = company.join("a")
    company.batch.wait()
    with pytest.raises(RuntimeError, match="step a"):
        company.batch.take(speech)


@pytest.mark.usefixtures("patient")
def test_threads_never_decode_the_same_run_at_once(company: Company) -> None:
    company.batch.start(4)
    frames = 100
    speaking = {name: company.join(name, frames=frames, tokens=2) for name in "abcdefgh"}
    heard: dict[str, list[float]] = {name: [] for name in speaking}
    while speaking:
        company.batch.wait()
        for name, speech in list(speaking.items()):
            pieces, done = company.batch.take(speech)
            heard[name] += [sample for piece in pieces for sample in piece.tolist()]
            if done:
                company.batch.leave(speaking.pop(name))
    assert company.model.clashes == []
    assert all(samples == list(range(frames)) for samples in heard.values())
    assert sorted(company.model.closed) == list("abcdefgh")


# How fast it is


def test_the_pace_is_told_how_much_sound_there_is_and_for_how_many(company: Company) -> None:
    for name in "ab":
        company.join(name, listener(0.5), waiting=BLOCK)
    company.compute()
    assert company.pace.made_of == [(2, 2 * BLOCK * FRAME)]
    company.join("n", listener(0.1), tokens=2)
    company.compute(2)  # the first step only reads
    company.speeches["a"].run.latents.append(torch.zeros(1))
    company.batch.leave(company.speeches["b"])
    assert company.pace.runs == [1, 2, 3, 2]
    assert len(company.pace.made_of) == 1
    assert company.speeches["n"].run.speaks
    while company.compute()[0][0] != "decode":
        pass
    streams, seconds = company.pace.made_of[-1]
    assert streams == 2
    assert seconds >= FRAME


def test_the_pace_is_told_when_a_text_is_read_meanwhile(company: Company) -> None:
    company.join("a", listener(0.1), waiting=BLOCK)
    company.join("n", tokens=2)
    while company.compute()[0][:2] != ("decode", "a"):
        company.speeches["n"].run.read = 0
    assert company.pace.made_of[-1] == (0, BLOCK * FRAME)


def test_sound_of_runs_that_are_over_does_not_count(company: Company) -> None:
    company.join("a", listener(0.1), waiting=BLOCK, frames=BLOCK)
    company.join("b", listener(0.1), waiting=BLOCK)
    company.compute()
    assert company.pace.made_of[-1] == (1, BLOCK * FRAME)
