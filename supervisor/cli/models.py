"""`models`: the engines, their weights, and whether they are in order. Runs in a command.

What needs PyTorch becomes another program, because nothing here may import it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.text import Text

from ipc.engines import ENGINES, PULLABLE, EngineSpec
from ipc.variants import is_pullable
from supervisor.cli import show
from supervisor.cli.client import USAGE, Address, CommandError, Json
from supervisor.cli.command import address, command, make_app
from supervisor.cli.settings import EnvFile

app = make_app("The engines, and the weights that they need.")

ALL = "all"
"""Instead of the names of all engines that can be pulled."""

LICENCES = {
    "pocket": "CC-BY-4.0, with terms",
    "sensevoice": "FunASR Model License 1.1",
    "kokoro": "Apache-2.0; espeak-ng GPL-3.0",
    "whisper": "MIT",
    "flite": "free, like BSD",
    "sphinx": "BSD-2-Clause",
}
"""Those of the weights; docs/licences.md has them in full."""

Folder = Annotated[
    Path | None,
    typer.Argument(
        metavar="FOLDER", help="The models folder; else that of VOICE_ENGINE_MODELS_DIR."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace weights that are there.")]


def add_to(parent: typer.Typer) -> None:
    """Declare the commands of this module."""
    command(app, "ls", "voice-engine models ls")(ls)
    command(app, "pull", "voice-engine models pull pocket sensevoice models")(pull)
    command(app, "fetch", hidden=True)(pull)
    command(app, "synth", "voice-engine models synth random-models --size nano")(synth)
    command(app, "verify", "voice-engine models verify flite sphinx")(verify)
    parent.add_typer(app, name="models", rich_help_panel="Set-up")


def ls(env_file: EnvFile = None) -> None:
    """List the engines: what they serve, and where their weights come from."""
    from supervisor.cli.in_force import load_settings

    settings = load_settings(env_file)
    serving = {model.engine.name: model.name for model in settings.models}
    table = show.table("ENGINE", "KIND", "PROFILE", "WEIGHTS", "STATE", "LICENCE")
    advice: dict[str, list[str]] = {}
    for name, spec in ENGINES.items():
        installed = spec.installed(settings.models_dir)
        state = f"serves {serving[name]}" if name in serving else "installed"
        if not installed:
            advice.setdefault(_how_to_get(spec, settings.models_dir), []).append(name)
        table.add_row(
            name,
            str(spec.kind),
            spec.profile,
            show.text(weights_of(spec, settings.models_dir)) if installed else "",
            Text(state, "green") if installed else Text("missing", "yellow"),
            LICENCES[name],
        )
    show.output().print(table)
    for how, names in advice.items():
        show.messages().print(f"{', '.join(names)}: {how}", style="yellow", markup=False)


def weights_of(spec: EngineSpec, models_dir: Path) -> str:
    """Where the weights of an installed engine are."""
    if not spec.files:
        return "in its package"
    if all(any(models_dir.glob(pattern)) for pattern in spec.files):
        return str(models_dir / Path(spec.files[0]).parts[0])
    return "in packages"


def _how_to_get(spec: EngineSpec, models_dir: Path) -> str:
    if spec.profile == "production":
        return f"voice-engine models pull {spec.name} {models_dir}"
    return "make setup, without SLIM=1"


def pull(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ENGINE...] [FOLDER]",
            help=f"Some of {', '.join(PULLABLE)}, pocket-french and the like, or {ALL}; else the "
            "production engines. Then the models folder, else that of VOICE_ENGINE_MODELS_DIR.",
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Download published weights, compare their hashes, and put them into the models folder.

    What is complete stays; the same command goes on after a failure. A running service takes the
    weights up by itself. The exit code is 75 if the network failed: the same may work later.
    """
    engines, given = engines_and_folder(words or [])
    folder = _folder(given)
    options = ["--force"] if force else []
    code = _run("fetch", "pull", *engines, str(folder), *options)
    if code == 0:
        show.messages().print(_what_a_service_does(address(context), engines, folder), markup=False)
    raise typer.Exit(code)


def engines_and_folder(words: Sequence[str]) -> tuple[list[str], Path | None]:
    """Names of engines and, last, a folder. Raises `CommandError` for anything else."""
    engines = [word for word in words if is_pullable(word) or word == ALL]
    others = [word for word in words if word not in engines]
    if others and others != [words[-1]]:
        known = ", ".join((*PULLABLE, "pocket-french, ...", ALL))
        raise CommandError(f"there is no engine {others[0]} to pull; use some of {known}", USAGE)
    if ALL in engines:
        engines = list(PULLABLE)
    default = [name for name in PULLABLE if ENGINES[name].profile == "production"]
    return list(dict.fromkeys(engines or default)), Path(others[0]) if others else None


def _what_a_service_does(where: Address, engines: Sequence[str], folder: Path) -> str:
    try:
        with where.service() as service:
            models: Json = service.health()[1]["models"]
    except (CommandError, KeyError, TypeError):
        return f"No service answers at {where.url}. Next: VOICE_ENGINE_MODELS_DIR={folder} make run"
    running = {str(model.get("engine")) for model in models.values()}
    told = []
    if same := [name for name in engines if name in running]:
        told.append(f"loads the files of {', '.join(same)} again if they are others")
    if new := [name for name in engines if name not in running]:
        told.append(f"takes up {', '.join(new)} instead of a lesser engine")
    return (
        f"The service at {where.url} runs {', '.join(sorted(running))}. If its models folder is "
        f"{folder.resolve()} and no setting names other engines, it {' and '.join(told)}, within "
        "seconds and without losing a request (`voice-engine events` shows it)."
    )


def synth(
    folder: Folder = None,
    size: Annotated[
        Literal["nano", "full"], typer.Option(help="full: as large as the published ones.")
    ] = "nano",
    force: Force = False,
) -> None:
    """Write random weights, for tests: real shapes, speech that means nothing."""
    arguments = ["synth", str(_folder(folder)), "--size", size, *(["--force"] if force else [])]
    _become("fetch", *arguments)


def verify(
    engines: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ENGINE...", help="Engines of `models ls`; else all installed ones."
        ),
    ] = None,
    folder: Annotated[Path | None, typer.Option("--folder", help="The models folder.")] = None,
    env_file: EnvFile = None,
) -> None:
    """Check that the weights of engines are complete, and load them once.

    Published hashes are compared where they are known. The exit code is 1 if an engine fails.
    """
    from supervisor.cli.in_force import load_settings

    settings = load_settings(env_file)
    _become(
        "verify",
        "--models-dir",
        str(folder or settings.models_dir),
        "--cache-dir",
        str(settings.cache_dir),
        *(engines or []),
    )


def _folder(given: Path | None) -> Path:
    if given is not None:
        return given
    from supervisor.cli.in_force import load_settings

    return load_settings(None).models_dir


def _run(module: str, *arguments: str) -> int:
    """Run that program to its end; returns its exit code. Ctrl-C is for it."""
    before = signal.signal(signal.SIGINT, lambda *_: None)  # a handler, which a child does not get
    try:
        command = [sys.executable, "-m", f"model_procs.weights.{module}", *arguments]
        code = subprocess.run(command, check=False).returncode
    finally:
        signal.signal(signal.SIGINT, before)
    return 128 - code if code < 0 else code


def _become(module: str, *arguments: str) -> None:
    """Go on as that program, in the same process."""
    os.execv(sys.executable, [sys.executable, "-m", f"model_procs.weights.{module}", *arguments])
