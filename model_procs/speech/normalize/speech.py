"""From the text of a request to the sentences that an engine speaks. Used in speech workers."""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache

from model_procs.speech.normalize import amounts, signs, times
from model_procs.speech.normalize.characters import clean
from model_procs.speech.normalize.directions import TAGS_AGAIN, leave_out_directions, leave_out_tags
from model_procs.speech.normalize.formulas import read_formulas
from model_procs.speech.normalize.languages import LANGUAGES
from model_procs.speech.normalize.mapped import Mapped
from model_procs.speech.normalize.markdown import read_markdown
from model_procs.speech.normalize.numbers import Rule, Speller
from model_procs.speech.text import sentences

_PART = 600
"""A text is normalized in parts of about so many characters."""
_FIRST_PART = 200
"""The first part is smaller, so that speech begins at once."""
_LONGEST_PART = 4_000
"""A longer block of code is cut."""
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE)
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_PHRASE_END = re.compile(
    # the end of a line with a mark, or before an item of a list
    r"[.!?…:]['\"”’)*_]*[ \t]*\n|\n(?=[ \t]*(?:[-*+•]|\d{1,3}[.)])[ \t])|[。！？]"
    # the end of a sentence, but not an abbreviation
    r"|(?:\b(?!(?:vs|etc|ca|cf|pp|al|ex|bzw|usw|vgl|approx|dhr|mevr|sig|dott|avv)\b)"
    r"[^\W\d_A-Z]{2,}\.|[!?…])['\"”’)]*\s+(?=\W*[^\W\d_a-z])"
)
_SPACE = re.compile(r"\s+")
_DIGIT = re.compile(r"[\d²³¹⁰-₎¼-¾⅐-⅞]")
_SIGN = re.compile(r"[^\w\s.,;:!?'\"()-]|[_\d\u0370-\u03ffµ]|\w\.\w|\(\)|\s[-,.;:!?]|--|\(\s")
_DOT_OR_SLASH = re.compile(r"@|://|\w\.\w")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence as it is spoken, and the part of the original text that it stands for.

    `places` has the place in the original text of each character that is no whitespace.
    """

    text: str
    start: int
    end: int
    places: tuple[int, ...]


def prepare(language: str) -> None:
    """Compile everything for `language`: in the template, so that no request waits for it."""
    for _ in spoken_sentences("*a* 1", language=language):
        pass


def spoken_sentences(
    text: str, *, language: str, normalize: bool = True, obeyed: Collection[str] = ()
) -> Iterator[Sentence]:
    """The sentences of `text` as they are spoken, in order, each as soon as it is known.

    Without `normalize` only directions, SSML and characters that nobody sees are left out. The
    parts of the original text do not overlap.
    """
    before = 0
    for part in _parts(text) if normalize else (Mapped.of(text),):
        said = _normalized(part, language, obeyed) if normalize else _as_written(part, obeyed)
        places = [
            at for at, letter in zip(said.places, said.text, strict=True) if not letter.isspace()
        ]
        used = 0
        for sentence in sentences(said.text):
            count = sum(not letter.isspace() for letter in sentence)
            own = tuple(places[used : used + count])
            used += count
            start, before = max(own[0], before), max(own[-1] + 1, before)
            yield Sentence(sentence, min(start, before), before, own)


def _as_written(part: Mapped, obeyed: Collection[str]) -> Mapped:
    clean(part, normalize=False)
    leave_out_directions(part, obeyed)
    leave_out_tags(part, html=False)
    part.text = part.text.translate(TAGS_AGAIN)
    return part


def _normalized(part: Mapped, language: str, obeyed: Collection[str]) -> Mapped:
    """A part of the text as it is spoken."""
    clean(part, normalize=True)
    leave_out_directions(part, obeyed)
    leave_out_tags(part, html=True)
    read_formulas(part)
    read = read_markdown(part)
    for needed, rules in _rules(language if language in LANGUAGES else ""):
        if needed.search(read.text):
            for pattern, say in rules:
                read.replace(pattern, say)
    read.text = read.text.translate(TAGS_AGAIN)
    return read


@cache
def _rules(code: str) -> tuple[tuple[re.Pattern[str], tuple[Rule, ...]], ...]:
    """The rules of a language in order, each group with what a text must have to need it.

    Without a language only signs that are not spoken are replaced.
    """
    last = (_SIGN, tuple(signs.last_rules()))
    if not code:
        return (last,)
    spell = Speller(code, LANGUAGES[code])
    return (
        (_DOT_OR_SLASH, tuple(signs.address_rules(spell))),
        (_DIGIT, (*times.rules(spell), *signs.comparison_rules(spell), *amounts.rules(spell))),
        (_SIGN, tuple(signs.sign_rules(spell))),
        (_DIGIT, tuple(amounts.plain_rules(spell))),
        last,
    )


def _parts(text: str) -> Iterator[Mapped]:
    """The text in parts that are normalized one by one; each ends at a blank line if it can."""
    start = 0
    while start < len(text):
        end = _end_of_part(text, start)
        yield Mapped.of(text[start:end], start)
        start = end


def _end_of_part(text: str, start: int) -> int:
    """Where a part that begins at `start` ends; not within a block of code if that is not long."""
    fences = [match.start() for match in _FENCE.finditer(text, start, start + _LONGEST_PART)]
    size = _PART if start else _FIRST_PART
    for pattern, least, most in (
        (_BLANK_LINE, size, 3 * size),
        (_PHRASE_END, 2 * size, 3 * _PART),
        (_SPACE, 3 * _PART, _LONGEST_PART),
    ):
        for match in pattern.finditer(text, start + least, start + most):
            if bisect(fences, match.start()) % 2 == 0:
                return match.end()
    return min(len(text), start + (_LONGEST_PART if len(fences) % 2 else 3 * _PART))
