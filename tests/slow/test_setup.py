"""Setup does nothing when nothing changed, and its pins hold for what is installed."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ops.setup import NEURAL, Checkout, SetupError, read_pins
from tests.support.imports import imported
from tests.support.service import NET

_ROOT = Path(__file__).parent.parent.parent
_CLIENTS = _ROOT / "tests" / "clients" / "python"
_PACKAGES = ("ipc", "model_procs", "ops", "supervisor")
_PINS: dict[str, str] = {
    canonicalize_name(name): version
    for name, version in read_pins(_ROOT / "constraints.txt").items()
}


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A checkout whose .venv is whole and stamped, as after a setup."""
    (tmp_path / "ops").mkdir()
    for name in ("pyproject.toml", "constraints.txt", "ops/setup.py"):
        shutil.copy(_ROOT / name, tmp_path / name)
    made = Checkout(tmp_path, "dev")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", made.venv], check=True)
    pip = next(made.venv.glob("lib/python*/site-packages")) / "pip-1.dist-info"
    pip.mkdir()
    (pip / "METADATA").write_text("Name: pip\nVersion: 1\n")
    (pip / "RECORD").touch()
    version = made.venv_version()
    assert version is not None
    made.stamp.write_text(made.key(version))
    return made


def _setup(checkout: Checkout, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, checkout.root / "ops" / "setup.py", *arguments],
        # Nothing may be fetched here; .venv has no pip, so that trying to install fails.
        env=os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull},
        capture_output=True,
        text=True,
        timeout=NET,
        check=False,
    )


def test_nothing_is_done_when_nothing_changed(checkout: Checkout) -> None:
    done = _setup(checkout, "--dev")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt", "ops/setup.py"])
def test_a_changed_file_means_a_new_setup(checkout: Checkout, name: str) -> None:
    path = checkout.root / name
    text = path.read_text()
    path.write_text(text + "\n# changed\n")
    assert not checkout.up_to_date()
    done = _setup(checkout, "--dev")
    assert "setup: installing torch==" in done.stdout
    # It failed, so the next run must not take .venv for finished, whatever the files say by then.
    assert done.returncode == 1
    assert "run this again" in done.stderr
    path.write_text(text)
    assert not checkout.up_to_date()


def test_the_stamp_is_for_one_place_and_one_set_of_packages(checkout: Checkout) -> None:
    assert checkout.up_to_date()
    plain = Checkout(checkout.root)
    assert plain.up_to_date()  # the tools are there too, which is no hindrance
    version = checkout.venv_version()
    assert version is not None
    checkout.stamp.write_text(plain.key(version))
    assert plain.up_to_date()
    assert not checkout.up_to_date()
    checkout.stamp.write_text(checkout.key(version))
    moved = checkout.root.rename(checkout.root.with_name("moved"))
    assert not Checkout(moved, "dev").up_to_date()


def test_a_slim_setup_is_not_enough_where_neural_engines_are_wanted(checkout: Checkout) -> None:
    slim = Checkout(checkout.root, "dev", slim=True)
    assert slim.up_to_date()  # the engines are there too, which is no hindrance
    version = checkout.venv_version()
    assert version is not None
    checkout.stamp.write_text(slim.key(version))
    assert slim.up_to_date()
    assert not checkout.up_to_date()


class _Recorded(Checkout):
    """Notes what pip is to install; what is in `lost` cannot be had."""

    def __init__(self, root: Path, lost: set[str], *, slim: bool = False) -> None:
        super().__init__(root, "dev", slim=slim)
        self.lost = lost
        self.installed: list[str] = []

    def _pip(
        self,
        *arguments: str,
        quiet: bool = False,
        python: Path | None = None,
        pinned: bool = True,
    ) -> None:
        extras = arguments[-1].strip(".[]").split(",")
        if self.lost & set(extras):
            raise SetupError("no matching distribution found")
        self.installed.append(arguments[-1])


@pytest.mark.parametrize(
    ("lost", "slim", "installed"),
    [
        (set(), False, [".[dev,kokoro,whisper]"]),
        (set(), True, [".[dev]"]),
        ({"kokoro"}, False, [".[dev]", ".[dev,whisper]"]),
        ({"whisper"}, False, [".[dev]", ".[dev,kokoro]"]),
        ({"kokoro", "whisper"}, False, [".[dev]"]),
    ],
)
def test_a_neural_engine_that_cannot_be_had_is_left_out(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    lost: set[str],
    slim: bool,
    installed: list[str],
) -> None:
    checkout = _Recorded(tmp_path, lost, slim=slim)
    checkout._install_everything_else()
    assert checkout.installed == installed
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[4] for line in lines] == sorted(lost)  # "setup: the packages of kokoro"
    assert all(NEURAL[engine] in line for engine, line in zip(sorted(lost), lines, strict=True))


def test_nothing_is_left_out_when_the_rest_cannot_be_had(tmp_path: Path) -> None:
    checkout = _Recorded(tmp_path, {"dev"})
    with pytest.raises(SetupError):
        checkout._install_everything_else()
    assert checkout.installed == []


def test_the_stamp_counts_for_nothing_without_a_working_venv(checkout: Checkout) -> None:
    checkout.python.unlink()
    checkout.python.symlink_to(checkout.root / "python-that-is-gone")
    assert checkout.stamp.is_file()
    assert not checkout.up_to_date()
    shutil.rmtree(checkout.venv)
    assert not checkout.up_to_date()


def test_a_half_installed_package_is_installed_again(checkout: Checkout) -> None:
    packages = next(checkout.venv.glob("lib/python*/site-packages"))
    half = packages / "half-1.dist-info"
    half.mkdir()
    (half / "METADATA").write_text("Name: half\nVersion: 1\n")
    (checkout.root / "constraints.txt").write_text("torch==1\n")
    _setup(checkout, "--dev")
    assert not half.exists()
    assert (packages / "pip-1.dist-info").is_dir()


def test_two_setups_wait_for_each_other(checkout: Checkout) -> None:
    ours = os.open(checkout.root, os.O_RDONLY)
    fcntl.flock(ours, fcntl.LOCK_EX)
    with subprocess.Popen(
        [sys.executable, checkout.root / "ops" / "setup.py", "--dev"],
        stdout=subprocess.PIPE,
        text=True,
    ) as waiting:
        assert waiting.stdout is not None
        assert "waiting" in waiting.stdout.readline()
        assert waiting.poll() is None
        os.close(ours)
        assert waiting.wait(NET) == 0


def test_packages_of_node_are_installed_once_for_each_lock_file(checkout: Checkout) -> None:
    folder = checkout.root / "tests" / "js"
    folder.mkdir(parents=True)
    (folder / "package.json").write_text('{"name": "none"}')
    lock = '{"name": "none", "lockfileVersion": 3, "requires": true, "packages": {"": {}}}'
    (folder / "package-lock.json").write_text(lock)
    assert _setup(checkout).stdout == ""  # they are for tests alone
    said = [_setup(checkout, "--dev").stdout for _ in range(2)]
    assert "the packages of tests/js" in said[0]
    assert said[1] == ""
    (folder / "package-lock.json").write_text(lock + "\n")
    assert "the packages of tests/js" in _setup(checkout, "--dev").stdout
    (folder / "package-lock.json").write_text("no lock file")
    failed = _setup(checkout, "--dev")
    assert failed.returncode == 1
    assert "npm ci in tests/js failed" in failed.stderr


def test_python_clients_are_installed_once_for_each_list(checkout: Checkout) -> None:
    folder = checkout.root / "tests" / "clients" / "python"
    folder.mkdir(parents=True)
    requirements = folder / "requirements.txt"
    requirements.write_text("# none\n")
    assert _setup(checkout).stdout == ""  # they are for tests alone
    said = [_setup(checkout, "--dev").stdout for _ in range(2)]
    assert ".venv-clients" in said[0]
    assert said[1] == ""
    venv = checkout.root / ".venv-clients"
    (venv / "left-over").touch()
    assert (venv / "setup-stamp").is_file()
    requirements.write_text("there-is-no-such-package==1\n")
    failed = _setup(checkout, "--dev")
    assert ".venv-clients" in failed.stdout
    assert not (venv / "left-over").exists()
    assert failed.returncode == 1
    assert "run this again" in failed.stderr
    assert not (venv / "setup-stamp").exists()  # so that the next run tries again


def test_the_list_of_python_clients_names_versions_and_no_place() -> None:
    lines = (_CLIENTS / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert len(pins) > 50
    pattern = r"[\w.-]+==[\w.]+(; python_version [<>=]+ \"3\.\d+\")?"
    assert [line for line in pins if not re.fullmatch(pattern, line)] == []
    names = [canonicalize_name(line.split("==")[0]) for line in pins]
    assert len(set(names)) == len(names)
    assert "torch" not in names


def test_the_lock_file_of_node_packages_names_no_place() -> None:
    lock = json.loads((_ROOT / "tests" / "js" / "package-lock.json").read_text())
    packages = [entry for path, entry in lock["packages"].items() if path]
    assert len(packages) >= 3
    assert all(entry.get("integrity") and "resolved" not in entry for entry in packages)


@pytest.mark.parametrize(
    ("tools", "advice"),
    [
        (
            {"apt-get": ""},
            "run this as root: apt-get update && apt-get install -y python3 python3-venv",
        ),
        ({"apt-get": "", "python3": "echo 3.11 /include"}, "apt-get install -y flite"),
        ({"apt-get": "", "python3": "echo 3.12 /include"}, "-y gcc libc6-dev python3.12-dev"),
        ({}, "install python3 python3-venv with your package manager"),
    ],
)
def test_without_root_it_says_in_one_line_what_to_install(
    tools: dict[str, str], advice: str
) -> None:
    # Not in tmp_path, which root's tests keep from everybody else.
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        (root / "ops").mkdir()
        shutil.copy(_ROOT / "ops" / "setup.sh", root / "ops")
        path = root / "bin"
        path.mkdir()
        for tool in ("dirname", "id"):
            (path / tool).symlink_to(shutil.which(tool) or tool)
        for tool, script in tools.items():
            (path / tool).write_text(f"#!/bin/sh\n{script}\n")
            (path / tool).chmod(0o755)
        done = subprocess.run(
            ["/bin/sh", root / "ops" / "setup.sh"],
            env={"PATH": str(path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=NET,
            check=False,
            user=os.getuid() or 65534,
            group=os.getgid() or 65534,
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert advice in done.stderr


def _installed(requirement: str, seen: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Name and version of what `requirement` and all that it needs are installed as."""
    parsed = Requirement(requirement)
    name = canonicalize_name(parsed.name)
    extras = parsed.extras or {""}
    if all(seen.get(f"{name}[{extra}]") for extra in extras):
        return
    seen.update({f"{name}[{extra}]": "yes" for extra in extras})
    distribution = importlib.metadata.distribution(name)
    yield name, distribution.version
    for needed in distribution.requires or []:
        marker = Requirement(needed).marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
            yield from _installed(needed, seen)


@pytest.mark.neural
def test_everything_that_is_installed_is_pinned_to_its_version() -> None:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [
        *project["dependencies"],
        *extras["dev"],
        *extras["kokoro"],
        *extras["whisper"],
        *extras["cluster"],
    ]
    seen: dict[str, str] = {}
    found = {name: version for each in wanted for name, version in _installed(each, seen)}
    assert len(found) > 100
    assert {name: version.removesuffix("+cpu") for name, version in found.items()} == {
        name: _PINS.get(name) for name in found
    }


@pytest.mark.neural
def test_every_imported_package_is_a_declared_dependency() -> None:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    run, dev = (
        {canonicalize_name(Requirement(each).name) for each in group}
        for group in (
            [*project["dependencies"], *extras["kokoro"], *extras["whisper"], *extras["cluster"]],
            extras["dev"],
        )
    )
    packages = importlib.metadata.packages_distributions()
    undeclared: set[tuple[str, str]] = set()
    for folder in (*_PACKAGES, "tests"):
        declared = run | dev if folder in ("tests", "ops") else run
        for path in (_ROOT / folder).rglob("*.py"):
            if path.parent == _CLIENTS:
                continue  # run in .venv-clients, where what is not installed cannot be imported
            # `_typeshed` exists only for type checkers.
            ours = {*_PACKAGES, "tests", "_typeshed"}
            for name in imported(path) - sys.stdlib_module_names - ours:
                sources = {canonicalize_name(each) for each in packages.get(name, [name])}
                if not sources & declared:
                    undeclared.add((path.name, name))
    assert undeclared == set()


def test_pins_name_no_place_no_build_and_no_cuda() -> None:
    lines = (_ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[\w.-]+==[\d.]+((b|post)\d+)?", line)] == []
    assert [line for line in pins if line.lower().startswith(("nvidia", "cuda", "triton"))] == []
    assert {"torch", "torchaudio", "setuptools", "uv"} <= _PINS.keys()
