"""Dying with the front, whatever the model is doing. Runs in templates and workers.

The front holds the write end of one pipe and never writes. The kernel sends SIGKILL to a process
that armed the read end when that write end closes, which it does however the front ends. Neither a
model that holds the interpreter's lock nor SIGSTOP can delay it. A parent-death signal could not do
this: a worker's parent is its template, which it must outlive.
"""

from __future__ import annotations

import fcntl
import os
import signal

_F_SETSIG = 10  # <fcntl.h>; the fcntl module has no name for it


def arm(lifeline: int) -> None:
    """Tie this process to the pipe whose read end is `lifeline`. Call once, also after a fork."""
    # The owner of the signal belongs to the open file, which a fork shares: open it anew.
    own = os.open(f"/proc/self/fd/{lifeline}", os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(own, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(own, fcntl.F_SETFL, fcntl.fcntl(own, fcntl.F_GETFL) | os.O_ASYNC)
    # Arming a pipe whose writer has already gone would wait for a signal that was sent before.
    try:
        gone = os.read(own, 1) == b""
    except BlockingIOError:
        gone = False
    if gone:
        os._exit(1)
