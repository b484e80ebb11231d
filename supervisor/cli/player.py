"""Play sound with whatever program the machine has. Starts that program."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from supervisor.cli.client import USAGE, CommandError

_ALL = ("wav", "mp3", "opus", "flac", "aac")


@dataclass(frozen=True, slots=True)
class Player:
    """A program that plays what it reads; `{format}` among its arguments is that of the sound."""

    program: str
    arguments: tuple[str, ...]
    formats: tuple[str, ...] = _ALL


PLAYERS = (
    Player("ffplay", ("-nodisp", "-autoexit", "-loglevel", "error", "-i", "pipe:0")),
    Player("mpv", ("--no-video", "--really-quiet", "-")),
    Player("play", ("-q", "-t", "{format}", "-"), ("wav", "mp3", "flac")),
    Player("paplay", (), ("wav", "flac")),
    Player("aplay", ("-q", "-"), ("wav",)),
)
"""The best first: those that begin at once and know the most formats."""


def find_player(sound_format: str | None) -> Player | None:
    """The first of them that is installed and plays that format; None: any format."""
    for player in PLAYERS:
        if sound_format in (None, *player.formats) and shutil.which(player.program):
            return player
    return None


def need_player(sound_format: str | None) -> Player:
    """The same. Raises `CommandError` if there is none."""
    player = find_player(sound_format)
    if player is None:
        names = ", ".join(each.program for each in PLAYERS)
        what = f"plays {sound_format}" if find_player(None) else "is installed"
        raise CommandError(
            f"no program that {what} was found ({names}); write a file with -o speech.wav, or "
            "install ffmpeg",
            USAGE,
        )
    return player


def play(player: Player, sound_format: str, pieces: Iterable[bytes]) -> None:
    """Hand the sound over as it comes, and wait until it has been played."""
    arguments = [part.format(format=sound_format) for part in player.arguments]
    process = subprocess.Popen([player.program, *arguments], stdin=subprocess.PIPE)
    assert process.stdin is not None
    try:
        try:
            for piece in pieces:
                process.stdin.write(piece)
                process.stdin.flush()
            process.stdin.close()
        except BrokenPipeError:
            pass  # it was closed; its exit code says whether that was an error
        code = process.wait()
    finally:
        process.kill()
        process.wait()
    if code:
        raise CommandError(f"{player.program} ended with {code}; write a file with -o speech.wav")
