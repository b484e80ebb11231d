"""The time of each character of a text, from those of its words or sentences. Runs in the front."""

from __future__ import annotations

from collections.abc import Sequence

from ipc.operations import SentenceTime
from supervisor.http.api.api_model import ApiModel


class CharacterTimes(ApiModel):
    """The characters of a text and their times in seconds. All lists have the same length."""

    characters: list[str]
    character_start_times_seconds: list[float]
    character_end_times_seconds: list[float]


class TextAligner:
    """The times of the characters of a text, sentence by sentence.

    Each sentence has `text`, the place in the text that it stands for, and its time in seconds; the
    characters at that place share the time evenly. They may be others than the spoken ones ("5 %"
    is "five percent"). Where the words of a sentence are known, the characters of a word share its
    time. Characters outside of words or sentences (spaces, directions that are not spoken) share
    the pause.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0
        self._clock = 0.0

    def next(self, sentence: SentenceTime) -> CharacterTimes:
        """The characters up to the end of `sentence`."""
        begin, end = sentence.source_start, sentence.source_end
        first = self._place
        times = evenly(begin - first, self._clock, sentence.start)
        words = [
            (word.source_start, word.source_end, word.start, word.end) for word in sentence.words
        ]
        times += _by_words(begin, end, sentence, words)
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
    words = [(word.text_start, word.text_end, word.start, word.end) for word in sentence.words]
    times += _by_words(0, len(sentence.text), sentence, words)
    return _character_times(space + sentence.text, times)


def concatenated(pieces: Sequence[CharacterTimes]) -> CharacterTimes:
    """All characters of `pieces`."""
    whole = _character_times("", [])
    for piece in pieces:
        whole.characters += piece.characters
        whole.character_start_times_seconds += piece.character_start_times_seconds
        whole.character_end_times_seconds += piece.character_end_times_seconds
    return whole


def evenly(count: int, start: float, end: float) -> list[tuple[float, float]]:
    """Start and end of `count` equal parts of the time from `start` to `end`."""
    step = (end - start) / count if count else 0.0
    return [(start + index * step, start + (index + 1) * step) for index in range(count)]


def _by_words(
    begin: int, end: int, sentence: SentenceTime, words: Sequence[tuple[int, int, float, float]]
) -> list[tuple[float, float]]:
    """The times of the characters from `begin` to `end`, which are those of `sentence`.

    Each of `words` has its characters and its time. One without characters belongs to the word
    before.
    """
    marks: list[tuple[int, int, float, float]] = []
    for word in words:
        first, last, _, over = word
        if first == last and marks:
            marks[-1] = (*marks[-1][:3], over)
        else:
            marks.append(word)
    times: list[tuple[float, float]] = []
    place, clock = begin, sentence.start
    for first, last, start, over in marks:
        times += evenly(first - place, clock, start)
        times += evenly(last - first, start, over)
        place, clock = last, over
    return times + evenly(end - place, clock, sentence.end)


def _character_times(text: str, times: Sequence[tuple[float, float]]) -> CharacterTimes:
    return CharacterTimes(
        characters=list(text),
        character_start_times_seconds=[round(start, 3) for start, _ in times],
        character_end_times_seconds=[round(end, 3) for _, end in times],
    )
