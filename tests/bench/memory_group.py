"""A memory limit that the kernel enforces, as a container has one. In the bench's main process.

A control group is made below the root of the hierarchy and removed afterwards. Where that is not
allowed, the service is told the limit as a setting, and the kernel enforces nothing.

Run as a program it enters the group that is named in the environment and becomes the service:
`python -m tests.bench.memory_group serve ...`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from supervisor.memory.cgroup import Container

_ROOT = Path("/sys/fs/cgroup")
_VARIABLE = "VOICE_BENCH_MEMORY_GROUP"
_MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """A group with a limit; `container` reads it as the service does."""

    container: Container
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What makes this module, run as a program, enter the group."""
        return {_VARIABLE: str(self.folder)}

    def stat(self) -> dict[str, int]:
        """The kernel's account of what the group holds, in bytes."""
        lines = (self.folder / "memory.stat").read_text().splitlines()
        return {name: int(value) for name, value in (line.split() for line in lines)}

    def charged(self) -> int:
        """Bytes that count against the limit, droppable ones included."""
        name = "memory.current" if self.container.version == 2 else "memory.usage_in_bytes"
        return int((self.folder / name).read_text())


@contextmanager
def memory_group(limit_mb: int) -> Iterator[MemoryGroup | None]:
    """A group of that limit; None where none can be made. Its processes must be gone at the end."""
    folder, version = _ROOT / "memory", 1
    if not (folder / "memory.limit_in_bytes").exists():
        folder, version = _ROOT, 2
    folder = folder / f"voice-engine-bench-{os.getpid()}"
    try:
        if version == 2:
            (_ROOT / "cgroup.subtree_control").write_text("+memory")
        folder.mkdir()
        limit = limit_mb * _MB
        name = "memory.max" if version == 2 else "memory.limit_in_bytes"
        (folder / name).write_text(str(limit))
    except OSError as error:
        print(f"no control group can be made: {error}", file=sys.stderr)
        with suppress(OSError):
            folder.rmdir()
        yield None
        return
    try:
        yield MemoryGroup(Container(limit, f"cgroup v{version}", folder, version), folder)
    finally:
        folder.rmdir()


def main() -> None:
    """Enter the group, then become the service: with the same pid and nothing of the bench left."""
    (Path(os.environ.pop(_VARIABLE)) / "cgroup.procs").write_text(str(os.getpid()))
    os.execv(sys.executable, [sys.executable, "-m", "supervisor.cli", *sys.argv[1:]])


if __name__ == "__main__":
    main()
