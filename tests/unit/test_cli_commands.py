"""Every command has an example and help; the options of `serve` are those that it takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from ipc.engines import ENGINES
from supervisor.cli.app import make, run
from supervisor.cli.command import examples_of
from supervisor.cli.models import LICENCES, engines_and_folder
from supervisor.serve import parser
from tests.support.service import ROOT


def commands(group: Any = None, before: str = "voice-engine") -> Iterator[tuple[str, Any]]:
    """All commands that help shows, by how they are called."""
    group = typer.main.get_command(make()) if group is None else group
    for name, command in group.commands.items():
        called = f"{before} {name}"
        if hasattr(command, "commands"):
            yield from commands(command, called)
        elif not command.hidden:
            yield called, command


COMMANDS = dict(commands())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_an_example_of_itself(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    examples = examples_of(command.epilog)
    assert examples
    assert all(name in example for example in examples)


def test_the_page_has_every_command_and_every_example() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    for name, command in COMMANDS.items():
        assert f"    {name} " in page or f"    {name}\n" in page, name
        for example in examples_of(command.epilog):
            assert example in page


def test_serve_shows_the_options_that_it_takes() -> None:
    shown = {option for each in COMMANDS["voice-engine serve"].params for option in each.opts}
    taken = {option for each in parser()._actions for option in each.option_strings}
    assert shown - {"--help", "-h"} == taken


def test_every_engine_has_a_licence() -> None:
    assert LICENCES.keys() == ENGINES.keys()


@pytest.mark.parametrize(
    ("words", "engines", "folder"),
    [
        ("", ["pocket", "sensevoice"], None),
        ("models", ["pocket", "sensevoice"], "models"),
        ("kokoro", ["kokoro"], None),
        ("whisper pocket whisper ./pocket", ["whisper", "pocket"], "./pocket"),
        ("all models", ["pocket", "sensevoice", "kokoro", "whisper"], "models"),
    ],
)
def test_a_pull_is_of_engines_into_a_folder(
    words: str, engines: list[str], folder: str | None
) -> None:
    assert engines_and_folder(words.split()) == (engines, None if folder is None else Path(folder))


@pytest.mark.parametrize(
    "arguments",
    [
        ["models", "pull", "flite", "models"],
        ["models", "pull", "models", "pocket"],
        ["nothing"],
        ["say", "--nothing"],
        ["say", "hi", "--speed", "9"],
        ["say", "hi", "-o", "x.doc"],
        ["recycle"],
        ["recycle", "tts-1", "--all"],
        ["scale", "tts", "0"],
        ["clone", "no-such-file.wav", "hi"],
        ["transcribe", "no-such-file.wav"],
        ["top"],
        ["log-level", "loud"],
    ],
)
def test_wrong_usage_is_64_and_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 64
    error = capsys.readouterr().err
    assert error.startswith("voice-engine: ")
    assert error.count("\n") == 1
