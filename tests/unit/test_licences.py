"""docs/licences.md has a row for each package that the service declares, and for each engine."""

from __future__ import annotations

import re
import tomllib

from packaging.requirements import Requirement

from ipc.engines import ENGINES
from tests.support.service import ROOT

_PAGE = (ROOT / "docs" / "licences.md").read_text()
_MODELS, _PACKAGES = _PAGE.split("## Packages")


def test_each_declared_package_has_a_row() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    optional = (extras["kokoro"], extras["whisper"], extras["cluster"])
    declared = [*project["dependencies"], *(each for extra in optional for each in extra)]
    rows = re.findall(r"^\| ([\w-]+) \| (.+?) \|", _PACKAGES, re.MULTILINE)
    licences = dict(rows)
    assert len(licences) == len(rows)
    assert [name for name, licence in rows if not licence.strip()] == []
    missing = {Requirement(each).name for each in declared} - licences.keys()
    assert missing == set()


def test_each_engine_has_a_row() -> None:
    served = set(re.findall(r"^\| .+? \| `(\w+)` \|", _MODELS, re.MULTILINE))
    assert served == ENGINES.keys()
