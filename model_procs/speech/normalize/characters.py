"""Replace or drop characters that no engine can speak or that only look like others.

Used in speech workers. Without this, one odd character in a text makes an engine fail, or makes it
miss a word: soft hyphens, zero-width characters, letters of mathematical alphabets, lone halves of
surrogate pairs. What has a name and may be meant ("µ", "→", "²") is left to `signs`.
"""

from __future__ import annotations

import re
import unicodedata

from model_procs.speech.normalize.mapped import Mapped

_ODD = re.compile(r"[^\n\t\x20-\x7e]+")
_ODD_WITH_BASE = re.compile(r"[A-Za-z]?[^\n\t\x20-\x7e]+")
"""The same with the letter before it, which an accent may belong to."""
_LONG_RUN = re.compile(r"([^\w\s])\1{11,}")
"""Lines drawn with signs; parsers take long for thousands of brackets."""
_CRLF = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_APOSTROPHE = re.compile(
    r"(?<=\w)[\u2018\u2019\u201b\u02b9\u02bb\u02bc\u02bd\u02c8\u2032\ua78c\uff07](?=[^\W\d])"
    r"|(?<=[A-Za-z])[`´](?=(?:s|t|m|re|ve|ll|d)\b)"
    r"|[\u02bc\u2019\uff07](?=(?:s|t|m|re|ve|ll|d|em|cause|til|tis|twas)\b)"
)
_HYPHENS = "\u2010\u2011\u2012\u2043\ufe63\uff0d"
_KEPT_COMPATIBLE = frozenset("ªº²³¹¼½¾…™µ′″‴№℠ℓ‰‱")
"""Characters that Unicode takes for others, but that are read in another way."""
_READ = frozenset("°©¦➡➜")
"""Symbols that `signs` reads."""
_WIDE_PUNCTUATION = frozenset("！？，．：；（）")
"""Punctuation of Chinese and Japanese, by which sentences are split."""
_SPACE = "\u00a0"
"""A space that belongs into a number or between a number and its unit."""
_NARROW = frozenset("\u00a0\u2007\u2009\u202f\u2008")
_UNSPOKEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn"))
_JOINERS = frozenset("\u200c\u200d")


def clean(text: Mapped, *, normalize: bool) -> None:
    """Clean `text`; with `normalize` also replace characters that only look like others.

    Without it only characters go that make an engine fail and that nobody sees.
    """
    if normalize:
        text.replace(_LONG_RUN, lambda match: match[1] * 3)
    if text.text.isascii() and text.text.isprintable():
        return
    text.replace(_CRLF, lambda _: "\n")
    text.replace(_ODD, _visible)
    if normalize:
        text.replace(_APOSTROPHE, lambda _: "'")
        text.replace(_ODD_WITH_BASE, _plain)


def _visible(match: re.Match[str]) -> str:
    """The run without what is not seen."""
    said: list[str] = []
    run = match.group()
    for index, character in enumerate(run):
        category = unicodedata.category(character)
        if category == "Cc":
            said.append(" ")
        elif category in _UNSPOKEN:
            if character in _JOINERS and _joins(run, index):
                said.append(character)  # it forms the letters of Persian and of India's scripts
            elif category != "Cf":
                said.append(" ")
        elif not 0xFE00 <= ord(character) <= 0xFE0F:  # variants of a glyph
            said.append(character)
    return "".join(said)


def _joins(run: str, index: int) -> bool:
    around = run[index - 1 : index] + run[index + 1 : index + 2]
    return any("\u0600" <= each <= "\u0dff" for each in around)


def _plain(match: re.Match[str]) -> str:
    """The run with its usual characters instead of those that look alike; emoji are dropped."""
    said: list[str] = []
    for character in unicodedata.normalize("NFC", match.group()):
        category = unicodedata.category(character)
        if character in _NARROW:
            said.append(_SPACE)
        elif category[0] == "Z":
            said.append(" ")
        elif character in _HYPHENS:
            said.append("-")
        elif category in ("So", "Sk") and _is_picture(character):
            said.append(" ")
        elif category == "Nd":
            said.append(str(unicodedata.digit(character)))
        elif category[0] == "M":
            # After a letter of Latin only heaps of accents are left, which are decoration.
            if category != "Me" and said and ord(said[-1][-1]) >= 0x0590:
                said.append(character)
        elif character in _KEPT_COMPATIBLE or _is_raised(character) or _is_fraction(character):
            said.append(character)
        elif character not in _WIDE_PUNCTUATION:
            said.append(_usual(character, category))
        else:
            said.append(character)
    return "".join(said)


def _is_picture(character: str) -> bool:
    """Whether a symbol is an emoji or an ornament: no engine speaks it."""
    return character not in _READ and unicodedata.normalize("NFKC", character) == character


def _usual(character: str, category: str) -> str:
    """A character in its usual form ("ﬁ", "𝐇", "Ⅳ", "①", "㎞", "℃", "＄")."""
    usual = unicodedata.normalize("NFKC", character)
    if usual != character and category in ("No", "So"):
        return f" {usual.strip('()')} " if usual[:1].isalnum() else usual
    return usual


def _is_raised(character: str) -> bool:
    """Whether it is a digit or sign above or below the line; such letters are read as letters."""
    raised = unicodedata.decomposition(character).startswith(("<super>", "<sub>"))
    return raised and (unicodedata.category(character) in ("No", "Sm") or character in "ⁿⁱ")


def _is_fraction(character: str) -> bool:
    return unicodedata.decomposition(character).startswith("<fraction>")
