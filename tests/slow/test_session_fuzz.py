"""Sessions with clients that speak nonsense: mutated messages, broken frames, half-open sockets.

Whatever comes, the service refuses it in words or closes that one session: no worker dies, the
front answers, and neither descriptors, sessions nor memory are left behind.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psutil
import pytest

from tests.support.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    frame,
    opened,
)
from tests.support.human import human_file
from tests.support.service import NET, RunningService, running

MESSAGES = 5_000
AT_ONCE = 8
IN_SESSION = 20
"""How many messages a session gets, unless it ends before."""

_SPEECH = human_file("beckett.wav").read_bytes()[44:]
"""PCM16 at 16 kHz. "Ever tried. Ever failed." are its first three seconds."""
_SOUND = _SPEECH[8_000:72_000]
_PCM = base64.b64encode(_SOUND[:32_000]).decode()

Json = dict[str, Any]
SEEDS: dict[str, Sequence[Json | bytes]] = {
    "/v1/tts/stream": (
        {"type": "start", "format": "pcm", "sample_rate": 24000},
        {"type": "text", "text": "Hello there. How are you"},
        {"type": "flush"},
        {"type": "cancel"},
        {"type": "end"},
    ),
    "/v1/text-to-speech/hum/stream-input?output_format=pcm_16000": (
        {"text": " ", "voice_settings": {"speed": 1.0}, "xi_api_key": "k"},
        {"text": "Hello there. ", "try_trigger_generation": True},
        {"text": "More ", "flush": True},
        {"text": ""},
    ),
    "/v1/text-to-speech/hum/multi-stream-input?output_format=pcm_16000&auto_mode=true": (
        {"text": " ", "context_id": "a"},
        {"text": "Hello there. ", "context_id": "a"},
        {"text": "Another. ", "context_id": "b", "flush": True},
        {"context_id": "a", "close_context": True},
        {"close_socket": True},
    ),
    "/v1/transcribe/stream": (
        {"type": "start", "format": "pcm16", "sample_rate": 16000},
        _SOUND,
        {"type": "commit"},
        {"type": "clear"},
        {"type": "end"},
    ),
    "/v1/realtime?intent=transcription": (
        {
            "type": "session.update",
            "session": {
                "type": "transcription",
                "audio": {
                    "input": {
                        "format": {"type": "audio/pcm", "rate": 24000},
                        "turn_detection": {"type": "server_vad", "threshold": 0.5},
                    }
                },
            },
        },
        {"type": "input_audio_buffer.append", "audio": _PCM},
        {"type": "input_audio_buffer.commit"},
        {"type": "input_audio_buffer.clear"},
    ),
    "/v1/speech-to-text/realtime?audio_format=pcm_16000": (
        {
            "message_type": "input_audio_chunk",
            "audio_base_64": _PCM,
            "commit": False,
            "sample_rate": 16000,
        },
        {
            "message_type": "input_audio_chunk",
            "audio_base_64": "",
            "commit": True,
            "sample_rate": 16000,
        },
    ),
}

_VALUES: Sequence[Any] = (
    *(None, True, -1, 0, 1e308, 2**63, "", " ", "\x00", "\ud83d", "🎉" * 50, [], {}, [[[[]]]]),
    *("../../etc/passwd", "a" * 5_000, {"type": {"type": {}}}, "NaN", 0.0001, "pcm_999999999"),
)


def _mutated(seed: Json, rng: random.Random) -> bytes:
    """A message with something of it changed, as JSON or what is left of it."""
    message = json.loads(json.dumps(seed))
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(message))
        holder, key = rng.choice(places) if places else (message, "text")
        match rng.randrange(4):
            case 0:
                holder.pop(key, None)
            case 1 | 2:
                holder[key] = copy.deepcopy(rng.choice(_VALUES))
            case 3:
                name = str(rng.choice(_VALUES))[:40]
                holder[name] = copy.deepcopy(rng.choice(_VALUES))
    data = json.dumps(message).encode()
    match rng.randrange(8):
        case 0:
            data = data[: rng.randrange(len(data) + 1)]
        case 1:
            at = rng.randrange(len(data))
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        case 2:
            data = b"[" * rng.choice((1, 10, 50_000)) + data
    return data


def _places(value: Any) -> Iterator[tuple[Json, str]]:
    """Every field of a message, also of those within it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield value, key
            yield from _places(inner)


def _broken(rng: random.Random) -> bytes:
    """A frame that the protocol does not allow, or that asks for too much."""
    ways: Sequence[Callable[[], bytes]] = (
        lambda: frame(b"\xff\xfe\xfd", TEXT),
        lambda: frame(b"{}", rng.choice((3, 7, 11, 15))),
        lambda: frame(b"{}", TEXT, masked=False),
        lambda: frame(b"{}", TEXT, reserved=rng.randrange(1, 8)),
        lambda: frame(b"x" * 200, rng.choice((PING, PONG, CLOSE))),
        lambda: frame(b"", CONTINUATION),
        lambda: frame(b"{", TEXT, final=False) + frame(b"}", TEXT),
        lambda: frame(b"ab", TEXT, claimed=rng.choice((2**20 + 1, 2**40, 2**63 - 1, 2**63))),
        lambda: frame(b"\x00", CLOSE),
        lambda: frame(b"\x00\x01bye", CLOSE),
        lambda: rng.randbytes(rng.randrange(1, 400)),
    )
    return rng.choice(ways)()


def _next(seeds: Sequence[Json | bytes], rng: random.Random) -> bytes:
    """The next bytes on the wire: a valid message, a mutated one, or a broken frame."""
    chance, seed = rng.random(), rng.choice(seeds)
    if chance < 0.03:
        return _broken(rng)
    if isinstance(seed, bytes):
        data = seed if chance < 0.5 else rng.randbytes(rng.randrange(2_000))
        return frame(data, BINARY)
    if chance < 0.3:
        return frame(json.dumps(seed).encode(), TEXT)
    return frame(_mutated(seed, rng), BINARY if chance > 0.95 else TEXT)


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    settings = {
        "VOICE_ENGINE_TTS_ENGINE": "tests.support.listening_engines:Hum",
        "VOICE_ENGINE_STT_ENGINE": "tests.support.listening_engines:Meter",
        "VOICE_ENGINE_SESSION_PING": "1",
    }
    with running(settings) as service:
        service.wait_ready()
        yield service


class Fuzz:
    """Clients that send nonsense to one service."""

    def __init__(self, service: RunningService, seed: int) -> None:
        self.service = service
        self.rng = random.Random(seed)
        self.left = MESSAGES
        self.sessions = 0
        self.answers = 0

    async def client(self) -> None:
        """One session after the other, until enough has been sent."""
        while self.left > 0:
            path = self.rng.choice(sorted(SEEDS))
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._session(path)

    async def _session(self, path: str) -> None:
        slow = self.rng.random() < 0.1
        async with opened(self.service.port, path, buffer=4096 if slow else None) as (
            reader,
            writer,
        ):
            self.sessions += 1
            reading = asyncio.create_task(self._read(reader))
            try:
                if self.rng.random() < 0.7:  # most get beyond the beginning
                    first = SEEDS[path][0]
                    assert isinstance(first, dict)
                    writer.write(frame(json.dumps(first).encode(), TEXT))
                for _ in range(IN_SESSION):
                    if self.left <= 0 or reading.done():
                        break
                    self.left -= 1
                    writer.write(_next(SEEDS[path], self.rng))
                    async with asyncio.timeout(NET):
                        await writer.drain()
                    await asyncio.sleep(0)
                if self.rng.random() < 0.5:
                    # Politely: what was sent is worked on, and the service closes by itself.
                    writer.write(frame(b"\x03\xe8", CLOSE))
                    async with asyncio.timeout(NET):
                        await reading
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(65_536):
            self.answers += len(data)


async def test_nonsense_ends_a_session_and_nothing_else(service: RunningService) -> None:
    front = psutil.Process(service.process.pid)
    warm = Fuzz(service, seed=1)
    warm.left = 500  # what the first of everything leaves: modules, caches, the worker for VAD
    await asyncio.gather(*(warm.client() for _ in range(AT_ONCE)))
    await asyncio.to_thread(service.wait_until, lambda _: service.children(model="vad") != [])
    await asyncio.to_thread(service.wait_until, _at_rest)
    before, files = service.health(), front.num_fds()

    fuzz = Fuzz(service, seed=2)
    await asyncio.gather(*(fuzz.client() for _ in range(AT_ONCE)))

    await asyncio.to_thread(service.wait_until, _at_rest)
    await asyncio.to_thread(service.wait_until, lambda _: front.num_fds() <= files)
    after = service.health()
    assert fuzz.sessions >= MESSAGES / IN_SESSION
    assert fuzz.answers > fuzz.sessions  # it did answer
    assert after["memory"]["front_rss_mb"] < before["memory"]["front_rss_mb"] + 16
    wrong = [each for each in service.events if each.get("level") == "error"]
    assert wrong == []
    assert [each for each in service.events if each["event"] == "worker_died"] == []


def _at_rest(health: Json) -> bool:
    sessions = health["sessions"]
    return sessions["speech"] == sessions["transcription"] == 0 and not any(
        model["in_flight"] for model in health["models"].values()
    )


async def test_half_open_sockets_are_given_up(service: RunningService) -> None:
    """A client that answers no ping is gone."""
    async with contextlib.AsyncExitStack() as stack:
        for path in SEEDS:
            await stack.enter_async_context(opened(service.port, path))
        await asyncio.to_thread(
            service.wait_until,
            lambda health: (
                health["sessions"]["speech"] + health["sessions"]["transcription"] == len(SEEDS)
            ),
        )
        # None of them answers pings: this client reads nothing by itself.
        await asyncio.to_thread(service.wait_until, _at_rest)
