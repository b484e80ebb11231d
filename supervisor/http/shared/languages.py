"""Language codes and names that clients use, and the engines' codes. Runs in the front."""

from __future__ import annotations

import re

from aiohttp import web

from ipc.operations import AUTO_LANGUAGE
from supervisor.http.context import warn

ENGLISH_NAMES = {
    "zh": "chinese",
    "en": "english",
    "yue": "cantonese",
    "ja": "japanese",
    "ko": "korean",
}
"""The engines' codes, and OpenAI's names for them."""

ISO_639_3 = {
    "en": "eng",
    "zh": "zho",
    "yue": "yue",
    "ja": "jpn",
    "ko": "kor",
    "nospeech": "zxx",
}
"""The engines' codes, and ElevenLabs' codes for them. zxx means "no linguistic content"."""

_CODES = (
    {name: code for code, name in ENGLISH_NAMES.items()}
    | {name: code for code, name in ISO_639_3.items()}
    | {"cmn": "zh", "chi": "zh", "mandarin": "zh", "中文": "zh", "汉语": "zh", "普通话": "zh"}
    | {"zh-hk": "yue", "zh-mo": "yue", "zh-yue": "yue", "粤语": "yue", "廣東話": "yue"}
    | {"日本語": "ja", "한국어": "ko"}
)

_MISTAKEN = {"jp": "ja", "jap": "ja", "cn": "zh", "kr": "ko", "hk": "yue", "us": "en", "gb": "en"}
"""Codes of countries, and others that are no code of a language, where only one can be meant."""

_NOT_KNOWN = frozenset(
    (
        *("undefined", "null", "none", "nan", "nil", "unknown", "und", "mul", "multi"),
        *("detect", "auto-detect", "autodetect", "automatic", "default", "any", "all"),
    )
)
"""What clients send when they know no language."""


def language_code(given: str | None) -> str:
    """The engines' code for a client's language; `auto` when the client sends none.

    Clients send codes of two or three letters, codes with a region (en-US), and names (english). An
    unknown language is returned unchanged, and the engine rejects it.
    """
    name = (given or "").strip().lower().replace("_", "-")
    if name in _NOT_KNOWN:
        return AUTO_LANGUAGE
    first = re.split(r"[-\s(]", name, maxsplit=1)[0]
    return _CODES.get(name) or _CODES.get(first) or _MISTAKEN.get(first) or first or AUTO_LANGUAGE


def language_hint(request: web.Request, given: str | None) -> str:
    """`language_code`; warns the client if its value is no language."""
    name = (given or "").strip().lower()
    code = language_code(given)
    if name in _NOT_KNOWN or re.split(r"[-_\s(]", name, maxsplit=1)[0] in _MISTAKEN:
        warn(request, f"the language {name} was taken for {code}")
    return code
