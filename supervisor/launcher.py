"""How a worker comes to be: forked from a template, or spawned to load for itself. In the front.

Both launchers have the same three verbs (`start`, `launch`, `close`), so that the pool does not
know which one it has.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ipc.channel import ControlSocket, make_pipe
from ipc.codec import FrameError
from ipc.messages import Exited, Failed, Fork, Forked, Json, Ready
from supervisor.process import Process, describe_exit, end, open_log, start_python
from supervisor.worker import Worker

_LEAVE_SECONDS = 2.0
_FORK_SECONDS = 10.0
"""How long a fork may take; it takes milliseconds unless the machine is in trouble."""

_NO_RESOURCES = (OSError, RuntimeError)
"""What is raised when there are no more descriptors, no memory, or (RuntimeError) no thread."""

CHILD_ENVIRONMENT = {
    # One thread in a template, so that it can be forked; a worker raises torch's own count later.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # Freed tensors go back to the kernel instead of staying in glibc's heap.
    "MALLOC_MMAP_THRESHOLD_": "262144",
    "MALLOC_TRIM_THRESHOLD_": "262144",
    "MALLOC_ARENA_MAX": "2",
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class LaunchError(Exception):
    """A worker or template could not be brought to life; the message says why."""


@dataclass(frozen=True, slots=True)
class LaunchConfig:
    """What the children of one model need to know."""

    model: str
    factory: str
    models_dir: str
    threads: int
    options: Json
    worker_options: Json
    lifeline: int
    load_timeout: float
    warm_up_timeout: float = 60.0

    def arguments(self) -> list[str]:
        """The command line of a template or a spawned worker."""
        config = {
            "factory": self.factory,
            "models_dir": self.models_dir,
            "threads": self.threads,
            "options": self.options,
            "worker_options": self.worker_options,
        }
        return ["--lifeline", str(self.lifeline), "--config", json.dumps(config)]


class Launcher(Protocol):
    """Makes workers of one model. `ready_timeout` is how many seconds one may take to be READY."""

    ready_timeout: float

    async def start(self) -> None:
        """Prepare, as far as needed. Raises `LaunchError`."""

    async def launch(self, name: str, on_change: Callable[[Worker], None]) -> Worker:
        """A new worker in state STARTING. Raises `LaunchError`."""

    async def close(self) -> None:
        """End what `start` has started; the workers are the pool's."""


class _WorkerPipes:
    """The three pipes of a worker that is about to be started."""

    def __init__(self, log_fd: int) -> None:
        self.log_fd = log_fd
        self.child_requests, self.requests = make_pipe()
        try:
            self.replies, self.child_replies = make_pipe()
        except OSError:
            os.close(self.child_requests)
            os.close(self.requests)
            raise

    @classmethod
    async def open(cls, name: str) -> _WorkerPipes:
        """Those of the worker called `name`. Raises `LaunchError`."""
        try:
            log_fd = await open_log(name)
            try:
                return cls(log_fd)
            except OSError:
                os.close(log_fd)
                raise
        except OSError as error:
            raise LaunchError(f"cannot start a process: {error}") from error

    def for_child(self) -> tuple[int, int, int]:
        """What the worker gets: requests, replies, log."""
        return (self.child_requests, self.child_replies, self.log_fd)

    def close_child_ends(self) -> None:
        """The child has its own copies now."""
        for descriptor in self.for_child():
            os.close(descriptor)

    def close_own_ends(self) -> None:
        """The worker did not come to be."""
        os.close(self.requests)
        os.close(self.replies)


class SpawnLauncher:
    """Each worker loads the model for itself."""

    def __init__(self, config: LaunchConfig) -> None:
        self._config = config
        self.ready_timeout = config.load_timeout

    async def start(self) -> None:
        """Nothing to prepare."""

    async def launch(self, name: str, on_change: Callable[[Worker], None]) -> Worker:
        """Start a worker process; it loads before it is READY."""
        pipes = await _WorkerPipes.open(name)
        requests, replies, log_fd = pipes.for_child()
        try:
            process = await start_python(
                "model_procs.worker",
                ["--requests", str(requests), "--replies", str(replies), *self._config.arguments()],
                pass_fds=(requests, replies, self._config.lifeline),
                log_fd=log_fd,
                environment=CHILD_ENVIRONMENT,
            )
        except BaseException as error:
            pipes.close_own_ends()
            if isinstance(error, _NO_RESOURCES):
                raise LaunchError(f"cannot start a process: {error}") from error
            raise
        finally:
            pipes.close_child_ends()
        worker = Worker(name, process, on_change)
        await worker.open(pipes.replies, pipes.requests)
        return worker

    async def close(self) -> None:
        """Nothing was started."""


class Template:
    """The front's handle on one template process; a `Launcher` that forks.

    `on_exit` is called when the template dies, whether or not it was ever READY.
    """

    def __init__(self, config: LaunchConfig, on_exit: Callable[[Template], None]) -> None:
        self._config = config
        self._on_exit = on_exit
        self.name = f"{config.model}-template"
        self.ready_timeout = config.warm_up_timeout
        self.process: Process | None = None
        self.info: Json = {}
        self.baseline_rss = 0
        self.started = time.monotonic()
        self.ready = False
        self.closing = False
        self._control: ControlSocket | None = None
        self._loaded: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._forks: dict[str, asyncio.Future[Process]] = {}
        self._children: dict[int, Process] = {}

    async def start(self) -> None:
        """Start the process and wait until the model is loaded. Raises `LaunchError`."""
        try:
            self.process = await self._start_process()
        except _NO_RESOURCES as error:
            raise LaunchError(f"cannot start a process: {error}") from error
        self.process.exited.add_done_callback(self._on_process_exit)
        try:
            async with asyncio.timeout(self._config.load_timeout):
                loaded = await asyncio.shield(self._loaded)
        except TimeoutError:
            self.kill()
            raise LaunchError(
                f"the model did not load within {self._config.load_timeout:.0f} s; "
                "VOICE_ENGINE_LOAD_TIMEOUT sets the limit"
            ) from None
        except LaunchError:
            # It leaves by itself, unless the model has started a thread that does not end.
            await end(self.process, ask=lambda: None, grace=_LEAVE_SECONDS)
            raise
        if self.process.exited.done():  # whoever waits for that was told before it was ready
            raise LaunchError(f"the template died: {self.last_exit}")
        self.info = loaded.info
        self.baseline_rss = loaded.rss
        self.ready = True

    async def _start_process(self) -> Process:
        ours, theirs = ControlSocket.pair()
        descriptor = theirs.socket.fileno()
        try:
            ours.socket.setblocking(False)
            log_fd = await open_log(self.name)
            try:
                process = await start_python(
                    "model_procs.template",
                    ["--control", str(descriptor), *self._config.arguments()],
                    pass_fds=(descriptor, self._config.lifeline),
                    log_fd=log_fd,
                    environment=CHILD_ENVIRONMENT,
                )
            finally:
                os.close(log_fd)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._control = ours
        asyncio.get_running_loop().add_reader(ours.socket, self._on_readable)
        return process

    async def launch(self, name: str, on_change: Callable[[Worker], None]) -> Worker:
        """Fork a worker. Raises `LaunchError` when the template is gone or does not answer."""
        pipes = await _WorkerPipes.open(name)
        forked: asyncio.Future[Process] = asyncio.get_running_loop().create_future()
        self._forks[name] = forked
        try:
            if self._control is None or not self.ready:
                raise LaunchError("the template is not running")
            self._control.send(Fork(name, self._config.worker_options), pipes.for_child())
            async with asyncio.timeout(_FORK_SECONDS):
                process = await forked
        except BaseException as error:
            pipes.close_own_ends()
            if isinstance(error, TimeoutError):
                self.kill()
                raise LaunchError("the template did not fork in time") from error
            if isinstance(error, OSError):
                raise LaunchError(f"cannot reach the template: {error}") from error
            raise
        finally:
            del self._forks[name]
            pipes.close_child_ends()
        worker = Worker(name, process, on_change)
        await worker.open(pipes.replies, pipes.requests)
        return worker

    def kill(self) -> None:
        """End a template that does not do its work; its workers live on."""
        if self.process is not None:
            self.process.send_signal(9)

    async def close(self) -> None:
        """Have the template leave; its workers live on."""
        self.closing = True
        self._close_control()
        if self.process is not None:
            await end(self.process, ask=lambda: None, grace=_LEAVE_SECONDS)

    @property
    def last_exit(self) -> str:
        """How the dead template ended."""
        if self.process is None or not self.process.exited.done():
            return "did not start"
        return describe_exit(self.process.exited.result())

    def _on_readable(self) -> bool:
        """Handle one message; False when there is none."""
        if self._control is None:
            return False
        try:
            received = self._control.receive()
        except BlockingIOError:
            return False
        except (FrameError, OSError):
            self._close_control()
            self.kill()
            return False
        if received is None:
            self._close_control()
            return False
        message, descriptors = received
        match message:
            case Ready() if not self._loaded.done():
                self._loaded.set_result(message)
            case Failed() if not self._loaded.done():
                self._loaded.set_exception(LaunchError(message.message))
            case Forked() if len(descriptors) == 1 and (forked := self._waiting_fork(message.name)):
                # At once: how it ended may be the next message.
                process = self._children[message.pid] = Process(message.pid, descriptors.pop())
                forked.set_result(process)
            case Exited():
                if child := self._children.pop(message.pid, None):
                    child.relay_status(message.status)
            case _:
                self.kill()
        for descriptor in descriptors:
            os.close(descriptor)
        return True

    def _waiting_fork(self, name: str) -> asyncio.Future[Process] | None:
        forked = self._forks.get(name)
        return None if forked is None or forked.done() else forked

    def _close_control(self) -> None:
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control.socket)
            self._control.close()
            self._control = None

    def _on_process_exit(self, _: asyncio.Future[int | None]) -> None:
        while self._on_readable():  # what it said before it died, its load error first of all
            pass
        self._close_control()
        self.ready = False
        for child in self._children.values():
            child.adopted()
        error = LaunchError(f"the template died: {self.last_exit}")
        waiting: list[asyncio.Future[Any]] = [self._loaded, *self._forks.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(error)
                future.exception()
        self._on_exit(self)
