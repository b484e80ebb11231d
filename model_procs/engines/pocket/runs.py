"""Split a text into runs that Pocket TTS can speak at once. Used in its workers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator

_RUN_TOKENS = 45
"""The longest run in tokens; the model takes 50 at most and skips words in longer texts."""

_CLAUSE_END = re.compile(r"[^\W\d_]{5}\.$|[!?…,;:。！？、，；：،؛؟।۔]$")
"""A full stop after a short word or a number may belong to it, so it does not end a clause."""
_CLOSING_MARKS = "\"'”’»)]」』"


def split_runs(text: str, count_tokens: Callable[[str], int]) -> list[str]:
    """Split `text` into runs, after a clause if possible, else after a word.

    Only whitespace is lost. A run ends at a clause only if it has at least a third of the longest
    length, because the model speaks very short texts badly.
    """
    runs: list[str] = []
    run: list[str] = []
    tokens = clause = clause_tokens = 0
    for word in text.split():
        for part in _split_word(word, count_tokens):
            count = count_tokens(part)
            if run and tokens + count > _RUN_TOKENS:
                cut, taken = (clause, clause_tokens) if clause else (len(run), tokens)
                runs.append(" ".join(run[:cut]))
                run, tokens = run[cut:], tokens - taken
                clause = 0
            run.append(part)
            tokens += count
            if tokens >= _RUN_TOKENS // 3 and _CLAUSE_END.search(part.rstrip(_CLOSING_MARKS)):
                clause, clause_tokens = len(run), tokens
    if run:
        runs.append(" ".join(run))
    return runs


def _split_word(word: str, count_tokens: Callable[[str], int]) -> Iterator[str]:
    """`word`, or equal slices of it when it alone is too long (scripts without spaces)."""
    slices = max(1, math.ceil(count_tokens(word) / _RUN_TOKENS))
    length = math.ceil(len(word) / slices)
    return (word[start : start + length] for start in range(0, len(word), length))
