"""The sandbox of workers: what can be told without entering it."""

from __future__ import annotations

from pathlib import Path

import landlockpy
import pytest
from landlockpy import _syscall
from seccompy import syscalls

from ipc.messages import WorkerOptions
from model_procs import sandbox
from model_procs.engine import EngineConfig
from model_procs.sandbox import Sandbox, landlock_gaps
from tests.support.listening_engines import Hum, Meter


@pytest.fixture(autouse=True)
def c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python looks for it with programs, which a unit test may not start."""
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)


def test_every_forbidden_call_is_one_of_a_kernel() -> None:
    known = {*syscalls.X86_64_SYSCALLS, *syscalls.AARCH64_SYSCALLS}
    assert (sandbox._FORBIDDEN | sandbox._PROCESSES) - known == set()


@pytest.mark.parametrize(
    ("version", "threads", "gaps"),
    [
        (1, 1, ["ABI 1 cannot restrict TCP, signals to other processes"]),
        (4, 1, ["ABI 4 cannot restrict signals to other processes"]),
        (6, 1, []),
        (7, 3, ["ABI 7 cannot restrict the 2 threads that the engine had after loading"]),
        (8, 3, []),
    ],
)
def test_what_landlock_leaves_open_is_told(version: int, threads: int, gaps: list[str]) -> None:
    assert landlock_gaps(version, threads) == gaps


@pytest.mark.parametrize("version", range(1, 8))
def test_rules_are_made_for_every_version_that_the_kernel_may_have(
    version: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if landlockpy.abi_version() < version:
        pytest.skip("the kernel's Landlock is older")
    monkeypatch.setattr(_syscall, "abi_version", lambda: version)
    config = EngineConfig(tmp_path)
    options = WorkerOptions(sandbox=True, voice_dir=str(tmp_path), recordings=("/nowhere",))
    prepared = Sandbox(Hum(config), config, options)
    rules = prepared._rules
    assert isinstance(rules, landlockpy.Ruleset)
    assert rules.handled_fs == landlockpy.fs_for_abi(version)
    assert rules.handled_net == landlockpy.net_for_abi(version)
    rules.close()


def test_only_engines_with_voices_may_write_into_their_folders(tmp_path: Path) -> None:
    config = EngineConfig(tmp_path)
    options = WorkerOptions(sandbox=True, voice_dir=str(tmp_path), recordings=(str(tmp_path),))
    found = [
        [(path, write) for path, write, _, _ in Sandbox(engine, config, options)._folders]
        for engine in (Hum(config), Meter(config))
    ]
    read, written = (str(tmp_path), False), (str(tmp_path), True)
    assert found == [[read, written], [read]]


def test_nothing_is_prepared_or_entered_when_it_is_off(tmp_path: Path) -> None:
    config = EngineConfig(tmp_path)
    prepared = Sandbox(Hum(config), config, WorkerOptions())
    assert (prepared._rules, prepared._filter) == (None, None)
    assert prepared.enter(WorkerOptions()) == ()
