"""The memory that the service may use, and what it uses of it. Runs in the front, off the loop.

Linux counts per control group: version 2 in `memory.max` and `memory.current`, version 1 in
`memory.limit_in_bytes` and `memory.usage_in_bytes`. A process is bound by the tightest limit on the
way from its group to the root. Without any limit the machine's memory is what there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

_UNLIMITED = 1 << 60
"""Version 1 says "no limit" as a number of about 2^63."""


@dataclass(frozen=True, slots=True)
class Container:
    """Where to read; `limit` in bytes, `group` is the folder of the group that sets it."""

    limit: int
    source: str
    group: Path | None = None
    version: int = 0

    def usage(self) -> int:
        """Bytes in use that cannot be dropped: the page cache's idle part does not count."""
        if self.group is None:
            memory = psutil.virtual_memory()
            return int(memory.total - memory.available)
        current = "memory.current" if self.version == 2 else "memory.usage_in_bytes"
        idle = "inactive_file" if self.version == 2 else "total_inactive_file"
        return _number(self.group / current) - _fields(self.group / "memory.stat").get(idle, 0)

    def oom_kills(self) -> int:
        """How many processes the kernel has killed here for lack of memory."""
        if self.group is None:
            return _fields(Path("/proc/vmstat")).get("oom_kill", 0)
        file = "memory.events" if self.version == 2 else "memory.oom_control"
        return _fields(self.group / file).get("oom_kill", 0)


def find_container(
    override: int | None = None,
    cgroups: Path = Path("/sys/fs/cgroup"),
    membership: Path = Path("/proc/self/cgroup"),
) -> Container:
    """The limit that binds this process. `override` (bytes) is a setting that lowers it."""
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
    """The group at `path` and all above it; inside a container only the root may be visible."""
    group = root / path.lstrip("/")
    return [group, *(parent for parent in group.parents if parent.is_relative_to(root))]


def _number(file: Path) -> int:
    """The number in `file`; 0 when it has none ("max") or is not there."""
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
