"""A quota of processor time that the kernel enforces. In the bench's main process.

A control group is made below the one of this process, and removed afterwards.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from supervisor.memory.cgroup import groups

_ROOT = Path("/sys/fs/cgroup")
_PERIOD = 100_000
"""Microseconds; the kernel's own default."""


@contextmanager
def cpu_quota(pids: Sequence[int], cores: float) -> Iterator[bool]:
    """Processes and their children get the time of so many cores until the block ends.

    False where no group can be made; then nothing limits them.
    """
    parent, version = _parent()
    folder = parent / f"voice-engine-bench-{os.getpid()}"
    quota = str(round(cores * _PERIOD))
    try:
        if version == 2:
            (parent / "cgroup.subtree_control").write_text("+cpu")
        folder.mkdir()
        if version == 2:
            (folder / "cpu.max").write_text(f"{quota} {_PERIOD}")
        else:
            (folder / "cpu.cfs_period_us").write_text(str(_PERIOD))
            (folder / "cpu.cfs_quota_us").write_text(quota)
        for pid in pids:
            (folder / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        print(f"no control group can be made: {error}", file=sys.stderr)
        _remove(folder, parent)
        yield False
        return
    try:
        yield True
    finally:
        _remove(folder, parent)


def _parent() -> tuple[Path, int]:
    """The folder of this process's group, and the version of control groups."""
    parent = _ROOT
    for version, controllers, path in groups(Path("/proc/self/cgroup")):
        if "cpu" in controllers.split(","):
            return _ROOT / "cpu" / path.lstrip("/"), 1
        if version == 2:
            parent = _ROOT / path.lstrip("/")
    return parent, 2


def _remove(folder: Path, parent: Path) -> None:
    with suppress(OSError):
        for pid in (folder / "cgroup.procs").read_text().split():
            with suppress(OSError):  # it has ended
                (parent / "cgroup.procs").write_text(pid)
        folder.rmdir()
