"""What the service finds out about its container, from copies of what kernels show; its unit."""

from __future__ import annotations

import configparser
import os
from pathlib import Path

import pytest

from supervisor.local import default_threads
from supervisor.memory.cgroup import Container, Cores, find_container, find_cores
from tests.support.service import ROOT

MB = 1024 * 1024


def test_the_tightest_limit_of_version_2_binds(tmp_path: Path) -> None:
    membership = tmp_path / "membership"
    membership.write_text("0::/outer/inner\n")
    inner = tmp_path / "cgroup" / "outer" / "inner"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (inner.parent / "memory.max").write_text(f"{512 * MB}\n")
    (inner.parent / "memory.current").write_text(f"{300 * MB}\n")
    (inner.parent / "memory.stat").write_text(f"anon 1\ninactive_file {100 * MB}\n")
    (inner.parent / "memory.events").write_text("low 0\noom 1\noom_kill 2\n")
    container = find_container(None, tmp_path / "cgroup", membership)
    assert container == Container(512 * MB, "cgroup v2", inner.parent, 2)
    assert container.usage() == 200 * MB
    assert container.oom_kills() == 2


def test_version_1_is_understood(tmp_path: Path) -> None:
    membership = tmp_path / "membership"
    membership.write_text("5:cpu,cpuacct:/a\n4:memory:/a\n0::/\n")
    group = tmp_path / "cgroup" / "memory" / "a"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text(f"{256 * MB}\n")
    (group.parent / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (group / "memory.usage_in_bytes").write_text(f"{90 * MB}\n")
    (group / "memory.stat").write_text(f"total_inactive_file {10 * MB}\n")
    (group / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    container = find_container(None, tmp_path / "cgroup", membership)
    assert (container.limit, container.source) == (256 * MB, "cgroup v1")
    assert container.usage() == 80 * MB
    assert container.oom_kills() == 3


def test_without_any_limit_it_is_the_machine(tmp_path: Path) -> None:
    container = find_container(None, tmp_path, tmp_path / "missing")
    assert container.source == "machine"
    assert 0 < container.usage() < container.limit


def test_a_setting_lowers_the_limit_and_never_raises_it(tmp_path: Path) -> None:
    membership = tmp_path / "membership"
    membership.write_text("0::/\n")
    (tmp_path / "memory.max").write_text(f"{512 * MB}\n")
    assert find_container(100 * MB, tmp_path, membership).limit == 100 * MB
    assert find_container(900 * MB, tmp_path, membership).limit == 512 * MB


# Cores


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of sixteen, all of them ours."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(os, "cpu_count", lambda: 16)


@pytest.mark.usefixtures("many_cores")
def test_the_tightest_quota_of_version_2_binds(tmp_path: Path) -> None:
    membership = tmp_path / "membership"
    membership.write_text("0::/outer/inner\n")
    inner = tmp_path / "cgroup" / "outer" / "inner"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000\n")
    (inner.parent / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "cgroup" / "cpu.max").write_text("400000 100000\n")
    assert find_cores(tmp_path / "cgroup", membership) == Cores(1.5, "cgroup v2")


@pytest.mark.usefixtures("many_cores")
def test_quotas_of_version_1_are_understood(tmp_path: Path) -> None:
    membership = tmp_path / "membership"
    membership.write_text("6:cpuset:/b\n5:cpu,cpuacct:/a\n4:memory:/a\n")
    group = tmp_path / "cgroup" / "cpu" / "a"
    group.mkdir(parents=True)
    (group / "cpu.cfs_quota_us").write_text("300000\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")
    (group.parent / "cpu.cfs_quota_us").write_text("-1\n")
    (group.parent / "cpu.cfs_period_us").write_text("100000\n")
    assert find_cores(tmp_path / "cgroup", membership) == Cores(3, "cgroup v1")
    (group / "cpu.cfs_quota_us").write_text("-1\n")
    assert find_cores(tmp_path / "cgroup", membership) == Cores(16, "machine")


@pytest.mark.usefixtures("many_cores")
def test_cores_that_the_process_may_not_run_on_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert find_cores(tmp_path, tmp_path / "missing") == Cores(2, "affinity")


@pytest.mark.parametrize(
    ("cores", "workers", "threads"),
    [(2, 1, 2), (1, 1, 1), (0.5, 1, 1), (1.5, 1, 1), (1.8, 1, 2), (4, 2, 2), (2, 3, 1), (64, 1, 8)],
)
def test_workers_share_the_cores(cores: float, workers: int, threads: int) -> None:
    assert default_threads(Cores(cores, "machine"), workers) == threads


def test_the_unit_has_systemd_listen() -> None:
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "ops" / "voice-engine.service")
    assert unit["Service"]["Type"] == "notify"  # of others systemd takes no word
    assert unit["Service"]["TimeoutStartSec"] == "infinity"  # models take long to load, or to mend
