"""Dates and times of day as words. Used in speech workers."""

from __future__ import annotations

import re

from model_procs.speech.normalize.numbers import START, Rules, Speller, one_of

_UTC = r"(?:T(?=\d)|(?=[\s,.;:!?)]|\Z))"
_DAY_FORMS = {"fr": {1: "premier"}, "it": {1: "primo"}, "pt": {1: "primeiro"}}
"""Languages that use an ordinal for the first day of a month only."""


def rules(spell: Speller) -> Rules:
    """The rules for dates and times; the first that match win."""
    dates, clock = _Dates(spell), _Clock(spell)
    months = one_of(spell.language.months)
    until = r"(\d|[ap]\.?m\.?)\s?[-–—]\s?(?=\d{1,2}(?::\d\d|\s?[ap]\.?m\b))"
    yield re.compile(until, re.IGNORECASE), lambda match: f"{match[1]} {spell.language.to} "
    yield re.compile(rf"{START}(\d{{4}})-(\d\d?)-(\d\d?){_UTC}"), dates.iso
    yield re.compile(rf"{START}(\d\d?)([./-])(\d\d?)\2(\d{{4}})(?![\w-])"), dates.short
    yield re.compile(rf"{START}(\d\d?)(/)(\d\d?)/(\d\d)(?![\w/-])"), dates.short
    if spell.code == "en":
        nth = r"(?:st|nd|rd|th)?"
        short = r"(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?"
        yield re.compile(rf"\b({months}|{short})\s+(\d\d?){nth}(?![\w:%]|[.,]\d)"), dates.month_day
        yield (
            re.compile(
                rf"{START}(\d\d?){nth}\s+(?:of\s+)?({months}|{short}(?=,?\s\d{{4}}))(?![^\W_])"
            ),
            dates.day_month,
        )
        hour = r"(1[0-2]|[1-9])"
        yield re.compile(rf"{START}{hour}\s?([APap])(?:\.\s?[Mm]\.|[Mm]\b)"), clock.hour
    else:
        nth, of = r"(?:\.|er|º|°)?", r"(\s+(?:de\s+)?)"
        yield re.compile(rf"{START}(\d\d?){nth}{of}({months})\b"), dates.day_of_month
    if spell.code == "de":
        before = r"((?:am|vom|zum|dem|den|im|beim|ab|seit|bis)\s)?"
        yield re.compile(rf"\b{before}(?<![\w.,])(\d{{1,3}})\.(?=\s[a-zäöü])"), dates.german
        article = r"([Dd](?:er|ie|as|es)\s)"
        yield re.compile(rf"\b{article}(\d{{1,3}})\.(?=\s[A-ZÄÖÜ])"), dates.german
    between = "[:hH]" if spell.code == "fr" else ":"
    half = r"(?:\s?([APap])(?:\.\s?[Mm]\.|[Mm]\b))?" if spell.code == "en" else "()"
    unit = r"(?:\s(?:Uhr|heures|horas|uur)\b)?"
    yield (
        re.compile(
            rf"{START}([01]?\d|2[0-4]){between}([0-5]\d)(?::([0-5]\d))?{half}{unit}(?![\w:]|[.,]\d)"
        ),
        clock.time,
    )


class _Dates:
    def __init__(self, spell: Speller) -> None:
        self._spell = spell
        self._months = spell.language.months

    def iso(self, match: re.Match[str]) -> str | None:
        """2026-11-28."""
        said = self._date(match, int(match[3]), int(match[2]), match[1])
        return f"{said} " if said and match.group()[-1] == "T" else said

    def short(self, match: re.Match[str]) -> str | None:
        """11/28/2026 in English, 28.11.2026 and 28/11/2026 elsewhere."""
        first, second, year = int(match[1]), int(match[3]), match[4]
        if len(year) == 2:
            year = f"{'20' if year < '70' else '19'}{year}"
        month_first = self._spell.code == "en" and match[2] != "." and first <= 12
        day, month = (second, first) if month_first else (first, second)
        return self._date(match, day, month, year)

    def _date(self, match: re.Match[str], day: int, month: int, year: str) -> str | None:
        if not (1 <= month <= 12 and 1 <= day <= 31):
            return None
        spell, name = self._spell, self._months[month - 1]
        years = spell.year(year)
        match spell.code:
            case "en":
                return f"{name} {spell.ordinal(day)} {years}"
            case "de":
                return f"{self._german_day(day, match)} {name} {years}"
            case "es" | "pt":
                return f"{self._day(day)} de {name} de {years}"
            case _:
                return f"{self._day(day)} {name} {years}"

    def _german_day(self, day: int, match: re.Match[str]) -> str:
        before = match.string[: match.start()].rsplit(None, 1)[-1:]
        case = "n" if before and before[0].lower() in _GERMAN_CASES else "r"
        return self._spell.ordinal(day) + case

    def _day(self, day: int) -> str:
        special = _DAY_FORMS.get(self._spell.code, {})
        return special.get(day) or self._spell.whole(str(day))

    def month_day(self, match: re.Match[str]) -> str | None:
        """November 28."""
        day = int(match[2])
        return f"{self._month(match[1])} {self._spell.ordinal(day)}" if 1 <= day <= 31 else None

    def day_month(self, match: re.Match[str]) -> str | None:
        """28 November."""
        day = int(match[1])
        month = self._month(match[2])
        return f"the {self._spell.ordinal(day)} of {month}" if 1 <= day <= 31 else None

    def _month(self, name: str) -> str:
        """The full name of a month that may be written in short."""
        return next(month for month in self._months if month.startswith(name[:3]))

    def day_of_month(self, match: re.Match[str]) -> str | None:
        """3. Mai, 3 mai, 3 de mayo."""
        day = int(match[1])
        if not 1 <= day <= 31:
            return None
        if self._spell.code == "de":
            return f"{self._german_day(day, match)} {match[3]}"
        return f"{self._day(day)}{match[2]}{match[3]}"

    def german(self, match: re.Match[str]) -> str:
        """Der 3. große, am 3. großen."""
        before = match[1] or ""
        case = "n" if before.strip().lower() in _GERMAN_CASES else ""
        return f"{before}{self._spell.ordinal(int(match[2]))}{case}"


_GERMAN_CASES = frozenset(
    ("am", "vom", "zum", "dem", "den", "im", "beim", "ab", "seit", "bis", "des")
)
"""Words after which an ordinal has the ending -n."""


class _Clock:
    def __init__(self, spell: Speller) -> None:
        self._spell = spell

    def hour(self, match: re.Match[str]) -> str:
        """5 pm."""
        end = "." if match.group()[-1] == "." and _ends(match) else ""
        return f"{self._spell.whole(match[1])} {match[2].lower()} m{end}"

    def time(self, match: re.Match[str]) -> str:
        """14:30."""
        spell, hour, minute, second = self._spell, match[1], match[2], match[3]
        said = spell.whole(str(int(hour)))
        if spell.code != "en":
            full, between = spell.language.clock
            minutes = "" if minute == "00" else f" {spell.whole(str(int(minute)))}"
            said += f" {between}{minutes}" if minutes else f" {full}"
        elif minute != "00":
            said += (
                f" oh {spell.whole(minute[1])}" if minute[0] == "0" else f" {spell.whole(minute)}"
            )
        elif not match[4] and not second:
            said += " o'clock" if 1 <= int(hour) <= 12 else " hundred"
        if second:
            words = spell.language.units["s"]
            said += f" {spell.language.and_} {spell.count(str(int(second)), words)}"
        if match[4]:
            end = "." if match.group()[-1] == "." and _ends(match) else ""
            said += f" {match[4].lower()} m{end}"
        return said


def _ends(match: re.Match[str]) -> bool:
    """Whether the dot of "p.m." also ends the sentence."""
    rest = match.string[match.end() : match.end() + 2]
    return not rest.strip() or rest[-1].isupper()
