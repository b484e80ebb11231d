"""Decides which part of a text that is still being written can be spoken. Runs in the front.

Pure: it has no clock and makes no requests. All pieces that it gives out, one after the other, are
the text; nothing is lost and nothing comes twice.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import deque

LONGEST = 1_000
"""The most characters of one piece. What waits longer than that is spoken in several."""

_LONG = 300
"""So many characters without the end of a sentence are cut at a clause, or between two words.

Brackets and emphasis that stay open for longer are none.
"""

LEAST_TRIGGERED = 50
"""A text that shall be spoken if possible is cut at a clause when it has so many characters."""

_CLOSING = r"""["'”’»›)\]}*_~`」』）】〉》]"""
_END = re.compile(
    rf"(?P<dot>\.){_CLOSING}*\s+"
    rf"|[!?‽⁇⁈⁉؟۔।॥։።។။][.!?]*{_CLOSING}*\s+"
    rf"|[。！？｡]+{_CLOSING}*(?![。！？｡]|{_CLOSING})(?=.)\s*"
    r"|\n\s*\n"
    r"|\n(?=\s*(?:[-*+#>]|\d{1,3}[.)])\s)",
    re.DOTALL,
)
"""The end of a sentence with the space behind it, which tells that it is one. Also that of a
paragraph, or of an item of a list."""

_OVER = re.compile(rf"[.!?‽⁇⁈⁉؟۔।॥։።។။。！？｡…]{_CLOSING}*\s*\Z")
"""What a text ends with that is over, when no more comes."""

_CLAUSE = re.compile(r"[,;:،؛]\s+|[、，；：]|(?:\.{2,}|…)\s*(?=\S)|\s[-–—]\s+|—\s*|\n")
_SPACE = re.compile(r"\s+")
_BEFORE_DOT = re.compile(r"[^\s\"'“”‘’«»()\[\]*_`]+\Z")
_LETTERS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]\Z")
_BRACKET = re.compile(r"```|`|\*\*|__|~~|(?<![:;=-])[(\[]|[)\]]")
_PAIRS = {")": "(", "]": "["}

_ABBREVIATIONS = frozenset(
    (
        *("mr", "mrs", "ms", "mx", "dr", "prof", "sr", "jr", "st", "vs", "etc", "fig"),
        *("figs", "inc", "ltd", "corp", "dept", "est", "approx", "gen", "col", "sgt"),
        *("capt", "lt", "rev", "hon", "gov", "sen", "rep", "mt", "ave", "blvd", "rd", "ed"),
        *("eds", "vol", "pp", "cf", "al", "viz", "esp", "incl", "excl", "ca", "bzw", "usw"),
        *("evtl", "ggf", "inkl", "exkl", "nr", "abs", "tel", "vgl", "bspw", "sog", "hr"),
        *("fr", "bsp", "jh", "jhd", "str", "mme", "mlle", "mm", "sra", "srta", "ud", "uds"),
        *("pág", "dott", "avv", "sig", "dhr", "mevr", "bv", "dwz", "enz", "resp", "jan"),
        *("feb", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "okt", "nov", "dec"),
        *("dez", "mon", "tue", "tues", "wed", "thu", "thur", "thurs", "fri"),
    )
)
"""Words before a dot that ends no sentence, in languages that voices have."""


class LiveText:
    """The part of a text that has come, but is not spoken yet.

    A sentence can be spoken as soon as something follows it. With a `schedule`, the first piece
    waits until there are so many characters as its first number says, and so on; the last number
    holds for all that follow. `longest` is the most characters of a piece.
    """

    def __init__(self, schedule: tuple[int, ...] = (), longest: int = LONGEST) -> None:
        self.schedule = schedule
        self._longest = longest
        self._text = ""
        self._flushes: deque[int] = deque()
        """Places where a piece ends although no sentence may end there."""
        self._pieces = 0
        self._hurried = False
        self._triggered = False

    def __len__(self) -> int:
        """How many characters wait."""
        return len(self._text)

    @property
    def speakable(self) -> bool:
        """Whether there is a word in what waits."""
        return any(map(str.isalnum, self._text))

    def push(self, text: str, *, whole: bool = False) -> None:
        """More text. `whole`: it ends where a sentence does, if it looks like that."""
        if not text:
            return
        self._text += text
        self._hurried = False
        if whole and _OVER.search(text):
            self.flush()

    def flush(self) -> None:
        """All that has come shall be spoken now; a piece ends with it."""
        if self._text and (not self._flushes or self._flushes[-1] < len(self._text)):
            self._flushes.append(len(self._text))

    def trigger(self) -> None:
        """The same, if there is enough of it; a schedule does not hold for it."""
        self._triggered = True

    def hurry(self) -> None:
        """Nothing has come for a while: a clause, or whole words, shall be spoken now."""
        self._hurried = True

    def drop(self) -> str:
        """Forget what waits; returns it."""
        dropped, self._text = self._text, ""
        self._flushes.clear()
        self._hurried = self._triggered = False
        return dropped

    def take(self) -> str:
        """The next piece that can be spoken; "" if there is none yet."""
        end = self._next_end()
        if not end:
            return ""
        piece, self._text = self._text[:end], self._text[end:]
        self._flushes = deque(place - end for place in self._flushes if place > end)
        self._hurried = self._triggered = False
        self._pieces += 1
        return piece

    def _next_end(self) -> int:
        if self._flushes:
            if self._flushes[0] <= self._longest:
                return self._flushes[0]
            window = self._text[: self._longest]
            return (sentence_ends(window) or [0])[-1] or _soft_end(window) or self._longest
        window = self._text[: self._longest]
        end = self._ready(window)
        return end if any(map(str.isalnum, window[:end])) else 0

    def _ready(self, window: str) -> int:
        """Where the text ends that can be spoken although there was no flush."""
        least = 0
        if self.schedule and not self._triggered:
            least = self.schedule[min(self._pieces, len(self.schedule) - 1)]
            if len(self._text) < least:
                return 0
        if ends := sentence_ends(window):
            return ends[-1]
        if self._hurried and _OVER.search(window):
            return len(window)
        enough = self._triggered and len(window) >= LEAST_TRIGGERED
        if enough and not self._hurried and not least:
            clauses = [match.end() for match in _CLAUSE.finditer(window)]
            return clauses[-1] if clauses and clauses[-1] >= LEAST_TRIGGERED else 0
        if self._hurried or least or len(window) >= _LONG:
            return _soft_end(window) or (self._longest if len(window) == self._longest else 0)
        return 0


def sentence_ends(text: str) -> list[int]:
    """Where the sentences of `text` end that are complete, with the space behind them."""
    ends = []
    inside = _enclosed(text)
    for match in _END.finditer(text):
        if match["dot"] and not _is_end(text, match.start("dot")):
            continue
        if not _within(inside, match.end() if match.end() < len(text) else len(text) - 1):
            ends.append(match.end())
    return ends


def _is_end(text: str, dot: int) -> bool:
    """Whether the dot at this place can end a sentence: it may belong to a word or a number."""
    found = _BEFORE_DOT.search(text, max(0, dot - 40), dot)
    word = found[0] if found else ""
    if word.endswith("."):
        return False  # an ellipsis; the voice pauses there, but the sentence may go on
    if word.isdigit():
        return len(word) > 2  # "3." may be an ordinal number, or the number of an item
    return not _LETTERS.fullmatch(word) and word.lower() not in _ABBREVIATIONS


def _soft_end(text: str) -> int:
    """Where a text is cut that has no sentence: after its last clause, else its last word."""
    inside = _enclosed(text)
    for mark in (_CLAUSE, _SPACE):
        ends = [match.end() for match in mark.finditer(text)]
        ends = [end for end in ends if not _within(inside, min(end, len(text) - 1))]
        if ends and any(map(str.isalnum, text[: ends[-1]])):
            return ends[-1]
    return 0


def _enclosed(text: str) -> list[tuple[int, int]]:
    """The parts of `text` in brackets, code and emphasis: a piece must not end in them."""
    spans: list[tuple[int, int]] = []
    open_at: list[tuple[str, int]] = []
    for match in _BRACKET.finditer(text):
        mark, place = match[0], match.start()
        opening = _PAIRS.get(mark, mark)
        last = next((n for n in reversed(range(len(open_at))) if open_at[n][0] == opening), None)
        if last is not None and (mark in _PAIRS or mark not in "(["):
            begin = open_at[last][1]
            del open_at[last:]
            if place - begin <= _LONG or mark == "```":
                spans.append((begin, place))
        elif mark not in _PAIRS:
            open_at.append((mark, place))
    spans += [(begin, len(text)) for _, begin in open_at if len(text) - begin <= _LONG]
    return _merged(spans)


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def _within(spans: list[tuple[int, int]], place: int) -> bool:
    before = bisect_right(spans, (place, 0)) - 1
    return before >= 0 and spans[before][0] < place <= spans[before][1]
