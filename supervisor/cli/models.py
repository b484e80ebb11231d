"""`models`: the engines, their weights, and whether they are in order. Runs in a command.

What needs PyTorch becomes another program, because nothing here may import it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.text import Text

from ipc.engines import ENGINES, EngineSpec
from supervisor.cli import show
from supervisor.cli.command import command, make_app
from supervisor.cli.settings import EnvFile

app = make_app("The engines, and the weights that they need.")

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
    command(app, "pull", "voice-engine models pull models")(pull)
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
        return f"voice-engine models pull {models_dir}"
    return "make setup, without SLIM=1"


def pull(folder: Folder = None, force: Force = False) -> None:
    """Download the published weights of pocket and sensevoice (1.4 GB), and voices.

    What is complete stays; the same command goes on after a failure.
    """
    _become("fetch", "fetch", str(_folder(folder)), *(["--force"] if force else []))


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


def _become(module: str, *arguments: str) -> None:
    """Go on as that program, in the same process."""
    os.execv(sys.executable, [sys.executable, "-m", f"model_procs.weights.{module}", *arguments])
