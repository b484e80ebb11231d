"""The names by which clients know a language."""

from __future__ import annotations

import pytest

from supervisor.http.shared.languages import language_code


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
    ],
)
def test_a_language_has_many_names(given: str | None, code: str) -> None:
    assert language_code(given) == code
