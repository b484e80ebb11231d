"""Events: published once, kept by name, read from any point; counts and histories of them."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
from collections.abc import Iterator, MutableMapping
from dataclasses import fields
from typing import Any

import pytest
import structlog

from supervisor import events
from supervisor.events import Event, Events, Finished, Loading, Noted, Refused, WorkerReady
from supervisor.history import FRONT, History, Samples
from supervisor.log import current_request, logged_as
from supervisor.tally import Tally


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    """What is logged, instead of on stderr."""
    with structlog.testing.capture_logs() as logged:
        yield logged


def kinds() -> list[type[Event]]:
    """Every event that there is."""
    found = [each for each in vars(events).values() if isinstance(each, type)]
    return [each for each in found if issubclass(each, Event) and hasattr(each, "name")]


def refused(model: str = "tts") -> Refused:
    return Refused(model=model, reason="overloaded", client="anna", message="busy")


def test_names_are_unique_and_no_fact_hides_what_every_event_has() -> None:
    names = [kind.name for kind in kinds()]
    assert len(names) == len(set(names)) > 30
    taken = {"id", "time", "event", "level", "request_id", "timestamp"}
    for kind in kinds():
        assert kind.__doc__, kind
        assert not {each.name for each in fields(kind)} & taken, kind


def test_an_event_is_logged_with_its_facts_under_its_name(
    logged: list[MutableMapping[str, Any]],
) -> None:
    bus = Events()
    bus.publish(Loading(model="tts", reason="a request"))
    bus.publish(Noted(model="tts", about="minimal_engine", message="flite serves"))
    bus.publish(Finished(model="tts", queue_s=0.0, inference_s=1.0))
    assert [(line["event"], line["log_level"]) for line in logged] == [
        ("loading", "info"),
        ("minimal_engine", "warning"),
    ]
    assert (logged[0]["model"], logged[0]["reason"]) == ("tts", "a request")


def test_many_events_of_one_name_do_not_push_out_the_others() -> None:
    bus = Events()
    bus.publish(Loading(model="tts", reason="a request"))
    for _ in range(1000):
        bus.publish(refused())
    names = [told.event.name for told in bus.kept()]
    assert names[0] == "loading"
    assert names.count("refused") == 200


def test_a_reader_continues_after_the_event_that_it_names() -> None:
    bus = Events()
    for reason in "abc":
        bus.publish(Loading(model="tts", reason=reason))
    first, second, third = bus.kept()
    assert bus.kept(first.id) == [second, third]
    assert bus.kept(third.id) == []
    # An id of another run, or nonsense: everything is new to that reader.
    for unknown in ("18f3a2c1-2", "x", "", "-", f"{first.id}x", None):
        assert bus.kept(unknown) == [first, second, third]


async def test_a_reader_gets_what_was_and_what_comes_until_it_is_closed() -> None:
    bus = Events()
    bus.publish(Loading(model="tts", reason="before"))
    reader = bus.read()
    assert [told.event.facts()["reason"] for told in reader.waiting()] == ["before"]
    waiting = asyncio.create_task(reader.arrived())
    await asyncio.sleep(0)
    bus.publish(Finished(model="tts", queue_s=0.0, inference_s=1.0))  # not kept, so not read
    await asyncio.sleep(0)
    assert not waiting.done()
    bus.publish(Loading(model="tts", reason="after"))
    await waiting
    assert [told.event.facts()["reason"] for told in reader.waiting()] == ["after"]
    reader.close()
    bus.publish(Loading(model="tts", reason="late"))
    assert list(reader.waiting()) == []


def test_a_reader_that_does_not_read_loses_the_oldest() -> None:
    bus = Events()
    reader = bus.read()
    for number in range(1500):
        bus.publish(Loading(model="tts", reason=str(number)))
    reasons = [told.event.facts()["reason"] for told in reader.waiting()]
    assert reasons == [str(number) for number in range(500, 1500)]


def test_a_subscriber_that_fails_disturbs_nobody(
    logged: list[MutableMapping[str, Any]],
) -> None:
    bus = Events()
    taken: list[str] = []

    def fail(_: Any) -> None:
        raise RuntimeError("a bug")

    bus.subscribe(fail)
    end = bus.subscribe(lambda told: taken.append(told.event.name))
    bus.publish(refused())
    assert taken == ["refused"]
    assert [line["event"] for line in logged if line["log_level"] == "error"] == ["event_not_told"]
    end()
    bus.publish(refused())
    assert taken == ["refused"]


def test_an_event_knows_the_request_that_caused_it() -> None:
    bus = Events()
    with logged_as("r-1"):
        bus.publish(refused())
    bus.publish(refused())
    assert [told.request_id for told in bus.kept()] == ["r-1", None]
    assert current_request() is None


def test_what_has_happened_is_counted() -> None:
    bus, tally = Events(), Tally()
    bus.subscribe(tally.take)
    recycled = events.Recycled(
        model="tts",
        child="tts-1",
        successor="tts-2",
        reason="soft memory limit",
        gap=False,
        ready_ms=3.0,
        drain_ms=1.0,
        rss_mb=900.0,
        given_back_mb=200.4,
    )
    bus.publish(recycled)
    bus.publish(
        events.HardLimitPassed(
            model="tts", child="tts-2", rss_mb=1600.0, limit_mb=1500.0, state="READY"
        )
    )
    lost = {"model": "tts", "request": 1, "child": "tts-2", "reason": "SIGKILL", "attempts": 1}
    bus.publish(events.RequestLostWorker(**lost, replayed=True))  # type: ignore[arg-type]
    bus.publish(events.RequestLostWorker(**lost, replayed=False))  # type: ignore[arg-type]
    bus.publish(refused("stt"))
    assert tally.recycles_of("tts") == {"soft memory limit": 1, "hard memory limit": 1}
    assert tally.recycles_of("stt") == {}
    assert tally.recycled_mb == {"tts": 200.4}
    assert (tally.replays["tts"], tally.replays["stt"]) == (1, 0)
    assert tally.refusals == {("stt", "overloaded"): 1}
    assert tally.events["request_lost_worker", "warning"] == 2


def test_the_real_time_factor_is_a_moving_average() -> None:
    bus, tally = Events(), Tally()
    bus.subscribe(tally.take)
    for inference in (0.5, 1.5):
        bus.publish(
            Finished(
                model="tts",
                queue_s=9.0,
                inference_s=inference,
                encode_s=0.5,
                direction="made",
                sound_s=2.0,
            )
        )
    assert tally.real_time_factor["tts"] == pytest.approx(0.5 + 0.2 * (1.0 - 0.5))
    bus.publish(Finished(model="stt", queue_s=0.0, inference_s=1.0))  # no sound: says nothing
    assert "stt" not in tally.real_time_factor


def test_a_full_track_is_thinned_and_still_begins_at_its_start() -> None:
    samples = Samples(1)
    for second in range(100_000):
        samples.add(float(second), second * 2.0)
    rows = list(samples.since(-1.0))
    assert 300 <= len(rows) < 600
    assert rows[0] == (0.0, 0.0)
    assert rows[-1][0] > 99_000
    gaps = {after[0] - before[0] for before, after in itertools.pairwise(rows)}
    assert len(gaps) == 1
    assert all(value == 2 * when for when, value in rows)
    assert list(samples.since(rows[-2][0])) == rows[-1:]


def test_children_are_followed_from_their_first_event_to_their_last() -> None:
    bus, history = Events(), History()
    bus.subscribe(history.take)
    ready = WorkerReady(model="tts", child="tts-1", pid=7, rss_mb=700.0)
    bus.publish(ready)
    track = history.living[None, 7]
    assert (track.name, track.role, track.model) == ("tts-1", "worker", "tts")
    assert track.ready is not None
    assert [value for _, value in track.samples.since(0.0)] == [700.0]
    ended = events.WorkerEnded(
        model="tts", child="tts-1", pid=7, reason="recycled: age", requests=3
    )
    bus.publish(ended)
    assert (None, 7) not in history.living
    bus.publish(
        events.Recycled(
            model="tts",
            child="tts-1",
            successor="tts-2",
            reason="age",
            gap=False,
            ready_ms=1.0,
            drain_ms=1.0,
            rss_mb=700.0,
            given_back_mb=0.0,
        )
    )
    assert [(each.name, each.end_reason, each.successor) for each in history.ended] == [
        ("tts-1", "recycled: age", "tts-2")
    ]
    history.sample({}, {})
    assert [each.name for each in history.living.values()] == [FRONT]
    ((_, front_mb),) = history.living[None, os.getpid()].samples.since(0.0)
    assert front_mb > 1
    assert not math.isnan(front_mb)
