"""How commands are declared: each with examples, which its help shows and the tests run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import typer

from supervisor.cli.client import Address

Function = TypeVar("Function", bound=Callable[..., Any])

_PROMPT = "$ "


def make_app(help_text: str, *, whole: bool = False) -> typer.Typer:
    """A group of commands, or the `whole` command line, which can install its completion."""
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=whole,
        pretty_exceptions_enable=False,  # they would print local variables, keys among them
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["--help", "-h"]},
    )


def command(
    app: typer.Typer, name: str, *examples: str, panel: str | None = None, hidden: bool = False
) -> Callable[[Function], Function]:
    """Declare a command; its docstring is its help."""
    epilog = "\n\n".join(f"{_PROMPT}{example}" for example in examples)
    return app.command(name, epilog=epilog, rich_help_panel=panel, hidden=hidden)


def examples_of(epilog: str | None) -> list[str]:
    """The examples in the help of a command."""
    lines = (epilog or "").split("\n\n")
    return [line.removeprefix(_PROMPT) for line in lines if line.startswith(_PROMPT)]


def address(context: typer.Context) -> Address:
    """Where the service is, as the options before the command say."""
    found = context.find_root().obj
    assert isinstance(found, Address)
    return found
