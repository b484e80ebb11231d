"""Keys and rate limits: what is compared, what is counted, which settings are refused."""

from __future__ import annotations

import hmac
import re

import pytest

from supervisor.access.keys import Caller, Keys
from supervisor.access.ratelimit import RateLimit
from supervisor.settings import Settings

ANNA, BEN, ADMIN = "k-anna-2f81", "k-ben-77d0", "k-admin-03c9"


# Keys


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("API_KEY", "", "VOICE_ENGINE_API_KEY has an empty key"),
        ("API_KEY", "  ", "VOICE_ENGINE_API_KEY has an empty key"),
        ("API_KEYS", "", "entry 1 of VOICE_ENGINE_API_KEYS has no valid name"),
        ("API_KEYS", "anna:k-1,ben:", "entry 2 of VOICE_ENGINE_API_KEYS has an empty key"),
        ("API_KEYS", "anna:k-1,:k-2", "entry 2 of VOICE_ENGINE_API_KEYS has no valid name"),
        ("API_KEYS", "anna:k-1,", "entry 2 of VOICE_ENGINE_API_KEYS has no valid name"),
        ("API_KEYS", "anna:k-1 k", "an HTTP header cannot carry"),
        ("API_KEYS", "anna:k-1,ben:k-1", "anna and ben have the same key"),
        ("API_KEYS_FILE", "/dev/null", "/dev/null has no key"),
        ("API_KEYS_FILE", "/nowhere", "No such file"),
        ("ADMIN_KEY", "", "VOICE_ENGINE_ADMIN_KEY has an empty key"),
        ("CORS_ORIGINS", "app.example", "app.example is not an origin"),
        ("CORS_ORIGINS", "https://app.example/", "is not an origin"),
        ("RATE_LIMIT_PER_MINUTE", "-1", "rate_limit_per_minute"),
    ],
)
def test_bad_settings_refuse(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, complaint: str
) -> None:
    monkeypatch.setenv(f"VOICE_ENGINE_{variable}", value)
    with pytest.raises(ValueError, match=re.escape(complaint)) as refusal:
        Settings()
    assert "k-1" not in str(refusal.value)


def test_settings_do_not_show_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOICE_ENGINE_API_KEYS", f"anna:{ANNA}")
    monkeypatch.setenv("VOICE_ENGINE_ADMIN_KEY", ADMIN)
    settings = Settings()
    shown = f"{settings!r} {settings} {settings.model_dump()} {Settings.table()}"
    assert ANNA not in shown
    assert ADMIN not in shown
    assert settings.keys.find(ANNA) == Caller("anna")


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys([("anna", ANNA), ("ben", BEN)], admin=ADMIN)
    lengths: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def compare(known: bytes, given: bytes) -> bool:
        lengths.append((len(known), len(given)))
        return real(known, given)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for key, caller in (
        (ANNA, Caller("anna")),
        (ADMIN, Caller("admin", admin=True)),
        ("x" * 5000, None),
        ("\udcff", None),
        ("", None),
    ):
        lengths.clear()
        assert keys.find(key) == caller
        assert lengths == [(32, 32)] * 3


def test_a_name_may_have_two_keys_while_one_replaces_the_other() -> None:
    keys = Keys([("anna", ANNA), ("anna", BEN)])
    assert keys.find(ANNA) == keys.find(BEN) == Caller("anna")


def test_an_operators_key_is_no_clients() -> None:
    with pytest.raises(ValueError, match="anna and admin have the same key"):
        Keys([("anna", ANNA)], admin=ANNA)


# Rate limits


def test_a_bucket_empties_and_refills() -> None:
    now = 100.0
    limit = RateLimit(6, clock=lambda: now)
    assert [limit.take("a") for _ in range(6)] == [0] * 6
    assert limit.take("a") == pytest.approx(10)
    assert limit.take("b") == 0
    now += 4
    assert limit.take("a") == pytest.approx(6)  # having asked has cost nothing
    now += 6.001
    assert limit.take("a") == 0
    assert limit.take("a") > 0
    now += 3600
    assert [limit.take("a") for _ in range(7)][5:] == [0, pytest.approx(10)]


def test_less_than_one_a_minute_and_none_at_all() -> None:
    now = 0.0
    limit = RateLimit(0.5, clock=lambda: now)
    assert limit.take("a") == 0
    assert limit.take("a") == pytest.approx(120)
    off = RateLimit(0)
    assert [off.take("a") for _ in range(100)] == [0] * 100
    assert len(off) == 0


def test_buckets_take_bounded_memory() -> None:
    limit = RateLimit(1, clock=lambda: 0.0, max_clients=3)
    for client in ("a", "b", "c", "a", "d"):
        limit.take(client)
    assert len(limit) == 3
    assert limit.take("a") > 0  # b was used longest ago, not a
    assert limit.take("b") == 0
