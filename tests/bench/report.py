"""Tables of results, as aligned text and as JSON. Runs in the bench's main process."""

from __future__ import annotations

import os
import platform
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

Cell = str | int | float | None

_STARTED = time.monotonic()


@dataclass(frozen=True, slots=True)
class Table:
    """One table of results; the units stand in the columns' names."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The table as aligned text: words to the left, numbers to the right."""
        body = [[_text(cell) for cell in row] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(self.columns, *body, strict=True)]
        numeric = [
            not any(isinstance(row[index], str) for row in self.rows)
            for index in range(len(self.columns))
        ]

        def line(cells: list[str]) -> str:
            aligned = (
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(cells, widths, numeric, strict=True)
            )
            return "  ".join(aligned).rstrip()

        rule = ["-" * width for width in widths]
        lines = [line(list(self.columns)), line(rule), *(line(row) for row in body)]
        return "\n".join([self.title, "", *lines, *(f"  {note}" for note in self.notes)])

    def markdown(self) -> str:
        """The table as Markdown, without its title."""
        body = [[_text(cell) for cell in row] for row in self.rows]
        lines = [self.columns, ["---"] * len(self.columns), *body]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def json(self) -> dict[str, Any]:
        """The table as JSON: each row a mapping from column to value."""
        rows = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        return {"title": self.title, "rows": rows, "notes": self.notes}


def _text(cell: Cell) -> str:
    """Three digits of a fraction are enough, or so many decimals, and all of a large number."""
    match cell:
        case None:
            return "-"
        case float():
            size = abs(cell)
            decimals = (
                0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 or not size else 3
            )
            return f"{cell:,.{decimals}f}"
        case int():
            return f"{cell:,}"
        case _:
            return cell


def step(what: str) -> None:
    """Say on stderr what is being measured now."""
    print(f"[{time.monotonic() - _STARTED:6.1f} s] {what}", file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": _cpu_name(),
        "memory_gb": round(psutil.virtual_memory().total / 1024**3, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
