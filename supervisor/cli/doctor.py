"""`doctor`: is everything there that the service needs on this machine? Runs in a command."""

from __future__ import annotations

import typer
from rich.text import Text

from supervisor.cli import show
from supervisor.cli.command import command
from supervisor.cli.settings import EnvFile

_STYLES = {"OK": "green", "WARNING": "yellow", "FAILED": "bold red"}


def add_to(app: typer.Typer) -> None:
    """Declare the command of this module."""
    command(app, "doctor", "voice-engine doctor", panel="Set-up")(doctor)


def doctor(env_file: EnvFile = None) -> None:
    """Check that the service can run here.

    The exit code is 1 if there are warnings, 2 if something has failed.
    """
    from supervisor.cli import checks

    table = show.table("CHECK", "", "FOUND")
    worst = checks.Verdict.OK
    for check in checks.all_checks(env_file):
        worst = max(worst, check.verdict, key=lambda verdict: verdict.value)
        found = Text(show.clean(check.found))
        if check.advice:
            found.append(f"\n-> {check.advice}", "bold")
        table.add_row(
            check.name, Text(check.verdict.name.lower(), _STYLES[check.verdict.name]), found
        )
    show.output().print(table)
    raise typer.Exit(worst.value)
