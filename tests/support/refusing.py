"""The service on a kernel that refuses what `VOICE_TEST_REFUSED` names.

`python -m tests.support.refusing serve` is `voice-engine serve` there; its children inherit it.
"""

from __future__ import annotations

import errno
import os
import sys

from seccompy import Filter

from supervisor import cli

_PR_SET_NO_NEW_PRIVS = 38


def refuse(layers: list[str]) -> None:
    """Make the kernel refuse the system calls of these layers."""
    kernel = Filter()
    for layer in layers:
        match layer:
            case "landlock":
                kernel.errno("landlock_create_ruleset", errno.ENOSYS)
            case "seccomp":
                kernel.errno("seccomp", errno.EPERM)
            case "no_new_privs":
                kernel.errno("prctl", errno.EINVAL, args={0: _PR_SET_NO_NEW_PRIVS})
            case "rlimits":
                kernel.errno("prlimit64", errno.EPERM, args=[(2, 1, 0)])  # a new limit
    kernel.load()


if __name__ == "__main__":
    refuse(os.environ["VOICE_TEST_REFUSED"].split(","))
    sys.exit(cli.main())
