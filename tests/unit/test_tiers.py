"""What holds the tiers of tests apart."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.conftest import TIERS, tier_of
from tests.support.service import ROOT


@pytest.mark.parametrize(
    "start",
    [
        lambda: subprocess.run([sys.executable, "-c", ""], check=False),
        lambda: os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {}),
        lambda: os.system("true"),
        os.fork,
    ],
    ids=["run", "posix_spawn", "system", "fork"],
)
def test_a_unit_test_that_starts_a_child_fails(
    start: Callable[[], object], child_processes: list[str]
) -> None:
    with pytest.raises(RuntimeError, match="starts no child process"):
        start()
    assert len(child_processes) == 1
    child_processes.clear()  # or this test fails, as it should


def test_every_folder_of_tests_belongs_to_a_tier() -> None:
    folders = {file.parent.name for file in (ROOT / "tests").glob("**/test_*.py")}
    assert folders == {*TIERS, "slow", "cluster"}


@pytest.mark.parametrize(
    ("file", "tier"),
    [
        ("unit/test_tiers.py", "unit"),
        ("process/test_front.py", "process"),
        ("clients/test_openai.py", "process"),
        ("slow/test_soak.py", "slow"),
        ("cluster/test_cluster.py", "slow"),
    ],
)
def test_a_folder_gives_its_tests_their_tier(file: str, tier: str) -> None:
    assert tier_of(ROOT / "tests" / file) == tier
