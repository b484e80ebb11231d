"""What the front loads: no library of a model or of the commands; its smallness rests on that."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.service import ROOT

pytestmark = pytest.mark.quick

_OF_MODELS = ("torch", "numpy", "funasr", "model_procs")
_OF_CLUSTERS = ("obstore", "ray", "supervisor.cluster", "supervisor.voices.bucket")
_OF_THE_COMMAND_LINE = ("typer", "rich", "httpx", "supervisor.cli.app")


@pytest.mark.parametrize("libraries", [_OF_MODELS, _OF_CLUSTERS, _OF_THE_COMMAND_LINE])
def test_the_front_imports_no_library_that_it_does_not_need(libraries: tuple[str, ...]) -> None:
    code = (
        "import sys, supervisor.cli, supervisor.serve, supervisor.app; "
        f"print([m for m in {libraries} if m in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"
