"""The direction of imports, on which the front's smallness and safety rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.imports import imported

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("ipc", {"supervisor", "model_procs", "aiohttp", "torch", "numpy"}),
        ("supervisor", {"model_procs", "torch", "numpy", "soundfile", "av", "ops"}),
        ("model_procs", {"supervisor", "aiohttp", "ops"}),
        ("ops", {"supervisor", "model_procs", "ipc"}),
    ],
)
def test_packages_import_only_in_one_direction(package: str, forbidden: set[str]) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = {str(file.relative_to(ROOT)): imported(file) & forbidden for file in files}
    assert {file: names for file, names in found.items() if names} == {}
