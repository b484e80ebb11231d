"""`listen`: the transcript of sound while it comes, from a file or a pipe. Runs in a command."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from typing import Annotated, Any, BinaryIO

import aiohttp
import typer

from supervisor.cli import show
from supervisor.cli.client import USAGE, Address, CommandError, Json
from supervisor.cli.command import address, command
from supervisor.cli.session import connected

_AT_ONCE = 3200
"""Bytes that are sent at once: a tenth of a second at 16 kHz."""
_FORMATS = ("auto", "pcm16", "mulaw", "alaw", "webm", "ogg", "wav")


def add_to(parent: typer.Typer) -> None:
    """Declare the command of this module."""
    command(parent, "listen", "voice-engine listen me.wav", panel="Speech and transcripts")(listen)


def listen(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="A recording, or - for the standard input.")],
    *,
    sound_format: Annotated[
        str, typer.Option("--format", help=f"Of the sound: {', '.join(_FORMATS)}.")
    ] = "auto",
    rate: Annotated[
        int | None, typer.Option(help="Sample rate of pcm16 in Hz; default 16000.")
    ] = None,
    language: Annotated[str, typer.Option(help="A hint: en, zh, ...")] = "auto",
    model: Annotated[str | None, typer.Option(help="An engine instead of the default one.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each message of the service as it comes.")
    ] = False,
) -> None:
    """Transcribe sound while it comes: each utterance is a line.

    On a terminal the text so far is shown meanwhile. A microphone:
    `arecord -q -f S16_LE -r 16000 -t raw | voice-engine listen - --format pcm16`
    """
    if sound_format not in _FORMATS:
        raise CommandError(f"--format {sound_format} is none of {', '.join(_FORMATS)}", USAGE)
    start: Json = {"type": "start", "format": sound_format, "language": language}
    start |= {} if model is None else {"model": model}
    start |= {} if rate is None else {"sample_rate": rate}
    start["interim"] = as_json or sys.stderr.isatty()
    try:
        with sys.stdin.buffer if source == "-" else open(source, "rb") as sound:
            asyncio.run(_listen(address(context), start, sound, as_json=as_json))
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise CommandError(f"{source} cannot be read: {error.strerror}", USAGE) from error


async def _listen(where: Address, start: Json, sound: BinaryIO, *, as_json: bool) -> None:
    async with connected(where, "/v1/transcribe/stream", "transcribe") as socket:
        await socket.send_json(start)
        sending = asyncio.create_task(_send(socket, sound))
        try:
            await _print(socket, as_json=as_json)
        finally:
            sending.cancel()
            with suppress(asyncio.CancelledError, ConnectionError):
                await sending


async def _send(socket: aiohttp.ClientWebSocketResponse, sound: BinaryIO) -> None:
    """Send the sound as it comes."""
    read = getattr(sound, "read1", sound.read)
    while data := await asyncio.to_thread(read, _AT_ONCE):
        await socket.send_bytes(data)
    await socket.send_json({"type": "end"})


async def _print(socket: aiohttp.ClientWebSocketResponse, *, as_json: bool) -> None:
    """Print what is told, until all is. Raises `CommandError`."""
    shown = 0
    async for message in socket:
        told: dict[str, Any] = json.loads(message.data)
        if as_json:
            print(message.data, flush=True)
        elif told["type"] in ("partial", "final"):
            text = show.clean(str(told["text"]))
            if sys.stderr.isatty():
                print(f"\r{' ' * shown}\r", end="", file=sys.stderr, flush=True)
                shown = 0
            if told["type"] == "final" and text:
                print(text, flush=True)
            elif told["type"] == "partial" and sys.stderr.isatty():
                line = text[-(show.messages().width - 1) :]
                shown = len(line)
                print(line, end="", file=sys.stderr, flush=True)
        if told["type"] == "error" and "utterance" not in told:
            raise CommandError(str(told["message"]))
        if told["type"] == "done":
            return
    raise CommandError("the service has ended the session; try again")
