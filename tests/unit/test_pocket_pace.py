"""How many streams are live: the rates of load, corrected by what is measured in use."""

from __future__ import annotations

import pytest

from model_procs.engines.pocket.pace import Pace

RATES = [2.0, 3.2, 4.0, 4.5, 4.8, 5.0, 5.1, 5.2]
"""Seconds of sound per second for one to eight streams."""


def speak(pace: Pace, streams: int, rate: float, seconds: float = 30.0, begin: float = 0.0) -> None:
    """So many streams get so much sound together, in blocks of a third of a second each."""
    now, block = begin, 0.32
    while now < begin + seconds:
        pace.made(now, streams, block)
        now += block / rate


def test_less_than_was_measured_is_expected_at_first() -> None:
    assert Pace(RATES).live == 5  # a tenth less than 5.0 is not enough for six
    assert Pace([7.0] * 8).live == 7
    assert Pace([0.2, 0.3]).live == 1


@pytest.mark.parametrize(
    ("streams", "rate", "live"),
    [
        (1, 2.0, 6),
        (4, 4.5, 6),
        (4, 5.8, 8),
        (8, 5.2, 6),
        (8, 3.85, 4),
        (2, 1.7, 2),
        (8, 0.5, 1),
    ],
)
def test_each_number_of_streams_tells_about_all(streams: int, rate: float, live: int) -> None:
    pace = Pace(RATES)
    speak(pace, streams, rate)
    assert pace.live == live


def test_a_machine_that_becomes_slower_and_faster_again_is_followed() -> None:
    pace = Pace(RATES)
    seen = []
    for number, rate in enumerate((4.5, 2.3, 4.5)):
        speak(pace, 4, rate, begin=100.0 * number)
        seen.append(pace.live)
    assert seen == [6, 2, 6]


def test_one_bad_moment_changes_little() -> None:
    pace = Pace(RATES)
    speak(pace, 4, 4.5)
    pace.changes(40.0, 4)
    speak(pace, 4, 3.4, 2.5, begin=40.0)
    assert pace.live == 5


def test_time_without_streams_is_not_counted() -> None:
    pace = Pace(RATES)
    for number in range(20):
        speak(pace, 1, 2.0, seconds=3.0, begin=100.0 * number)
        pace.changes(100.0 * number + 50.0, 1)
    assert pace.live == 6


def test_a_moment_is_too_short_to_tell() -> None:
    pace = Pace(RATES)
    for number in range(100):
        speak(pace, 4, 1.0, seconds=0.4, begin=float(number))
        pace.changes(number + 0.5, 4)
    assert pace.live == Pace(RATES).live


@pytest.mark.parametrize(("rest", "live"), [(0.01, 1), (1.0, 2), (10.0, 5)])
def test_a_rest_makes_it_forget_how_slow_it_was(rest: float, live: int) -> None:
    pace = Pace(RATES)
    speak(pace, 4, 1.0)
    assert pace.live == 1
    pace.changes(100.0, 0)
    assert pace.live == 1
    pace.changes(100.0 + rest, 1)
    assert pace.live == live


def test_a_rest_does_not_make_it_forget_how_fast_it_can_be() -> None:
    pace = Pace(RATES)
    speak(pace, 4, 5.8)
    assert pace.live == 8
    pace.changes(100.0, 0)
    pace.changes(200.0, 1)
    assert pace.live == 8


def test_changes_among_those_who_speak_are_no_rest() -> None:
    pace = Pace(RATES)
    speak(pace, 4, 1.0)
    for number in range(10):
        pace.changes(100.0 * number, 1 + number % 4)
    assert pace.live == 1


def test_nothing_is_learned_before_the_rates_are_known() -> None:
    pace = Pace()
    speak(pace, 1, 0.1)
    pace.changes(50.0, 0)
    pace.rates = RATES
    pace.changes(50.1, 1)
    assert pace.live == Pace(RATES).live


def test_while_a_text_is_read_nothing_is_measured() -> None:
    pace = Pace(RATES)
    speak(pace, 0, 0.1)
    assert pace.live == Pace(RATES).live
