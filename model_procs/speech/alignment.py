"""When each sentence of a text is spoken, and each of its words. Used in speech workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ipc.errors import ErrorCode, ServiceError
from ipc.operations import SentenceTime, WordTime
from model_procs.audio.pcm import Samples
from model_procs.speech.normalize.speech import Sentence

_MAX_BYTES = 2 * 1024 * 1024
"""Limit for all sentences together: their description is sent in one frame."""
_ENTRY_BYTES = 64

NO_SOUND: Samples = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word of a piece: its characters in the sentence, its samples in the piece."""

    text_start: int
    text_end: int
    start: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Some of the sound of sentence `number` of a text, and the words that begin in it.

    The first piece of a sentence may have no sound: it tells that the sentence before is over.
    """

    number: int
    sentence: Sentence
    samples: Samples = field(default_factory=lambda: NO_SOUND)
    words: tuple[SpokenWord, ...] = ()


@dataclass(slots=True)
class _Spoken:
    sentence: Sentence
    number: int
    start: int
    end: int
    words: list[SpokenWord]


class Alignment:
    """The sentences spoken so far, with their positions in samples.

    `rate` is the number of these samples in one second of the response: the sample rate times the
    speed. A change of tempo scales all times by the speed, to within about 0.1 s.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self.sentences: list[_Spoken] = []
        self.skipped = 0
        """How many samples at the beginning are not in the response."""
        self._bytes = 0

    @property
    def has_words(self) -> bool:
        """Whether the words of all sentences are known."""
        return all(spoken.words for spoken in self.sentences)

    def add(self, piece: Piece) -> None:
        """Add the samples of `piece`, which follow those before."""
        last = self.sentences[-1] if self.sentences else None
        start = last.end if last is not None else 0
        if last is None or last.number != piece.number:
            last = _Spoken(piece.sentence, piece.number, start, start, [])
            self.sentences.append(last)
            self._bytes += len(piece.sentence.text.encode()) + _ENTRY_BYTES
        last.end += len(piece.samples)
        self._bytes += _ENTRY_BYTES * len(piece.words)
        last.words += [
            SpokenWord(word.text_start, word.text_end, start + word.start, start + word.end)
            for word in piece.words
        ]

    def time(self, place: int, duration: float) -> SentenceTime:
        """The time of one of the sentences in seconds, within `duration`."""
        spoken = self.sentences[place]
        return SentenceTime(
            spoken.sentence.text,
            self._seconds(spoken.start, duration),
            self._seconds(spoken.end, duration),
            spoken.sentence.start,
            spoken.sentence.end,
            tuple(self._words(spoken, duration)),
        )

    def _words(self, spoken: _Spoken, duration: float) -> Iterator[WordTime]:
        sentence = spoken.sentence
        visible = np.cumsum([0, *(not letter.isspace() for letter in sentence.text)])
        before = sentence.start
        for word in spoken.words:
            places = sentence.places[visible[word.text_start] : visible[word.text_end]]
            end = min(max(before, max(places, default=0) + 1), sentence.end)
            start = min(max(before, min(places, default=0)), end)
            before = end
            yield WordTime(
                self._seconds(word.start, duration),
                self._seconds(word.end, duration),
                word.text_start,
                word.text_end,
                start,
                end,
            )

    def _seconds(self, sample: int, duration: float) -> float:
        return min(round(max(0, sample - self.skipped) / self._rate, 3), duration)

    def times(self, duration: float) -> tuple[SentenceTime, ...]:
        """All sentences with their times. Raises `ServiceError`."""
        if self._bytes > _MAX_BYTES:
            raise ServiceError(
                ErrorCode.text_too_long,
                "the text is too long for a response with times; send it in parts",
            )
        return tuple(self.time(place, duration) for place in range(len(self.sentences)))
