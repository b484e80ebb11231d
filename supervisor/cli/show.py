"""What commands print: tables, durations, small graphs. Pure but for the two consoles.

Words from the service are shown without characters that control a terminal, and never as markup.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

LEVELS = {"debug": "dim", "info": "", "warning": "yellow", "error": "bold red"}
"""The style of each level of events."""

_BARS = "▁▂▃▄▅▆▇█"

_STATES = {
    **dict.fromkeys(("DEAD", "BACKOFF", "FAILED", "down"), "bold red"),
    **dict.fromkeys(("STARTING", "LOADING", "RETIRING", "DRAINING", "STOPPING"), "yellow"),
    **dict.fromkeys(("starting", "degraded", "UNLOADED", "paused"), "yellow"),
    **dict.fromkeys(("IDLE", "READY", "SERVING", "ok"), "green"),
    "BUSY": "cyan",
}


def output() -> Console:
    """Where results go. Lines are not wrapped when it is no terminal: other programs read them."""
    return _console(sys.stdout)


def messages() -> Console:
    """Where everything else goes."""
    return _console(sys.stderr)


def _console(file: Any) -> Console:
    if file.isatty():
        return Console(file=file, highlight=False)
    return Console(file=file, highlight=False, width=10_000, soft_wrap=True)


def clean(value: Any) -> str:
    """`value` on one line, without characters that control a terminal."""
    return "".join(char if char.isprintable() else " " for char in str(value))


def text(value: Any) -> Text:
    """The same, not to be read as markup."""
    return Text(clean(value))


def state(value: Any) -> Text:
    """A state in its colour."""
    word = clean(value)
    return Text(word, _STATES.get(word, ""))


def number(value: Any, digits: int = 0) -> str:
    """A number, or "-"."""
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else "-"


def duration(seconds: Any) -> str:
    """Seconds as people say them: 59s, 3m2s, 1h1m, 2d3h."""
    if not isinstance(seconds, (int, float)):
        return "-"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour}h"
    if hours:
        return f"{hours}h{minute}m"
    return f"{minutes}m{second}s" if minutes else f"{second}s"


def size(count: float) -> str:
    """Bytes as people say them: 512 MB, 3.2 GB."""
    megabytes = count / (1 << 20)
    return f"{megabytes / 1024:.1f} GB" if megabytes >= 1024 else f"{megabytes:.0f} MB"


def sparkline(values: Sequence[float], width: int) -> str:
    """The last values as bars from the lowest to the highest, each the highest of its share.

    A flat line stays low: noise of less than a hundredth is no change.
    """
    if not values or width < 1:
        return ""
    if len(values) > width:
        edges = [len(values) * step // width for step in range(width + 1)]
        values = [max(values[start:end]) for start, end in pairwise(edges)]
    low, high = min(values), max(values)
    span = max(high - low, abs(high) / 100, 1e-9)
    return "".join(_BARS[int((value - low) / span * (len(_BARS) - 1))] for value in values)


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    """An empty table; the columns named in `right` hold numbers. Only the last one may wrap."""
    made = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        made.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=column != columns[-1],
            overflow="fold" if column == columns[-1] else "ellipsis",
        )
    return made


def seconds(value: Any) -> str:
    """A short time: 0.8s."""
    return f"{value:.1f}s" if isinstance(value, (int, float)) else "-"
