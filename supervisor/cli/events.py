"""`events`: what happens in the service, as it says it in /v1/events. Runs in a command."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from supervisor.cli import show
from supervisor.cli.client import Json, Service
from supervisor.cli.command import address, command
from supervisor.cli.status import PANEL

_BASIC = ("id", "time", "event", "level", "model", "child", "target", "request_id")
_PATH = "/v1/events"
_WIDTHS = (8, 16, 12)
"""Columns for the time, for what has happened, and to whom."""


def add_to(app: typer.Typer) -> None:
    """Declare the command of this module."""
    command(app, "events", "voice-engine events", panel=PANEL)(events)


def events(
    context: typer.Context,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what happens next, until Ctrl-C.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on each line.")] = False,
) -> None:
    """Show what has happened to workers and requests."""
    console = show.output()
    with address(context).service(operator=True) as service:
        for event in stream(service, follow=follow):
            if as_json:
                print(json.dumps(event), flush=True)
            else:
                console.print(row(event) if console.is_terminal else line(event))


def stream(service: Service, *, follow: bool, after: str | None = None) -> Iterator[Json]:
    """The kept events, or those after the one with the id `after`; then live ones to `follow`."""
    headers = {} if after is None else {"Last-Event-ID": after}
    options = {"params": {"follow": str(follow).lower()}, "headers": headers}
    with service.stream("GET", _PATH, **options) as response:
        yield from parse(response.iter_bytes())


def last_id(service: Service) -> str | None:
    """The id of the last event so far."""
    found = None
    for event in stream(service, follow=False):
        found = event.get("id")
    return found


def parse(pieces: Iterable[bytes]) -> Iterator[Json]:
    """The JSON objects of server-sent events. Comments and what is not understood are left out."""
    data: list[bytes] = []
    for raw in _lines(pieces):
        if not raw:
            if data:
                yield from _object(b"\n".join(data))
            data = []
        elif raw.startswith(b"data:"):
            data.append(raw[5:].removeprefix(b" "))


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    # Not `iter_lines`: that ends lines also at characters which JSON may have in its text.
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from (each.removesuffix(b"\r") for each in lines)


def _object(data: bytes) -> Iterator[Json]:
    try:
        found = json.loads(data)
    except ValueError:
        return
    if isinstance(found, dict):
        yield found


def line(event: Json) -> Text:
    """An event for people in a line: time, what, whom, and the rest as name=value."""
    moment, what, whom, facts = _parts(event)
    what.pad_right(_WIDTHS[1] - what.cell_len)
    whom.pad_right(_WIDTHS[2] - whom.cell_len)
    return Text("  ").join([moment, what, whom, facts])


def row(event: Json) -> Table:
    """The same for a terminal, where the facts may need several lines."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for width in _WIDTHS:
        grid.add_column(width=width, overflow="fold")
    grid.add_column(overflow="fold")
    grid.add_row(*_parts(event))
    return grid


def _parts(event: Json) -> tuple[Text, Text, Text, Text]:
    level = str(event.get("level"))
    whom = event.get("child") or event.get("target") or event.get("model") or ""
    facts = "  ".join(
        f"{name}={_value(value)}"
        for name, value in event.items()
        if name not in _BASIC and value is not None
    )
    style = show.LEVELS.get(level, "")
    return (
        Text(clock(event.get("time")), "dim"),
        Text(show.clean(event.get("event")), style or "bold"),
        show.text(whom),
        Text(show.clean(facts), style),
    )


def clock(moment: object) -> str:
    """The time of day here, of a time in ISO 8601."""
    try:
        return datetime.fromisoformat(str(moment)).astimezone().strftime("%H:%M:%S")
    except ValueError:
        return "--:--:--"


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)
