"""The time of each character of a text, from the times of its sentences. Runs in the front."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import BaseModel

from ipc.operations import SentenceTime


class CharacterTimes(BaseModel):
    """The characters of a text and their times in seconds. All lists have the same length."""

    characters: list[str]
    character_start_times_seconds: list[float]
    character_end_times_seconds: list[float]


def align_text(text: str, sentences: Sequence[SentenceTime], duration: float) -> CharacterTimes:
    """The times of all characters of `text`, whose `sentences` have been spoken.

    Each sentence has `text`, and `start` and `end` in seconds; its characters share that time
    evenly. Characters outside of sentences (spaces between them, tags that are not spoken) share
    the pause. `duration` is the length of the whole audio in seconds.
    """
    times: list[tuple[float, float]] = []
    clock = 0.0
    for begin, end, sentence in _places(text, sentences):
        times += evenly(begin - len(times), clock, sentence.start)
        times += evenly(end - begin, sentence.start, sentence.end)
        clock = sentence.end
    times += evenly(len(text) - len(times), clock, max(clock, duration))
    return _character_times(text, times)


def align_sentences(sentences: Sequence[SentenceTime]) -> CharacterTimes:
    """The times of all characters of the spoken text, with a space between two sentences."""
    text = " ".join(sentence.text for sentence in sentences)
    return align_text(text, sentences, sentences[-1].end if sentences else 0.0)


def _places(
    text: str, sentences: Sequence[SentenceTime]
) -> Iterator[tuple[int, int, SentenceTime]]:
    """The start and end of each sentence in `text`.

    A sentence has the characters of `text` in the same order, without some of them (whitespace,
    tags), so it is enough to search for one character after the other.
    """
    end = 0
    for sentence in sentences:
        begin: int | None = None
        for character in "".join(sentence.text.split()):
            place = text.find(character, end)
            if place >= 0:
                begin = place if begin is None else begin
                end = place + 1
        if begin is not None:
            yield begin, end, sentence


def evenly(count: int, start: float, end: float) -> list[tuple[float, float]]:
    """Start and end of `count` equal parts of the time from `start` to `end`."""
    step = (end - start) / count if count else 0.0
    return [(start + index * step, start + (index + 1) * step) for index in range(count)]


def _character_times(text: str, times: Sequence[tuple[float, float]]) -> CharacterTimes:
    return CharacterTimes(
        characters=list(text),
        character_start_times_seconds=[round(start, 3) for start, _ in times],
        character_end_times_seconds=[round(end, 3) for _, end in times],
    )
