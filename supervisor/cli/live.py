"""Speech of a text that comes through a pipe, while it comes. Runs in a command."""

from __future__ import annotations

import asyncio
import codecs
import os
import struct
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, suppress
from typing import Any

import aiohttp

from supervisor.cli.client import USAGE, Address, CommandError
from supervisor.cli.session import connected

_AT_ONCE = 4096
_AHEAD = 4
"""So many pieces of the input are read before the first of them is sent."""
_CLOSED = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)


def live_speech(where: Address, sound_format: str, fields: dict[str, Any]) -> Iterator[bytes]:
    """The sound of the text in the input, as it is made. Raises `CommandError`."""
    with asyncio.Runner() as runner:
        sound = _speech(where, sound_format, fields)

        async def next_piece() -> bytes | None:
            return await anext(sound, None)

        try:
            while (piece := runner.run(next_piece())) is not None:
                yield piece
        finally:
            runner.run(sound.aclose())


def wav_header(rate: int, size: int | None) -> bytes:
    """The header of a WAV with `size` bytes of sound; None: nobody knows yet."""
    size = 0xFFFFFFFF - 36 if size is None else size
    return struct.pack(
        "<4sI8sIHHIIHH4sI",
        *(b"RIFF", 36 + size, b"WAVEfmt ", 16, 1, 1, rate, 2 * rate, 2, 16, b"data", size),
    )


def complete_header(header: bytes, size: int) -> bytes:
    """The same header, of a WAV that is complete and has `size` bytes of sound."""
    (rate,) = struct.unpack_from("<I", header, 24)
    return wav_header(rate, size)


async def _speech(
    where: Address, sound_format: str, fields: dict[str, Any]
) -> AsyncGenerator[bytes, None]:
    asked = "pcm" if sound_format == "wav" else sound_format
    start = {"type": "start", "format": asked, **fields}
    async with connected(where, "/v1/tts/stream", "voices") as socket:
        await socket.send_json(start)
        writing = asyncio.create_task(_send_input(socket))
        try:
            async with aclosing(_answers(socket)) as answers:
                async for answer in answers:
                    if isinstance(answer, bytes):
                        yield answer
                    elif sound_format == "wav":
                        yield wav_header(answer, None)
            if writing.done():
                writing.result()
        finally:
            writing.cancel()
            with suppress(asyncio.CancelledError, ConnectionError):
                await writing


async def _answers(socket: aiohttp.ClientWebSocketResponse) -> AsyncGenerator[bytes | int, None]:
    """The sample rate, then the sound. Raises `CommandError`."""
    while (message := await socket.receive()).type not in _CLOSED:
        if message.type is aiohttp.WSMsgType.BINARY:
            yield message.data
            continue
        told = message.json()
        match told["type"]:
            case "started":
                yield int(told["sample_rate"])
            case "error":
                raise CommandError(str(told["message"]))
            case "done":
                return
    raise CommandError(
        f"the service has ended the session: {message.extra or 'it was cut'}; try again"
    )


async def _send_input(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Send the input as it comes."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        async for data in _input():
            if text := decoder.decode(data):
                await socket.send_json({"type": "text", "text": text})
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        await socket.close()
        raise CommandError(f"the input is no text in UTF-8: {error.reason}", USAGE) from error
    await socket.send_json({"type": "end"})


async def _input() -> AsyncGenerator[bytes, None]:
    """What comes, as soon as it comes. A thread reads it, which nobody waits for at the end."""
    loop = asyncio.get_running_loop()
    came: asyncio.Queue[bytes] = asyncio.Queue()
    room = threading.Semaphore(_AHEAD)

    def read() -> None:
        with suppress(RuntimeError):  # the loop is closed, because the command ends
            while True:
                room.acquire()
                data = os.read(sys.stdin.fileno(), _AT_ONCE)
                loop.call_soon_threadsafe(came.put_nowait, data)
                if not data:
                    return

    threading.Thread(target=read, daemon=True).start()
    while data := await came.get():
        yield data
        room.release()
