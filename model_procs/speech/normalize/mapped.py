"""A text that remembers where in the original text each of its characters stands.

Used in speech workers. Times of speech are told for the text as the client sent it, so every step
of the normalization keeps the places.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

GROWTH = 4
"""How many characters the words for numbers and signs may add for each character of the text."""
_FREE_GROWTH = 1_000
_LOOK_BACK = 12


_SENTENCE_START = re.compile(r"(?:\A|\n|[!?]\s|[^\W_]{5}\.\s)[\s\"“(]*\Z")
"""Where a capital letter tells the engine that a sentence begins; not after abbreviations."""


def _starts_sentence(text: str, place: int) -> bool:
    """Whether a number or a sign begins a sentence; its word gets a capital letter there."""
    if text[place : place + 1].islower():
        return False
    return _SENTENCE_START.search(text, max(0, place - _LOOK_BACK), place) is not None


@dataclass(slots=True)
class Mapped:
    """`text`, and for each of its characters the position in the original text (rising)."""

    text: str
    places: list[int]
    grown: int = 0
    """How many characters the replacements so far have added."""
    limit: int = field(init=False)

    def __post_init__(self) -> None:
        self.limit = GROWTH * len(self.text) + _FREE_GROWTH

    @classmethod
    def of(cls, text: str, start: int = 0) -> Mapped:
        """The original text, or the part of it that begins at `start`."""
        return cls(text, list(range(start, start + len(text))))

    def replace(self, pattern: re.Pattern[str], say: Callable[[re.Match[str]], str | None]) -> None:
        """Replace the matches of `pattern` by what `say` returns; None leaves a match as it is.

        When replacements have added too much (a text of signs alone), the rest stays as it is.
        """
        parts: list[str] = []
        places: list[int] = []
        last = 0
        for match in pattern.finditer(self.text):
            said = say(match)
            start, end = match.span()
            if said is None or said == match.group():
                continue
            first = said.lstrip()[:1]
            if first.islower() and _starts_sentence(self.text, start):
                said = said.replace(first, first.upper(), 1)
            growth = len(said) - (end - start)
            if growth > 0 and self.grown + growth > self.limit:
                continue
            self.grown += max(0, growth)
            parts += (self.text[last:start], said)
            places += self.places[last:start]
            places += self._spread(start, end, len(said))
            last = end
        if last or parts:
            parts.append(self.text[last:])
            places += self.places[last:]
            self.text, self.places = "".join(parts), places

    def _spread(self, start: int, end: int, count: int) -> Iterable[int]:
        """The places of `count` characters that replace those from `start` to `end`."""
        if start == end:
            near = min(start, len(self.places) - 1)
            return [self.places[near] if near >= 0 else 0] * count
        steps = max(1, count - 1)
        return (self.places[start + index * (end - start - 1) // steps] for index in range(count))
