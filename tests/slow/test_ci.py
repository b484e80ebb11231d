"""`.ci/run` tells a test that fails from one that is flaky, with a small project to check."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service import NET, ROOT

PROJECT = """
from pathlib import Path

def test_good():
    pass

def test_flaky():
    ran = Path(__file__).with_name("ran")
    before = ran.exists()
    ran.touch()
    assert {flaky} or before

def test_bad():
    assert {bad}
"""

MAKE = """#!/bin/sh
if [ "$1" = test ]; then .venv/bin/python -m pytest && {floor}; fi
"""


def ci(
    folder: Path, *, flaky: bool = True, bad: bool = True, floor: bool = True
) -> tuple[int, str]:
    """Exit code and output of the run; what is False fails."""
    for name in (".ci", ".venv/bin", "bin"):
        (folder / name).mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci" / "run")
    python = folder / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    make = folder / "bin" / "make"
    make.write_text(MAKE.format(floor=str(floor).lower()))
    make.chmod(0o755)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --disable-plugin-autoload\n")
    (folder / "test_it.py").write_text(PROJECT.format(flaky=flaky, bad=bad))
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")
    }
    done = subprocess.run(
        ["bash", folder / ".ci" / "run"],
        env=environment | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=NET,
        check=False,
    )
    return done.returncode, done.stdout


def test_all_is_well(tmp_path: Path) -> None:
    code, output = ci(tmp_path)
    assert code == 0
    assert "== all checks passed (" in output
    assert "flaky (" not in output


def test_what_passes_when_it_is_alone_is_flaky(tmp_path: Path) -> None:
    code, output = ci(tmp_path, flaky=False)
    assert code == 0
    assert "1 failed, 2 passed" in output
    assert "1 passed" in output.partition("once more")[2]
    heading, _, named = output.partition("flaky (")
    assert "all checks passed" in heading
    assert named.splitlines()[1:] == ["    test_it.py::test_flaky"]


@pytest.mark.parametrize("flaky", [False, True])
def test_what_fails_twice_fails_the_run(tmp_path: Path, flaky: bool) -> None:
    code, output = ci(tmp_path, flaky=flaky, bad=False)
    assert code == 1
    assert "== failed again" in output
    assert "all checks passed" not in output
    assert "flaky (" not in output


def test_a_failure_of_no_test_is_not_forgiven(tmp_path: Path) -> None:
    code, output = ci(tmp_path, floor=False)
    assert code == 1
    assert "though no test did" in output
    assert "all checks passed" not in output
