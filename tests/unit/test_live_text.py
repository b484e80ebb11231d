"""When a text that is still being written can be spoken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.http.shared.live_text import LONGEST, LiveText, sentence_ends


def pieces(text: str, *, schedule: tuple[int, ...] = ()) -> list[str]:
    """What is spoken of a text that comes letter by letter, before and after its end."""
    waiting, spoken = LiveText(schedule), []
    for letter in text:
        waiting.push(letter)
        while piece := waiting.take():
            spoken.append(piece)
    waiting.flush()
    while piece := waiting.take():
        spoken.append(piece)
    return spoken


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello world. How are you? Fine!", ["Hello world. ", "How are you? ", "Fine!"]),
        ("Dr. Smith paid 3.50 euros. Yes.", ["Dr. Smith paid 3.50 euros. ", "Yes."]),
        ("We met at 5 p.m. in St. Ives. Good.", ["We met at 5 p.m. in St. Ives. ", "Good."]),
        ("Es ist z. B. der 3. Mai. Ja.", ["Es ist z. B. der 3. Mai. ", "Ja."]),
        ("It was in 2024. Then it ended.", ["It was in 2024. ", "Then it ended."]),
        ("See www.example.com/a.html?b=1. Next.", ["See www.example.com/a.html?b=1. ", "Next."]),
        ("“Stop!” he said. And left.", ["“Stop!” ", "he said. ", "And left."]),
        ("Well... maybe. Or not.", ["Well... maybe. ", "Or not."]),
        ("你好。你好吗？「好。」再见", ["你好。", "你好吗？", "「好。」", "再见"]),
        ("नमस्ते। आप कैसे हैं। ठीक", ["नमस्ते। ", "आप कैसे हैं। ", "ठीक"]),
        (
            "[A. Link](http://a.b/c. d) is here. Yes.",
            ["[A. Link](http://a.b/c. d) is here. ", "Yes."],
        ),
        ("**Note. This** is it. Yes.", ["**Note. This** is it. ", "Yes."]),
        ("Run `a. b` now. Yes.", ["Run `a. b` now. ", "Yes."]),
        ("Hi :( Really? Yes.", ["Hi :( Really? ", "Yes."]),
        ("# Title\n\nText. More", ["# Title\n\n", "Text. ", "More"]),
        ("Items:\n- one\n- two\n", ["Items:\n", "- one\n", "- two\n"]),
        ("... Hello. ", ["... Hello. "]),
        ("   ", ["   "]),
        ("", []),
    ],
)
def test_sentences_are_spoken_as_soon_as_they_are_complete(text: str, expected: list[str]) -> None:
    assert pieces(text) == expected


def test_sentences_that_have_gathered_are_one_piece() -> None:
    waiting = LiveText()
    waiting.push("One. Two. Three. And")
    assert waiting.take() == "One. Two. Three. "
    assert waiting.take() == ""
    waiting.push(" four. ")
    assert waiting.take() == "And four. "
    assert not waiting.speakable


def test_after_a_while_a_clause_is_enough_or_whole_words() -> None:
    waiting = LiveText()
    waiting.push("When it rains, we stay at ho")
    assert waiting.take() == ""
    waiting.hurry()
    assert waiting.take() == "When it rains, "
    waiting.hurry()
    assert waiting.take() == "we stay at "
    waiting.push("me")
    assert waiting.take() == ""
    waiting.push(".")
    waiting.hurry()  # nothing follows the dot, so it is one
    assert waiting.take() == "home."


def test_a_message_may_end_where_a_sentence_does() -> None:
    waiting = LiveText()
    waiting.push("How are you?", whole=True)
    assert waiting.take() == "How are you?"
    waiting.push("Mostly", whole=True)
    assert waiting.take() == ""


def test_a_flush_takes_all_that_has_come() -> None:
    waiting = LiveText()
    waiting.push("How are")
    waiting.flush()
    waiting.push(" you. I am")
    assert waiting.take() == "How are"
    assert waiting.take() == " you. "
    waiting.flush()
    assert waiting.take() == "I am"


def test_a_schedule_waits_for_more_text() -> None:
    waiting = LiveText((12, 30))
    waiting.push("Yes. And ")
    assert waiting.take() == ""
    waiting.push("no. Or ")
    assert waiting.take() == "Yes. And no. "
    waiting.push("both. Who knows?")
    assert waiting.take() == ""
    waiting.push(" Well, nobody does ")
    assert waiting.take() == "Or both. Who knows? "
    waiting.trigger()
    assert waiting.take() == ""  # too little
    waiting.push("so far as anybody has ever said, ")
    waiting.trigger()
    assert waiting.take() == "Well, nobody does so far as anybody has ever said, "


def test_a_text_without_an_end_is_cut() -> None:
    text = "word " * 500
    spoken = pieces(text)
    assert "".join(spoken) == text
    assert max(map(len, spoken)) <= 310
    assert all(piece.endswith(" ") for piece in spoken)


def test_what_is_dropped_is_told() -> None:
    waiting = LiveText()
    waiting.push("One. Two")
    waiting.take()
    waiting.flush()
    assert waiting.drop() == "Two"
    assert (len(waiting), waiting.take()) == (0, "")


_PARTS = st.sampled_from(
    [
        *("Hello", "world", "Dr", "3", "14", ".", "...", "!", "?", " ", "  ", "\n", "\n\n", ","),
        *("(", ")", "[", "]", "`", "**", '"', "”", "。", "你好", "- ", "# ", "😀", ";", "é", "—"),
    ]
)
_ACTIONS = st.sampled_from(["push", "whole", "take", "take", "hurry", "flush", "trigger"])


@given(st.lists(st.tuples(_ACTIONS, st.lists(_PARTS | st.text(max_size=40), max_size=12))))
def test_nothing_is_lost_or_said_twice(steps: list[tuple[str, list[str]]]) -> None:
    waiting, came, spoken = LiveText(), "", ""
    for action, parts in steps:
        text = "".join(parts)
        if action in ("push", "whole"):
            waiting.push(text, whole=action == "whole")
            came += text
        elif action == "take":
            piece = waiting.take()
            assert len(piece) <= LONGEST
            spoken += piece
        else:
            getattr(waiting, action)()
    waiting.flush()
    while piece := waiting.take():
        assert len(piece) <= LONGEST
        spoken += piece
    assert spoken == came


@given(st.text(max_size=300))
def test_the_ends_of_sentences_are_in_the_text_and_in_order(text: str) -> None:
    ends = sentence_ends(text)
    assert ends == sorted(set(ends))
    assert all(0 < end <= len(text) for end in ends)
