"""One child process: start it, notice its end, end it. Runs in the front.

A process is known by its pidfd: unlike a pid it never means another process later, and it becomes
readable when the process ends, whoever the parent is.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from supervisor.threads import SUPERVISION

_RELAY_SECONDS = 2.0
"""How long to wait for a template to relay how its child ended."""

LEAVE_SECONDS = 2.0
"""How long a child may take to exit when it is asked to; it has no work left."""

_PR_SET_CHILD_SUBREAPER = 36  # <sys/prctl.h>


HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN")
_SECRET = re.compile("|".join(("VOICE_ENGINE_(API|ADMIN)_KEY", "OTEL_", "AWS_", *HUB_TOKENS)))

live_processes: set[int] = set()
"""Pids of every `Process` that has not been reaped."""


class Process:
    """A child, or a child's child. `exited` resolves to its exit status.

    The status is the exit code, or minus the number of the signal that ended it, or None when it is
    unknown.
    """

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.killed = False
        """Whether the front has sent it SIGKILL."""
        self._pidfd = pidfd
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int | None] = self._loop.create_future()
        self._relayed: asyncio.Future[int | None] = self._loop.create_future()
        self._loop.add_reader(pidfd, self._on_exit)
        live_processes.add(pid)

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing happens when the process has ended."""
        if not self.exited.done() and self._pidfd >= 0:
            self.killed = self.killed or number == signal.SIGKILL
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    @property
    def killed_from_outside(self) -> bool:
        """Whether it has ended by a SIGKILL that the front did not send."""
        return self.exited.done() and self.exited.result() == -signal.SIGKILL and not self.killed

    def relay_status(self, status: int) -> None:
        """The parent of the process has reaped it, with this exit status."""
        if not self._relayed.done():
            self._relayed.set_result(status)

    def adopted(self) -> None:
        """The parent of the process has died, so that the front can reap it."""
        if not self._relayed.done():
            self._relayed.set_result(None)

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        status = self._reap()
        if status is not None:
            self._finish(status)
        else:
            self._reaping = self._loop.create_task(self._await_relay())

    def _reap(self) -> int | None:
        """The status, if the front can reap it: started here, or adopted from a dead template."""
        try:
            result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return None
        if result is None:
            return None
        killed = result.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
        return -result.si_status if killed else result.si_status

    async def _await_relay(self) -> None:
        status: int | None = None
        with contextlib.suppress(TimeoutError):
            status = await asyncio.wait_for(self._relayed, _RELAY_SECONDS)
        self._finish(self._reap() if status is None else status)

    def _finish(self, status: int | None) -> None:
        os.close(self._pidfd)
        self._pidfd = -1
        live_processes.discard(self.pid)
        self.exited.set_result(status)


async def end(process: Process, *, ask: Callable[[], None] | None, grace: float) -> int | None:
    """End a process: ask, wait `grace` seconds, send SIGKILL. Returns the exit status.

    `ask` is None for a process that cannot respond. There is no SIGTERM in between: a child exits
    at EOF, and a child that does not is stuck in its model.
    """
    if ask is not None:
        ask()
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.shield(process.exited), grace)
    process.send_signal(signal.SIGKILL)
    return await asyncio.shield(process.exited)


def describe_exit(status: int | None) -> str:
    """How a process ended, in words: "exit code 1", "SIGKILL"."""
    if status is None:
        return "exit status unknown"
    if status >= 0:
        return f"exit code {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


async def start_python(
    module: str,
    arguments: Sequence[str],
    *,
    pass_fds: Sequence[int],
    log_fd: int,
    environment: Mapping[str, str],
) -> Process:
    """Start `python -m module` with only `pass_fds` open and its output in `log_fd`.

    This runs in a thread, because it blocks until the child has reached `exec`, which takes long on
    a busy machine.
    """
    starting = asyncio.get_running_loop().run_in_executor(
        SUPERVISION, _start_python, module, arguments, pass_fds, log_fd, environment
    )
    try:
        child, pidfd = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # Nothing would refer to the child, and the caller closes the descriptors that it gets.
        child, pidfd = await starting
        child.kill()
        child.wait()
        os.close(pidfd)
        raise
    process = Process(child.pid, pidfd)
    child.returncode = 0  # reaped through the pidfd; Popen must not try, nor warn
    return process


def _without_keys(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables without those that hold keys, which no model needs."""
    return {name: value for name, value in environment.items() if not _SECRET.match(name)}


def _start_python(
    module: str,
    arguments: Sequence[str],
    pass_fds: Sequence[int],
    log_fd: int,
    environment: Mapping[str, str],
) -> tuple[subprocess.Popen[bytes], int]:
    child = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log_fd,
        stderr=log_fd,
        pass_fds=pass_fds,
        env={**_without_keys(os.environ), **environment},
        process_group=0,  # Ctrl-C in a terminal is for the front alone
    )
    try:
        return child, os.pidfd_open(child.pid)
    except OSError:
        child.kill()
        child.wait()
        raise


def become_subreaper() -> None:
    """Become the parent of workers whose template died, to get their exit status."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans(known: Collection[int]) -> None:
    """Reap adopted processes that are not in `known`: programs that a dead worker had started."""
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            for pid in map(int, (thread / "children").read_text().split()):
                if pid not in known:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)
