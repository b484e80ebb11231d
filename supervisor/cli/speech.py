"""`say` and `clone`: speech to the loudspeaker or into a file. Runs in a command."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import httpx
import typer

from ipc.formats import FORMATS, FormatName
from supervisor.cli import player, show
from supervisor.cli.client import USAGE, Address, CommandError
from supervisor.cli.command import address, command
from supervisor.cli.files import replacing

PANEL = "Speech and transcripts"

_LIVE_FORMATS = ("wav", "mp3", "opus", "pcm")
"""The formats of sound that can begin before the text has ended."""

Text = Annotated[
    str | None,
    typer.Argument(
        help="What to say; without it, it is read from the input. With `-` too, and is spoken "
        "while it comes."
    ),
]
Voice = Annotated[
    str | None,
    typer.Option("--voice", "-v", help="A voice, or a mix: `voice-engine voices ls` lists them."),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Write the sound there; `-` is the output."
    ),
]
Play = Annotated[
    bool, typer.Option("--play", help="Play it, also with -o; without -o this is what is done.")
]
Format = Annotated[
    FormatName | None,
    typer.Option("--format", "-f", help="Format of the sound; else what the name of FILE says."),
]
Speed = Annotated[
    float | None, typer.Option(min=0.25, max=4, help="2 is twice as fast, the pitch stays.")
]
Language = Annotated[
    str | None, typer.Option(help="The language of the text, for its numbers and signs.")
]
Model = Annotated[str | None, typer.Option(help="A model for speech, else the default one.")]
Seed = Annotated[
    int | None, typer.Option(min=0, max=2**32 - 1, help="The same seed gives the same speech.")
]


def add_to(app: typer.Typer) -> None:
    """Declare the commands of this module."""
    command(
        app,
        "say",
        'voice-engine say "Hello, how are you?" -o hello.wav',
        'echo "Good morning." | voice-engine say --speed 1.5 -o fast.mp3',
        'echo "Good morning." | voice-engine say - -o live.wav',
        panel=PANEL,
    )(say)
    command(app, "clone", 'voice-engine clone me.wav "This is my voice." -o mine.wav', panel=PANEL)(
        clone
    )


def say(
    context: typer.Context,
    text: Text = None,
    *,
    voice: Voice = None,
    output: Output = None,
    play: Play = False,
    format: Format = None,
    speed: Speed = None,
    language: Language = None,
    model: Model = None,
    seed: Seed = None,
) -> None:
    """Speak a text. Without -o it is played."""
    if text == "-" and _is_live(output, format):
        fields = _fields(voice=voice, speed=speed, language=language, model=model, seed=seed)
        _deliver_live(address(context), fields, output, play, format)
        return
    fields = _fields(_text(text), speed=speed, language=language, model=model, seed=seed)
    _deliver(
        address(context),
        "/v1/tts",
        lambda more: {"json": fields | _fields(voice_id=voice) | more},
        output,
        play=play,
        sound_format=format,
    )


def clone(
    context: typer.Context,
    reference: Annotated[
        Path, typer.Argument(metavar="RECORDING", exists=True, dir_okay=False, help="The voice.")
    ],
    text: Text = None,
    *,
    output: Output = None,
    play: Play = False,
    format: Format = None,
    speed: Speed = None,
    language: Language = None,
    model: Model = None,
    seed: Seed = None,
) -> None:
    """Speak a text in the voice of a recording, whose person agrees to that."""
    fields = _fields(_text(text), speed=speed, language=language, model=model, seed=seed)
    with reference.open("rb") as recording:
        _deliver(
            address(context),
            "/v1/clone",
            lambda more: {
                "data": {name: _word(value) for name, value in (fields | more).items()},
                "files": {"reference_audio": (reference.name, recording)},
            },
            output,
            play=play,
            sound_format=format,
        )


def _deliver(
    where: Address,
    path: str,
    request: Any,
    output: str | None,
    *,
    play: bool,
    sound_format: str | None,
) -> None:
    """Ask for the sound and put it where it belongs."""
    if output is None or (play and output == "-"):
        aloud = player.need_player(sound_format)
        sound_format = sound_format or aloud.formats[0]
        options = request({"stream": True, "response_format": sound_format})
        with where.service() as service, service.stream("POST", path, **options) as response:
            _warn(response)
            player.play(aloud, sound_format, response.iter_bytes())
        return
    target = None if output == "-" else Path(output)
    sound_format = sound_format or _format_of(target)
    playing = player.need_player(sound_format) if play else None
    with where.service() as service:
        options = request({"response_format": sound_format})
        with service.stream("POST", path, **options) as response:
            _warn(response)
            if target is None:
                for piece in response.iter_bytes():
                    sys.stdout.buffer.write(piece)
                sys.stdout.buffer.flush()
                return
            with replacing(target) as file:
                for piece in response.iter_bytes():
                    file.write(piece)
    show.messages().print(
        f"{show.clean(target)}: {_kilobytes(target.stat().st_size)}", markup=False
    )
    if playing is not None:
        player.play(playing, sound_format, [target.read_bytes()])


def _is_live(output: str | None, sound_format: str | None) -> bool:
    """Whether the sound can begin before the text has ended."""
    if sound_format is None and output not in (None, "-"):
        sound_format = _format_of(Path(output or ""))
    return sound_format in (None, *_LIVE_FORMATS)


def _deliver_live(
    where: Address, fields: dict[str, Any], output: str | None, play: bool, sound_format: str | None
) -> None:
    """Speak the input while it comes, and put the sound where it belongs."""
    from supervisor.cli import live  # its library takes long to import, and few commands need it

    if sys.stdin.isatty():
        show.messages().print("Type the text; Ctrl-D ends it.", style="dim")
    target = None if output in (None, "-") else Path(output or "")
    if sound_format is None and target is not None:
        sound_format = _format_of(target)
    aloud = None
    if play or output is None:
        aloud = player.need_player(sound_format)
        known = [name for name in aloud.formats if name in _LIVE_FORMATS]
        sound_format = sound_format or known[0]
    sound_format = sound_format or "wav"
    sound = live.live_speech(where, sound_format, fields)
    if target is None:
        if aloud is not None:
            player.play(aloud, sound_format, sound)
            return
        for piece in sound:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        return
    with replacing(target) as file:
        written = _written(file, sound)
        if aloud is not None:
            player.play(aloud, sound_format, written)
        for _ in written:
            pass  # also what a player that was closed has left
        if sound_format == "wav":
            size = file.tell()
            file.seek(0)
            header = live.complete_header(file.read(44), size - 44)
            file.seek(0)
            file.write(header)
    show.messages().print(
        f"{show.clean(target)}: {_kilobytes(target.stat().st_size)}", markup=False
    )


def _written(file: BinaryIO, sound: Iterator[bytes]) -> Iterator[bytes]:
    """The same sound, which is also written to a file."""
    for piece in sound:
        file.write(piece)
        yield piece


def _format_of(target: Path | None) -> str:
    """The format that the name of a file says. Raises `CommandError` for none that we have."""
    suffix = "wav" if target is None else target.suffix.removeprefix(".").lower() or "wav"
    suffix = "opus" if suffix == "ogg" else suffix
    known = [name for name, each in FORMATS.items() if each.everywhere]
    if suffix not in known:
        raise CommandError(
            f".{suffix} is none of the formats {', '.join(known)}; choose one with --format", USAGE
        )
    return suffix


def _text(given: str | None) -> str:
    if given not in (None, "-"):
        return str(given)
    if sys.stdin.isatty():
        show.messages().print("Type the text; Ctrl-D ends it.", style="dim")
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise CommandError(f"the input is no text in UTF-8: {error.reason}", USAGE) from error


def _fields(text: str | None = None, **others: Any) -> dict[str, Any]:
    """The fields of a request that were given."""
    return {name: value for name, value in {"text": text, **others}.items() if value is not None}


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _warn(response: httpx.Response) -> None:
    warning = response.headers.get("X-Voice-Engine-Warning")
    if warning:
        show.messages().print(f"warning: {show.clean(warning)}", style="yellow", markup=False)


def _kilobytes(count: int) -> str:
    return show.size(count) if count >= 1 << 20 else f"{count / 1024:.0f} KB"
