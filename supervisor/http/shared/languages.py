"""What clients call the languages of recordings. Runs in the front."""

from __future__ import annotations

ENGLISH_NAMES = {
    "zh": "chinese",
    "en": "english",
    "yue": "cantonese",
    "ja": "japanese",
    "ko": "korean",
}
"""The engines' codes and OpenAI's words for them."""

ISO_639_3 = {
    "en": "eng",
    "zh": "zho",
    "yue": "yue",
    "ja": "jpn",
    "ko": "kor",
    "nospeech": "zxx",
}
"""The engines' codes and ElevenLabs'; zxx stands for "no linguistic content"."""

_CODES = (
    {name: code for code, name in ENGLISH_NAMES.items()}
    | {name: code for code, name in ISO_639_3.items()}
    | {"cmn": "zh", "chi": "zh", "mandarin": "zh"}
    | {"zh-hk": "yue", "zh-mo": "yue", "zh-yue": "yue"}
)


def language_code(given: str | None) -> str:
    """The engines' code for what a client calls a language: `auto` for nothing.

    Clients send codes of two and of three letters, with a region behind them (en-US), and names
    (english). What is not known stays as it is, for the engine to refuse.
    """
    name = (given or "").strip().lower().replace("_", "-")
    first = name.partition("-")[0]
    return _CODES.get(name) or _CODES.get(first) or first or "auto"
