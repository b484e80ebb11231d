"""Numbers as words in one language. Used in speech workers.

num2words makes the words of whole numbers, ordinals and years. It knows all languages of the
engines, has no dependencies at run time and imports in 20 ms.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Literal

from num2words import num2words

from model_procs.speech.normalize.languages import Language

Say = Callable[[re.Match[str]], str | None]
Rule = tuple[re.Pattern[str], Say]
Rules = Iterator[Rule]

START = r"(?<![\w.,])"
"""Before a number that is not part of a longer word or number."""
SIGN = r"((?<![\w)\]%°])[-−–+±](?=[\d.]))?"
"""The sign of a number, if it has one."""

_LONGEST = 15
"""Digits of the longest number that is read as one; a longer one is read digit by digit."""
_TOGETHER = 4
"""Digits of a long number that are read without a pause."""
_SEPARATORS = re.compile(r"[ \xa0.,]")
_FEW_DECIMALS = re.compile(r"\d+\.\d{1,2}")

RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻₀₁₂₃₄₅₆₇₈₉₊₋", "0123456789+-0123456789+-")
FRACTIONS = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5),
    "⅗": (3, 5), "⅘": (4, 5), "⅙": (1, 6), "⅚": (5, 6), "⅐": (1, 7), "⅛": (1, 8), "⅜": (3, 8),
    "⅝": (5, 8), "⅞": (7, 8), "⅑": (1, 9), "⅒": (1, 10),
}  # fmt: skip


class Speller:
    """Spells numbers in one language. `number` is the pattern of a number without its sign."""

    def __init__(self, code: str, language: Language) -> None:
        self.code = code
        self.language = language
        if language.comma:
            group = r"[. \xa0]" if code == "fr" else r"[.\xa0]"
            grouped, decimals = (
                rf"\d{{1,3}}(?:{group}\d{{3}})+(?!\d)",
                r"(?:,\d+|\.\d{1,2}(?![\d.]))?",
            )
        else:
            grouped, decimals = r"\d{1,3}(?:[,\xa0]\d{3})+(?!\d)", r"(?:\.\d+)?"
        self.number = rf"(?:{grouped}|\d+){decimals}"

    def number_words(self, written: str) -> str:
        """A number as it matched `number`."""
        whole, fraction = self.parts(written)
        if not fraction:
            return self.whole(whole)
        digits = self.digits(fraction)
        return f"{self.whole(whole.lstrip('0') or '0')} {self.language.point} {digits}"

    def parts(self, written: str) -> tuple[str, str]:
        """The digits before and after the decimal point."""
        point = "," if self.language.comma and not _FEW_DECIMALS.fullmatch(written) else "."
        whole, _, fraction = written.partition(point)
        return _SEPARATORS.sub("", whole), fraction

    def whole(self, digits: str) -> str:
        """A whole number; digit by digit if it is long or begins with a zero."""
        if len(digits) > _LONGEST:
            groups = (digits[at : at + _TOGETHER] for at in range(0, len(digits), _TOGETHER))
            return ", ".join(map(self.digits, groups))
        if len(digits) > 1 and digits[0] == "0":
            return self.digits(digits)
        return _words(int(digits), self.language.numbers, "cardinal")

    def digits(self, digits: str) -> str:
        """Each digit by itself."""
        return " ".join(_words(int(digit), self.language.numbers, "cardinal") for digit in digits)

    def year(self, digits: str) -> str:
        """A number of four digits, as years are read."""
        return _words(int(digits), self.language.numbers, "year")

    def is_year(self, written: str) -> bool:
        """Whether it may be a year; such numbers are read like years also when they are none."""
        return (
            self.code in ("en", "de")
            and len(written) == 4
            and written.isdigit()
            and ("1100" <= written < "2000" or (self.code == "en" and "2010" <= written < "2100"))
        )

    def ordinal(self, number: int) -> str:
        """Third, dritte, troisième."""
        return _words(number, self.language.numbers, "ordinal")

    def fraction(self, above: int, below: int) -> str:
        """Three quarters; in other languages than English "three over four" but for the simple."""
        one = dict(zip((2, 3, 4), self.language.fractions, strict=True))
        if below in one:
            single, several = one[below]
            return single if above == 1 else f"{self.whole(str(above))} {several}"
        if self.code == "en":
            several = "" if above == 1 else "s"
            return f"{self.whole(str(above))} {self.ordinal(below)}{several}"
        return f"{self.whole(str(above))} {self.language.over} {self.whole(str(below))}"

    def count(self, written: str, words: tuple[str, str]) -> str:
        """A number of something: one kilometer, two kilometers."""
        return words[0] if written == "1" else f"{self.number_words(written)} {words[1]}"

    def sign(self, written: str | None) -> str:
        """The words of a sign before a number, with a space."""
        if not written:
            return ""
        return f"{self.language.signs[written] if written in '+±' else self.language.minus} "


@lru_cache(maxsize=4096)
def _words(number: int, language: str, form: Literal["cardinal", "ordinal", "year"]) -> str:
    said = str(num2words(number, lang=language, to=form))
    return said.replace(",", "").replace("\xad", "")


def one_of(words: object) -> str:
    """A pattern for the words, the longest first."""
    assert isinstance(words, dict | tuple)
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
