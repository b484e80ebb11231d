"""What operators do to the running service: recycle, kill, scale and the like. Runs in a command.

With --wait a command follows the events of the service until the act has had its effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal
from urllib.parse import quote

import typer

from supervisor.cli import show
from supervisor.cli.client import USAGE, Address, CommandError, DownError, Json, Service
from supervisor.cli.command import address, command
from supervisor.cli.events import last_id, stream
from supervisor.cli.status import PANEL


def _children(incomplete: str) -> list[str]:
    return _completions(incomplete, lambda health: [child["name"] for child in health["children"]])


def _models(incomplete: str) -> list[str]:
    return _completions(incomplete, lambda health: list(health["models"]))


def _completions(incomplete: str, names: Callable[[Json], list[str]]) -> list[str]:
    """Names that the running service knows; none without one."""
    try:
        with Address.of_environment().service() as service:
            found = names(service.health()[1])
    except CommandError:
        return []
    return [name for name in found if name.startswith(incomplete)]


Child = Annotated[
    str,
    typer.Argument(metavar="NAME", help="A worker or a template.", autocompletion=_children),
]
Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="As in `voice-engine status`.", autocompletion=_models),
]
Reason = Annotated[
    str | None, typer.Option("--reason", "-r", help="Why; the service keeps it in its events.")
]
Wait = Annotated[bool, typer.Option("--wait", "-w", help="Until it is done.")]

Done = Callable[[Json], str | None]
"""Whether an event is the end of an act: the words for it, or None. Raises `CommandError`."""


def add_to(app: typer.Typer) -> None:
    """Declare the commands of this module."""
    examples: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
        "recycle": (
            recycle,
            (
                "voice-engine recycle tts-1 --wait",
                'voice-engine recycle --all --reason "new kernel settings"',
            ),
        ),
        "kill": (kill, ('voice-engine kill stt-2 --wait --reason "it hangs"',)),
        "scale": (scale, ("voice-engine scale tts 2 --wait",)),
        "reload": (reload, ("voice-engine reload tts --wait",)),
        "pause": (pause, ('voice-engine pause tts --reason "backup"',)),
        "resume": (resume, ("voice-engine resume tts",)),
        "unload": (unload, ("voice-engine unload stt --wait",)),
        "log-level": (log_level, ("voice-engine log-level debug",)),
    }
    for name, (function, lines) in examples.items():
        command(app, name, *lines, panel=PANEL)(function)


def recycle(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="The worker.", autocompletion=_children),
    ] = None,
    all_workers: Annotated[
        bool, typer.Option("--all", help="All workers, one after the other.")
    ] = False,
    reason: Reason = None,
    wait: Wait = False,
) -> None:
    """Replace a worker by a new one. No request is lost.

    With --all the next worker is replaced when the successor of the last one is READY.
    """
    if (name is None) is not all_workers:
        raise CommandError("name one worker, or --all; `voice-engine status` lists them", USAGE)
    with _operator(context) as service:
        if name is not None:
            path = f"/v1/children/{_part(name)}/recycle"
            _act(service, path, reason, _recycled(name) if wait else None)
            return
        for child in service.health()[1]["children"]:
            if child.get("role") == "worker" and child.get("lifecycle") == "READY":
                path = f"/v1/children/{_part(child['name'])}/recycle"
                _act(service, path, reason, _successor(child["model"]))


def kill(context: typer.Context, name: Child, reason: Reason = None, wait: Wait = False) -> None:
    """Kill a process. Its requests run again in another one.

    With --wait until there is a new one.
    """
    with _operator(context) as service:
        role, model = _who(service, name)
        done = _ready(f"{role}_ready", model) if wait else None
        _act(service, f"/v1/children/{_part(name)}/kill", reason, done)


def scale(
    context: typer.Context,
    model: Model,
    workers: Annotated[int, typer.Argument(metavar="N", min=1, help="The number of workers.")],
    reason: Reason = None,
    wait: Wait = False,
) -> None:
    """Change the number of workers of a model.

    Until the next restart; the settings VOICE_ENGINE_TTS_WORKERS and _STT_WORKERS stay.
    """
    with _operator(context) as service:
        done = _scaled(service, model, workers) if wait else None
        _act(service, f"/v1/models/{_part(model)}/scale", reason, done, workers=workers)


def reload(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Else all models.", autocompletion=_models),
    ] = None,
    reason: Reason = None,
    wait: Wait = False,
) -> None:
    """Load a model again, from what is on the disk now.

    No request is lost.
    """
    with _operator(context) as service:
        for name in list(service.health()[1]["models"]) if model is None else [model]:
            done = _ended(name, "reloaded", "reload_failed", "reload_refused") if wait else None
            _act(service, f"/v1/models/{_part(name)}/reload", reason, done)


def pause(context: typer.Context, model: Model, reason: Reason = None) -> None:
    """Let a model begin nothing new, until `resume`.

    Requests wait in its queue.
    """
    with _operator(context) as service:
        _act(service, f"/v1/models/{_part(model)}/pause", reason)


def resume(context: typer.Context, model: Model, reason: Reason = None) -> None:
    """Let a paused model go on."""
    with _operator(context) as service:
        _act(service, f"/v1/models/{_part(model)}/resume", reason)


def unload(context: typer.Context, model: Model, reason: Reason = None, wait: Wait = False) -> None:
    """Free the memory of a model that has no requests.

    The next request loads it again.
    """
    with _operator(context) as service:
        done = _ended(model, "unloaded") if wait else None
        _act(service, f"/v1/models/{_part(model)}/unload", reason, done)


def log_level(
    context: typer.Context,
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        typer.Argument(help="The lowest level of events that are logged."),
    ],
    reason: Reason = None,
) -> None:
    """Log more, or less, until the next restart."""
    with _operator(context) as service:
        _act(service, "/v1/log-level", reason, method="PUT", level=level)


@contextmanager
def _operator(context: typer.Context) -> Iterator[Service]:
    with address(context).service(operator=True) as service:
        yield service


def _act(
    service: Service,
    path: str,
    reason: str | None,
    done: Done | None = None,
    *,
    method: str = "POST",
    **fields: Any,
) -> None:
    """Ask for an act, and follow the events until it is `done`."""
    console = show.messages()
    after = last_id(service) if done is not None else None
    body = fields | ({} if reason is None else {"reason": reason})
    answer = service.json(method, path, json=body)
    name, status = show.clean(answer.get("name")), show.clean(answer.get("status"))
    console.print(f"{name}: {status}", markup=False)
    if done is None:
        return
    for event in stream(service, follow=True, after=after):
        if (words := done(event)) is not None:
            console.print(f"{name}: {show.clean(words)}", style="green", markup=False)
            return
    raise DownError("the service has ended; `voice-engine status` says what is left")


def _recycled(name: str) -> Done:
    def done(event: Json) -> str | None:
        if event.get("child") != name:
            return None
        if event.get("event") == "recycled":
            return f"replaced by {event.get('successor')}"
        return "died while it was replaced" if event.get("event") == "worker_died" else None

    return done


def _successor(model: str) -> Done:
    """A worker of the model is READY; fails if none can be started."""
    ready = _ready("worker_ready", model)

    def done(event: Json) -> str | None:
        if event.get("event") == "start_failed" and event.get("model") == model:
            raise CommandError(
                f"no successor can be started: {show.clean(event.get('error'))}; "
                "`voice-engine events` says more"
            )
        return ready(event)

    return done


def _ready(name: str, model: str) -> Done:
    def done(event: Json) -> str | None:
        if event.get("event") != name or event.get("model") != model:
            return None
        return f"{event.get('child')} is ready"

    return done


def _ended(model: str, good: str, *bad: str) -> Done:
    def done(event: Json) -> str | None:
        if event.get("model") not in (None, model):
            return None
        if event.get("event") in bad:
            reason = show.clean(event.get("error") or event.get("event"))
            raise CommandError(f"{model}: {reason}; `voice-engine events` says more")
        return good if event.get("event") == good else None

    return done


def _scaled(service: Service, model: str, workers: int) -> Done:
    """So many workers are READY, and no others are left; looked at with each event."""

    def done(_: Json) -> str | None:
        children = service.health()[1]["children"]
        states = [
            child.get("lifecycle")
            for child in children
            if child.get("role") == "worker" and model in (child.get("model"), child.get("engine"))
        ]
        return f"{workers} ready" if states == ["READY"] * workers else None

    return done


def _who(service: Service, name: str) -> tuple[str, str]:
    """Role and model of a process. Raises `CommandError`."""
    for child in service.health()[1]["children"]:
        if child.get("name") == name:
            return str(child.get("role")), str(child.get("model"))
    raise CommandError(
        f"there is no process called {show.clean(name)}; `voice-engine status` lists what runs"
    )


def _part(name: str) -> str:
    return quote(name, safe="")
