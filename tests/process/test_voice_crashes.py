"""The folder of voices when a disk is full, or the front is killed in the middle of a change."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import NET, ROOT, running
from tests.support.voice_changes import (
    AFTER,
    BEFORE,
    RECORDINGS,
    below,
    key_of,
    make,
    read,
    recordings,
    reloaded,
)

THIRD = RECORDINGS["third"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "voices"


# Disks that fail.


def changes(*arguments: str) -> Any:
    """Run tests/voice_changes.py; what it prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.voice_changes", *arguments],
        cwd=ROOT,
        timeout=NET,
        check=True,
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]) if lines else None


@pytest.mark.parametrize("size", [1000, 1500])  # met by the recording; after it, by metadata
async def test_a_full_disk_refuses_for_now_and_leaves_the_old_voice(
    folder: Path, size: int
) -> None:
    assert 1000 < len(THIRD) < 1500
    await make(folder)
    wire_name, retry_after = changes("limit", "replace", str(folder), str(size))
    assert wire_name == "spool_full"
    assert retry_after > 0
    # Nothing of the new one is left even before a start tidies up.
    assert recordings(folder) == {key_of("first"), key_of("second")}
    assert not any(name.startswith(".unfinished") for name in below(folder))
    assert read(folder) == BEFORE


def test_the_service_starts_without_its_folder_and_with_it(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "file").touch()
    with running({"VOICES_DIR": str(tmp_path / "file" / "voices")}) as service:
        assert "VOICES_DIR" in service.wait_for("voices_off")["message"]
        service.wait_ready()
    asyncio.run(make(folder))
    with running({"VOICES_DIR": str(folder)}) as service:
        assert recordings(folder) == {key_of("first"), key_of("second")}
        assert service.stop() == 0
    assert read(folder) == BEFORE


# Crashes.


@pytest.fixture
async def original(folder: Path) -> Path:
    await make(folder)
    return folder


@pytest.mark.parametrize("change", AFTER)
def test_a_kill_between_any_two_calls_leaves_the_old_or_the_new(
    original: Path, tmp_path: Path, change: str
) -> None:
    if change != "tidy":
        reloaded(original)
    copies = tmp_path / "copies"
    copies.mkdir()
    changes("kill", change, str(original), str(copies))
    assert read(copies / "completed") == AFTER[change]
    kills = len(list(copies.iterdir())) - 1
    states = [read(copies / str(at)) for at in range(kills)]
    first_new = next((at for at, state in enumerate(states) if state != BEFORE), kills)
    assert states == [BEFORE] * first_new + [AFTER[change]] * (kills - first_new)
    # It was killed before the change is made, and while it is being tidied up behind it.
    assert first_new > 0
    assert kills > first_new or change == "tidy"


class Disk:
    """What a power cut may leave: files and folders have as much as was synced, and any part more.

    Paths are relative to the folder of the voices.
    """

    def __init__(self, folder: Path) -> None:
        self._contents: list[dict[str, bytes]] = []
        """Of each file that ever was, what is `written` to it, and what is `synced` of that."""
        self._now: dict[str, int] = {}
        """Which file has which name."""
        for path in folder.rglob("*"):
            if path.is_file():
                self._now[str(path.relative_to(folder))] = self._new_file(path.read_bytes())
        self._synced = dict(self._now)
        self._pending: list[tuple[str, str, int | None]] = []
        """Names not synced: old name, new name, and the file that has got it."""

    def _new_file(self, content: bytes) -> int:
        self._contents.append({"written": content, "synced": content})
        return len(self._contents) - 1

    def call(self, call: str, path: str, detail: str | None) -> None:
        """Follow a call that was recorded."""
        if call == "create":
            self._rename(path, path, self._new_file(b""))
        elif call == "write":
            assert detail is not None
            self._contents[self._now[path]]["written"] += bytes.fromhex(detail)
        elif call == "fsync" and path in self._now:
            file = self._contents[self._now[path]]
            file["synced"] = file["written"]
        elif call == "fsync":
            left = []
            for entry in self._pending:
                if os.path.dirname(entry[1]) == path.removeprefix("."):
                    _apply(self._synced, entry)
                else:
                    left.append(entry)
            self._pending = left
        elif call == "rename":
            assert detail is not None
            self._rename(path, detail, self._now[path])
        elif call == "remove":
            self._rename(path, path, None)
        else:
            raise AssertionError(f"{call} {path} is not foreseen")

    def _rename(self, old: str, new: str, file: int | None) -> None:
        self._pending.append((old, new, file))
        _apply(self._now, self._pending[-1])

    def after_power_cut(self) -> Iterator[dict[str, bytes]]:
        """The bytes by path, for every choice of what else has reached the disk."""
        seen: list[dict[str, bytes]] = []
        for choice in itertools.product((False, True), repeat=len(self._pending)):
            names = dict(self._synced)
            for entry in itertools.compress(self._pending, choice):
                _apply(names, entry)
            for version in ("written", "synced"):
                files = {path: self._contents[file][version] for path, file in names.items()}
                if files not in seen:
                    seen.append(files)
                    yield files


def _apply(names: dict[str, int], entry: tuple[str, str, int | None]) -> None:
    old, new, file = entry
    names.pop(old, None)
    if file is not None:
        names[new] = file


def _put(folder: Path, files: dict[str, bytes]) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("change", AFTER)
def test_a_power_cut_after_any_call_leaves_the_old_or_the_new(
    original: Path, tmp_path: Path, change: str
) -> None:
    if change != "tidy":
        reloaded(original)
    disk = Disk(original)
    calls = changes("record", change, str(original))
    made = False
    for call in calls:
        disk.call(*call)
        for files in disk.after_power_cut():
            assert read(_put(tmp_path / "cut", files)) in (BEFORE, AFTER[change])
    for files in disk.after_power_cut():  # and what was answered for is there
        assert read(_put(tmp_path / "cut", files)) == AFTER[change]
        made = True
    assert made
