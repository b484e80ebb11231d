"""Kill this process when the front dies. Runs in templates and workers.

The front holds the write end of one pipe, the lifeline, and never writes to it. However the front
ends, the write end closes, and the kernel sends SIGKILL to every process that has armed the read
end. Neither a model that holds the interpreter's lock nor SIGSTOP can delay this. A parent-death
signal does not work here: a worker's parent is its template, and the worker must outlive it.
"""

from __future__ import annotations

import fcntl
import os
import signal

_F_SETSIG = 10  # <fcntl.h>; the fcntl module has no name for it


def arm(lifeline: int) -> None:
    """Arm `lifeline`, the read end of the pipe. Call it once in each process, also after a fork."""
    # The signal's owner is a property of the open file, which a fork shares: open it again.
    own = os.open(f"/proc/self/fd/{lifeline}", os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(own, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(own, fcntl.F_SETFL, fcntl.fcntl(own, fcntl.F_GETFL) | os.O_ASYNC)
    # If the write end closed before arming, the signal never comes: check for EOF.
    try:
        gone = os.read(own, 1) == b""
    except BlockingIOError:
        gone = False
    if gone:
        os._exit(1)
