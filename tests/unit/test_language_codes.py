"""The names by which clients know a language."""

from __future__ import annotations

import pytest

from supervisor.http.shared.languages import ENGLISH_NAMES, ISO_639_3, language_code


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (None, "auto"),
        ("", "auto"),
        (" ", "auto"),
        ("auto", "auto"),
        ("en", "en"),
        ("en-US", "en"),
        ("EN_gb", "en"),
        ("eng", "en"),
        ("English", "en"),
        ("zh-Hans-CN", "zh"),
        ("cmn", "zh"),
        ("zh-HK", "yue"),
        ("yue", "yue"),
        ("cantonese", "yue"),
        ("jpn", "ja"),
        ("fr-FR", "fr"),
        ("klingon", "klingon"),
        ("jp", "ja"),
        ("jp-JP", "ja"),
        ("cn", "zh"),
        ("kr", "ko"),
        ("undefined", "auto"),
        ("null", "auto"),
        ("None", "auto"),
        ("English (United States)", "en"),
        ("German", "de"),
        ("deu", "de"),
        ("ger", "de"),
        ("Haitian Creole", "ht"),
        ("nb-NO", "no"),
        ("fil-PH", "tl"),
    ],
)
def test_a_language_has_many_names(given: str | None, code: str) -> None:
    assert language_code(given) == code


@pytest.mark.neural
def test_all_of_whispers_languages_have_names_and_codes() -> None:
    from faster_whisper.tokenizer import _LANGUAGE_CODES

    assert set(ENGLISH_NAMES) == set(_LANGUAGE_CODES)
    assert set(ISO_639_3) == {*_LANGUAGE_CODES, "nospeech"}
    assert len(set(ENGLISH_NAMES.values())) == len(ENGLISH_NAMES)
    assert len(set(ISO_639_3.values())) == len(ISO_639_3)
    for code, name in ENGLISH_NAMES.items():
        assert (language_code(code), language_code(name), language_code(ISO_639_3[code])) == (
            code,
            code,
            code,
        )
        assert len(ISO_639_3[code]) == 3
