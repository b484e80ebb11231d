"""The notation of mixed voices."""

from __future__ import annotations

import pytest

from ipc.voice_mix import parse_mix


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("af_sky", {"af_sky": 1.0}),
        ("af_bella+af_sky", {"af_bella": 0.5, "af_sky": 0.5}),
        ("af_bella(2)+af_sky(1)", {"af_bella": 2 / 3, "af_sky": 1 / 3}),
        (" af_bella ( 0.25 ) + af_sky(0.75)", {"af_bella": 0.25, "af_sky": 0.75}),
        ("a+b+a", {"a": 2 / 3, "b": 1 / 3}),
        ("a(3)+b(0)", {"a": 1.0}),
    ],
)
def test_shares_add_up_to_one(text: str, shares: dict[str, float]) -> None:
    assert dict(parse_mix(text)) == pytest.approx(shares)


@pytest.mark.parametrize("text", ["", "+", "a+", "a(", "a(x)+b", "a(-1)+b", "a(0)+b(0)", "a+" * 20])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"mix|shares"):
        parse_mix(text)
