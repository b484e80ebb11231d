"""`cluster`: run the models on a Ray cluster. Runs in a command.

It imports Ray when it is used, because most machines do not have it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.live import Live
from rich.table import Table

from supervisor.cli import show
from supervisor.cli.client import CommandError
from supervisor.cli.command import command, make_app
from supervisor.cluster import MISSING

app = make_app("The service on many machines: models on a Ray cluster, any number of fronts.")

_NO_ANSWER = 75
"""Exit code: it may work later."""

_WRONG_FILE = 78
"""Exit code: the file is wrong."""

Cluster = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        envvar="VOICE_ENGINE_CLUSTER",
        help="The Ray cluster: HOST:PORT of its head, or auto for that of this machine.",
    ),
]
Application = Annotated[
    str,
    typer.Option(envvar="VOICE_ENGINE_APPLICATION", help="The name in the cluster's file."),
]
File = Annotated[Path, typer.Argument(metavar="FILE", help="The models and their replicas.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Until all models serve.")]


def add_to(parent: typer.Typer) -> None:
    """Declare the commands of this module."""
    command(app, "up", "voice-engine cluster up ops/cluster.yaml")(up)
    command(app, "status", "voice-engine cluster status")(status)
    command(app, "down", "voice-engine cluster down")(down)
    command(app, "config", "voice-engine cluster config ops/cluster.yaml")(config)
    parent.add_typer(app, name="cluster", rich_help_panel="Set-up")


def up(file: File, cluster: Cluster = "auto", wait: Wait = True) -> None:
    """Run the models of FILE on a Ray cluster, or change what runs; no request is lost.

    Models that are no longer in FILE end when they have finished their requests.
    """
    with _ray(cluster) as deploy:
        found = _load(file)
        deploy.up(found)
        if not wait:
            return
        with Live(console=show.messages(), auto_refresh=False) as live:
            while True:
                models = list(deploy.deployed(found.application))
                live.update(_table(models), refresh=True)
                if failed := [model for model in models if model.failed]:
                    raise CommandError(
                        f"{failed[0].model} cannot run: {failed[0].message}", _WRONG_FILE
                    )
                if all(model.running for model in models):
                    break
                time.sleep(0.5)
    show.messages().print("the models serve; start fronts: voice-engine serve --cluster ADDRESS")


def status(cluster: Cluster = "auto", application: Application = "voice-engine") -> None:
    """Show the models and the replicas of a cluster."""
    with _ray(cluster) as deploy:
        models = list(deploy.deployed(application))
        if not models:
            raise CommandError(
                f"the application {application} does not run on this cluster; start it: "
                "voice-engine cluster up FILE",
                _NO_ANSWER,
            )
        out = show.output()
        out.print(_table(models))
        _print_replicas(out, deploy.reports(application))


def down(cluster: Cluster = "auto", application: Application = "voice-engine") -> None:
    """End the models; their replicas finish the requests that they have. Ray goes on."""
    with _ray(cluster) as deploy:
        ended = deploy.down(application)
    if not ended:
        raise CommandError(f"the application {application} does not run on this cluster", 1)
    show.messages().print(f"ended: {', '.join(ended)}")


def config(file: File) -> None:
    """Print FILE as Ray Serve and KubeRay read it (serveConfigV2)."""
    with _importing():
        from supervisor.cluster.application import serve_file
    print(yaml.dump(serve_file(_load(file)), Dumper=_Plain, sort_keys=False), end="")


@contextlib.contextmanager
def _ray(address: str) -> Iterator[Any]:
    """The module that deploys, connected to a cluster."""
    with _importing():
        from supervisor.cluster import deploy
        from supervisor.cluster.connection import Connection, ConnectionFailed
    try:
        connection = Connection(address)
    except ConnectionFailed as error:
        raise CommandError(str(error), _NO_ANSWER) from None
    try:
        yield deploy
    finally:
        connection.close()


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        raise CommandError(MISSING, 1) from None


class _Plain(yaml.SafeDumper):  # type: ignore[misc]
    """YAML without references, which some of its readers do not know."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out."""
        return True


def _load(file: Path) -> Any:
    from supervisor.cluster.config import load

    try:
        return load(file)
    except (OSError, ValueError) as error:
        raise CommandError(str(error), _WRONG_FILE) from None


def _table(models: Sequence[Any]) -> Table:
    table = show.table("MODEL", "STATE", "REPLICAS", "MESSAGE")
    for model in models:
        counts = ", ".join(f"{count} {state.lower()}" for state, count in model.replicas.items())
        table.add_row(
            show.text(model.model), show.state(model.status), counts, show.text(model.message)
        )
    return table


def _print_replicas(out: Console, reports: Sequence[Any]) -> None:
    table = show.table(
        *("REPLICA", "MODEL", "ENGINE", "NODE", "PID", "STATE", "RUNS", "WAITS", "BACKLOG"),
        right=("PID", "RUNS", "WAITS", "BACKLOG"),
    )
    for report in sorted(reports, key=lambda each: (each.spec.model, each.node, each.replica)):
        found = report.status
        table.add_row(
            *map(show.text, (report.replica, report.spec.model, found.engine.name, report.node)),
            str(report.pid),
            show.state(found.state.value),
            show.number(found.in_flight - found.queued),
            show.number(found.queued),
            show.seconds(found.backlog),
        )
    out.print(table)
