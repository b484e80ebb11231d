"""A private folder for uploads and responses that do not fit in memory. Runs in the front.

The front removes the folder when it stops. The next front removes a folder that a killed front left
behind.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from ipc.errors import ErrorCode, ServiceError
from supervisor.log import logger

_PREFIX = "voice-engine-spool-"

_RETRY_AFTER_FULL = 5.0

_RESPONSES_IN_MEMORY = 2 * 1024 * 1024
"""Bytes of all responses together that may wait in memory for clients to read them."""


class Spool:
    """The private folder, and the bytes that may stay in memory: per upload, of all responses."""

    def __init__(self, parent: Path, threshold: int, responses: int = _RESPONSES_IN_MEMORY) -> None:
        _remove_abandoned(parent)
        self.folder, self._lock = _make_locked(parent)
        self.threshold = threshold
        self.room = responses
        """How many more bytes of responses may stay in memory."""

    def full(self, error: OSError, what: str) -> ServiceError:
        """The error when `what` cannot be written to the folder; the log has the reason."""
        logger.error("spool_failed", error=str(error), folder=str(self.folder))
        return ServiceError(
            ErrorCode.spool_full,
            f"the server has no disk space for this {what}; try again later",
            retry_after=_RETRY_AFTER_FULL,
        )

    def close(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)


def _make_locked(parent: Path) -> tuple[Path, int]:
    """A new folder, and the lock that says that it is in use; it is held until the front ends."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        # A front that starts at the same time may have taken the lock before, and the folder for
        # abandoned.
        if os.fstat(lock).st_nlink:
            return folder, lock
        os.close(lock)


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # another user's, or not yet locked by a front that is just starting
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)
