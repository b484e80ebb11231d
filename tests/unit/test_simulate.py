"""The simulated cluster against the theory of queues, and what must hold in every run."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.bench.queue_theory import Expected, erlang_c, shared
from tests.bench.simulate import HASTY, PARAMETERS, POCKET, between, scaled, steady, stepped
from tests.bench.simulated import Cluster, Engine, Loss, Plan, Result, Scaling, desired, settled

_ENDLESS = {"queue_seconds": math.inf, "queue_size": 10**9}


def _servers(count: int) -> Engine:
    """M/M/c in one replica: each of `count` requests is served as if it were alone."""
    return Engine("m", tuple(float(n) for n in range(1, count + 1)), (0.0,) * count, 1.0, 1.0)


def _means(result: Result) -> Expected:
    count = len(result.requests)
    waits = [each.started - each.arrived for each in result.requests]
    return Expected(
        sum(wait > 1e-9 for wait in waits) / count,
        sum(waits) / count,
        sum(each.ended - each.arrived for each in result.requests) / count,
    )


def test_erlang_c_has_the_values_of_the_tables() -> None:
    assert erlang_c(0.5, 1.0, 1).wait == pytest.approx(1.0)  # M/M/1: rho / (1 - rho)
    assert erlang_c(2.0, 1.0, 3).waits == pytest.approx(4 / 9)
    assert erlang_c(8.0, 1.0, 10).waits == pytest.approx(0.4092, abs=1e-4)
    with pytest.raises(ValueError, match="are needed"):
        erlang_c(3.0, 1.0, 3)


def test_the_shared_queue_with_growing_speed_is_erlang_c() -> None:
    ours = shared(5.0, 1.0, tuple(float(n) for n in range(1, 8)))
    theirs = erlang_c(5.0, 1.0, 7)
    assert (ours.waits, ours.wait, ours.response) == pytest.approx(
        (theirs.waits, theirs.wait, theirs.response)
    )


@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (1, 0.8), (4, 0.8), (8, 0.7)])
def test_the_simulation_waits_as_erlang_c_says(servers: int, load: float) -> None:
    engine = _servers(servers)
    means = _means(steady(engine, 1, load, 150_000 / (load * servers), **_ENDLESS))
    expected = erlang_c(load * servers, 1.0, servers)
    assert means.waits == pytest.approx(expected.waits, rel=0.05)
    assert means.wait == pytest.approx(expected.wait, rel=0.1)
    assert means.response == pytest.approx(expected.response, rel=0.05)


def test_a_replica_that_batches_waits_as_the_birth_death_process_says() -> None:
    engine = replace(POCKET, work_cv=1.0)
    load = 0.8
    means = _means(steady(engine, 1, load, 25_000.0, **_ENDLESS))
    expected = shared(load * engine.requests_per_second, engine.work_mean, engine.speed)
    assert means.waits == pytest.approx(expected.waits, rel=0.05)
    assert means.wait == pytest.approx(expected.wait, rel=0.1)
    assert means.response == pytest.approx(expected.response, rel=0.05)


def test_many_replicas_refuse_what_they_cannot_serve() -> None:
    overloaded = steady(POCKET, 10, 1.5, 300.0, queue_seconds=5.0)
    assert overloaded.refused_share(since=60) == pytest.approx(1 / 3, abs=0.03)
    most = max(each.started - each.arrived for each in overloaded.ended("done"))
    assert most < 5.0 * 1.5  # what comes after the last that was let in, is not much


@pytest.mark.parametrize("loss", [Loss(40.0, nodes=5), Loss(40.0, zone=1)])
@pytest.mark.parametrize("load", [0.5, 0.9])
def test_every_request_ends_exactly_once(loss: Loss, load: float) -> None:
    result = steady(POCKET, 30, load, 120.0, loss=loss)
    ends = [len(result.ended(outcome)) for outcome in ("done", "refused", "failed")]
    assert sum(ends) == len(result.requests)
    assert ends[2] == 0  # each was replayed; ending one twice raises
    assert result.replays > 0
    assert all(each.ended >= each.arrived for each in result.requests)
    assert all(each.attempts <= 2 for each in result.requests)


def test_a_request_fails_when_it_has_no_more_attempts() -> None:
    result = steady(POCKET, 6, 0.9, 60.0, loss=Loss(40.0, nodes=3), max_attempts=1)
    assert len(result.ended("failed")) > 0
    assert result.replays == 0


def test_a_stream_of_a_lost_replica_is_silent_until_it_is_replayed() -> None:
    result = steady(POCKET, 30, 0.5, 120.0, loss=Loss(40.0, nodes=5), detection=15.0)
    gaps = [each.gap for each in result.requests if each.gap]
    assert gaps
    assert 15.0 < min(gaps) <= max(gaps) < 30.0


def test_the_same_seed_gives_the_same_run() -> None:
    def ends(seed: int) -> list[float]:
        result = steady(POCKET, 20, 0.8, 60.0, seed=seed, voices=50, routing="voice-affine")
        return [each.ended for each in result.requests]

    assert ends(1) == ends(1)
    assert ends(1) != ends(2)


def test_two_choices_wait_less_than_one() -> None:
    one = steady(POCKET, 30, 0.8, 120.0, routing="random").first_sounds(since=20)
    two = steady(POCKET, 30, 0.8, 120.0).first_sounds(since=20)
    assert two[int(0.99 * len(two))] < one[int(0.99 * len(one))] / 2


def test_voices_stay_where_they_are_known() -> None:
    def known(routing: str) -> float:
        result = steady(POCKET, 20, 0.4, 120.0, voices=300, voice_miss=1.0, routing=routing)
        return result.voice_hits / (result.voice_hits + result.voice_misses)

    assert known("voice-affine") > 1.5 * known("power-of-two")


def test_what_is_wanted_follows_the_backlog_within_bounds() -> None:
    scaling = Scaling(target=0.5, smallest=2, largest=40)
    assert desired(scaling, backlog=5.0, serving=8, starting=0) == 10
    assert desired(scaling, backlog=0.0, serving=8, starting=0) == 2
    assert desired(scaling, backlog=100.0, serving=8, starting=0) == 16  # twice as many
    assert desired(scaling, backlog=100.0, serving=8, starting=3) == 11  # first see what comes
    assert desired(scaling, backlog=100.0, serving=39, starting=0) == 40


def test_replicas_are_removed_only_when_none_was_wanted_for_long() -> None:
    scaling = Scaling(up_delay=20.0, down_delay=300.0, tolerance=0.1)
    assert settled(scaling, [(0.0, 20), (10.0, 14), (20.0, 18)], have=10) == 14
    assert settled(scaling, [(0.0, 20), (10.0, 9)], have=10) == 10
    assert settled(scaling, [(0.0, 2), (250.0, 6)], have=10) == 6
    assert settled(scaling, [(0.0, 2), (250.0, 10)], have=10) == 10
    assert settled(scaling, [(0.0, 11)], have=10) == 10  # not worth it


def test_autoscaling_follows_a_step_without_swinging() -> None:
    result = scaled(stepped, 6)
    assert result.turns() <= 2
    needed = 60.0 / POCKET.requests_per_second
    before_it_ends = [each for each in result.samples if 1500 <= each.at < 1800]
    assert all(needed < each.serving < 2.5 * needed for each in before_it_ends)
    assert len({each.serving for each in before_it_ends}) == 1
    assert result.refused_share(since=900) == 0.0
    assert result.samples[-1].serving <= 8
    assert sum(len(result.ended(end)) for end in ("done", "refused")) == len(result.requests)


def test_autoscaling_without_delays_swings() -> None:
    assert scaled(stepped, 6, **HASTY).turns() > 20


def test_what_was_not_measured_lies_between() -> None:
    assert between({1: 1.0, 2: 3.0, 4: 4.0}) == (1.0, 3.0, 3.5, 4.0)
    assert PARAMETERS.pocket.capacity == 8


def test_a_changing_rate_brings_as_many_requests_as_it_says() -> None:
    plan = Plan(POCKET, lambda now: 10.0 if now < 100 else 30.0, 30.0, 200.0, 20)
    arrivals = [each.arrived for each in Cluster(plan).run().requests]
    assert sum(at < 100 for at in arrivals) == pytest.approx(1000, rel=0.1)
    assert sum(at >= 100 for at in arrivals) == pytest.approx(3000, rel=0.1)
