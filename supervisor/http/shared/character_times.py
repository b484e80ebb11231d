"""The time of each character of a text, from the times of its sentences. Runs in the front."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from ipc.operations import SentenceTime


class CharacterTimes(BaseModel):
    """The characters of a text and their times in seconds. All lists have the same length."""

    characters: list[str]
    character_start_times_seconds: list[float]
    character_end_times_seconds: list[float]


class TextAligner:
    """The times of the characters of a text, sentence by sentence.

    Each sentence has `text`, and `start` and `end` in seconds; its characters share that time
    evenly. Characters outside of sentences (spaces between them, tags that are not spoken) share
    the pause.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0
        self._clock = 0.0

    def next(self, sentence: SentenceTime) -> CharacterTimes:
        """The characters up to the end of `sentence`; none if it is not in the text."""
        found = _place(self._text, sentence, self._place)
        if found is None:
            return _character_times("", [])
        first, (begin, end) = self._place, found
        times = evenly(begin - first, self._clock, sentence.start)
        times += evenly(end - begin, sentence.start, sentence.end)
        self._place, self._clock = end, sentence.end
        return _character_times(self._text[first:end], times)

    def rest(self, duration: float) -> CharacterTimes:
        """The characters after all sentences; `duration` is that of the audio, in seconds."""
        text = self._text[self._place :]
        times = evenly(len(text), self._clock, max(self._clock, duration))
        self._place = len(self._text)
        return _character_times(text, times)


def align_text(text: str, sentences: Sequence[SentenceTime], duration: float) -> CharacterTimes:
    """The times of all characters of `text`, whose `sentences` have been spoken.

    `duration` is the length of the whole audio in seconds.
    """
    aligner = TextAligner(text)
    return concatenated(
        [*(aligner.next(sentence) for sentence in sentences), aligner.rest(duration)]
    )


def align_sentences(sentences: Sequence[SentenceTime]) -> CharacterTimes:
    """The times of all characters of the spoken text, with a space between two sentences."""
    clock: float | None = None
    pieces = []
    for sentence in sentences:
        pieces.append(align_sentence(sentence, clock))
        clock = sentence.end
    return concatenated(pieces)


def align_sentence(sentence: SentenceTime, clock: float | None) -> CharacterTimes:
    """The times of the characters of one sentence, with a space before it.

    `clock` is the end of the sentence before it; None: it is the first, and has no space.
    """
    space = "" if clock is None or not sentence.text else " "
    times = evenly(len(space), clock or 0.0, sentence.start)
    times += evenly(len(sentence.text), sentence.start, sentence.end)
    return _character_times(space + sentence.text, times)


def concatenated(pieces: Sequence[CharacterTimes]) -> CharacterTimes:
    """All characters of `pieces`."""
    whole = _character_times("", [])
    for piece in pieces:
        whole.characters += piece.characters
        whole.character_start_times_seconds += piece.character_start_times_seconds
        whole.character_end_times_seconds += piece.character_end_times_seconds
    return whole


def _place(text: str, sentence: SentenceTime, end: int) -> tuple[int, int] | None:
    """The start and end of `sentence` in `text`, at `end` or later; None if it is not there.

    A sentence has the characters of `text` in the same order, without some of them (whitespace,
    tags), so it is enough to search for one character after the other.
    """
    begin: int | None = None
    for character in "".join(sentence.text.split()):
        place = text.find(character, end)
        if place >= 0:
            begin = place if begin is None else begin
            end = place + 1
    return None if begin is None else (begin, end)


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
