"""How far a pull is, on the terminal or in plain lines. Runs in `voice-engine models pull`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

MB = 1_000_000
_STEP = 0.1
"""A plain line comes after each tenth, so that a log stays short."""


class Progress(Protocol):
    """Tells how many of all bytes have come."""

    def add(self, count: int) -> None:
        """So many more; less than 0 for those that must come again."""

    def say(self, line: str) -> None:
        """Something that people must know."""


class Lines:
    """Plain lines, for a log."""

    def __init__(self, name: str, total: int, done: int, output: TextIO) -> None:
        self._name, self._total, self._done = name, total, done
        self._output = output
        self._told = self._tenths

    @property
    def _tenths(self) -> int:
        return int(self._done / max(self._total, 1) / _STEP)

    def add(self, count: int) -> None:
        """Print a line when another tenth is there."""
        self._done += count
        if self._tenths > self._told:
            self.say(
                f"{self._done * 100 // max(self._total, 1)} %, {mb(self._done)} of "
                f"{mb(self._total)}"
            )
        self._told = self._tenths

    def say(self, line: str) -> None:
        """Print it."""
        print(f"{self._name}: {line}", file=self._output, flush=True)


@contextmanager
def progress(name: str, total: int, done: int, output: TextIO | None = None) -> Iterator[Progress]:
    """Show that `done` of `total` bytes of `name` are there, and all that come."""
    output = output or sys.stderr
    if not output.isatty():
        yield Lines(name, total, done, output)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(file=output)) as bars:
        task = bars.add_task(name, total=total, completed=done)

        class Bar:
            def add(self, count: int) -> None:
                bars.advance(task, count)

            def say(self, line: str) -> None:
                bars.console.print(f"{name}: {line}", markup=False, highlight=False)

        yield Bar()


def mb(count: int) -> str:
    """Bytes for people; sizes of files are in powers of ten."""
    return f"{count / MB:.1f} MB" if count < 10 * MB else f"{count / MB:.0f} MB"
