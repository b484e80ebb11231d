"""An engine that tries what a taken-over decoder would try. It runs in workers of the service.

The recording names an attempt on each line, with its argument. The transcript is JSON: for each
line "done", or the name of the error.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ipc.engines import EngineInfo
from ipc.operations import AnyOperation, Paralinguistics, Transcribe, Transcript
from model_procs.engine import EngineConfig, Needs, Output

_PTRACE_ATTACH = 16
_CLONE_NEWUSER = 0x10000000
_TIOCSTI = 0x5412
_X32 = 0x40000000
_NUMBERS = {
    "x86_64": {"socket": 41, "unshare": 272, "process_vm_readv": 310, "io_uring_setup": 425},
    "aarch64": {"socket": 198, "unshare": 97, "process_vm_readv": 270, "io_uring_setup": 425},
}
_libc = ctypes.CDLL(None, use_errno=True)


class Intruder:
    """Tries what it is told, in the worker, and tells how it went."""

    def __init__(self, config: EngineConfig) -> None:
        pass

    def load(self) -> None:
        """There is nothing to load."""

    def warm_up(self) -> None:
        """Nor to warm up."""

    def info(self) -> EngineInfo:
        """As real engines describe themselves."""
        return EngineInfo(engine="intruder", sample_rate=16_000)

    def run(self, operation: AnyOperation, stop: threading.Event) -> Output:
        """Make the attempts."""
        assert isinstance(operation, Transcribe)
        yield from ()
        return self._attempt(operation)

    def _attempt(self, operation: Transcribe) -> Transcript:
        data = operation.recording.data
        if data is None:
            data = Path(str(operation.recording.path)).read_bytes()
        lines = data.rstrip(b"\0").decode().splitlines()
        text = json.dumps({line: _outcome(*line.partition(" ")[::2]) for line in lines})
        return Transcript(text, text, 0.0, Paralinguistics("en", "NEUTRAL", ()))


class IntruderWithProgram(Intruder):
    """The same; it declares that it starts one program."""

    needs = Needs(programs=("true",))


class IntruderWithThread(Intruder):
    """The same, in a thread that it starts while it loads."""

    def load(self) -> None:
        """Start the thread."""
        self._pool = ThreadPoolExecutor(1)
        self._pool.submit(threading.get_ident).result()

    def _attempt(self, operation: Transcribe) -> Transcript:
        return self._pool.submit(super()._attempt, operation).result()


def _outcome(name: str, argument: str) -> str:
    try:
        _ATTEMPTS[name](argument)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def _call(function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _system_call(name: str, offset: int = 0) -> None:
    _call(_libc.syscall, _NUMBERS[os.uname().machine][name] + offset, 0, 0, 0, 0, 0, 0)


def _connect(port: str) -> None:
    with socket.create_connection(("127.0.0.1", int(port))):
        pass


def _connect_unix(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)


def _fork(_: str) -> None:
    if os.fork() == 0:
        os._exit(0)


def _thread(_: str) -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()


def _append(path: str) -> None:
    with open(path, "ab"):
        pass


def _make(folder: str) -> None:
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        file.write(b"x")


def _large(_: str) -> None:
    """A file that is too large. Nothing is written: it would only grow."""
    with open(os.memfd_create("large"), "wb") as file:
        file.truncate(2**40)


def _memory(_: str) -> None:
    with open(os.memfd_create("memory"), "w+b") as file:
        file.write(b"x" * 4096)
        file.flush()
        mmap.mmap(file.fileno(), 0).close()


def _core(_: str) -> None:
    """Allow core files again."""
    _call(_libc.setrlimit, resource.RLIMIT_CORE, (ctypes.c_ulong * 2)(2**20, 2**20))


def _descriptors(_: str) -> None:
    held = []
    try:
        for _one in range(100_000):
            held.append(os.dup(0))
    finally:
        for each in held:
            os.close(each)


_ATTEMPTS: dict[str, Callable[[str], object]] = {
    "connect": _connect,
    "connect_unix": _connect_unix,
    "exec": lambda path: os.execv(path, [path]),
    "run": lambda path: subprocess.run([path], check=True),
    "fork": _fork,
    "thread": _thread,
    "trace": lambda pid: _call(_libc.ptrace, _PTRACE_ATTACH, int(pid), 0, 0),
    "signal": lambda pid: os.kill(int(pid), 0),
    "read": lambda path: Path(path).read_bytes(),
    "list": os.listdir,
    "append": _append,
    "make": _make,
    "mode": lambda path: os.chmod(path, 0o777),
    "large": _large,
    "core": _core,
    "descriptors": _descriptors,
    "type": lambda _: fcntl.ioctl(0, _TIOCSTI, b"x"),
    "memory": _memory,
    "call": _system_call,
    "x32": lambda name: _system_call(name, _X32),
    "namespace": lambda _: _call(_libc.unshare, _CLONE_NEWUSER),
}
