"""The service as if on another machine: it does not see the folder in which Ray's nodes here are.

A program of its own, which becomes the service. It needs root, or a kernel that gives ordinary
users namespaces.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from supervisor.cli import main

_CLONE_NEWNS = 0x20000  # <sched.h>
_CLONE_NEWUSER = 0x10000000
_MS_REC = 16384  # <sys/mount.h>
_MS_PRIVATE = 1 << 18
_RAY = Path("/tmp/ray")
"""Where Ray has its sockets."""

_libc = ctypes.CDLL(None, use_errno=True)


def hide(folder: Path) -> None:
    """Give this process, and those that it starts, an empty folder there. Raises `OSError`."""
    user, group = os.getuid(), os.getgid()
    if user == 0:
        _do(_libc.unshare(_CLONE_NEWNS))
    else:
        _do(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWUSER))
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _do(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))
    folder.mkdir(exist_ok=True)
    _do(_libc.mount(b"none", bytes(folder), b"tmpfs", 0, None))


def _do(code: int) -> None:
    if code != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    hide(_RAY)
    sys.exit(main())
