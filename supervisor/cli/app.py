"""All commands put together, and how they end. Runs in a command, never in the front."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from supervisor.cli import (
    cluster,
    doctor,
    events,
    listen,
    models,
    operate,
    settings,
    show,
    speech,
    status,
    top,
    transcribe,
    voices,
)
from supervisor.cli.client import USAGE, Address, CommandError
from supervisor.cli.command import command, make_app

_GLOBAL = ("--url", "--key")
_INTERRUPTED = 130


def _version(asked: bool) -> None:
    if asked:
        print(f"voice-engine {importlib.metadata.version('voice-engine')}")
        raise typer.Exit


def _options(
    context: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(
            help="Address of the service, else VOICE_ENGINE_URL, else this machine and PORT.",
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            help="API key, else VOICE_ENGINE_API_KEY, and for operators VOICE_ENGINE_ADMIN_KEY. "
            "Others on this machine can see what is written here.",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Text to speech and speech to text on CPUs, over HTTP."""
    context.obj = Address.of(url, key, os.environ)


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; else all, IPv4 and IPv6.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; else PORT, else 8000.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Let a Ray cluster run the models: auto, or HOST:PORT of its head.",
        ),
    ] = None,
    env_file: Annotated[
        Path | None,
        typer.Option(
            "--env-file",
            help="File with settings; the environment overrides it, SIGHUP reloads it.",
        ),
    ] = None,
) -> None:
    """Run the service, until SIGTERM or Ctrl-C."""
    given = (
        *(("--host", host), ("--port", port)),
        *(("--cluster", cluster), ("--env-file", env_file)),
    )
    options = [word for name, value in given if value is not None for word in (name, str(value))]
    # Without the libraries of this process: those of the commands are none of the service's.
    os.execv(sys.executable, [sys.executable, "-m", "supervisor.cli", "serve", *options])


def make() -> typer.Typer:
    """The whole command line."""
    app = make_app("Text to speech and speech to text on CPUs, over HTTP.", whole=True)
    app.callback()(_options)
    command(app, "serve", "voice-engine serve --host 127.0.0.1 --port 8000", panel="Set-up")(serve)
    for module in (
        *(speech, transcribe, listen, voices),
        *(status, top, events, operate),
        *(models, settings, cluster, doctor),
    ):
        module.add_to(app)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run a command; returns the exit code. Errors are one line each."""
    try:
        code = make()(args=hoisted(arguments), prog_name="voice-engine", standalone_mode=False)
    except CommandError as error:
        return _fail(str(error), error.code)
    except typer.TyperException as error:
        return _fail(error.message, USAGE)
    except typer.Abort:
        return _INTERRUPTED
    except BrokenPipeError:
        # As with `| head -1`. Python flushes again when it ends, and would report an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    show.messages().print(f"voice-engine: {show.clean(message)}", markup=False, style="red")
    return code


def hoisted(arguments: Sequence[str]) -> list[str]:
    """The arguments with --url and --key in front, where they are declared: they fit anywhere."""
    first: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word in _GLOBAL:
            first += [word, *([value] if (value := next(words, None)) is not None else [])]
        elif word.startswith(tuple(f"{name}=" for name in _GLOBAL)):
            first.append(word)
        else:
            rest.append(word)
    return [*first, *rest]
