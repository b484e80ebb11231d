"""`top`: the processes of the service, live, in a terminal. Runs in a command.

Threads bring what has come (a reading of the service, an event, a key); the main thread alone draws
and decides. `View` is what is shown, and pure.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import termios
import threading
import tty
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

import typer
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.layout import Layout
from rich.live import Live
from rich.table import Table
from rich.text import Text

from supervisor.cli import events, show, status
from supervisor.cli.client import USAGE, Address, CommandError, Json, Service
from supervisor.cli.command import address, command

_INTERVAL_SECONDS = 1.0
_RETRY_SECONDS = 1.0
_KEPT_SAMPLES = 600
_KEPT_EVENTS = 100
_HEAD = "bold cyan"
_REASON = "by hand, in voice-engine top"

KEYS = {
    **{b"\x1b[A": "up", b"\x1bOA": "up", b"\x1b[B": "down", b"\x1bOB": "down"},
    **{each.encode(): each for each in "rkpqyn"},
    b"\x03": "q",
}
"""What a terminal sends for the keys that mean something."""

Verb = Literal["recycle", "kill", "pause", "resume", "quit"]


@dataclass(frozen=True, slots=True)
class Act:
    """What a key asks for: a verb, and the process or the model that it is for."""

    verb: Verb
    target: str = ""

    @property
    def path(self) -> str:
        """Where the service takes it."""
        place = "children" if self.verb in ("recycle", "kill") else "models"
        return f"/v1/{place}/{quote(self.target, safe='')}/{self.verb}"


@dataclass(slots=True)
class View:
    """What the screen shows."""

    url: str = ""
    health: Json = field(default_factory=dict)
    children: list[Json] = field(default_factory=list)
    memory: dict[str, deque[float]] = field(default_factory=dict)
    queues: dict[str, deque[float]] = field(default_factory=dict)
    since: float | None = None
    events: deque[Json] = field(default_factory=lambda: deque(maxlen=_KEPT_EVENTS))
    selected: str | None = None
    asking: Act | None = None
    message: Text = field(default_factory=Text)
    problem: str | None = None

    def read(self, health: Json, children: Json) -> None:
        """A reading of the service. The samples of /v1/children continue those before."""
        self.health, self.problem = health, None
        living = [child for child in children["children"] if child.get("ended") is None]
        models = list(health.get("models") or {})
        self.children = sorted(living, key=lambda child: _order(child, models))
        known = {}
        for child in self.children:
            key = f"{child['name']}/{child['pid']}"
            kept = self.memory.get(key) or deque(maxlen=_KEPT_SAMPLES)
            kept.extend(sample[1] for sample in child.get("samples") or [])
            known[key] = kept
        self.memory = known
        for name, model in (children.get("models") or {}).items():
            kept = self.queues.setdefault(name, deque(maxlen=_KEPT_SAMPLES))
            kept.extend(sample[1] + sample[2] for sample in model.get("samples") or [])
        self.since = children.get("now", self.since)
        names = [child["name"] for child in self.children]
        if self.selected not in names:
            self.selected = self._after_lost(names)

    def _after_lost(self, names: list[str]) -> str | None:
        """Which process is selected when the one before has gone: a worker of the same model."""
        model = (self.selected or "").rpartition("-")[0]
        same = [name for name in names if model and name.rpartition("-")[0] == model]
        workers = [child["name"] for child in self.children if child.get("role") == "worker"]
        return next(iter([*same[::-1], *workers, *names]), None)

    def press(self, key: str) -> Act | None:
        """What a key does: it changes the view, or asks for an act."""
        if self.asking is not None:
            asked, self.asking = self.asking, None
            return asked if key == "y" else None
        if key == "q":
            return Act("quit")
        if key in ("up", "down"):
            self._move(-1 if key == "up" else 1)
            return None
        child = next((each for each in self.children if each["name"] == self.selected), None)
        if child is None:
            return None
        return self._act(key, child)

    def _act(self, key: str, child: Json) -> Act | None:
        name, model = child["name"], child.get("model")
        if key == "r":
            return Act("recycle", name)
        if key == "k":
            self.asking = Act("kill", name)
        elif key == "p" and model:
            paused = self.health.get("models", {}).get(model, {}).get("paused")
            return Act("resume" if paused else "pause", model)
        return None

    def _move(self, step: int) -> None:
        names = [child["name"] for child in self.children]
        if names:
            place = names.index(self.selected) if self.selected in names else 0
            self.selected = names[max(0, min(len(names) - 1, place + step))]

    def render(self, height: int) -> Layout:
        """The screen, in so many lines."""
        models = self.health.get("models") or {}
        free = height - 2 - (len(models) + 2)
        rows = max(1, min(len(self.children), free - 4))
        screen = Layout()
        screen.split_column(
            Layout(self._head(), size=1),
            Layout(self._models(), size=len(models) + 2),
            Layout(self._processes(rows), size=rows + 2),
            Layout(self._events(free - rows - 2)),
            Layout(self._foot(), size=1),
        )
        return screen

    def _head(self) -> Text:
        if self.problem is not None:
            return Text.assemble(show.state("down"), f"  {show.clean(self.problem)}")
        if not self.health:
            return Text(f"asking {self.url} ...")
        return status.header(self.health, self.url)

    def _models(self) -> Graphs:
        rows = []
        for name, model in (self.health.get("models") or {}).items():
            state = "paused" if model.get("paused") else model.get("state")
            cells = [
                show.text(name),
                show.state(state),
                Text(show.number(model.get("workers"))),
                Text(show.number(model.get("in_flight"))),
                Text(show.number(model.get("queued"))),
                Text(show.seconds(model.get("backlog_s"))),
                Text(show.number(model.get("real_time_factor"), 2)),
            ]
            rows.append(Row(cells, list(self.queues.get(name, ()))))
        columns = ("MODEL", "STATE", "WORKERS", "RUN", "QUEUE", "BACKLOG", "RTF", "LOAD")
        return Graphs(columns, rows)

    def _processes(self, count: int) -> Graphs:
        names = [child["name"] for child in self.children]
        chosen = names.index(self.selected) if self.selected in names else 0
        first = max(0, min(chosen - count // 2, len(names) - count))
        now = self.since or 0
        rows = []
        for child in self.children[first : first + count]:
            samples = list(self.memory.get(f"{child['name']}/{child['pid']}", ()))
            cells = [
                show.text(child["name"]),
                show.state(child.get("state")),
                show.text(child["pid"]),
                status.memory(samples[-1] if samples else None, child),
                Text(show.number(child.get("soft_limit_mb"))),
                Text(show.number(child.get("hard_limit_mb"))),
                Text(show.number(child.get("requests"))),
                Text(show.duration(now - child["started"] if child.get("started") else None)),
            ]
            rows.append(Row(cells, samples, "reverse" if child["name"] == self.selected else ""))
        columns = ("PROCESS", "STATE", "PID", "MB", "SOFT", "HARD", "REQUESTS", "AGE", "MEMORY")
        return Graphs(columns, rows)

    def _events(self, rows: int) -> RenderableType:
        last = list(self.events)[-max(0, rows - 1) :] if rows > 1 else []
        lines = [events.line(event) for event in last]
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return Group(Text.assemble(("EVENTS  ", _HEAD), self.message), *lines)

    def _foot(self) -> Text:
        if self.asking is not None:
            return Text(f"{self.asking.verb} {self.asking.target}? y/n", "bold red")
        keys = (
            ("↑↓", "select"),
            ("r", "recycle"),
            ("k", "kill"),
            ("p", "pause or resume"),
            ("q", "quit"),
        )
        return Text.assemble(
            *(part for key, word in keys for part in ((key, "bold"), f" {word}   "))
        )


def _order(child: Json, models: list[str]) -> tuple[Any, ...]:
    """The front first; then each model, its template before its workers, the oldest first."""
    role, model = child.get("role"), child.get("model")
    place = models.index(model) if model in models else -1
    return (place, role != "template", child.get("started") or 0)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table, and the numbers of its graph."""

    cells: list[Text]
    samples: list[float]
    style: str = ""


@dataclass(frozen=True, slots=True)
class Graphs:
    """A table whose last column is a graph, as wide as there is room. The third on are numbers."""

    columns: tuple[str, ...]
    rows: list[Row]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        table = Table(box=None, expand=True, pad_edge=False, padding=(0, 1, 0, 0))
        used = 0
        for place, column in enumerate(self.columns[:-1]):
            width = max(len(column), *(row.cells[place].cell_len for row in self.rows), 0)
            used += width + 1
            right = place > 1
            table.add_column(Text(column, _HEAD), width=width, justify="right" if right else "left")
        table.add_column(Text(self.columns[-1], _HEAD), no_wrap=True, ratio=1)
        for row in self.rows:
            graph = Text(show.sparkline(row.samples, options.max_width - used - 1), "cyan")
            table.add_row(*row.cells, graph, style=row.style)
        yield table


# The terminal and the threads


@dataclass(frozen=True, slots=True)
class Message:
    """What a thread has brought."""

    kind: Literal["reading", "problem", "event", "key", "done", "failed"]
    content: Any


class Top:
    """The running command."""

    def __init__(self, where: Address) -> None:
        self._where = where
        self.view = View(url=where.url)
        self._inbox: queue.Queue[Message] = queue.Queue()
        self._stopped = threading.Event()
        self._hurry = threading.Event()

    def run(self, live: Live, height: Callable[[], int]) -> None:
        """Draw what comes until `q` is pressed."""
        for work in (self._read, self._follow, self._keys):
            threading.Thread(target=work, daemon=True).start()
        try:
            while True:
                live.update(self.view.render(height()), refresh=True)
                if not self._take(self._inbox.get()):
                    return
        finally:
            self._stopped.set()

    def _take(self, message: Message) -> bool:
        """Put a message into the view; False at the end."""
        view = self.view
        match message.kind:
            case "reading":
                view.read(*message.content)
            case "problem":
                view.problem = message.content
            case "event":
                view.events.append(message.content)
            case "done":
                view.message = Text(message.content, "green")
            case "failed":
                view.message = Text(message.content, "bold red")
            case "key":
                act = view.press(message.content)
                if act is not None and act.verb == "quit":
                    return False
                if act is not None:
                    view.message = Text(f"{act.verb} {act.target} ...")
                    threading.Thread(target=self._do, args=(act,), daemon=True).start()
        return True

    def _put(self, kind: Any, content: Any) -> None:
        self._inbox.put(Message(kind, content))

    def _read(self) -> None:
        """Read the service, once in a second."""
        while not self._stopped.is_set():
            try:
                with self._where.service(operator=True) as service:
                    self._read_on(service)
            except CommandError as error:
                self._put("problem", str(error))
                self._hurry.wait(_RETRY_SECONDS)
                self._hurry.clear()

    def _read_on(self, service: Service) -> None:
        since: float | None = None
        while not self._stopped.is_set():
            params = {} if since is None else {"since": since}
            children = service.json("GET", "/v1/children", params=params)
            since = children.get("now")
            self._put("reading", (service.health()[1], children))
            self._hurry.wait(_INTERVAL_SECONDS)
            self._hurry.clear()

    def _follow(self) -> None:
        """Follow the events, again after the service was gone."""
        after: str | None = None
        while not self._stopped.is_set():
            try:
                with self._where.service(operator=True) as service:
                    for event in events.stream(service, follow=True, after=after):
                        after = event.get("id")
                        self._put("event", event)
                        self._hurry.set()
            except CommandError:
                pass  # the reading says what is wrong
            self._stopped.wait(_RETRY_SECONDS)

    def _keys(self) -> None:
        """Read the keyboard."""
        rest = b""
        while not self._stopped.is_set():
            pressed = os.read(sys.stdin.fileno(), 64)
            if not pressed:
                self._put("key", "q")
                return
            keys, rest = keys_of(rest + pressed)
            for key in keys:
                self._put("key", key)

    def _do(self, act: Act) -> None:
        try:
            with self._where.service(operator=True) as service:
                answer = service.json("POST", act.path, json={"reason": _REASON})
        except CommandError as error:
            self._put("failed", show.clean(error))
        else:
            self._put("done", f"{show.clean(answer.get('name'))}: {answer.get('status')}")
            self._hurry.set()


def keys_of(pressed: bytes) -> tuple[list[str], bytes]:
    """The keys that have a meaning, in what the terminal has sent; and the begin of another one."""
    keys = []
    while pressed:
        known = next((each for each in KEYS if pressed.startswith(each)), None)
        if known is not None:
            keys.append(KEYS[known])
        elif any(each.startswith(pressed) for each in KEYS):
            break
        pressed = pressed[len(known or b"1") :]
    return keys, pressed


@contextmanager
def _raw_keys() -> Iterator[None]:
    """Keys come one by one and are not shown; afterwards the terminal is as it was."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def top(context: typer.Context) -> None:
    """Watch the processes live, and recycle, kill or pause.

    The graphs are the memory of each process, and the requests of each model.
    """
    where = address(context)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CommandError("top needs a terminal; `voice-engine status` does not", USAGE)
    with where.service(operator=True) as service:
        service.json("GET", "/v1/children")  # tells at once that it is down, or wants another key
    console = show.output()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # the shell would come back without its screen
    with ExitStack() as terminal:
        terminal.enter_context(_raw_keys())
        live = Live(console=console, screen=True, auto_refresh=False)
        terminal.enter_context(live)
        Top(where).run(live, lambda: console.height)


def add_to(app: typer.Typer) -> None:
    """Declare the command of this module."""
    command(app, "top", "voice-engine top", panel=status.PANEL)(top)
