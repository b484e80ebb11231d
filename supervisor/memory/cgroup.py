"""The memory limit of the container, and how much of it is in use. Runs in the front, off the loop.

Linux limits and counts memory per control group: version 2 in `memory.max` and `memory.current`,
version 1 in `memory.limit_in_bytes` and `memory.usage_in_bytes`. The lowest limit on the path from
a process's group to the root applies. Without any limit, the limit is the machine's memory.
"""

from __future__ import annotations

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
    for version, controllers, path in _groups(membership):
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


def _groups(membership: Path) -> list[tuple[int, str, str]]:
    """(version, controllers, path) of each group that this process is in."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    groups = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        groups.append((1 if controllers else 2, controllers, path))
    return groups


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
