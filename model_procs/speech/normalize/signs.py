"""Addresses, Greek letters and other signs as words. Used in speech workers.

A sign is read where it has a meaning: an asterisk between two numbers is "times", around a word it
is nothing. A sign without a meaning becomes a space.
"""

from __future__ import annotations

import re

from model_procs.speech.normalize.languages import GREEK
from model_procs.speech.normalize.numbers import Rules, Speller

_TOP_DOMAINS = (
    "com|org|net|edu|gov|io|ai|dev|app|info|biz|eu|uk|de|fr|es|it|nl|pt|br|ch|at|us|ca|au|co|me"
)
_LONG_PATH = 60
"""Characters of the longest path of an address that is read; of a longer one only the host is."""
_SILENT = re.compile(r"[$€£¥₹₽₩₿′″‴*_#`~^|\\{}\[\]<>•▪◦‣●○■□★☆✓✔✗✘®™←↑↓⇐℠¶†‡¦¬]+")
_GREEK_WORD = re.compile(r"[\u0370-\u03ff\u1f00-\u1fffµ]+")


def without_named(text: str) -> str:
    """`text` without the letters of Greek that are read by their names."""
    return _GREEK_WORD.sub(lambda match: match.group() if len(match.group()) > 2 else "", text)


def address_rules(spell: Speller) -> Rules:
    """The rules for addresses in the web and of mails; before all others."""
    language = spell.language

    def named(text: str) -> str:
        text = text.replace(".", f" {language.dot} ").replace("@", f" {language.at} ")
        return re.sub(r"[-_+~%]+", " ", text)

    def mail(match: re.Match[str]) -> str:
        return f" {named(match.group().removeprefix('mailto:'))} "

    def web(match: re.Match[str]) -> str:
        written = match.group()
        end = written[len(written.rstrip(".,;:!?)'\"")) :]
        if end.startswith(")") and "(" in written:
            end = end[1:]
        address = re.sub(r"^(?:[a-z]+://)?(?:www\.)?", "", written[: len(written) - len(end)])
        host, _, path = address.partition("/")
        path = re.split(r"[?#]", path)[0].strip("/")
        host = re.split(r"[?#]", host)[0].replace(":", " : ")
        said = named(host.rpartition("@")[2])
        if path and len(path) <= _LONG_PATH:
            said += "".join(f" {language.slash} {named(part)}" for part in path.split("/") if part)
        return f" {said.strip()}{end} " if not end else f" {said.strip()}{end}"

    yield re.compile(r"(?<![\w.+-])(?:mailto:)?[\w+-]+(?:\.[\w+-]+)*@[\w-]+(?:\.[\w-]+)+\b"), mail
    yield re.compile(r"\b(?:https?|ftp)://[^\s<>\"“”|`\]]+|\bwww\.[^\s<>\"“”|`\]]+"), web
    yield re.compile(rf"(?<![\w.@-])(?:[\w-]+\.)+(?:{_TOP_DOMAINS})(?:/[\w./-]*)?(?![\w-])"), web


def comparison_rules(spell: Speller) -> Rules:
    """The rules for signs right before an amount: "<5 %", "~$10"."""
    say = spell.language.signs
    same = {"<=": "≤", ">=": "≥"}
    amount = r"\s?(?=[$€£]?\.?\d)"
    yield re.compile(rf"(?<![\w)])[~≈]{amount}"), lambda _: f" {spell.language.about} "
    yield (
        re.compile(rf"(?<![-=<>])(?:[<>]=|[<>≤≥]){amount}"),
        lambda match: f" {say[same.get(match.group().strip(), match.group().strip())]} ",
    )


def sign_rules(spell: Speller) -> Rules:
    """The rules for all other signs, while numbers are still digits."""
    language = spell.language
    say = language.signs

    def words(match: re.Match[str]) -> str:
        return f" {say[match.group().strip()]} "

    yield (
        re.compile(r"(?<![\w.,$])#\s?(?=\d)|№\s?|\b[Nn]°\s?(?=\d)"),
        lambda _: f" {language.number} ",
    )
    yield re.compile(r"(?<=\d)(?<!\b0)\s?[x×]\s?(?=\d)"), lambda _: f" {language.by} "
    yield re.compile(r"(?<=\d)\s?\*\*\s?(?=\d)"), lambda _: f" {language.power} "
    yield (
        re.compile(r"(?<=\d)\s?\*\s?(?=[\d(])|(?<=\b[A-Za-z])\*(?=[A-Za-z]\b)"),
        lambda _: f" {say['×']} ",
    )
    yield re.compile(r"(?<=[\d)])\s?/\s?(?=\()|(?<=[\d)])\s/\s(?=\d)"), lambda _: f" {say['÷']} "
    yield re.compile(r"(?<=[\w)])\s-\s(?=[\w(]+\s?=)|−"), lambda _: f" {language.minus} "
    yield re.compile(r"(?<=\d):(?=\d)"), lambda _: f" {language.to} "
    yield (
        re.compile(r"^(\d{1,3})[.)][ \t]+(?=[^\W\d])", re.MULTILINE),
        lambda match: (
            f"{match[1]}, "  # a number before a heading
        ),
    )
    yield re.compile(r"(?<!\S)\.{1,2}/(?=\w)"), lambda _: " "
    yield re.compile(r"\b([A-Z])#(?!\w)"), lambda match: f"{match[1]} sharp"
    if spell.code == "en":
        yield re.compile(r"\b[Ww]/(o)?(?!\w)"), lambda match: "without" if match[1] else "with"
        times = "second|minute|hour|day|week|month|year|person|item|page"
        yield re.compile(rf"(?<=[a-z])/(?=(?:{times})\b)"), lambda _: " per "
        yield re.compile(r"\b[Nn]o\.\s?(?=\d)"), lambda _: f"{language.number} "
    if spell.code == "de":
        yield re.compile(r"\bNr\.\s?(?=\d)"), lambda _: f"{language.number} "
    yield re.compile(r"(?<=\d)\s?[′″]"), words
    yield re.compile(r"&&"), lambda _: f" {say['&']} "
    yield re.compile(r"\b([A-Za-z])\+\+"), lambda match: f"{match[1]} {say['+']} {say['+']}"
    yield (
        re.compile(r"(?<=\w)\+(?!\w)|(?<=\w)\s*\+\s*(?=[\w(])|(?<!\S)\+(?=\d)"),
        lambda _: f" {say['+']} ",
    )
    yield re.compile(r"(?<!\S)<->(?!\S)|[<(]?(?:-{1,2}|=)>|[→⇒➡➜⟶↔⇔]"), lambda _: ", "
    yield (
        re.compile(r"<=|>=|!=|=="),
        lambda match: f" {say[{'<=': '≤', '>=': '≥', '!=': '≠', '==': '='}[match.group()]]} ",
    )
    yield re.compile(r"(?<=[\w)\]])\s*=\s*(?=[\w(\[\"'√−-])"), lambda _: f" {say['=']} "
    yield re.compile(r"<(?=\d)|(?<=\d)>|(?<=\w)\s[<>]\s(?=[\w(])"), words
    yield re.compile(r"(?<=[\w.])\s?&\s?(?=\w)|(?<!\S)&(?!\S)"), words
    yield re.compile(r"(?<![^\s(])@(?=\w)|(?<!\S)@(?!\S)"), lambda _: f" {language.at} "
    yield re.compile(r"[×·⋅÷≠≡≤≥±‰§©√∞∑∫∂∆∈≈](?=[\s\w(.,]|\Z)|[%¢]"), words
    yield (
        re.compile(r"(?<!\w)([$€£¥₹₽₩₿])(?!\w)"),
        lambda match: f" {language.money[match[1]].many} " if match[1] in language.money else " ",
    )
    yield (
        re.compile(r"(?<![\w/])(?:~?/[\w.-]+){2,}/?|(?<![\w/-])[\w-]+(?:/[\w.-]+){2,}"),
        lambda match: match.group().replace("/", f" {language.slash} ").replace("_", " "),
    )
    yield re.compile(r"(?<=\w)/(?=\w)"), lambda _: " "
    yield re.compile(r"(?<=[a-z0-9]{2})\.(?=[a-z][a-z0-9])"), lambda _: f" {language.dot} "
    yield re.compile(r"(?<=\w)\(\)"), lambda _: ""
    yield _GREEK_WORD, _greek


def last_rules() -> Rules:
    """The rules for signs that are not spoken; these need no language."""
    yield (
        re.compile(
            r"(?<=[^\W\d_])\[(s|d|n|t|e|ed|es|er|en|ly|ing)\]|\[([^\W\d_]{1,2})\](?=[^\W\d_]{2})"
        ),
        lambda match: match[1] or match[2],
    )
    yield re.compile(r"[“”„«»‹›]"), lambda match: '"' if match.group() in "“”„" else match.group()
    yield re.compile(r"(?<!\s)\s*\|\s*"), lambda _: ", "
    yield re.compile(r"[─━═—_=~*-]{3,}"), lambda match: " — " if "-" in match.group() else " "
    yield _SILENT, lambda _: " "
    yield re.compile(r"(?<=[(])\s+"), lambda _: ""
    yield re.compile(r",\s*(?=[,.;:!?](?!\d))"), lambda _: ""
    yield re.compile(r"(?<!\s)\s+(?=[,.;:!?](?:\s|\Z))"), lambda _: ""


def _greek(match: re.Match[str]) -> str | None:
    """A Greek letter by itself by its name; Greek words stay."""
    letters = match.group()
    if len(letters) > 2 or any(letter.lower() not in GREEK for letter in letters):
        return None
    before = match.string[match.start() - 1 : match.start()]
    after = match.string[match.end() : match.end() + 1]
    names = " ".join(GREEK[letter.lower()] for letter in letters)
    return f"{' ' if before.isalnum() else ''}{names}{' ' if after.isalnum() else ''}"
