"""The soak in short: all chaos for a quarter of a minute, and storms of kills."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service import ROOT

KILLS = 15
"""Of a storm; they come as densely as in `make soak`."""


def soak(out: Path, *options: str) -> tuple[str, int]:
    """Run a soak, which must pass; its summary, and how many chaos events there were."""
    storm = ("--storm", f"{KILLS}/10")
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--clients", "4", "--out", out, *storm, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = done.stdout.splitlines()[-1]
    assert summary.startswith("soak passed: ")
    assert " 0 failed, 0 wrong answers, " in summary
    counted = re.search(r" (\d+) chaos events", summary)
    assert counted
    return summary, int(counted[1])


@pytest.mark.alone
@pytest.mark.timeout(1800)
def test_no_request_fails_while_the_service_is_hurt(tmp_path: Path) -> None:
    out = tmp_path / "report"
    summary, events = soak(out, "--minutes", "0.3")
    assert events > KILLS  # all of a storm, and others
    assert summary in out.with_suffix(".md").read_text()
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.alone
@pytest.mark.neural
@pytest.mark.timeout(1800)
def test_no_request_fails_while_neural_engines_are_hurt(tmp_path: Path) -> None:
    kinds = "kill,stop,leak,hang,crash,garbage,drop"
    options = ("--engines", "embedded", "--chaos", kinds, "--minutes", "0.3")
    _, events = soak(tmp_path / "report", *options)
    assert events > 0


@pytest.mark.alone
@pytest.mark.timeout(1800)
def test_no_request_fails_in_a_storm_of_kills(nano_models: Path, tmp_path: Path) -> None:
    """Of workers and templates of both models; the first test has one for the minimal engines."""
    options = ("--engines", "nano", "--models", str(nano_models))
    _, events = soak(tmp_path / "report", "--chaos", "storm", "--minutes", "0.1", *options)
    assert events == KILLS
