"""When characters and words are said, as ElevenLabs' clients are told: without the service."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ipc.operations import Paralinguistics, Segment, SentenceTime, Transcript, Word, WordTime
from model_procs.speech.normalize.speech import spoken_sentences
from supervisor.http.routes.elevenlabs.transcription import scribe_words
from supervisor.http.shared.character_times import CharacterTimes, align_sentences, align_text


def spoken(text: str, start: float = 0.5) -> list[SentenceTime]:
    """The sentences of `text` as a worker tells them, of one second each with a pause between."""
    return [
        SentenceTime(
            sentence.text,
            start + 1.5 * number,
            start + 1.5 * number + 1.0,
            sentence.start,
            sentence.end,
        )
        for number, sentence in enumerate(spoken_sentences(text, language="en"))
    ]


def times(alignment: CharacterTimes) -> list[tuple[str, float, float]]:
    return list(
        zip(
            alignment.characters,
            alignment.character_start_times_seconds,
            alignment.character_end_times_seconds,
            strict=True,
        )
    )


def test_characters_share_the_time_of_their_sentence() -> None:
    assert times(align_text(" Hi! Yes.", spoken(" Hi! Yes."), 3.2)) == [
        (" ", 0.0, 0.5),
        ("H", 0.5, 0.833),
        ("i", 0.833, 1.167),
        ("!", 1.167, 1.5),
        (" ", 1.5, 2.0),
        ("Y", 2.0, 2.25),
        ("e", 2.25, 2.5),
        ("s", 2.5, 2.75),
        (".", 2.75, 3.0),
    ]


def test_characters_share_the_time_of_their_word_where_it_is_known() -> None:
    words = (WordTime(0.6, 1.0, 0, 2, 1, 3), WordTime(1.2, 1.4, 4, 7, 5, 8))
    sentence = SentenceTime("Oh, yes.", 0.5, 1.5, 1, 9, words)
    expected = [
        ("O", 0.6, 0.8),
        ("h", 0.8, 1.0),
        (",", 1.0, 1.1),
        (" ", 1.1, 1.2),
        ("y", 1.2, 1.267),
        ("e", 1.267, 1.333),
        ("s", 1.333, 1.4),
        (".", 1.4, 1.5),
    ]
    assert times(align_sentences([sentence])) == expected
    assert times(align_text(" Oh, yes.", [sentence], 1.5)) == [(" ", 0.0, 0.5), *expected]


def test_characters_that_stand_for_two_words_have_the_time_of_both() -> None:
    words = (WordTime(0.0, 0.4, 0, 4, 0, 2), WordTime(0.4, 0.8, 5, 12, 2, 2))
    sentence = SentenceTime("Five percent.", 0.0, 1.0, 0, 3, words)
    assert times(align_text("5%.", [sentence], 1.0)) == [
        ("5", 0.0, 0.4),
        ("%", 0.4, 0.8),
        (".", 0.8, 1.0),
    ]


def test_what_is_not_said_has_the_pause() -> None:
    text = "One. [clears throat] Two. "
    found = times(align_text(text, spoken(text), 4.0))
    tag = found[text.index("[") : text.index("]") + 1]
    assert all(1.5 <= start <= end <= 2.0 for _, start, end in tag)
    assert found[text.index("T")][1] == 2.0
    assert found[-1] == (" ", 3.0, 4.0)


def test_what_is_said_has_a_blank_between_sentences() -> None:
    found = times(align_sentences(spoken("One.\n\n[laugh] Two.")))
    assert "".join(character for character, _, _ in found) == "One. Two."
    assert found[4] == (" ", 1.5, 2.0)


def test_what_is_read_in_other_words_has_its_own_time() -> None:
    text = "It is **5 %** of $3.\n\n# The end"
    found = times(align_text(text, spoken(text), 4.0))
    assert "".join(character for character, _, _ in found) == text
    last = text.index("3") + 1
    assert found[last][2] == 1.5
    assert found[text.index("T")][1] == 2.0
    assert all(1.5 <= start <= end <= 2.0 for _, start, end in found[last + 1 : text.index("T")])
    normalized = align_sentences(spoken(text))
    assert "".join(normalized.characters) == "It is five percent of three dollars. The end."


def test_nothing_said_takes_the_whole_time() -> None:
    assert times(align_text("ab", [], 2.0)) == [("a", 0.0, 1.0), ("b", 1.0, 2.0)]
    assert times(align_sentences([])) == []


@given(
    st.text(st.sampled_from("aB1é中。.!? \n[]-'")),
    st.lists(
        st.sampled_from(
            [
                "[laugh]",
                "[sighs] ",
                "Hello you. ",
                "你好。",
                "Dr. No ",
                "# 5 %\n",
                "- *b* $3\n",
                "½ ",
            ]
        )
    ),
)
def test_all_characters_are_there_in_order(noise: str, words: list[str]) -> None:
    text = noise.join(["", *words, ""])
    said = spoken(text)
    duration = said[-1].end + 0.25 if said else 1.0
    found = align_text(text, said, duration)
    assert found.characters == list(text)
    ends = found.character_end_times_seconds
    assert all(start <= end for _, start, end in times(found))
    starts = found.character_start_times_seconds
    assert starts == sorted(starts)
    assert ends == sorted(ends)
    assert all(0 <= end <= duration for end in ends)


def segment(start: float, end: float, events: tuple[str, ...], *words: Word) -> Segment:
    told = Paralinguistics("en", "HAPPY", events)
    return Segment(0, start, end, "", told, words)


def transcript(text: str, events: tuple[str, ...], *segments: Segment) -> Transcript:
    return Transcript(text, "", 5.0, Paralinguistics("en", "HAPPY", events), segments)


LAUGHING = transcript(
    "Ha, no. 你好",
    ("Speech", "Laughter", "BGM"),
    segment(0.5, 1.0, ("Speech", "Laughter"), Word("Ha,", 0.5, 1.0)),
    segment(0.9, 2.0, ("Speech", "Laughter"), Word("no.", 0.9, 2.0)),
    segment(3.0, 4.0, ("Speech", "BGM"), Word("你", 3.0, 3.5), Word("好", 3.5, 4.0)),
)


def told(result: Transcript, *, events: bool) -> list[tuple[str, str, float, float]]:
    words = scribe_words(result, characters=False, events=events)
    return [(word.type, word.text, word.start, word.end) for word in words]


def test_words_and_what_stands_between_them() -> None:
    assert told(LAUGHING, events=False) == [
        ("word", "Ha,", 0.5, 1.0),
        ("spacing", " ", 0.9, 1.0),
        ("word", "no.", 0.9, 2.0),
        ("spacing", " ", 2.0, 3.0),
        ("word", "你", 3.0, 3.5),
        ("word", "好", 3.5, 4.0),
    ]


def test_what_is_heard_besides_speech_stands_where_it_begins() -> None:
    words = told(LAUGHING, events=True)
    assert words[0] == ("audio_event", "(laughter)", 0.5, 2.0)
    assert words[5] == ("audio_event", "(bgm)", 3.0, 4.0)
    assert [word for word in words if word[0] != "audio_event"] == told(LAUGHING, events=False)


def test_music_without_a_word() -> None:
    music = transcript("", ("BGM",))
    assert told(music, events=True) == [("audio_event", "(bgm)", 0.0, 5.0)]
    assert told(music, events=False) == []
