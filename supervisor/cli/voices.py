"""`voices`: list, add, remove and play the voices of the service. Runs in a command."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from ipc.recordings import RECORDING_FORMATS
from supervisor.cli import player, show
from supervisor.cli.client import USAGE, CommandError, Json
from supervisor.cli.command import address, command, make_app
from supervisor.cli.files import replacing

app = make_app("The voices of the service: built-in ones, and yours.")

Name = Annotated[str, typer.Argument(help="The id of the voice.")]


def add_to(parent: typer.Typer) -> None:
    """Declare the commands of this module."""
    command(app, "ls", "voice-engine voices ls")(ls)
    command(
        app,
        "add",
        'voice-engine voices add anna me.wav --consent "Anna, 2026-11-01, by mail"',
    )(add)
    command(app, "play", "voice-engine voices play anna -o anna.wav")(play)
    command(app, "export", "voice-engine voices export anna -o anna.tar")(export)
    command(app, "import", "voice-engine voices import anna.tar")(import_)
    command(app, "rm", "voice-engine voices rm anna")(rm)
    parent.add_typer(app, name="voices", rich_help_panel="Speech and transcripts")


def ls(
    context: typer.Context,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what the service answers.")
    ] = False,
) -> None:
    """List all voices."""
    with address(context).service() as service:
        answer = service.json("GET", "/v1/voices")
    if as_json:
        print(json.dumps(answer, indent=2))
        return
    table = show.table("VOICE", "NAME", "TYPE", "ENGINE", "LANGUAGE", "SECONDS", right=["SECONDS"])
    for voice in answer["voices"]:
        table.add_row(
            show.text(voice["voice_id"]),
            show.text(voice["name"]),
            voice["type"],
            show.text(voice["engine"]),
            show.text(voice.get("language") or "-"),
            show.number(voice.get("seconds"), 1),
        )
    show.output().print(table)


def add(
    context: typer.Context,
    name: Name,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="RECORDING...",
            exists=True,
            dir_okay=False,
            help="Recordings of the voice; 30 s are used, the same share of each.",
        ),
    ],
    consent: Annotated[
        str | None, typer.Option(help="Who has agreed that this voice may be used, and when.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="A name for people, else NAME.")] = None,
) -> None:
    """Register the voice of one or several recordings, whose person must have agreed."""
    if not consent:
        raise CommandError(
            f"whose voice is {show.clean(name)}, and who has agreed to its use? Add --consent "
            '"NAME, DAY, HOW"',
            USAGE,
        )
    with ExitStack() as opened, address(context).service() as service:
        answer = service.json(
            "POST",
            "/v1/voices/register",
            data={"voice_id": name, "consent": consent, "name": title or name},
            files=[("audio", (path.name, opened.enter_context(path.open("rb")))) for path in files],
        )
    show.messages().print(f"voice {show.clean(answer['voice_id'])} is ready", markup=False)


def rm(context: typer.Context, name: Name) -> None:
    """Delete a registered voice: its recording and what was made of it."""
    with address(context).service() as service:
        service.json("DELETE", _path(name))
    show.messages().print(f"voice {show.clean(name)} is deleted", markup=False)


def export(
    context: typer.Context,
    name: Name,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The archive, else NAME.tar in this folder."),
    ] = None,
) -> None:
    """Write a registered voice into a file, for another machine: its recordings and their facts."""
    place = output or Path(f"{name}.tar")
    with (
        address(context).service() as service,
        service.stream("GET", f"{_path(name)}/archive") as response,
        replacing(place) as file,
    ):
        for piece in response.iter_bytes():
            file.write(piece)
    show.messages().print(f"voice {show.clean(name)} is in {show.clean(str(place))}", markup=False)


def import_(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="ARCHIVE", exists=True, dir_okay=False, help="What `voices export` wrote."
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option("--name", help="The id of the voice, else the name of the file without .tar."),
    ] = None,
) -> None:
    """Register the voice of an archive; it replaces a registered voice with the same id."""
    with address(context).service() as service, file.open("rb") as archive:
        answer = service.json(
            "PUT", f"{_path(name or file.stem)}/archive", files={"archive": (file.name, archive)}
        )
    show.messages().print(f"voice {show.clean(answer['voice_id'])} is ready", markup=False)


def play(
    context: typer.Context,
    name: Name,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the sound there instead.")
    ] = None,
) -> None:
    """Play the recording of a voice; a voice without one says a sentence."""
    with address(context).service() as service:
        voice = service.json("GET", _path(name))
        method, path, options = _sound_of(voice)
        with service.stream(method, path, **options) as response:
            if output is not None:
                with replacing(output) as file:
                    for piece in response.iter_bytes():
                        file.write(piece)
                return
            kind = _format_of(response.headers.get("Content-Type", ""))
            player.play(player.need_player(kind), kind, response.iter_bytes())


def _sound_of(voice: Json) -> tuple[str, str, Json]:
    """The request for how a voice sounds."""
    if voice["type"] == "registered":
        return "GET", f"{_path(voice['voice_id'])}/samples/sample-1/audio", {}
    sentence = {"text": f"Hello, I am {voice['name']}.", "voice_id": voice["voice_id"]}
    return "POST", "/v1/tts", {"json": {**sentence, "stream": True}}


def _format_of(media_type: str) -> str:
    """What players call the format of a recording."""
    for known in RECORDING_FORMATS:
        if media_type.partition(";")[0] == known.media_type:
            return "opus" if known.kind == "ogg" else known.kind
    return "wav"


def _path(name: str) -> str:
    return f"/v1/voices/{quote(name, safe='')}"
