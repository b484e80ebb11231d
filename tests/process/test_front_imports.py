"""What the front loads: no library of a model, on which its smallness rests."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.service import ROOT

pytestmark = pytest.mark.quick


def test_the_front_imports_no_model_library() -> None:
    code = (
        "import sys, supervisor.app; "
        "print([m for m in ('torch', 'numpy', 'funasr', 'model_procs') if m in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"
