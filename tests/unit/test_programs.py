"""Tests of programs that are missing here are skipped by name, and fail in CI."""

from __future__ import annotations

import pytest

from tests.support.programs import needs_program, program


def test_what_is_missing_is_skipped_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    mark = needs_program("sh", "no-such-program").mark
    assert mark.args == (True,)
    assert mark.kwargs["reason"] == "no no-such-program here"


def test_in_ci_nothing_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    assert needs_program("no-such-program").mark.args == (False,)
    assert program("no-such-program") == "no-such-program"  # so that running it fails


def test_what_is_there_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    assert needs_program("sh").mark.args == (False,)
    assert program("sh").endswith("/sh")
