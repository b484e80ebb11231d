"""The soak in short: half a minute of all chaos, and storms of kills."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service import ROOT


def soak(out: Path, *options: str) -> str:
    """Run a soak, which must pass; its summary."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--clients", "4", "--out", out, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = done.stdout.splitlines()[-1]
    assert summary.startswith("soak passed: ")
    assert " 0 failed, 0 wrong answers, " in summary
    return summary


@pytest.mark.alone
@pytest.mark.timeout(1800)
def test_no_request_fails_while_the_service_is_hurt(tmp_path: Path) -> None:
    out = tmp_path / "report"
    summary = soak(out, "--minutes", "0.5")
    assert " 0 chaos events" not in summary
    assert summary in out.with_suffix(".md").read_text()
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.alone
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("engines", ["embedded", "nano"])
def test_no_request_fails_in_a_storm_of_kills(engines: str, tmp_path: Path) -> None:
    """25 kills in 17 s, of workers and templates of both models."""
    storm = ("--chaos", "storm", "--storm", "25/17")
    summary = soak(tmp_path / "report", "--engines", engines, "--minutes", "0.2", *storm)
    assert " 25 chaos events" in summary
