"""Spaces between pieces of text, depending on their scripts. Used in every process.

Workers join the pieces of a transcript, and the front joins its segments. Both must get the same
text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable


def join(texts: Iterable[str]) -> str:
    """Concatenate `texts`, with a space in between where the scripts use spaces."""
    whole = ""
    for text in texts:
        whole += seam(whole, text) + text
    return whole


def seam(before: str, after: str) -> str:
    """The separator between two texts: a space, or "" when both scripts use no spaces."""
    if not before or not after or (spaceless(before[-1]) and spaceless(after[0])):
        return ""
    return " "


def spaceless(character: str) -> bool:
    """Whether `character` is Chinese or Japanese, including punctuation: scripts without spaces."""
    return unicodedata.east_asian_width(character) in "WF" and not unicodedata.name(
        character, ""
    ).startswith("HANGUL")
