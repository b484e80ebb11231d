"""Weights that come in packages: put together once, checked, never taken from anybody else."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from ipc.errors import ErrorCode, ServiceError
from model_procs.weights.packages import PackagedFile, assembled

PARTS = (b"the first part", b"and the second")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedFile:
    """A file in two packages."""
    packages = tmp_path / "site-packages"
    modules = [f"weights_of_{tmp_path.name}_{number}" for number in range(2)]
    for module, part in zip(modules, PARTS, strict=True):
        (packages / module).mkdir(parents=True)
        (packages / module / "__init__.py").write_text("raise RuntimeError('it is not imported')")
        (packages / module / "part.bin").write_bytes(part)
    monkeypatch.syspath_prepend(str(packages))
    whole = b"".join(PARTS)
    digest = hashlib.sha256(whole).hexdigest()
    parts = tuple((module, "part.bin") for module in modules)
    return PackagedFile("weights.bin", len(whole), digest, parts)


def part_of(file: PackagedFile, tmp_path: Path) -> Path:
    """Where the second part is installed."""
    return tmp_path / "site-packages" / file.parts[1][0] / "part.bin"


def test_the_parts_become_the_published_file(file: PackagedFile, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "cache"
    path = assembled(file, folder)
    assert path == folder / "weights.bin"
    assert path.read_bytes() == b"".join(PARTS)
    assert list(folder.iterdir()) == [path]
    assert folder.stat().st_mode & 0o777 == 0o700


def test_it_is_made_once(file: PackagedFile, tmp_path: Path) -> None:
    made = assembled(file, tmp_path / "cache").stat()
    part_of(file, tmp_path).unlink()
    assert assembled(file, tmp_path / "cache").stat() == made


@pytest.mark.parametrize("damaged", [b"and the secons", b"and the", b""])
def test_a_damaged_file_is_made_again(file: PackagedFile, tmp_path: Path, damaged: bytes) -> None:
    path = assembled(file, tmp_path / "cache")
    path.write_bytes(PARTS[0] + damaged)
    assert assembled(file, tmp_path / "cache").read_bytes() == b"".join(PARTS)


@pytest.mark.parametrize("wrong", [b"and a  second.", b"and the second, which is longer"])
def test_a_wrong_part_leaves_nothing_to_load(
    file: PackagedFile, tmp_path: Path, wrong: bytes
) -> None:
    part_of(file, tmp_path).write_bytes(wrong)
    with pytest.raises(ServiceError, match=r"is not the published file; install them again"):
        assembled(file, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_missing_package_is_named(file: PackagedFile, tmp_path: Path) -> None:
    lacking = PackagedFile(file.name, file.size, file.sha256, (("no_such_weights", "part.bin"),))
    with pytest.raises(ServiceError, match="no_such_weights is not installed") as error:
        assembled(lacking, tmp_path / "cache")
    assert error.value.code == ErrorCode.model_unavailable


def test_many_at_once_make_one_file(file: PackagedFile, tmp_path: Path) -> None:
    start = threading.Barrier(8)
    found: list[bytes] = []

    def make() -> None:
        start.wait()
        found.append(assembled(file, tmp_path / "cache").read_bytes())

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"".join(PARTS)] * 8
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["weights.bin"]


def test_a_folder_of_somebody_else_is_refused(
    file: PackagedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assembled(file, tmp_path / "cache")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ServiceError, match="belongs to another user"):
        assembled(file, tmp_path / "cache")


def test_a_folder_that_cannot_be_written_is_an_error_with_its_setting(
    file: PackagedFile, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ServiceError, match="VOICE_ENGINE_CACHE_DIR"):
        assembled(file, tmp_path / "cache")
