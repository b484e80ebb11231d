"""The pure decisions, as tables: lifecycle, recycling, limits, backoff, admission, quarantine."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from supervisor.dispatch.admission import QueueLimits, admit
from supervisor.dispatch.cost import INITIAL_SPEED, CostModel, Unit, Work
from supervisor.dispatch.fair_queue import FairQueue, Pace
from supervisor.dispatch.forecast import Load, Room, forecast
from supervisor.dispatch.quarantine import Quarantine
from supervisor.memory.limits import MB, DoesNotFit, Limit, MemoryLimits, Need, plan
from supervisor.memory.recycling import Bounds, Policy, Reason, Sample, bounds_for, decide, relieve
from supervisor.workers.backoff import Backoff
from supervisor.workers.lifecycle import TRANSITIONS, Event, IllegalTransition, State, next_state

# Lifecycle


def test_a_legal_event_leads_to_the_state_in_the_table() -> None:
    for (state, event), after in TRANSITIONS.items():
        assert next_state(state, event) is after


def test_every_other_event_is_refused() -> None:
    illegal = set(itertools.product(State, Event)) - set(TRANSITIONS)
    assert (State.STARTING, Event.EMPTY) in illegal
    assert (State.READY, Event.EMPTY) in illegal
    assert (State.DRAINING, Event.READY) in illegal
    assert (State.DEAD, Event.EXIT) in illegal
    for state, event in illegal:
        with pytest.raises(IllegalTransition):
            next_state(state, event)


def test_whatever_happens_a_worker_can_die() -> None:
    for state in set(State) - {State.DEAD}:
        assert next_state(state, Event.EXIT) is State.DEAD


# Recycling

POLICY = Policy(
    limits=MemoryLimits(Limit(100, growth=True), Limit(200, growth=True)),
    soft_samples=3,
    min_lifetime=5.0,
    max_requests=100,
    max_age=1000.0,
    jitter=0.1,
)
CALM = Sample(rss=1000, bounds=Bounds(1100, 1200), over_soft=0, age=60, requests=1, spread=0)


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (CALM, None),
        (replace(CALM, rss=1150, over_soft=1), None),
        (replace(CALM, rss=1150, over_soft=2), None),
        (replace(CALM, rss=1150, over_soft=3), Reason.SOFT_LIMIT),
        (replace(CALM, rss=1150, over_soft=9, age=4.9), None),
        (replace(CALM, rss=1200), None),
        (replace(CALM, rss=1201, age=0), Reason.HARD_LIMIT),
        (replace(CALM, rss=1201, over_soft=9), Reason.HARD_LIMIT),
        (replace(CALM, rss=9999, bounds=Bounds(None, None)), None),
        (replace(CALM, requests=99), None),
        (replace(CALM, requests=100), Reason.REQUESTS),
        (replace(CALM, requests=100, age=4), None),
        (replace(CALM, requests=100, spread=0.5), None),
        (replace(CALM, requests=105, spread=0.5), Reason.REQUESTS),
        (replace(CALM, requests=90, spread=-1), Reason.REQUESTS),
        (replace(CALM, age=999), None),
        (replace(CALM, age=1000), Reason.AGE),
        (replace(CALM, age=1000, spread=1), None),
    ],
)
def test_recycling(sample: Sample, reason: Reason | None) -> None:
    assert decide(sample, POLICY) is reason


def test_zero_means_no_bound_on_age_and_requests() -> None:
    policy = replace(POLICY, max_requests=0, max_age=0)
    assert decide(replace(CALM, requests=10**9, age=10**9), policy) is None


@pytest.mark.parametrize(
    ("soft", "hard", "bounds"),
    [
        ("+100", "+200", Bounds(1100 * MB, 1200 * MB)),
        ("1100", "1200", Bounds(1100 * MB, 1200 * MB)),
        ("1000", "1200", Bounds(None, 1200 * MB)),
        ("500", "900", Bounds(None, None)),
    ],
)
def test_a_limit_that_a_fresh_worker_breaks_is_not_applied(
    soft: str, hard: str, bounds: Bounds
) -> None:
    soft_limit, hard_limit = Limit.parse(soft), Limit.parse(hard)
    assert soft_limit is not None
    assert hard_limit is not None
    assert bounds_for(1000 * MB, MemoryLimits(soft_limit, hard_limit)) == bounds


@pytest.mark.parametrize(
    ("usage", "growth", "chosen"),
    [
        (900, [("a", 50), ("b", 60)], None),
        (1000, [("a", 50), ("b", 60)], "b"),
        (1000, [], None),
        (1000, [("a", 9)], None),
        (1000, [("a", 11)], "a"),
    ],
)
def test_the_container_is_relieved_by_whoever_gives_back_most(
    usage: int, growth: list[tuple[str, int]], chosen: str | None
) -> None:
    assert relieve(usage, 1000, 0.9, growth) == chosen


# Limits from the container


def need(workers: int = 1, hard: str = "", soft: str = "") -> Need:
    return Need(800, 100, 200, workers, Limit.parse(soft), Limit.parse(hard))


def planned(total: int, needs: dict[str, Need]) -> dict[str, MemoryLimits]:
    """The limits in a container of `total` MB."""
    return {model: each.limits for model, each in plan(total * MB, needs).items()}


def test_limits_are_shares_of_the_container() -> None:
    limits = planned(4096, {"tts": need(), "stt": need()})
    # Usable 3768, less 80 for the front and 2 x 900 for the models: 1888 for 2 x (1 + 1) workers.
    assert limits["tts"].hard == Limit(472 * MB, growth=True)
    assert limits["tts"].soft == Limit(int(472 * MB * 0.6), growth=True)
    assert limits["stt"] == limits["tts"]


def test_a_large_machine_does_not_make_leaks_welcome() -> None:
    assert planned(64 * 1024, {"tts": need()})["tts"].hard == Limit(1024 * MB, growth=True)


def test_what_is_set_is_kept_and_the_others_share_what_is_left() -> None:
    limits = planned(4096, {"tts": need(hard="+1000", soft="+10"), "stt": need()})
    assert limits["tts"] == MemoryLimits(Limit(10 * MB, True), Limit(1000 * MB, True))
    assert limits["stt"].hard == Limit(444 * MB, growth=True)


def test_even_the_worst_case_fits() -> None:
    for total in range(3300, 12_000, 100):
        limits = planned(total, {"tts": need(), "stt": need(workers=2)})
        worst = (
            80
            + 2 * 800
            + 3 * 100
            + (2 * limits["tts"].hard.size + 3 * limits["stt"].hard.size) // MB
        )
        assert worst <= total


@pytest.mark.parametrize(
    ("total", "needs"),
    [
        (1024, {"tts": need(), "stt": need()}),
        (4096, {"tts": need(hard="+3000"), "stt": need()}),
        (4096, {"tts": need(workers=20), "stt": need()}),
        (4096, {"tts": need(hard="4000"), "stt": need(hard="4000")}),
    ],
)
def test_limits_that_cannot_fit_are_refused_with_the_numbers(
    total: int, needs: dict[str, Need]
) -> None:
    with pytest.raises(
        DoesNotFit, match=r"\d+ MB are needed .* of \d+ MB can be used; lower .*VOICE_ENGINE_MODELS"
    ):
        plan(total * MB, needs)


def test_a_soft_limit_over_the_hard_one_is_refused() -> None:
    with pytest.raises(DoesNotFit, match="must be below"):
        plan(4096 * MB, {"tts": need(soft="+300", hard="+200")})


@pytest.mark.parametrize(
    ("total", "further", "capacity"),
    [
        (8192, 20, 8),
        # Usable 1472, less 80 for the front and 900 for the model: 246 for each of two workers.
        (1600, 20, 3),
        (1600, 46, 2),
        (1600, 47, 1),
        (1600, 0, 8),
        (1250, 20, 0),
    ],
)
def test_capacity_is_lowered_before_the_service_refuses_to_start(
    total: int, further: int, capacity: int
) -> None:
    needs = {"tts": replace(need(), further=further, capacity=8)}
    if capacity == 0:
        with pytest.raises(DoesNotFit):
            plan(total * MB, needs)
    else:
        assert plan(total * MB, needs)["tts"].capacity == capacity


def test_a_capacity_from_the_settings_is_not_lowered() -> None:
    needs = {"tts": replace(need(), further=20, capacity=8, least=8)}
    with pytest.raises(DoesNotFit, match="340 for their growth"):
        plan(1400 * MB, needs)
    assert plan(1900 * MB, needs)["tts"].capacity == 8


def test_a_hard_limit_lowers_the_capacity_of_its_model_alone() -> None:
    needs = {
        "tts": replace(need(hard="+270"), further=20, capacity=8),
        "stt": replace(need(), further=60, capacity=4),
    }
    found = plan(4096 * MB, needs)
    assert (found["tts"].capacity, found["stt"].capacity) == (4, 4)
    assert found["tts"].limits.hard == Limit(270 * MB, growth=True)


def test_every_capacity_that_is_planned_fits() -> None:
    for total in range(3300, 8000, 50):
        needs = {
            "tts": replace(need(), further=20, capacity=8),
            "stt": replace(need(workers=2), further=60, capacity=4),
        }
        for model, each in plan(total * MB, needs).items():
            taken = replace(needs[model], capacity=each.capacity)
            assert taken.growth * MB <= each.limits.hard.size
            more = replace(taken, capacity=each.capacity + 1)
            assert (
                each.capacity == needs[model].capacity or more.growth * MB > each.limits.hard.size
            )


def test_where_memory_is_short_no_successor_is_planned_for() -> None:
    # Usable 1472, less 980: 246 for each of two, or 492 for one.
    assert planned(1600, {"tts": need()})["tts"].hard == Limit(246 * MB, growth=True)
    assert planned(1400, {"tts": need()})["tts"].hard == Limit(308 * MB, growth=True)


def test_a_model_that_needs_more_than_its_share_gets_it_from_the_others() -> None:
    # 1888 for two workers and two successors: 944 for each of the first model, 0 for the second.
    needs = {"tts": replace(need(), request=700), "stt": replace(need(), request=20)}
    limits = planned(4096, needs)
    assert limits["tts"].hard == Limit(700 * MB, growth=True)
    assert limits["stt"].hard == Limit(244 * MB, growth=True)


@pytest.mark.parametrize("text", ["x", "-1", "+", "1.5", "+-3", "1 2", "٣"])
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(ValueError, match="is not a limit"):
        Limit.parse(text)


# Backoff


def _backoff() -> Backoff:
    return Backoff(base=1.0, maximum=8.0, failures_max=7, random=random.Random(1))


def test_backoff_starts_at_once_then_doubles_up_to_its_maximum() -> None:
    backoff = _backoff()
    pauses = [backoff.failed() for _ in range(6)]
    assert pauses[0] == 0.0
    for pause, middle in zip(pauses[1:], [1, 2, 4, 8, 8], strict=True):
        assert 0.75 * middle <= pause <= 1.25 * middle
    assert not backoff.exhausted


def test_a_success_forgets_all_failures() -> None:
    backoff = _backoff()
    last = [backoff.failed() for _ in range(7)][-1]
    assert backoff.exhausted
    assert 6 <= last <= 10
    backoff.killed(out_of_memory=True)
    backoff.succeeded()
    assert not backoff.exhausted
    assert backoff.failed() == 0.0
    assert backoff.killed(out_of_memory=True) == 0.0


def test_kills_from_outside_never_make_a_model_failed() -> None:
    backoff = _backoff()
    assert backoff.killed(out_of_memory=False) == 0.0
    assert max(backoff.killed(out_of_memory=False) for _ in range(100)) <= 1.25
    assert not backoff.exhausted
    assert backoff.failures == 0


def test_the_pause_grows_while_the_kernel_kills_what_is_started() -> None:
    backoff = _backoff()
    pauses = [backoff.killed(out_of_memory=True) for _ in range(6)]
    assert pauses[0] == 0.0
    for pause, middle in zip(pauses[1:], [1, 2, 4, 8, 8], strict=True):
        assert 0.75 * middle <= pause <= 1.25 * middle
    assert not backoff.exhausted


def test_failures_may_go_on_for_ever() -> None:
    backoff = Backoff(base=0.5, maximum=30.0, failures_max=10_000)
    assert max(backoff.failed() for _ in range(5000)) <= 30.0 * 1.25


def test_two_models_that_fail_together_do_not_retry_together() -> None:
    one, other = _backoff(), _backoff()
    other.random = random.Random(2)
    assert [one.failed() for _ in range(4)][1:] != [other.failed() for _ in range(4)][1:]


# Admission

LIMITS = QueueLimits(requests=10, seconds=60.0, client_share=0.5)


@pytest.mark.parametrize(
    ("cost", "allowed", "running", "waiting", "workers", "told"),
    [
        (1, 300, 0, [], 1, None),
        (1, 300, 5, [(1, False)] * 9, 1, None),
        (1, 300, 5, [(1, False)] * 10, 1, "10 requests are waiting"),
        (1, 300, 5, [(28, False)] * 2, 1, "61 s of work"),
        (1, 300, 5, [(28, False)] * 2, 2, None),
        (1, 300, 100, [], 1, None),
        (1, 300, 5, [(1, True)] * 4, 1, None),
        (1, 300, 5, [(1, True)] * 5, 1, "5 of your requests"),
        (1, 300, 5, [(31, True)], 1, "31 s of your work"),
        (1, 300, 5, [(31, False)], 1, None),
        (290, 300, 5, [], 1, None),
        (290, 300, 15, [], 1, "time limit is 300 s"),
        (301, 300, 0, [], 1, "time limit is 300 s"),
    ],
)
def test_admission(  # noqa: PLR0917 - a row of the table
    cost: float,
    allowed: float,
    running: float,
    waiting: list[tuple[float, bool]],
    workers: int,
    told: str | None,
) -> None:
    loads = [Load(seconds) for seconds, _ in waiting]
    room = Room(workers, workers, stretch=lambda _: 1.0)
    start, end = forecast([Load(running)] * bool(running), loads, Load(cost), room)
    refusal = admit(
        cost=cost,
        allowed=allowed,
        start=start,
        end=end,
        waiting=waiting,
        speed=workers,
        limits=LIMITS,
    )
    if told is None:
        assert refusal is None
    else:
        assert refusal is not None
        assert told in refusal.reason
        assert refusal.hopeless == (cost > allowed)
        assert 0 <= refusal.retry_after <= running + sum(c for c, _ in waiting) + cost


def characters(size: float) -> Work:
    return Work(Unit.CHARACTERS, size)


def test_every_unit_has_a_guess() -> None:
    assert INITIAL_SPEED.keys() == set(Unit)
    assert all(speed > 0 for speed in INITIAL_SPEED.values())
    assert CostModel().initial == INITIAL_SPEED


def test_cost_is_measured_per_unit() -> None:
    cost = CostModel({Unit.CHARACTERS: 0.1, Unit.BYTES: 0.01})
    assert cost.estimate(characters(10)) == pytest.approx(1.0)
    cost.measured(characters(10), 2.0)
    assert cost.estimate(characters(10)) == pytest.approx(2.0)
    cost.measured(characters(10), 4.0)
    assert cost.estimate(characters(10)) == pytest.approx(2.4)
    assert cost.estimate(Work(Unit.BYTES, 10)) == pytest.approx(0.1)


def test_what_one_model_has_learned_is_its_own() -> None:
    one, other = CostModel(), CostModel()
    one.measured(characters(10), 99.0)
    assert other.estimate(characters(10)) == pytest.approx(0.2)


def test_what_ran_in_company_counts_less() -> None:
    cost = CostModel({Unit.CHARACTERS: 0.1})
    assert not cost.knows(characters(1))
    cost.measured(characters(10), 2.0, alone=0.0)
    assert cost.knows(characters(1))
    assert not cost.knows(Work(Unit.SECONDS, 1))
    assert cost.estimate(characters(10)) == pytest.approx(2.0)
    cost.measured(characters(10), 4.0, alone=0.0)
    assert cost.estimate(characters(10)) == pytest.approx(2.1)
    cost.measured(characters(10), 4.1, alone=0.5)
    assert cost.estimate(characters(10)) == pytest.approx(2.35)


def test_a_slow_short_request_does_not_make_a_long_one_hopeless() -> None:
    cost = CostModel({Unit.CHARACTERS: 0.02})
    for _ in range(20):  # three words each, and ten seconds to encode the reference
        cost.measured(characters(15), 10.0)
    assert cost.estimate(characters(15)) == pytest.approx(10.0)
    assert cost.estimate(characters(5000)) == pytest.approx(10.0 + 0.02 * 4985)


@pytest.mark.parametrize(("fixed", "per_unit"), [(0.0, 0.001), (0.0, 0.2), (5.0, 0.05), (3.0, 0.0)])
def test_it_is_learned_what_each_request_costs_and_what_its_size_does(
    fixed: float, per_unit: float
) -> None:
    cost = CostModel({Unit.CHARACTERS: 0.02})
    for size in [20, 2000, 300, 50, 1000, 4000, 10, 700] * 5:
        cost.measured(characters(size), fixed + per_unit * size)
    for size in (10, 500, 5000):
        truth = fixed + per_unit * size
        assert cost.estimate(characters(size)) == pytest.approx(truth, rel=0.2, abs=2.0)


def test_a_dense_recording_is_no_longer_than_the_longest() -> None:
    cost = CostModel({Unit.SECONDS: 0.06, Unit.BYTES: 2e-5})
    for seconds in [5, 300, 20, 120, 10, 600] * 5:  # 3 kB a second, each second heard in 0.3
        cost.measured(Work(Unit.BYTES, 3000 * seconds), 0.3 * seconds, sound=seconds)
    assert cost.estimate(Work(Unit.BYTES, 3000 * 60, 720)) == pytest.approx(18, rel=0.2)
    # Twelve minutes with 16 kB a second.
    assert cost.estimate(Work(Unit.BYTES, 16_000 * 720)) > 1000
    dense = Work(Unit.BYTES, 16_000 * 720, longest=720)
    assert cost.estimate(dense) == pytest.approx(0.3 * 720, rel=0.1)


def test_what_a_recording_claims_to_last_teaches_nothing() -> None:
    cost = CostModel({Unit.SECONDS: 0.06})
    for seconds in [5, 300, 20, 120, 10, 600] * 5:
        cost.measured(Work(Unit.SECONDS, 1), 0.3 * seconds, sound=seconds)
    assert cost.estimate(Work(Unit.SECONDS, 100, 720)) == pytest.approx(30, rel=0.1)


def drained(queue: FairQueue[str]) -> list[str]:
    return [queue.pop() for _ in range(len(queue))]


def test_a_client_with_one_request_does_not_wait_for_another_with_two_hundred() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(200):
        queue.push(f"greedy {number}", "greedy", 1.0)
    assert queue.pop() == "greedy 0"
    queue.push("modest", "modest", 1.0)
    assert drained(queue)[:3].count("modest") == 1


def test_clients_share_by_cost_not_by_number() -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(20):
        queue.push("long", "one", 10.0)
        queue.push("short", "two", 1.0)
    served = drained(queue)[:11]
    assert (served.count("long"), served.count("short")) == (1, 10)


@pytest.mark.parametrize(
    ("now", "pace", "served"),
    [
        # The other client's turn comes first, and all the same nobody is late.
        (0.0, Pace(), ["other", "second", "third"]),
        # `second` would end at 9, and may take twice its cost: not a second to lose.
        (4.5, Pace(), ["second", "other", "third"]),
        (4.5, Pace(speed=4), ["other", "second", "third"]),
        # Four at once, each of which takes twice its time.
        (4.5, Pace(speed=2, stretch=2), ["second", "other", "third"]),
        # It cannot be in time any more; others need not suffer for it.
        (9.5, Pace(), ["other", "second", "third"]),
        (9.5, Pace(speed=2, stretch=2), ["other", "second", "third"]),
    ],
)
def test_fairness_makes_nobody_late(now: float, pace: Pace, served: list[str]) -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("first", "greedy", 2.0, 10.0)
    queue.push("second", "greedy", 2.0, 10.0)
    queue.push("third", "greedy", 2.0, 100.0)
    assert queue.pop(0.0) == "first"
    queue.push("other", "modest", 3.0, 200.0)
    assert [queue.pop(now, pace) for _ in range(3)] == served


def test_one_client_is_served_in_order() -> None:
    queue: FairQueue[str] = FairQueue()
    for name in "abcdef":
        queue.push(name, "client", 1.0)
    assert drained(queue) == list("abcdef")


def test_a_replay_goes_first() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("a", "one", 1.0)
    queue.push_front("replayed", "two", 1.0)
    assert drained(queue) == ["replayed", "a"]


def test_what_does_not_fit_is_passed_and_keeps_its_place() -> None:
    queue: FairQueue[str] = FairQueue()
    for name in ("live a", "live b", "whole a", "whole b"):
        queue.push(name, name[-1], 1.0)
    assert queue.first() == "live a"

    def whole(name: str) -> bool:
        return name.startswith("whole")

    assert queue.first(whole) == "whole a"
    assert queue.pop(fits=whole) == "whole a"
    queue.push("whole c", "c", 1.0)
    assert queue.pop(fits=whole) == "whole b"
    assert queue.first(lambda name: name == "none") is None
    with pytest.raises(IndexError):
        queue.pop(fits=lambda _: False)
    # The others had their turn meanwhile; it does not count against those that had to wait.
    assert drained(queue) == ["live a", "live b", "whole c"]


def test_a_pressing_request_that_does_not_fit_is_not_taken_either() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("whole", "one", 3.0, 200.0)
    queue.push("live", "two", 2.0, 4.5)
    queue.push("pressing", "three", 2.0, 5.0)
    assert queue.pop(0.0, fits=lambda name: name != "live") == "pressing"


def test_a_client_that_left_has_not_paid() -> None:
    queue: FairQueue[object] = FairQueue()
    items = [object() for _ in range(3)]
    queue.push(items[0], "one", 1.0)
    queue.push(items[1], "two", 100.0)
    queue.remove(items[1])
    queue.push(items[2], "two", 1.0)
    queue.remove(object())
    assert [queue.pop(), queue.pop()] == [items[0], items[2]]
    with pytest.raises(IndexError):
        queue.pop()


def test_clients_that_came_and_went_are_forgotten() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(1000):
        queue.push(number, f"client {number}", 1.0)
        queue.pop()
    assert len(queue._clocks) < 10


def test_clients_that_leave_before_anybody_is_served_are_forgotten() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("patient", "patient", 1.0)
    for number in range(1000):
        item = f"item {number}"
        queue.push(item, f"client {number}", 1.0)
        queue.remove(item)
    assert len(queue._clocks) < 10
    assert drained(queue) == ["patient"]


# Quarantine


def test_what_killed_workers_is_held_for_a_while() -> None:
    quarantine = Quarantine(600)
    quarantine.add(b"poison", now=1000)
    assert quarantine.holds(b"poison", now=1599)
    assert not quarantine.holds(b"food", now=1599)
    assert not quarantine.holds(b"poison", now=1600)


def test_the_list_is_bounded() -> None:
    quarantine = Quarantine(600)
    for number in range(5000):
        quarantine.add(str(number).encode(), now=0)
    assert not quarantine.holds(b"0", now=1)
    assert quarantine.holds(b"4999", now=1)
