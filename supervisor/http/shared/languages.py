"""Language codes and names that clients use, and the engines' codes. Runs in the front."""

from __future__ import annotations

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
    | {"cmn": "zh", "chi": "zh", "mandarin": "zh"}
    | {"zh-hk": "yue", "zh-mo": "yue", "zh-yue": "yue"}
)


def language_code(given: str | None) -> str:
    """The engines' code for a client's language; `auto` when the client sends none.

    Clients send codes of two or three letters, codes with a region (en-US), and names (english). An
    unknown language is returned unchanged, and the engine rejects it.
    """
    name = (given or "").strip().lower().replace("_", "-")
    first = name.partition("-")[0]
    return _CODES.get(name) or _CODES.get(first) or first or "auto"
