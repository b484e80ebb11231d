"""Amounts as words: money, units, per cent, fractions, ranges. Used in speech workers."""

from __future__ import annotations

import re

from model_procs.speech.normalize.numbers import (
    FRACTIONS,
    RAISED,
    SIGN,
    START,
    Rules,
    Speller,
    one_of,
)

_ORDINALS = {
    "en": "st|nd|rd|th",
    "fr": "er|re|ère|ème|e|nd|nde",
    "es": "[ºª°]",
    "it": "[ºª°]",
    "pt": "[ºª°]",
    "nl": "e|de|ste",
}
_LARGE = r"(?:[mbt]il?l?i|mrd|mio)[^\W\d]*"
"""Million, Milliarde, bilhões, trillion, ..."""
_LETTERS = frozenset(("m", "g", "s", "h", "l", "L", "t", "V", "W"))
"""Units that are letters: "5 s" may be one, "the 5 s." is not worth a guess."""
_WORDS = frozenset(("mi", "pt", "sec", "min", "oz"))


def rules(spell: Speller) -> Rules:
    """The rules for amounts; the first that match win."""
    amounts = _Amounts(spell)
    number, language = spell.number, spell.language
    money, unit = one_of(language.money), one_of(language.units)
    scale = (
        rf"(?:\s?({one_of(language.scales)})(?:\.(?=\s?(?:{money}))|(?![^\W_])))?(?:\s({_LARGE}))?"
    )
    minus = r"((?<![\w)\]])[-−–](?=[\d$€£¥₹A-Z]))?"
    per = r"(\s?/\s?(?=[^\W\d]))?"
    yield from _phones(spell)
    mixed = r"(?<![\w-])(?!\d+x\d+)(?=[a-z]*\d+[a-z]+\d)[a-z0-9]{6,}(?:-[a-z0-9]+)*(?![\w-])"
    yield re.compile(mixed, re.IGNORECASE), amounts.mixed
    yield re.compile(r"(?<=[$€£])\.(?=\d)"), lambda _: "0."
    yield re.compile(r"(?<=[%‰°])\s?[-–—]\s?(?=\d)"), lambda _: f" {language.to} "
    yield re.compile(r"(?:(?<![\w.,])|(?<=\b[vV]))\d+(?:\.\d+){2,}(?!\w)"), amounts.version
    yield (
        re.compile(rf"(?<=[\dkKmMbB])\s?[-–—]\s?(?=(?:{money})\s?\d)"),
        lambda _: f" {language.to} ",
    )
    low, high = rf"({money})\s?({number})", rf"({number})(?![\w/-])"
    yield (
        re.compile(rf"(?<![\w.,]){low}\s?[-–]\s?{high}"),
        lambda match: f"{match[2]} {language.to} {match[1]}{match[3]}",
    )
    yield (
        re.compile(rf"{minus}(?<![\w.,])({money})\s?({number}){scale}{per}", re.IGNORECASE),
        (amounts.money_before),
    )
    yield (
        re.compile(rf"{minus}{START}({number}){scale}\s?({money})(?!\w){per}", re.IGNORECASE),
        (amounts.money_after),
    )
    of_measure = rf"\s?(?:%|‰|°|(?:{unit})(?![\w²³]))"
    yield re.compile(rf"{START}({number})\s?[-–—−]\s?({number})(?={of_measure})"), amounts.to
    yield re.compile(rf"{SIGN}{START}({number})([\s-]?)({unit})(?![\w²³°]){per}"), amounts.unit
    yield re.compile(rf"{SIGN}{START}({number})\s?°(?!\w)"), amounts.degrees
    yield re.compile(rf"{SIGN}{START}({number})\s?([%‰])"), amounts.percent
    yield (
        re.compile(rf"(?<![\w.,/:-])({number})\s?[-–]\s?({number})(?![\w/:-]|[.,]\d)"),
        (amounts.range),
    )
    vulgar = "".join(FRACTIONS)
    yield re.compile(rf"{START}(\d+)?[\s⁄]?([{vulgar}])"), amounts.vulgar
    yield re.compile(rf"[{vulgar}]"), lambda match: f" {spell.fraction(*FRACTIONS[match.group()])} "
    yield (
        re.compile(r"(?<![\w.,/])(?:(\d{1,3})\s)?(\d{1,3})[/⁄](\d{1,3})(?![\w/]|[.,]\d)"),
        amounts.slash,
    )
    if spell.code in _ORDINALS:
        yield (
            re.compile(rf"(?<![\w.])(\d{{1,9}})(?:\.(?=[ºª]))?({_ORDINALS[spell.code]})(?![^\W_])"),
            amounts.ordinal,
        )
    if spell.code == "en":
        yield re.compile(rf"{START}(\d+)['′]\s?(\d{{1,2}})(?:[\"″”]|'')"), amounts.feet
        yield re.compile(r"(?<![\w.])['’]?(\d{1,3}0)['’]?s\b"), amounts.decade
    yield re.compile(r"(?<=[\w)\]])\^\(?([-−]?\d+|[A-Za-z])\)?"), amounts.power
    raised = "⁰¹²³⁴⁵⁶⁷⁸⁹"
    yield re.compile(rf"(?<=[\w)\]])(?:[⁺⁻]?[{raised}]+|[ⁿⁱ])"), amounts.raised
    yield (
        re.compile(rf"[⁺⁻₊₋]?[{raised}₀₁₂₃₄₅₆₇₈₉]+"),
        lambda match: f" {match.group().translate(RAISED)} ",
    )


def plain_rules(spell: Speller) -> Rules:
    """The rules for what is left: years and plain numbers, with their signs."""
    number, language = spell.number, spell.language

    def plain(match: re.Match[str]) -> str:
        written = match.group()
        said = spell.year(written) if spell.is_year(written) else spell.number_words(written)
        before = match.string[match.start() - 1 : match.start()]
        after = match.string[match.end() : match.end() + 1]
        return f"{' ' if before.isalnum() else ''}{said}{' ' if after.isalnum() else ''}"

    yield (
        re.compile(rf"(?:(?<![\w)\].,])|(?<=[=<>≤≥(]))[-–](?={number}(?!\d*-))"),
        (lambda _: f" {language.minus} "),
    )
    yield re.compile(r"(?<!\d)\.(?=\d)"), lambda _: f" {language.point} "
    yield re.compile(number), plain


def _phones(spell: Speller) -> Rules:
    """Numbers of telephones: digit by digit."""

    def say(match: re.Match[str]) -> str | None:
        groups = re.findall(r"\d+", match.group())
        if not 7 <= sum(map(len, groups)) <= 15:
            return None
        plus = f"{spell.language.signs['+']} " if match.group()[0] == "+" else ""
        return plus + ", ".join(map(spell.digits, groups))

    area = r"(?:\(\d{2,4}\)\s?|\d{1,4}[-.])"
    yield re.compile(r"(?<![\w+])\+\d[\d\s().-]{5,20}\d(?!\w)"), say
    yield re.compile(rf"(?<![\w.,$€£/-]){area}{{1,2}}\d{{3}}[-.]\d{{4}}(?![\w-])"), say
    yield re.compile(r"(?<![\w.,$€£/-])\d{3}-\d{4}(?![\w-]|[.,]\d)"), say
    yield (
        re.compile(r"(?<![\w.,$€£/-])\d+(?:-\d+){2,}(?![\w-])"),
        lambda match: ", ".join(map(spell.digits, match.group().split("-"))),
    )


class _Amounts:
    def __init__(self, spell: Speller) -> None:
        self._spell = spell
        self._language = spell.language
        self._money = {name.upper(): money for name, money in spell.language.money.items()}
        self._scales = {name.upper(): word for name, word in spell.language.scales.items()}

    def version(self, match: re.Match[str]) -> str:
        """2.0.1."""
        parts = match.group().split(".")
        before = match.string[match.start() - 1 : match.start()]
        said = f" {self._language.dot} ".join(map(self._spell.whole, parts))
        return f" {said}" if before.isalpha() else said

    def mixed(self, match: re.Match[str]) -> str:
        """A key of digits and letters: a1b2c3."""
        return re.sub(r"\d", lambda digit: f" {self._spell.digits(digit.group())} ", match.group())

    def money_before(self, match: re.Match[str]) -> str:
        """$5."""
        minus, money, number, scale, large, per = match.groups()
        return self._price(minus, number, scale, large, money) + self._per(per)

    def money_after(self, match: re.Match[str]) -> str:
        """5 €."""
        minus, number, scale, large, money, per = match.groups()
        return self._price(minus, number, scale, large, money) + self._per(per)

    def _per(self, slash: str | None) -> str:
        return f" {self._language.per} " if slash else ""

    def _price(
        self, minus: str | None, number: str, scale: str | None, large: str | None, name: str
    ) -> str:
        money, spell = self._money[name.upper()], self._spell
        sign = spell.sign(minus)
        if scale or large:
            words = [self._scales[scale.upper()]] if scale else []
            words += [large] if large else []
            return f"{sign}{spell.number_words(number)} {' '.join(words)} {money.many}"
        whole, fraction = spell.parts(number)
        if len(fraction) != 2 or not money.cent:
            return sign + spell.count(number, (money.one, money.many))
        cents = str(int(fraction))
        small = "" if cents == "0" else spell.count(cents, (money.cent, money.cents))
        if not small or int(whole):
            large_words = spell.count(whole, (money.one, money.many))
            small = f"{large_words} {self._language.and_} {small}" if small else large_words
        return sign + small

    def unit(self, match: re.Match[str]) -> str | None:
        """5 km."""
        sign, number, between, unit, per = match.groups()
        after = match.string[match.end() : match.end() + 2]
        if unit in _LETTERS and between == "-":
            return None
        if unit in _WORDS and (not between or between == "-") and unit != "min":
            return None
        if unit == "s" and not between and number.endswith("0") and len(number) in (2, 4):
            return None  # the 90s
        if after[:1] == "." and after[1:].isalnum():
            return None
        if between == "-":  # a 5-km run
            return f"{self._spell.number_words(number)} {self._language.units[unit][0].split()[-1]}"
        amount = self._spell.count(number, self._language.units[unit])
        return self._spell.sign(sign) + amount + self._per(per)

    def degrees(self, match: re.Match[str]) -> str:
        """90°."""
        return self._spell.sign(match[1]) + self._spell.count(match[2], self._language.degrees)

    def percent(self, match: re.Match[str]) -> str:
        """5 %."""
        said = self._spell.number_words(match[2])
        return f"{self._spell.sign(match[1])}{said} {self._language.signs[match[3]]}"

    def to(self, match: re.Match[str]) -> str:
        """5-10 (kg)."""
        first, second = match.groups()
        return f"{self._spell.number_words(first)} {self._language.to} {second}"

    def range(self, match: re.Match[str]) -> str | None:
        """5-10; not a score, nor the number of a part."""
        first, second = match.groups()
        spaced = " " in match.group() or "\xa0" in match.group()
        if "-" in match.group() and spaced:
            return None  # a dash
        values = [float(".".join(self._spell.parts(each))) for each in (first, second)]
        if any(len(each) > 1 and each[0] == "0" for each in (first, second)):
            return None
        short = len(second) == 2 and len(first) == 4 and first[2:] < second  # 1984-85
        if values[0] >= values[1] and not short:
            return f"{first}, {second}" if "-" in match.group() else None
        return f"{first} {self._language.to} {second}"

    def vulgar(self, match: re.Match[str]) -> str:
        """2½."""
        fraction = self._spell.fraction(*FRACTIONS[match[2]])
        if match[1] is None:
            return f" {fraction} "
        return self._mixed(match[1], fraction)

    def _mixed(self, whole: str, fraction: str) -> str:
        if self._spell.code == "en" and fraction.startswith("one "):
            fraction = "a " + fraction.removeprefix("one ")
        return f"{self._spell.whole(whole)} {self._language.and_} {fraction} "

    def slash(self, match: re.Match[str]) -> str | None:
        """3/4, 2 1/2, 24/7."""
        whole, above, below = match.groups()
        small = 0 < int(above) < int(below) <= 10 or (0 < int(above) < int(below) in (16, 100))
        if not small:
            said = f"{above} {self._language.slash if self._spell.code != 'en' else ''} {below}"
            return f"{whole} {said}" if whole else said
        fraction = self._spell.fraction(int(above), int(below))
        return self._mixed(whole, fraction).rstrip() if whole else fraction

    def ordinal(self, match: re.Match[str]) -> str | None:
        """3rd."""
        said = self._spell.ordinal(int(match[1]))
        if match[2] == "ª" or match[2] in ("re", "ère"):
            said = said[:-1] + "a" if said.endswith("o") else said.replace("premier", "première")
        return said

    def feet(self, match: re.Match[str]) -> str:
        """5'10"."""
        feet = self._spell.count(match[1], ("one foot", "feet"))
        return f"{feet} {self._spell.count(match[2], ('one inch', 'inches'))}"

    def decade(self, match: re.Match[str]) -> str | None:
        """1990s."""
        digits = match[1]
        if len(digits) == 3 or digits == "0":
            return None
        said = self._spell.year(digits) if len(digits) == 4 else self._spell.whole(digits)
        return said.removesuffix("y") + "ies" if said.endswith("y") else f"{said}s"

    def power(self, match: re.Match[str]) -> str:
        """x^2."""
        return self._power(match[1])

    def raised(self, match: re.Match[str]) -> str:
        """x²; but a number raised behind a word is a note."""
        before = re.search(r"[^\W\d_]+\Z", match.string[: match.start()])
        exponent = match.group().translate(RAISED).replace("ⁿ", "n").replace("ⁱ", "i")
        if before and len(before.group()) > 2 and exponent not in ("2", "3"):
            return f" {exponent} "
        return self._power(exponent)

    def _power(self, exponent: str) -> str:
        simple = {"2": self._language.squared, "3": self._language.cubed}
        exponent = exponent.replace("-", f"{self._language.minus} ").replace("+", "")
        exponent = exponent.replace("−", f"{self._language.minus} ")
        return f" {simple.get(exponent) or f'{self._language.power} {exponent}'} "
