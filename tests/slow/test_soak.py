"""The soak in short: half a minute of all chaos with the embedded engines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service import ROOT


@pytest.mark.alone
@pytest.mark.timeout(1800)
def test_no_request_fails_while_the_service_is_hurt(tmp_path: Path) -> None:
    out = tmp_path / "report"
    soak = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--minutes", "0.5", "--clients", "4", "--out", out],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert soak.returncode == 0, soak.stdout + soak.stderr
    summary = soak.stdout.splitlines()[-1]
    assert summary.startswith("soak passed: ")
    assert " 0 failed, 0 wrong answers, " in summary
    assert " 0 chaos events" not in summary
    assert summary in out.with_suffix(".md").read_text()
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
