"""When each sentence of a text is spoken. Used in speech workers."""

from __future__ import annotations

from dataclasses import dataclass

from ipc.errors import ErrorCode, ServiceError
from ipc.operations import SentenceTime
from model_procs.speech.normalize.speech import Sentence

_MAX_BYTES = 2 * 1024 * 1024
"""Limit for all sentences together: their description is sent in one frame."""
_ENTRY_BYTES = 64


@dataclass(slots=True)
class _Spoken:
    sentence: Sentence
    number: int
    start: int
    end: int


class Alignment:
    """The sentences spoken so far, with their positions in samples.

    `rate` is the number of these samples in one second of the response: the sample rate times the
    speed. A change of tempo scales all times by the speed, to within about 0.1 s.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self.sentences: list[_Spoken] = []
        self._bytes = 0

    def add(self, sentence: Sentence, number: int, samples: int) -> None:
        """Assign the next `samples` samples to sentence `number` of the text."""
        last = self.sentences[-1] if self.sentences else None
        if last is not None and last.number == number:
            last.end += samples
            return
        start = last.end if last is not None else 0
        self.sentences.append(_Spoken(sentence, number, start, start + samples))
        self._bytes += len(sentence.text.encode()) + _ENTRY_BYTES

    def time(self, place: int, duration: float) -> SentenceTime:
        """The time of one of the sentences in seconds, within `duration`."""
        spoken = self.sentences[place]
        return SentenceTime(
            spoken.sentence.text,
            min(round(spoken.start / self._rate, 3), duration),
            min(round(spoken.end / self._rate, 3), duration),
            spoken.sentence.start,
            spoken.sentence.end,
        )

    def times(self, duration: float) -> tuple[SentenceTime, ...]:
        """All sentences with their times. Raises `ServiceError`."""
        if self._bytes > _MAX_BYTES:
            raise ServiceError(
                ErrorCode.text_too_long,
                "the text is too long for a response with times; send it in parts",
            )
        return tuple(self.time(place, duration) for place in range(len(self.sentences)))
