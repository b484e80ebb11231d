"""The direction of imports, on which the front's smallness and safety rest."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.imports import imported

ROOT = Path(__file__).resolve().parent.parent.parent

ROOMS: dict[str, set[str]] = {
    # Which rooms the files of a room may import, besides their own and ipc. Arrows go down only.
    "model_procs": {"model_procs.audio"},
    "model_procs.audio": set(),
    "model_procs.weights": {"model_procs", "model_procs.audio"},
    "model_procs.speech": {"model_procs", "model_procs.audio", "model_procs.listening"},
    "model_procs.listening": {"model_procs", "model_procs.audio", "model_procs.weights"},
    "model_procs.engines": {
        *("model_procs", "model_procs.audio", "model_procs.speech", "model_procs.listening"),
        "model_procs.weights",
    },
    "supervisor.memory": set(),
    "supervisor.access": {"supervisor.base"},
    "supervisor.workers": {"supervisor.base", "supervisor.memory"},
    "supervisor.dispatch": {"supervisor.base", "supervisor.memory", "supervisor.workers"},
    "supervisor.voices": {"supervisor.base", "supervisor.dispatch", "supervisor.settings"},
    "supervisor.settings": {"supervisor.access", "supervisor.memory"},
    "supervisor.weights": {"supervisor.base", "supervisor.workers"},
    "supervisor.counts": {"supervisor.base", "supervisor.memory", "supervisor.dispatch"},
    "supervisor.local": {
        *(
            "supervisor.access",
            "supervisor.base",
            "supervisor.settings",
            "supervisor.memory",
            "supervisor.workers",
        ),
        *("supervisor.dispatch", "supervisor.voices", "supervisor.weights"),
    },
    "supervisor.cluster": {
        *("supervisor.base", "supervisor.settings", "supervisor.access", "supervisor.memory"),
        *("supervisor.workers", "supervisor.dispatch", "supervisor.voices", "supervisor.local"),
    },
    "supervisor.service": {
        "supervisor.cluster",
        *("supervisor.base", "supervisor.settings", "supervisor.access", "supervisor.memory"),
        *("supervisor.dispatch", "supervisor.voices", "supervisor.counts", "supervisor.local"),
    },
    "supervisor.metrics": {
        *("supervisor.base", "supervisor.service", "supervisor.counts", "supervisor.memory"),
        *("supervisor.workers", "supervisor.dispatch", "supervisor.voices"),
    },
    "supervisor.http": {"supervisor.base", "supervisor.service", "supervisor.dispatch"},
    "supervisor.cli": {"supervisor.settings", "supervisor.memory", "supervisor.cluster"},
    "supervisor.http.api": {
        *("supervisor.base", "supervisor.service", "supervisor.settings", "supervisor.http"),
        *("supervisor.dispatch", "supervisor.voices"),
    },
    "supervisor.http.access": {
        *("supervisor.service", "supervisor.access", "supervisor.http", "supervisor.http.api"),
    },
    "supervisor.http.shared": {
        *("supervisor.base", "supervisor.service", "supervisor.dispatch", "supervisor.voices"),
        *("supervisor.http", "supervisor.http.api"),
    },
    "supervisor.http.routes": {
        *("supervisor.base", "supervisor.settings", "supervisor.service", "supervisor.counts"),
        *("supervisor.dispatch", "supervisor.voices", "supervisor.memory", "supervisor.workers"),
        *("supervisor.http", "supervisor.http.api", "supervisor.http.shared", "supervisor.metrics"),
    },
}
"""`supervisor.base` is what every room may use: log, events, threads."""

_FILES = {
    "supervisor.log": "supervisor.base",
    "supervisor.threads": "supervisor.base",
    "supervisor.sessions": "supervisor.base",
    "supervisor.events": "supervisor.base",
    "supervisor.tally": "supervisor.counts",
    "supervisor.history": "supervisor.counts",
    "supervisor.settings": "supervisor.settings",
    "supervisor.local": "supervisor.local",
    "supervisor.service": "supervisor.service",
}
_TOP = (
    *("supervisor.app", "supervisor.serve", "supervisor.systemd", "supervisor.tracing"),
    *("supervisor.cli", "supervisor.cli.__main__"),
)
"""What wires everything together, and is imported by nobody else."""


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


def modules() -> dict[str, Path]:
    """Every module of the product's two large packages."""
    files = [*(ROOT / "supervisor").rglob("*.py"), *(ROOT / "model_procs").rglob("*.py")]
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for file in files
    }


def room_of(module: str) -> str:
    """The room that a module lies in."""
    if module in _FILES:
        return _FILES[module]
    while module not in ROOMS:
        module = module.rpartition(".")[0]
    return module


def imported_modules(file: Path, known: set[str]) -> Iterator[str]:
    """Which of the `known` modules a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
            if any(name in known for name in names[:-1]):
                names.pop()
        else:
            continue
        yield from (name for name in names if name in known)


@pytest.mark.parametrize("module", sorted(set(modules()) - set(_TOP) - {"supervisor"}))
def test_rooms_import_only_downwards(module: str) -> None:
    known = set(modules())
    room = room_of(module)
    found = {
        name
        for name in imported_modules(modules()[module], known)
        if name != module and name not in ("supervisor", "model_procs")
    }
    upwards = {
        name
        for name in found
        if name in _TOP or room_of(name) not in {room, *ROOMS.get(room, set())}
    }
    assert upwards == set()


def test_every_room_says_what_it_is_for_in_one_line() -> None:
    rooms = {path.parent for path in ROOT.glob("supervisor/**/*.py")}
    rooms |= {path.parent for path in ROOT.glob("model_procs/**/*.py")}
    assert len(rooms) > 15
    for room in rooms:
        purpose = ast.get_docstring(ast.parse((room / "__init__.py").read_text()))
        assert purpose, room
        assert "\n" not in purpose.partition("\n\n")[0], room
