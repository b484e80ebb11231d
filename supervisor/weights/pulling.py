"""Download weights while the service serves: a child, and what is done when it fails. In the front.

The child is the program of `voice-engine models pull`, so the front has no hub's library. It ends
with the front, and a later one goes on where it was.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from supervisor.events import Publish, PullFailed, PullFinished, PullStarted
from supervisor.workers.child_log import open_log
from supervisor.workers.process import HUB_TOKENS, Process, describe_exit, end, start_python

PROGRAM = "model_procs.weights.fetch"
LATER = 75
"""Its exit code when the same may work later."""
_CHILD = "pull"
_ERROR = "error: "

PAUSES = (10.0, 30.0, 60.0, 300.0, 900.0)
"""Seconds before each further attempt; the last one counts for all that follow."""


class Pulling:
    """One download of the weights of some engines.

    `note` is told what operators must know, and None when there is no more to know.
    """

    def __init__(
        self,
        engines: Sequence[str],
        models_dir: Path,
        *,
        lifeline: int,
        publish: Publish,
        note: Callable[[str | None], None],
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        self._engines = list(engines)
        self._folder = models_dir
        self._lifeline = lifeline
        self._publish = publish
        self._note = note
        self._pauses = pauses
        self._error = ""
        self._said_all = asyncio.Event()

    async def run(self) -> None:
        """Download, and try again where that may help."""
        attempt = 0
        while True:
            self._publish(PullStarted(engines=self._engines, folder=str(self._folder)))
            status = await self._once()
            if status == 0:
                self._note(None)
                self._publish(PullFinished(engines=self._engines))
                return
            error = self._error or f"its process ended: {describe_exit(status)}"
            again = status == LATER or (status is not None and status < 0)
            pause = self._pauses[min(attempt, len(self._pauses) - 1)] if again else None
            self._publish(PullFailed(engines=self._engines, error=error, retry_in_s=pause))
            then = "mend it and restart the service" if pause is None else "it is tried again"
            self._note(f"the weights of {', '.join(self._engines)} are not here: {error}; {then}")
            if pause is None:
                return
            attempt += 1
            await asyncio.sleep(pause)

    async def _once(self) -> int | None:
        """One child, from its start to its end; its exit status."""
        self._error = ""
        self._said_all.clear()
        log_fd = await open_log(_CHILD, self._hear)
        try:
            process = await start_python(
                PROGRAM,
                ["pull", *self._engines, str(self._folder), "--lifeline", str(self._lifeline)],
                pass_fds=[self._lifeline],
                log_fd=log_fd,
                environment={name: os.environ[name] for name in HUB_TOKENS if name in os.environ},
            )
        finally:
            os.close(log_fd)
        status = await _ended(process)
        await self._said_all.wait()
        return status

    def _hear(self, line: str | None) -> None:
        if line is None:
            self._said_all.set()
        elif line.startswith(_ERROR):
            self._error = line.removeprefix(_ERROR)


async def _ended(process: Process) -> int | None:
    try:
        return await asyncio.shield(process.exited)
    except asyncio.CancelledError:
        await end(process, ask=None, grace=0)
        raise
