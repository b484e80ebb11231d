"""Mixes of built-in voices: `af_bella+af_sky`, or with shares `af_bella(2)+af_sky(1)`.

Used in the front and in speech workers. The notation is that of Kokoro-FastAPI's users.
"""

from __future__ import annotations

import re

_PART = re.compile(r"\s*([^()+]+?)\s*(?:\(\s*(\d+(?:\.\d+)?)\s*\))?\s*")
_MOST_PARTS = 16


def parse_mix(text: str) -> tuple[tuple[str, float], ...]:
    """The voices in `text` with their shares, which add up to 1; one voice alone has it all.

    Raises `ValueError` with what is wrong.
    """
    parts = text.split("+")
    if len(parts) > _MOST_PARTS:
        raise ValueError(f"a mix has at most {_MOST_PARTS} voices")
    weights: dict[str, float] = {}
    for part in parts:
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(
                f"{text!r} is no mix of voices; write name+name, or name(2)+name(1) with shares"
            )
        name, weight = match.groups()
        weights[name] = weights.get(name, 0.0) + (1.0 if weight is None else float(weight))
    total = sum(weights.values())
    if total <= 0:
        raise ValueError(f"the shares in {text!r} are all 0; give one voice more")
    return tuple((name, weight / total) for name, weight in weights.items() if weight)
