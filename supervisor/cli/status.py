"""`status` and `wait`: what the service is doing, and whether it serves. Runs in a command.

`ops/status.py` judges in the same way, for machines that have nothing but Python; a test holds that
both agree.
"""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from supervisor.cli import show
from supervisor.cli.client import DOWN, FAILED, DownError, Json, RefusedError, Service
from supervisor.cli.command import address, command

PANEL = "Operation"

_DOWN_STATES = ("DEAD", "BACKOFF", "FAILED")
_POLL_SECONDS = 0.2

Model = Annotated[str | None, typer.Option("--model", "-m", help="Only this model must serve.")]


def add_to(app: typer.Typer) -> None:
    """Declare the commands of this module."""
    command(app, "status", "voice-engine status", panel=PANEL)(status)
    command(app, "wait", "voice-engine wait --timeout 300 --model tts", panel=PANEL)(wait)


def status(
    context: typer.Context,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the response of /health as it is.")
    ] = False,
) -> None:
    """Show the models and the processes.

    The exit code is 0 if all is well, 1 if something is degraded or still starting, 2 if no model
    serves.
    """
    health: Json
    try:
        with address(context).service() as service:
            http_status, health = service.health()
    except DownError as error:
        if as_json:
            print(json.dumps({"status": "down", "error": str(error)}, indent=2))
        else:
            console = show.output()
            console.print(Text.assemble(show.state("down"), f"  {show.clean(error)}"))
        raise typer.Exit(DOWN) from None
    if as_json:
        print(json.dumps(health, indent=2))
    else:
        show.output().print(render(health))
    raise typer.Exit(judge(http_status, health))


def judge(http_status: int, health: Json) -> int:
    """The exit code for a response from /health."""
    if http_status != 200 and not (health.get("asr_loaded") or health.get("tts_loaded")):
        return DOWN
    well = (
        http_status == 200
        and health.get("status") == "ok"
        and not any(model.get("state") in _DOWN_STATES for model in health["models"].values())
        and not any(child.get("state") in _DOWN_STATES for child in health["children"])
    )
    return 0 if well else FAILED


def render(health: Json) -> RenderableType:
    """The response from /health: a line for the service, tables of models and processes."""
    gap = Text()
    parts = (header(health), gap, _models(health["models"]), *_messages(health), gap)
    return Group(*parts, _children(health))


def header(health: Json, *more: str) -> Text:
    """The service in a line."""
    memory = health.get("memory") or {}
    parts = [
        f"voice-engine {show.clean(health.get('version'))}",
        f"up {show.duration(health.get('uptime_s'))}",
        f"memory {show.number(memory.get('usage_mb'))} of {show.number(memory.get('limit_mb'))} MB",
        *more,
    ]
    return Text.assemble(show.state(health.get("status")), *(f"  {part}" for part in parts))


def _models(models: dict[str, Json]) -> RenderableType:
    columns = ("MODEL", "STATE", "ENGINE", "PROFILE", "RUN", "QUEUE", "BACKLOG", "RECYCLES")
    table = show.table(*columns, right=columns[4:])
    for name, model in models.items():
        paused = Text(" paused", "yellow") if model.get("paused") else ""
        recycles = model.get("recycles")
        table.add_row(
            show.text(name),
            Text.assemble(show.state(model.get("state")), paused),
            show.text(model.get("engine")),
            show.text(model.get("profile")),
            show.number(model.get("in_flight")),
            show.number(model.get("queued")),
            show.seconds(model.get("backlog_s")),
            show.number(sum(recycles.values()) if isinstance(recycles, dict) else None),
        )
    return table


def _messages(health: Json) -> list[Text]:
    """Why a model is down, and what to do about what is degraded."""
    return [
        Text(f"{show.clean(name)}: {show.clean(told)}", style)
        for name, model in health["models"].items()
        for told, style in ((model.get("message"), "red"), (model.get("hint"), "yellow"))
        if told
    ]


def _children(health: Json) -> RenderableType:
    columns = ("PROCESS", "STATE", "PID", "MB", "SOFT", "HARD", "AGE", "REQUESTS", "LAST EXIT")
    table = show.table(*columns, right=columns[2:-1])
    for child in health["children"]:
        table.add_row(
            show.text(child.get("name")),
            show.state(child.get("state")),
            show.text(child.get("pid", "-")),
            memory(child.get("rss_mb"), child),
            show.number(child.get("soft_limit_mb")),
            show.number(child.get("hard_limit_mb")),
            show.duration(child.get("uptime_s")),
            show.number(child.get("requests")),
            show.text(child.get("last_exit") or "-"),
        )
    return table


def memory(rss: Any, child: Json) -> Text:
    """A process's memory, in colour when it is over a limit."""
    style = ""
    for limit, colour in (("soft_limit_mb", "yellow"), ("hard_limit_mb", "red")):
        mark = child.get(limit)
        if isinstance(rss, (int, float)) and isinstance(mark, (int, float)) and rss >= mark:
            style = colour
    return Text(show.number(rss), style)


def wait(
    context: typer.Context,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait.")] = 60,
    model: Model = None,
) -> None:
    """Wait until the service serves.

    The exit code is 2 if it does not in time.
    """
    end = time.monotonic() + timeout
    with address(context).service() as service:
        while (reason := _unready(service, model)) is not None:
            if time.monotonic() >= end:
                raise DownError(f"not ready after {timeout:g} s: {reason}")
            time.sleep(_POLL_SECONDS)
    show.messages().print("ready", style="green")


def _unready(service: Service, model: str | None) -> str | None:
    """Why requests would not be served; None if they would."""
    try:
        service.json("GET", "/readyz", params={} if model is None else {"model": model})
    except DownError as error:
        return str(error)
    except RefusedError as error:
        if error.status != 503:
            raise
        return str(error)
    return None
