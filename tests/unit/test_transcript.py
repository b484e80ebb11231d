"""A transcript from the model's raw output: texts, tags, and how likely these are."""

from __future__ import annotations

import re

import pytest

from ipc.operations import Paralinguistics, Segment
from ipc.spacing import join
from model_procs.listening import ctc
from model_procs.listening.transcript import Piece, likely, merge
from tests.support.raw_outputs import RAW_OUTPUTS, RawOutput


@pytest.mark.parametrize("swapped", [False, True])
def test_pieces_are_merged_by_time(swapped: bool) -> None:
    pieces = [
        Piece(
            30,
            "<|nospeech|><|EMO_UNKNOWN|><|Event_UNK|><|woitn|>",
            {"nospeech": 1.0},
            {"EMO_UNKNOWN": 0.9, "SAD": 0.1},
            {"Event_UNK": 1.0},
        ),
        Piece(
            10,
            "<|en|><|HAPPY|><|Speech|><|withitn|> Hello world.",
            {"en": 0.9, "zh": 0.1},
            {"HAPPY": 0.8, "SAD": 0.2},
            {"Speech": 1.0},
        ),
        Piece(
            8,
            "<|zh|><|HAPPY|><|BGM|><|withitn|>你好",
            {"zh": 0.7, "en": 0.2, "nospeech": 0.1},
            {"HAPPY": 0.6, "SAD": 0.4},
            {"BGM": 0.5, "Speech": 0.5},
        ),
        Piece(
            2,
            "<|en|><|SAD|><|Speech|><|Laughter|><|withitn|>And  more. ",
            {"en": 0.995, "zh": 0.005},
            {"SAD": 0.5, "HAPPY": 0.4, "EMO_UNKNOWN": 0.1},
            {"Speech": 1.0},
        ),
    ]
    if swapped:  # rounding shall not depend on the order
        pieces[1], pieces[2] = pieces[2], pieces[1]
    merged = merge(pieces)
    assert merged.duration == 50
    assert merged.raw == "".join(each.raw for each in pieces)
    assert merged.text == ("你好 Hello world." if swapped else "Hello world. 你好") + " And more."
    # Of the 20 s with speech and an emotion: 10 s, 8 s and 2 s. Of events all 50 s count.
    told = merged.paralinguistics
    assert told == Paralinguistics(
        language="en",
        emotion="HAPPY",
        events=("BGM", "Speech", "Laughter") if swapped else ("Speech", "BGM", "Laughter"),
        language_probability=0.6295,
        emotion_probability=0.68,
        language_probabilities={"en": 0.6295, "zh": 0.3305, "nospeech": 0.04},
        emotions={"HAPPY": 0.68, "SAD": 0.31, "EMO_UNKNOWN": 0.01},
        event_probabilities={"Event_UNK": 0.6, "Speech": 0.32, "BGM": 0.08},
    )


def test_pieces_without_speech_count_if_there_are_no_others() -> None:
    raw = "<|nospeech|><|EMO_UNKNOWN|><|Event_UNK|><|woitn|>"
    silent = [
        Piece(3, raw, {"nospeech": 1.0}, {"EMO_UNKNOWN": 1.0}, {"Event_UNK": 1.0}),
        Piece(1, raw, {"nospeech": 0.6, "en": 0.4}, {"EMO_UNKNOWN": 1.0}, {"Event_UNK": 1.0}),
    ]
    whole = merge(silent)
    assert (whole.text, whole.paralinguistics) == (
        "",
        Paralinguistics(
            "nospeech",
            "EMO_UNKNOWN",
            (),
            0.9,
            1.0,
            None,
            {"nospeech": 0.9, "en": 0.1},
            {"EMO_UNKNOWN": 1.0},
            {"Event_UNK": 1.0},
        ),
    )


def test_a_distribution_is_unknown_where_one_pieces_is() -> None:
    told = merge([Piece(1, "<|ja|>春", {"ja": 1.0}), Piece(1, "<|ja|>夏")]).paralinguistics
    assert told == Paralinguistics("ja", "EMO_UNKNOWN")
    assert merge([]).paralinguistics == Paralinguistics("nospeech", "EMO_UNKNOWN")
    # A recording may last no time.
    told = merge([Piece(0, "<|ja|>", {"ja": 0.8, "en": 0.2})] * 2).paralinguistics
    assert told.language_probabilities == {"ja": 0.8, "en": 0.2}


def test_unlikely_tags_are_left_out() -> None:
    assert likely(None) is None
    full = {"a": 0.00099, "b": 0.001, "c": 0.49905, "d": 0.49896}
    assert likely(full) == {"c": 0.4990, "d": 0.499, "b": 0.001}
    assert list(likely({"a": 0.25, "b": 0.5, "c": 0.25}) or ()) == ["b", "a", "c"]


def test_japanese_pieces_are_joined_without_a_blank() -> None:
    japanese = [Piece(1, f"<|ja|><|NEUTRAL|><|Speech|><|woitn|>{text}") for text in "春夏"]
    assert merge(japanese).text == "春夏"


# Recorded outputs


def parts(raw: str) -> list[str]:
    """The segments in `raw`, each of which begins with its language."""
    return re.split(r"(?<!^)(?=<\|(?:zh|en|yue|ja|ko|nospeech)\|>)", raw) if raw else [raw]


def pieces_of(raw: str) -> list[Piece]:
    """As the engine makes them: with the words at their times, of tokens of one character."""
    found = []
    for number, part in enumerate(parts(raw)):
        texts = re.findall(r"<\|[^|<>]*\|>|.", part)
        path = [0, 0, 0, 0]  # the tags stand in the text here, so the frames of queries are blank
        for index in range(len(texts)):
            path += [index + 1, 0]
        words = ctc.align(
            path,
            lambda tokens, texts=texts: [texts[token - 1] for token in tokens],  # type: ignore[misc]
            len(path) * 0.06,
            number * 30.0,
        )
        found.append(Piece(1.0 + 1 / (number + 1), part, words=tuple(words)))
    return found


@pytest.mark.parametrize("output", RAW_OUTPUTS, ids=lambda output: output.kind)
def test_recorded_outputs(output: RawOutput) -> None:
    whole = merge([Piece(1.0 + 1 / (n + 1), part) for n, part in enumerate(parts(output.raw))])
    told = whole.paralinguistics
    assert whole.text == output.text
    assert whole.raw == output.raw
    assert (told.language, told.emotion, told.events) == (
        output.language,
        output.emotion,
        output.events,
    )


@pytest.mark.parametrize("output", RAW_OUTPUTS, ids=lambda output: output.kind)
def test_segments_and_words_of_recorded_outputs_make_their_text(output: RawOutput) -> None:
    segments: list[Segment] = []
    for piece in pieces_of(output.raw):
        found = list(piece.segments(len(segments), words=True))
        assert join(segment.text for segment in found) == piece.text
        segments += found
    assert join(segment.text for segment in segments) == output.text
    assert [segment.id for segment in segments] == list(range(len(segments)))
    for segment in segments:
        told = segment.paralinguistics
        assert told.emotion in output.raw or told.emotion == "EMO_UNKNOWN"
        words = segment.words or ()
        assert "".join(word.word for word in words).replace(" ", "") == segment.text.replace(
            " ", ""
        )
        assert segment.start <= words[0].start <= words[-1].end <= segment.end


def test_each_segment_has_the_emotion_of_its_part() -> None:
    (output,) = (each for each in RAW_OUTPUTS if each.kind.startswith("two segments in one"))
    told = [
        (segment.text, segment.paralinguistics.emotion, segment.paralinguistics.events)
        for piece in pieces_of(output.raw)
        for segment in piece.segments(0, words=False)
    ]
    assert told == [
        ("明早9点要汇报。", "SAD", ("Speech",)),
        ("好累。", "NEUTRAL", ("Cry",)),
    ]


def test_all_five_languages_and_all_events_are_recorded() -> None:
    assert {"zh", "en", "yue", "ja", "ko"} <= {output.language for output in RAW_OUTPUTS}
    events = {event for output in RAW_OUTPUTS for event in output.events}
    assert events >= {"Speech", "BGM", "Laughter", "Applause", "Cry", "Cough"}
    assert len({output.kind for output in RAW_OUTPUTS}) == len(RAW_OUTPUTS)
