"""The limits of the container: memory, how much of it is in use, and cores. Runs in the front.

Linux limits and counts memory per control group: version 2 in `memory.max` and `memory.current`,
version 1 in `memory.limit_in_bytes` and `memory.usage_in_bytes`. The lowest limit on the path from
a process's group to the root applies. Without any limit, the limit is the machine's memory.

A limit on cores is a quota of time in each period: version 2 in `cpu.max`, version 1 in
`cpu.cfs_quota_us` and `cpu.cfs_period_us`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

_UNLIMITED = 1 << 60
"""Version 1 reports "no limit" as a number close to 2^63."""


@dataclass(frozen=True, slots=True)
class Container:
    """The container. `limit` is in bytes; `group` is the folder of the group that sets it."""

    limit: int
    source: str
    group: Path | None = None
    version: int = 0

    def usage(self) -> int:
        """Bytes in use, without the inactive page cache, which the kernel can drop."""
        if self.group is None:
            memory = psutil.virtual_memory()
            return int(memory.total - memory.available)
        current = "memory.current" if self.version == 2 else "memory.usage_in_bytes"
        idle = "inactive_file" if self.version == 2 else "total_inactive_file"
        return _number(self.group / current) - _fields(self.group / "memory.stat").get(idle, 0)

    def oom_kills(self) -> int | None:
        """How many processes the kernel has killed in this group because memory ran out.

        None when the kernel does not tell.
        """
        if self.group is None:
            return _fields(Path("/proc/vmstat")).get("oom_kill")
        file = "memory.events" if self.version == 2 else "memory.oom_control"
        return _fields(self.group / file).get("oom_kill")


def find_container(
    override: int | None = None,
    cgroups: Path = Path("/sys/fs/cgroup"),
    membership: Path = Path("/proc/self/cgroup"),
) -> Container:
    """The limit that applies to this process. `override`, in bytes, can only lower it."""
    found = Container(psutil.virtual_memory().total, "machine")
    for version, controllers, path in groups(membership):
        if version == 2:
            root, file = cgroups, "memory.max"
        elif "memory" in controllers:
            root, file = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        for group in _upwards(root, path):
            limit = _number(group / file)
            if 0 < limit < min(found.limit, _UNLIMITED):
                found = Container(limit, f"cgroup v{version}", group, version)
    if override is not None and override < found.limit:
        found = Container(override, "setting", found.group, found.version)
    return found


@dataclass(frozen=True, slots=True)
class Cores:
    """How many processor cores the container may use at once, and what sets that limit."""

    count: float
    source: str


def find_cores(
    cgroups: Path = Path("/sys/fs/cgroup"),
    membership: Path = Path("/proc/self/cgroup"),
) -> Cores:
    """The cores that this process may use; with a quota of time this may be a fraction."""
    allowed = len(os.sched_getaffinity(0))
    found = Cores(allowed, "machine" if allowed == os.cpu_count() else "affinity")
    for version, controllers, path in groups(membership):
        if version == 1 and "cpu" not in controllers.split(","):
            continue
        for group in _upwards(cgroups if version == 2 else cgroups / "cpu", path):
            count = _quota(group, version)
            if 0 < count < found.count:
                found = Cores(count, f"cgroup v{version}")
    return found


def _quota(group: Path, version: int) -> float:
    """The cores of a group; 0 without a limit."""
    if version == 1:
        quota, period = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
        return round(quota / period, 2) if quota > 0 and period > 0 else 0
    try:
        share, length = (group / "cpu.max").read_text().split()
        return round(int(share) / int(length), 2)
    except (OSError, ValueError):  # there is no such file at the root; "max" is no limit
        return 0


def groups(membership: Path) -> list[tuple[int, str, str]]:
    """(version, controllers, path) of each group that this process is in."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        found.append((1 if controllers else 2, controllers, path))
    return found


def _upwards(root: Path, path: str) -> list[Path]:
    """The group at `path` and its parents; inside a container only the root may be visible."""
    group = root / path.lstrip("/")
    return [group, *(parent for parent in group.parents if parent.is_relative_to(root))]


def _number(file: Path) -> int:
    """The number in `file`; 0 when the file holds no number ("max") or does not exist."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return 0


def _fields(file: Path) -> dict[str, int]:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
