"""The start of templates and spawned workers. Runs in child processes."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from ipc.errors import ErrorCode, ServiceError
from ipc.messages import Failed, WorkerOptions
from model_procs import lifeline
from model_procs.engine import Engine, EngineConfig


@dataclass(frozen=True, slots=True)
class ChildConfig:
    """What the front wants this process to load; JSON on the command line."""

    factory: str
    engine: EngineConfig
    worker_options: WorkerOptions
    """For a spawned worker; a forked one gets its options with the Fork message."""

    @classmethod
    def from_json(cls, text: str) -> ChildConfig:
        """Parse `{"factory": "module:Class", "models_dir", "threads", "options", ...}`."""
        data = json.loads(text)
        return cls(
            factory=data["factory"],
            engine=EngineConfig(
                models_dir=Path(data["models_dir"]),
                cache_dir=Path(data["cache_dir"]),
                threads=data["threads"],
                options=data["options"],
                capacity=data["capacity"],
                live=data["live"],
            ),
            worker_options=WorkerOptions(
                **data["worker_options"]
                | {
                    name: tuple(data["worker_options"][name])
                    for name in ("other_engines", "recordings")
                }
            ),
        )


_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))


def start(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Parse the arguments that all children have, arm the lifeline, and send logging to stderr.

    stderr is a pipe; the front logs its lines with this process's name.
    """
    parser.add_argument("--lifeline", type=int, required=True)
    parser.add_argument("--config", type=ChildConfig.from_json, required=True)
    args = parser.parse_args(argv)
    lifeline.arm(args.lifeline)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the front handles Ctrl-C
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_WithPriority())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(True)
    return args


class _WithPriority(logging.Formatter):
    """Puts the priority before each line, as for systemd's journal: the front logs it so."""

    def format(self, record: logging.LogRecord) -> str:
        """All lines of the record."""
        priority = next(p for level, p in _PRIORITIES if record.levelno >= level)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def load(config: ChildConfig) -> Engine:
    """Import the engine's class, build it and load its weights."""
    module_name, _, class_name = config.factory.partition(":")
    engine: Engine = getattr(importlib.import_module(module_name), class_name)(config.engine)
    engine.load()
    return engine


def failure(error: BaseException, hint: str = "") -> Failed:
    """The message for the front when this process cannot become READY, with the model's error."""
    if isinstance(error, ServiceError):
        return Failed(0, error.code.wire_name, error.message)
    code = ErrorCode.model_unavailable.wire_name
    return Failed(0, code, f"{type(error).__name__}: {error}"[:2000] + hint)


def redirect_output(log_fd: int) -> None:
    """Send stdout and stderr to the front's log, also those of native code."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)


_statm: int | None = None
"""The open /proc/self/statm of this process: its sandbox lets a worker open no file there."""


def resident_bytes() -> int:
    """RSS of this process in bytes, from statm: it takes microseconds, psutil takes longer."""
    global _statm  # noqa: PLW0603 - there is one for each process
    if _statm is None:
        _statm = os.open("/proc/self/statm", os.O_RDONLY)
    return int(os.pread(_statm, 100, 0).split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _forget_statm() -> None:
    """After a fork the descriptor is that of the parent."""
    global _statm  # noqa: PLW0603
    if _statm is not None:
        os.close(_statm)
        _statm = None


os.register_at_fork(after_in_child=_forget_statm)
