"""The Engine protocol, and what engines of both models share.

Runs in templates (`load`) and in workers (everything else). An engine knows its model and nothing
of HTTP, pipes or processes.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ipc.messages import Json, Request

Samples = npt.NDArray[np.float32]
"""Mono audio: shape (n,), float32, nominally within [-1, 1]."""


class Cancelled(Exception):  # noqa: N818 - not an error: the client has gone
    """Raised by an engine that noticed its stop event; the worker reports `cancelled`."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What an engine is built from; `options` holds the engine's own settings."""

    models_dir: Path
    threads: int = 1
    options: dict[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """What a template loads and a worker runs."""

    def __init__(self, config: EngineConfig) -> None: ...

    def load(self) -> None:
        """Load the weights. Runs in the template, which must still have one thread afterwards."""

    def warm_up(self) -> None:
        """Run one real inference, in the worker, before it reports READY."""

    def info(self) -> Json:
        """Facts for clients and for /health: `engine`, `notes` if any, `sample_rate` of speech."""

    def run(self, request: Request, stop: threading.Event) -> Generator[bytes, None, Json]:
        """Answer `request`: yield the bytes of the answer, return its description.

        Raises `ServiceError` for what the client can mend and `Cancelled` soon after `stop` is set.
        """
