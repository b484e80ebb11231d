"""The bounds in pyproject.toml, the pins in constraints.txt and the hooks agree with each other."""

from __future__ import annotations

import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ops.setup import read_pins
from tests.support.service import ROOT

_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
_REQUIREMENTS = [
    Requirement(line)
    for line in sum(_PROJECT["optional-dependencies"].values(), _PROJECT["dependencies"])
]
_PINS = {
    canonicalize_name(name): version
    for name, version in read_pins(ROOT / "constraints.txt").items()
}


@pytest.mark.parametrize("requirement", _REQUIREMENTS, ids=lambda each: str(each.name))
def test_the_pin_lies_within_the_bounds(requirement: Requirement) -> None:
    assert requirement.specifier.contains(_PINS[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("requirement", _REQUIREMENTS, ids=lambda each: str(each.name))
def test_the_floor_is_what_is_tested(requirement: Requirement) -> None:
    (floor,) = [each.version for each in requirement.specifier if each.operator == ">="]
    assert _PINS[canonicalize_name(requirement.name)].split(".")[: floor.count(".") + 1] == (
        floor.split(".")
    )


def test_a_ceiling_has_its_reason_above_it() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    ceilings = [number for number, line in enumerate(lines) if ",<" in line]
    assert ceilings
    assert [lines[number] for number in ceilings if "#" not in lines[number - 1]] == []
