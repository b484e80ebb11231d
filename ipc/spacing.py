"""Where texts stand together with a blank between them, and where without. Used in every process.

Workers join the pieces of a transcript, the front its segments; both must get the same text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable


def join(texts: Iterable[str]) -> str:
    """`texts` one after the other, with a blank wherever their scripts have one."""
    whole = ""
    for text in texts:
        whole += seam(whole, text) + text
    return whole


def seam(before: str, after: str) -> str:
    """What stands between two texts: nothing where both are in a script without blanks."""
    if not before or not after or (spaceless(before[-1]) and spaceless(after[0])):
        return ""
    return " "


def spaceless(character: str) -> bool:
    """Whether `character` belongs to Chinese or Japanese, their punctuation included."""
    return unicodedata.east_asian_width(character) in "WF" and not unicodedata.name(
        character, ""
    ).startswith("HANGUL")
