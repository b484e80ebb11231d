"""The service under what a systemd unit allows: `python -m tests.support.confined serve`.

Systemd does not run in tests, so this process takes on the unit's restrictions by itself, before it
becomes the front: no capabilities, writing below the given folders alone, no other system calls,
address families and namespaces. `VOICE_TEST_CONFINED` names a file with a `Confinement` as JSON.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import landlockpy
import seccompy
from landlockpy import AccessFS, AccessNet
from seccompy import Action, ArgCmp, CmpOp, syscalls

FILE = "VOICE_TEST_CONFINED"

_FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10}
_NAMESPACES = (0x00020000, *(1 << bit for bit in range(25, 31)))
"""Flags of clone(2) that make a new namespace: mount, then cgroup to net."""
_PR_CAPBSET_DROP = 24  # <sys/prctl.h>
_LAST_CAPABILITY = 63
_READ = AccessFS.READ_FILE | AccessFS.READ_DIR | AccessFS.EXECUTE


@dataclass(frozen=True, slots=True)
class Confinement:
    """System calls and address families that are left, and folders that may be written in."""

    calls: list[str]
    families: list[str]
    writable: list[str]

    def enter(self) -> None:
        """Restrict this process, for good; the capabilities end when it runs another program."""
        libc = ctypes.CDLL(None)
        for capability in range(_LAST_CAPABILITY + 1):
            libc.prctl(_PR_CAPBSET_DROP, capability)
        if landlockpy.abi_version():
            rules = landlockpy.Ruleset(handled_net=AccessNet.NONE)
            rules.allow_path("/", _READ)
            for path in (*self.writable, "/dev"):
                rules.allow_path(path, rules.handled_fs)
            with rules:
                rules.restrict()
        made = seccompy.Filter(Action.ERRNO | errno.ENOSYS)
        for flag in _NAMESPACES:
            made.errno("clone", errno.EPERM, args=[ArgCmp(0, CmpOp.MASKED_EQ, flag, flag)])
        for family in self.families:
            made.allow("socket", args=[ArgCmp(0, CmpOp.EQ, _FAMILIES[family])])
        made.errno("socket", errno.EAFNOSUPPORT)
        known = (
            syscalls.X86_64_SYSCALLS if syscalls.arch() == "x86_64" else syscalls.AARCH64_SYSCALLS
        )
        for name in known:
            if name in self.calls and name not in ("clone3", "setns", "unshare"):
                made.allow(name)
            elif name != "clone3":  # its flags cannot be seen; without it, `clone` is used
                made.errno(name, errno.EPERM)
        made.load()


def read_unit(path: Path) -> dict[str, list[str]]:
    """The words of each setting of a unit; those of settings that stand there twice add up."""
    settings: dict[str, list[str]] = defaultdict(list)
    for line in path.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            settings[name] += value.split()
    return settings


def allowed_calls(names: list[str]) -> list[str]:
    """System calls, and systemd's sets of them (`@name`), as the calls alone."""
    calls = [name for name in names if not name.startswith("@")]
    for name in names:
        if name.startswith("@"):
            shown = subprocess.run(
                ["systemd-analyze", "syscall-filter", name],
                capture_output=True,
                text=True,
                check=True,
            )
            lines = (line.strip() for line in shown.stdout.splitlines()[1:])
            calls += allowed_calls([line for line in lines if line and not line.startswith("#")])
    return calls


if __name__ == "__main__":
    Confinement(**json.loads(Path(os.environ[FILE]).read_text())).enter()
    os.execv(sys.executable, [sys.executable, "-m", "supervisor.cli", *sys.argv[1:]])
