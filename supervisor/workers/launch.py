"""How a worker is started: what it needs, and the start method `spawn`. Runs in the front.

The start method `fork` is in `template.py`. The pool knows only the protocol `Launcher`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Protocol

from ipc.channel import make_pipe
from ipc.engines import Json
from ipc.messages import WorkerOptions
from supervisor.workers.child_log import open_log
from supervisor.workers.handle import WorkerHandle
from supervisor.workers.process import start_python
from supervisor.workers.worker import Worker

NO_RESOURCES = (OSError, RuntimeError)
"""Raised when there is no descriptor, no memory, or (RuntimeError) no thread left."""

CHILD_ENVIRONMENT = {
    # Threads that wait for each other sleep. Spinning, they would take the core from the one they
    # wait for whenever there are more threads than cores: some steps then take fifty times as long.
    "OMP_WAIT_POLICY": "passive",
    # A template needs one thread, so that it can fork; a worker raises torch's number later.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # Freed tensors go back to the kernel instead of staying in glibc's heap.
    "MALLOC_MMAP_THRESHOLD_": "262144",
    "MALLOC_TRIM_THRESHOLD_": "262144",
    "MALLOC_ARENA_MAX": "2",
    # onnxruntime would start a thread for it when it is imported, and report to its makers.
    "ORT_DISABLE_TELEMETRY": "1",
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class LaunchError(Exception):
    """A worker or template could not be started; the message says why.

    `killed`: it ended by a SIGKILL that the front did not send, which is no evidence that the model
    cannot start.
    """

    def __init__(self, message: str, *, killed: bool = False) -> None:
        super().__init__(message)
        self.killed = killed


@dataclass(frozen=True, slots=True)
class LaunchConfig:
    """What the children of one model need to know.

    `capacity` and `live` are None where the engine decides.
    """

    model: str
    factory: str
    models_dir: str
    cache_dir: str
    threads: int
    options: Json
    worker_options: WorkerOptions
    lifeline: int
    load_timeout: float
    warm_up_timeout: float = 60.0
    capacity: int | None = None
    live: int | None = None

    def arguments(self) -> list[str]:
        """The command line of a template or a spawned worker."""
        config = {
            "factory": self.factory,
            "models_dir": self.models_dir,
            "cache_dir": self.cache_dir,
            "threads": self.threads,
            "options": self.options,
            "capacity": self.capacity,
            "live": self.live,
            "worker_options": asdict(self.worker_options),
        }
        return ["--lifeline", str(self.lifeline), "--config", json.dumps(config)]


class Launcher(Protocol):
    """Starts workers of one model. `ready_timeout` is how many seconds one may take to be READY."""

    ready_timeout: float

    @property
    def died(self) -> bool:
        """Whether it has ended by itself, so that its workers no longer share memory with it."""

    async def start(self) -> None:
        """Prepare for `launch`, if that is necessary. Raises `LaunchError`."""

    async def launch(self, name: str, on_change: Callable[[WorkerHandle], None]) -> WorkerHandle:
        """Start a worker; it is in state STARTING. Raises `LaunchError`."""

    async def close(self) -> None:
        """End what `start` has started, but not the workers: they belong to the pool."""


class WorkerPipes:
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
    async def open(cls, name: str) -> WorkerPipes:
        """Open the pipes of the worker called `name`. Raises `LaunchError`."""
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
        """The worker's ends: requests, replies, log."""
        return (self.child_requests, self.child_replies, self.log_fd)

    def close_child_ends(self) -> None:
        """Close the worker's ends in this process: the child has its own copies."""
        for descriptor in self.for_child():
            os.close(descriptor)

    def close_own_ends(self) -> None:
        """Close the front's ends: the worker could not be started."""
        os.close(self.requests)
        os.close(self.replies)


class SpawnLauncher:
    """Starts workers that load the model themselves; `config` is for those that come next."""

    def __init__(self, config: LaunchConfig) -> None:
        self.config = config
        self.ready_timeout = config.load_timeout

    @property
    def died(self) -> bool:
        """False: it has no process of its own."""
        return False

    async def start(self) -> None:
        """Nothing to prepare."""

    async def launch(self, name: str, on_change: Callable[[WorkerHandle], None]) -> Worker:
        """Start a worker process; it loads before it is READY."""
        pipes = await WorkerPipes.open(name)
        requests, replies, log_fd = pipes.for_child()
        try:
            process = await start_python(
                "model_procs.worker",
                ["--requests", str(requests), "--replies", str(replies), *self.config.arguments()],
                pass_fds=(requests, replies, self.config.lifeline),
                log_fd=log_fd,
                environment=CHILD_ENVIRONMENT,
            )
        except BaseException as error:
            pipes.close_own_ends()
            if isinstance(error, NO_RESOURCES):
                raise LaunchError(f"cannot start a process: {error}") from error
            raise
        finally:
            pipes.close_child_ends()
        worker = Worker(name, process, on_change)
        await worker.open(pipes.replies, pipes.requests)
        return worker

    async def close(self) -> None:
        """Nothing was started."""
