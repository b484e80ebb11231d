"""The throughput model: forecasts, and what is learned from a simulated worker of known speed."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc.errors import ServiceError
from ipc.operations import Sampling, Speak, SpeechResult, Voice
from supervisor.dispatch import dispatcher as dispatcher_module
from supervisor.dispatch.admission import QueueLimits
from supervisor.dispatch.cost import CostModel, Unit, Work
from supervisor.dispatch.dispatcher import DispatchConfig, Dispatcher
from supervisor.dispatch.forecast import Load, Room, forecast
from supervisor.dispatch.job import Job
from supervisor.dispatch.quarantine import Quarantine
from supervisor.dispatch.response_buffer import SegmentBuffer
from supervisor.dispatch.throughput import Company, Throughput
from supervisor.workers.handle import Call
from supervisor.workers.lifecycle import ModelState
from supervisor.workers.pool import Pool

SLOTS = 8
SIZES = (20, 50, 100, 200, 400)
RESULT = SpeechResult(sample_rate=8000, samples=8000)

Speed = Callable[[int], float]

SPEEDS: dict[str, Speed] = {
    "independent": float,
    "batch": lambda n: n / (1 + 0.33 * (n - 1)),
    "steep batch": lambda n: n / (1 + 0.1 * (n - 1)),
    "square root": math.sqrt,
    "two cores": lambda n: min(n, 2.0),
    "in turn": lambda _: 1.0,
}
"""Seconds of work that n requests at once get done in a second, of different machines."""


# Forecasts


def by_turns(n: int) -> float:
    return float(n)


def together(_: int) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("running", "waiting", "slots", "stretch", "start", "end"),
    [
        ([], [], 1, by_turns, 0, 10),
        ([5], [], 1, by_turns, 5, 15),
        ([5], [7, 3], 1, by_turns, 15, 25),
        # Two independent places: the first is free after 5, the second after 7.
        ([5, 7], [], 2, together, 5, 15),
        ([5, 7], [1], 2, together, 6, 16),
        # Two that share one machine: 5 + 5 s of work until the first ends, then 2 + 2 s beside the
        # newcomer, then its own remaining 8.
        ([5, 7], [], 2, by_turns, 10, 22),
        ([5], [], 2, by_turns, 0, 15),
        # More run than there are slots, because a worker is being replaced.
        ([2, 2, 2], [], 1, together, 2, 12),
    ],
)
def test_a_newcomer_starts_after_those_that_wait(  # noqa: PLR0917 - a row of the table
    running: list[float],
    waiting: list[float],
    slots: int,
    stretch: Speed,
    start: float,
    end: float,
) -> None:
    loads = [Load(cost) for cost in running], [Load(cost) for cost in waiting]
    assert forecast(*loads, Load(10), Room(slots, slots, stretch)) == pytest.approx((start, end))


def test_live_streams_wait_for_their_slots_and_hold_up_no_one() -> None:
    room = Room(4, 2, together)
    running = [Load(5, live=True), Load(8, live=True)]
    waiting = [Load(9, live=True)]
    assert forecast(running, waiting, Load(1), room) == (0, 1)
    assert forecast(running, waiting, Load(1, live=True), room) == (8, 9)
    # The last of three whole answers has to wait, and comes after the live stream before it.
    whole = [Load(20), Load(20)]
    assert forecast(running, [*whole, *waiting], Load(1), room) == (8, 9)


LOADS = st.lists(st.builds(Load, st.floats(0, 100), st.booleans()), max_size=12)


ROOMS = st.builds(
    lambda slots, live, slowdown: Room(slots, live, lambda n: 1 + slowdown * (n - 1)),
    *(st.integers(1, 6), st.integers(1, 6), st.floats(0, 1)),
)


@given(LOADS, LOADS, st.booleans(), ROOMS)
def test_a_forecast_is_between_the_best_and_the_worst(
    running: list[Load], waiting: list[Load], live: bool, room: Room
) -> None:
    start, end = forecast(running, waiting, Load(10, live), room)
    everything = sum(load.cost for load in (*running, *waiting))
    assert 0 <= start <= everything + 1e-6
    assert start + 10 <= end + 1e-6
    assert end <= everything + 10 + 1e-6


# What is learned


def test_company_tells_how_long_how_many_ran() -> None:
    company = Company()
    company.changed(1, 10.0)
    before = company.seconds(11.0)
    company.changed(3, 12.0)
    company.changed(2, 15.0)
    assert company.since(before, 19.0) == [0, 1, 4, 3]
    assert sum(company.since((), 19.0)) == 19


def test_one_alone_is_what_everything_is_measured_by() -> None:
    throughput = Throughput()
    guess = throughput.slowdown
    assert (throughput.speed(1), throughput.stretch(1)) == (1, 1)
    assert (throughput.work([5, 3]), throughput.alone([5, 3])) == (3, 1)
    throughput.learn([5, 3], cost=1.0)
    assert throughput.slowdown == guess
    throughput.learn([0, 0, 0], cost=1.0)
    assert throughput.alone([0, 0, 0]) == 1


SPENT = st.lists(st.floats(0, 100), min_size=2, max_size=10)


@given(st.lists(st.tuples(SPENT, st.floats(0, 1000)), max_size=20))
def test_whatever_is_measured_the_speed_is_possible(seen: list[tuple[list[float], float]]) -> None:
    throughput = Throughput()
    for spent, cost in seen:
        throughput.learn(spent, cost)
        speeds = [throughput.speed(n) for n in range(1, 65)]
        assert speeds[0] == 1
        assert speeds == pytest.approx(sorted(speeds))
        assert all(1 <= speed <= n + 1e-9 for n, speed in enumerate(speeds, 1))
        assert 0 <= throughput.work(spent) <= sum(spent[1:]) + 1e-9
        assert 0 <= throughput.alone(spent) <= 1


class Machine:
    """A pool of one worker, and that worker: its requests share a machine of known speed.

    A request of so many characters takes a second hundredth of them in seconds, alone, and a third
    of a second, give or take a fifth. Time passes when the test says so.
    """

    config = SimpleNamespace(model="tts")
    publish = staticmethod(lambda _: None)
    state = ModelState.SERVING
    retry_after = 0.0
    parallel = parallel_live = SLOTS
    ready_in = 0.0
    in_use = staticmethod(nullcontext)
    name = "tts-1"

    def __init__(self, speed: Speed) -> None:
        self.now = 1000.0
        self.dispatcher: Dispatcher
        self._speed = speed
        self._left: dict[Call, float] = {}
        self._random = random.Random(1)

    def monotonic(self) -> float:
        """The clock of the dispatcher."""
        return self.now

    def free_worker(
        self, *, live: bool = False, empty: bool = False, slots: int = 1
    ) -> Machine | None:
        return self if len(self._left) + slots <= SLOTS else None

    def submit(self, call: Call) -> None:
        assert isinstance(call.operation, Speak)
        cost = 0.3 + 0.02 * len(call.operation.text)
        self._left[call] = cost * self._random.uniform(0.8, 1.2)

    def succeeded(self) -> None:
        pass

    async def until(self, when: float) -> None:
        """Let time pass, and finish what is then finished."""
        while True:
            await settled()
            rate = self._speed(len(self._left)) / len(self._left) if self._left else 0.0
            first = min(self._left, key=self._left.__getitem__, default=None)
            end = self.now + self._left[first] / rate if first else math.inf
            passed = min(end, when) - self.now
            for call in self._left:
                self._left[call] -= rate * passed
            self.now += passed
            if first is None or end > when:
                return
            del self._left[first]
            first.settle(RESULT)
            self.dispatcher.wake()

    async def until_idle(self) -> None:
        """Let time pass until nothing is left."""
        while self.dispatcher.in_flight:
            await self.until(self.now + 1)


async def settled() -> None:
    """Every task has gone on until it waits for the machine."""
    for _ in range(5):
        await asyncio.sleep(0)


def job(machine: Machine, size: int, allowed: float = 3600.0) -> Job[SpeechResult]:
    operation = Speak("x" * size, Voice(), Sampling(seed=0))
    work = Work(Unit.CHARACTERS, size)
    return Job(operation, SegmentBuffer(), machine.now + allowed, "client", work)


def machine_of(monkeypatch: pytest.MonkeyPatch, speed: Speed) -> Machine:
    machine = Machine(speed)
    config = DispatchConfig(QueueLimits(1000, 3600.0, 1.0), 2, 1.0)
    pool = cast(Pool, machine)
    machine.dispatcher = Dispatcher(config, CostModel(), Quarantine(0.0), pool)
    monkeypatch.setattr(dispatcher_module, "time", machine)
    return machine


async def burst(machine: Machine, sizes: list[int]) -> list[Job[SpeechResult]]:
    """These requests, all at once; each has been served."""
    jobs = [job(machine, size) for size in sizes]
    tasks = [asyncio.create_task(machine.dispatcher.run(one)) for one in jobs]
    await settled()
    await machine.until_idle()
    await asyncio.gather(*tasks)
    return jobs


@pytest.mark.parametrize("speed", SPEEDS.values(), ids=SPEEDS.keys())
@pytest.mark.parametrize("at_first", ["alone", "in company"])
async def test_forecasts_of_a_busy_machine_come_true(
    monkeypatch: pytest.MonkeyPatch, speed: Speed, at_first: str
) -> None:
    machine = machine_of(monkeypatch, speed)
    expected: list[float] = []

    def recorded(*arguments: Any) -> tuple[float, float]:
        start, end = forecast(*arguments)
        expected.append(start)
        return start, end

    monkeypatch.setattr(dispatcher_module, "forecast", recorded)
    draw = random.Random(2)
    if at_first == "alone":
        for _ in range(10):
            await burst(machine, [draw.choice(SIZES)])
    for _ in range(6):
        await burst(machine, draw.choices(SIZES, k=32))
    expected.clear()
    waited: list[float] = []
    for _ in range(4):
        waited += [one.queued_s for one in await burst(machine, draw.choices(SIZES, k=32))]
    assert sum(expected) == pytest.approx(sum(waited), rel=0.2)
    longest = [each for each in zip(expected, waited, strict=True) if each[1] > max(waited) / 2]
    assert len(longest) >= 10
    off = sum(abs(foreseen - real) for foreseen, real in longest)
    assert off < 0.25 * sum(real for _, real in longest)


@pytest.mark.parametrize("speed", SPEEDS.values(), ids=SPEEDS.keys())
async def test_the_speed_that_is_learned_is_that_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, speed: Speed
) -> None:
    machine = machine_of(monkeypatch, speed)
    for _ in range(30):
        await burst(machine, [100] * 16)
        await burst(machine, [100])
    assert machine.dispatcher.speed == pytest.approx(speed(SLOTS), rel=0.2)


async def test_what_a_request_costs_does_not_grow_with_company(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = machine_of(monkeypatch, SPEEDS["batch"])
    for _ in range(10):
        await burst(machine, [100])
    (before,) = await burst(machine, [100])
    for _ in range(20):
        await burst(machine, [100] * 24)
    (after,) = await burst(machine, [100])
    assert after.cost == pytest.approx(before.cost, rel=0.2)
    assert after.cost == pytest.approx(2.3, rel=0.2)


@pytest.mark.parametrize("speed", SPEEDS.values(), ids=SPEEDS.keys())
async def test_retry_after_is_when_one_is_admitted(
    monkeypatch: pytest.MonkeyPatch, speed: Speed
) -> None:
    machine = machine_of(monkeypatch, speed)
    draw = random.Random(3)
    for count in (1, 1, 1, 1, 32, 32, 32, 32):
        await burst(machine, draw.choices(SIZES, k=count))
    others = [job(machine, size) for size in draw.choices(SIZES, k=80)]
    tasks = [asyncio.create_task(machine.dispatcher.run(one)) for one in others]
    await settled()

    async def told() -> float:
        """How long one that has twelve seconds is told to wait; 0 when it is admitted."""
        impatient = asyncio.create_task(machine.dispatcher.run(job(machine, 100, allowed=12)))
        await settled()
        if impatient.done():
            refused = impatient.exception()
            assert isinstance(refused, ServiceError)
            assert refused.retry_after is not None
            return refused.retry_after
        impatient.cancel()
        return 0

    pause, start = await told(), machine.now
    assert pause > 12
    await machine.until(start + 0.8 * pause)
    assert await told() > 0
    await machine.until(start + 1.2 * pause)
    assert await told() == 0
    await machine.until_idle()
    assert await asyncio.gather(*tasks) == [RESULT] * len(tasks)
