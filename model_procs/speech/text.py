"""Split a text into sentences. Used in speech workers.

sentencex (Wikimedia) finds the sentences. It knows the punctuation of all scripts, and the
abbreviations of one language at a time. The language of the text is not known here, so a sentence
ends only where no language has an abbreviation. Two sentences that are wrongly kept together are
still spoken, with a shorter pause between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import sentencex

LONG = 300
"""A longer quotation (in characters) is split into its sentences."""

_WINDOW = 2_000
"""Characters that are split at a time; sentencex takes quadratic time for some scripts."""

_LANGUAGES = ("en", "de", "es", "fr", "nl", "pt", "ru")
"""Without Italian: sentencex takes most short Italian words for abbreviations."""

_ENGLISH_WORDS = frozenset(
    (
        *("ago", "an", "auto", "best", "extra", "form", "get", "hand", "in", "it", "ken", "let"),
        *("me", "no", "not", "ok", "pen", "pro", "red", "sub", "super", "tom", "top", "trim"),
        "vice",
    )
)
"""Abbreviations in other languages. In English they can end a sentence, except before a number."""

_ABBREVIATIONS = frozenset(("approx", "avv", "dott", "est", "pag"))
"""Common abbreviations, mostly Italian, that sentencex does not know in these languages."""

_LONGEST_ABBREVIATION = 4
_LONGEST_WORD = 40
"""In characters. A longer word cannot be one of the words above."""

_LAST_WORD = re.compile(r"([^\W_]+)\.\s+\Z")
_QUOTE = re.compile(r"""["“”„«»‹›()\[\]「」『』]""")
_GREEK = re.compile(r"[\u0370-\u03ff]")
_CLAUSE_END = re.compile(r"[,;:]\s+|[、，；：،؛]\s*|\s+[-–—]+\s+")
_SPACE = re.compile(r"\s+")


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of `text` in order, with whitespace reduced to single spaces.

    Nothing but whitespace is lost. Every sentence contains a letter or a digit, unless the whole
    text has none, and has at most about 2,000 characters. Takes linear time.
    """
    pending = ""
    for piece in _pieces(text):
        if pending and _speakable(piece) and _speakable(pending):
            yield " ".join(pending.split())
            pending = ""
        pending += piece
    if pending.strip():
        yield " ".join(pending.split())


def _speakable(text: str) -> bool:
    return any(character.isalnum() for character in text)


def _pieces(text: str) -> Iterator[str]:
    """Split `text` into pieces; nothing is lost."""
    start = 0
    while start < len(text):
        window = text[start : start + _WINDOW]
        ends = _ends(window)
        if start + len(window) < len(text):  # the last piece continues after the window
            ends = ends[:-1] or [_break(window)]
        begin = 0
        for end in ends:
            yield from _unquoted(window[begin:end])
            begin = end
        start += begin


def _ends(text: str) -> list[int]:
    """The end positions of the sentences of `text`, including its own end."""
    first, *others = [_boundaries(language, text) for language in _LANGUAGES]
    elsewhere = set.intersection(*others)
    if _GREEK.search(text):  # the Greek question mark is a semicolon
        first = _boundaries("el", text)
    return sorted(end for end in first if end == len(text) or _is_end(text, end, end in elsewhere))


def _is_end(text: str, end: int, agreed: bool) -> bool:
    """Whether a sentence ends here, as the first language says. `agreed`: the others say so too."""
    match = _LAST_WORD.search(text, max(0, end - _LONGEST_WORD), end)
    if match is None:
        return True  # a question or a quotation, not an abbreviation
    word = match.group(1).lower()
    if agreed:
        return word not in _ABBREVIATIONS
    if text[end].isdigit():
        return False
    # German starts no sentence with a lower-case letter, and "3." may be an ordinal number.
    long = len(word) > (2 if word.isdigit() else _LONGEST_ABBREVIATION)
    return word in _ENGLISH_WORDS or (long and (text[end].islower() or word.isdigit()))


def _boundaries(language: str, text: str) -> set[int]:
    ends: set[int] = set()
    end = 0
    for sentence in sentencex.segment(language, text):
        end += len(sentence)
        ends.add(end)
    return ends


def _unquoted(sentence: str) -> Iterator[str]:
    """Split a long sentence also at the sentence ends inside its quotation marks and brackets."""
    if len(sentence) <= LONG:
        yield sentence
        return

    def plain(mark: re.Match[str]) -> str:
        return "X" if sentence[mark.end() : mark.end() + 1].isalnum() else " "

    begin = 0
    for end in _ends(_QUOTE.sub(plain, sentence)):
        yield sentence[begin:end]
        begin = end


def _break(text: str) -> int:
    """Where to split a text without a sentence end: after its last clause, else its last word."""
    for mark in (_CLAUSE_END, _SPACE):
        ends = [match.end() for match in mark.finditer(text, len(text) // 2)]
        if ends:
            return ends[-1]
    return len(text)
