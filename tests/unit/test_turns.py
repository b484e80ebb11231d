"""Where utterances begin and end, and what of a text is stable."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc.operations import LIVE_WINDOW
from supervisor.http.shared.stable_text import StableText
from supervisor.http.shared.turns import (
    Cut,
    Paused,
    Resumed,
    Started,
    Stopped,
    Turn,
    Turns,
    TurnSettings,
)

SETTINGS = TurnSettings(prefix_ms=96, silence_ms=320, pause_ms=128, longest=6.4)
"""Three windows before speech, ten of silence, a pause after four; 200 windows at most."""


def heard(probabilities: list[float], turns: Turns | None = None) -> list[tuple[int, Turn]]:
    """What each window means, with its number."""
    turns = turns or Turns(SETTINGS)
    return [
        (window, turn)
        for window, probability in enumerate(probabilities)
        for turn in turns.feed(probability)
    ]


def test_speech_starts_with_some_sound_before_it_and_stops_after_silence() -> None:
    assert heard([0.0] * 10 + [0.9] * 20 + [0.1] * 12) == [
        (12, Started(7 * LIVE_WINDOW)),
        (33, Paused()),
        (39, Stopped(30 * LIVE_WINDOW)),
    ]


def test_at_the_start_of_the_stream_there_is_nothing_before() -> None:
    assert heard([0.9] * 3) == [(2, Started(0))]


def test_a_click_is_no_speech() -> None:
    assert heard([0.0, 0.9, 0.9, 0.0, 0.9, 0.0, 0.9, 0.9, 0.0]) == []


def test_a_short_pause_does_not_end_an_utterance() -> None:
    found = heard([0.9] * 5 + [0.1] * 6 + [0.9] * 5 + [0.1] * 10)
    assert [turn for _, turn in found] == [
        Started(0),
        Paused(),
        Resumed(),
        Paused(),
        Stopped(16 * LIVE_WINDOW),
    ]


def test_less_than_the_threshold_goes_on_with_speech_but_begins_none() -> None:
    assert heard([0.45] * 50) == []
    assert heard([0.9] * 3 + [0.45] * 50) == [(2, Started(0))]


def test_in_a_silence_only_speech_ends_it() -> None:
    found = heard([0.9] * 3 + [0.1] + [0.45] * 9)
    assert found[-1] == (12, Stopped(3 * LIVE_WINDOW))


def test_the_next_utterance_does_not_begin_before_the_end_of_the_last() -> None:
    found = heard([0.9] * 3 + [0.1] * 10 + [0.9] * 3)
    assert found[-1] == (15, Started(13 * LIVE_WINDOW))


def test_what_is_too_long_is_cut_where_it_is_quietest() -> None:
    speech = [0.9] * 199 + [0.9] * 30
    speech[150:159] = [0.6] * 9
    found = heard(speech)
    assert found[1] == (199, Cut(154 * LIVE_WINDOW))
    assert len(found) == 2


def test_the_client_ends_an_utterance() -> None:
    turns = Turns(SETTINGS)
    assert turns.stop() is None
    heard([0.9] * 5 + [0.1] * 2, turns)
    assert turns.stop() == Stopped(5 * LIVE_WINDOW)
    assert not turns.speaking
    assert turns.stop() is None


@given(st.lists(st.floats(0, 1), max_size=600))
def test_utterances_are_in_order_apart_and_not_too_long(probabilities: list[float]) -> None:
    start = end = 0
    speaking = False
    for window, turn in heard(probabilities):
        match turn:
            case Started(at):
                assert not speaking
                assert end <= at <= window * LIVE_WINDOW
                start, speaking = at, True
            case Stopped(at) | Cut(at):
                assert speaking
                assert start <= at <= (window + 1) * LIVE_WINDOW
                assert at - start <= 201 * LIVE_WINDOW
                start = end = at
                speaking = isinstance(turn, Cut)
            case _:
                assert speaking


def test_stable_is_what_two_partial_texts_agree_on_but_for_the_last_word() -> None:
    text = StableText()
    partials = ["I went", "I went to the.", "I went to the store", "I went to the store and"]
    assert [text.partial(each) for each in partials] == ["", "I", " went to", " the"]
    assert text.final("I went to the store and back.") == " store and back."
    assert text.told == "I went to the store and back."


def test_what_was_told_is_never_taken_back() -> None:
    text = StableText()
    for partial in ("a b c", "a b c", "x y z w", "x y z w"):
        text.partial(partial)
    assert text.told == "a b"
    assert text.final("x y z w") == " z w"


@pytest.mark.parametrize("final", ["", "你好世界", "one"])
def test_without_partial_texts_all_comes_at_the_end(final: str) -> None:
    assert StableText().final(final) == final


@given(st.lists(st.text("ab ", max_size=12)), st.text("ab ", max_size=12))
def test_deltas_make_the_transcript_where_that_is_possible(partials: list[str], final: str) -> None:
    text = StableText()
    told = "".join(text.partial(each) for each in partials)
    rest = text.final(final)
    assert told + rest == text.told
    if final.startswith(told):
        assert told + rest == final
