"""docs/clients.md names the versions that are tested, and every client that is."""

from __future__ import annotations

import json
import re

from ops.setup import read_pins
from tests.clients.test_apps import VERSIONS
from tests.support.service import ROOT

_ROWS = [
    [cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in (ROOT / "docs" / "clients.md").read_text("utf-8").splitlines()
    if line.startswith("|")
][2:]


def _clients_of_python() -> dict[str, str]:
    """Those in .venv-clients: the first part of the list, up to what they import."""
    path = ROOT / "tests" / "clients" / "python" / "requirements.txt"
    head, _ = path.read_text().split("# What they import")
    return dict(line.split("==") for line in head.splitlines() if "==" in line)


def _clients_of_node() -> dict[str, str]:
    package = json.loads((ROOT / "tests" / "js" / "package.json").read_text())
    versions: dict[str, str] = package["devDependencies"]
    tools = {"@types/node", "typescript"}
    return {
        name: version.rpartition("@")[2] for name, version in versions.items() if name not in tools
    }


def test_the_table_has_the_versions_that_are_pinned() -> None:
    constraints = read_pins(ROOT / "constraints.txt")
    python = {name: constraints[name] for name in ("openai", "elevenlabs")} | _clients_of_python()
    expected = {
        **{("Python", name): version for name, version in python.items()},
        **{("Node", name): version for name, version in _clients_of_node().items()},
        **{("application", name): version for name, version in VERSIONS.items()},
    }
    found = {(kind, name): version for name, kind, version, *_ in _ROWS if name}
    assert found == expected
    assert len(found) == 18


def test_each_row_says_what_works_and_how_to_configure_it() -> None:
    assert {len(row) for row in _ROWS} == {5}
    assert [row for row in _ROWS if not row[3]] == []
    lines = [row[4].split("<br>") for row in _ROWS if row[4] and "as with" not in row[4]]
    assert len(lines) > 10
    assert {len(pair) for pair in lines} == {2}
    assert all("localhost:8000" in "".join(pair) and "KEY" in "".join(pair) for pair in lines)


def test_the_lock_file_has_the_versions_of_the_package_file() -> None:
    lock = json.loads((ROOT / "tests" / "js" / "package-lock.json").read_text())["packages"]
    for name, version in _clients_of_node().items():
        assert lock[f"node_modules/{name}"]["version"] == version


def test_the_text_names_the_openai_that_wyoming_openai_is_tested_with() -> None:
    pins = (ROOT / "tests" / "clients" / "python" / "requirements.txt").read_text()
    found = re.search(r"^openai==(\S+)$", pins, re.MULTILINE)
    assert found is not None
    assert f"tested with openai {found[1]}" in (ROOT / "docs" / "clients.md").read_text("utf-8")
