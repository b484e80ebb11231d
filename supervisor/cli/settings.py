"""`settings`: every setting, its value, and where that comes from. Runs in a command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from supervisor.cli import show
from supervisor.cli.command import command

_WIDE = 160
"""Columns from which on there is room for what settings are for."""

EnvFile = Annotated[
    Path | None,
    typer.Option("--env-file", exists=True, dir_okay=False, help="The file that `serve` is given."),
]


def add_to(app: typer.Typer) -> None:
    """Declare the command of this module."""
    command(
        app,
        "settings",
        "voice-engine settings",
        "voice-engine settings --env-file voice-engine.env --changed",
        panel="Set-up",
    )(settings)


def settings(
    env_file: EnvFile = None,
    changed: Annotated[
        bool, typer.Option("--changed", help="Only those that are not at their default.")
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="All settings with their defaults, as Markdown.")
    ] = False,
) -> None:
    """List all settings, and where their values come from.

    In a wide window it also says what each is for.
    """
    from supervisor.cli import in_force
    from supervisor.settings import Settings

    if markdown:
        print(Settings.table())
        return
    file = in_force.read_file(env_file)
    console = show.output()
    described = console.width >= _WIDE
    table = show.table("VARIABLE", "VALUE", "FROM", *(["WHAT IT IS"] if described else []))
    for value in in_force.values(os.environ, file):
        default = value.source == "default"
        if changed and default:
            continue
        text = Text(value.text, "dim" if default else "bold")
        description = [Text(value.description)] if described else []
        table.add_row(value.variable, text, value.source, *description)
    if table.row_count:
        console.print(table)
    else:
        show.messages().print("all settings have their defaults", style="dim")
    for name in in_force.unknown(os.environ, file):
        show.messages().print(
            f"warning: {show.clean(name)} is no setting", style="yellow", markup=False
        )
    in_force.load_settings(env_file)
