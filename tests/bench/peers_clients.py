"""The clients of `make bench-peers`. Runs in the bench's main process, on one event loop.

A client looks at every answer: another status, a broken connection or a wrong length of sound is a
failure, and failures stand in the results.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import aiohttp

from ipc.engines import Kind
from tests.bench.peers_results import Burst
from tests.bench.peers_servers import FRAME_SAMPLES, SAMPLE_RATE, Arm
from tests.support.sentences import SENTENCES
from tests.support.service import NET

_WAV_HEADER = 44
_BYTES_PER_SECOND = 2 * SAMPLE_RATE
_SILENCE_SECONDS = 0.25
"""What a server may append to the sound; the library appends 0.2 s."""
_HEALTH_RATE = 10.0


class FailedRequestError(Exception):
    """An answer that is not what was asked for."""


@dataclass(slots=True)
class Stream:
    """One stream of speech, while it is received. Times in seconds."""

    progress: asyncio.Event
    """Is set when sound has come, and at the end."""
    first: float | None = None
    """From the request to the first sound."""
    gap: float = 0.0
    """How far playback from the first sound on would have run dry until now."""
    sound: float = 0.0
    """Seconds of sound that have come."""
    ended: bool = False

    def receive(self, sound: float, since_request: float) -> None:
        """So many seconds of sound have come in all."""
        if self.first is None:
            self.first = since_request
        self.gap = max(self.gap, since_request - self.first - self.sound)
        self.sound = sound
        self.progress.set()


def text(client: int) -> str:
    """What a client says: a sentence of ten words."""
    return SENTENCES[client % len(SENTENCES)]


@contextlib.asynccontextmanager
async def session_of(arm: Arm) -> AsyncIterator[aiohttp.ClientSession]:
    """A session with as many connections as are needed."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=NET)
    async with aiohttp.ClientSession(
        arm.server.url, connector=connector, timeout=timeout
    ) as session:
        yield session


async def speak(
    session: aiohttp.ClientSession, arm: Arm, client: int, frames: int, stream: Stream
) -> None:
    """Have a sentence spoken; raises FailedRequestError if it does not have `frames` frames."""
    expected = frames * FRAME_SAMPLES / SAMPLE_RATE
    data = aiohttp.FormData({**arm.fields, "text": text(client)}, default_to_multipart=True)
    sent = time.perf_counter()
    received = 0
    head = b""
    try:
        async with session.post(arm.path, data=data) as response:
            if response.status != 200:
                raise FailedRequestError(f"{response.status}: {(await response.read())[:300]!r}")
            async for piece in response.content.iter_any():
                head += piece[: 4 - len(head)]
                received += len(piece)
                sound = (received - _WAV_HEADER) / _BYTES_PER_SECOND
                if sound > 0 and stream.sound < expected:
                    stream.receive(min(sound, expected), time.perf_counter() - sent)
        sound = (received - _WAV_HEADER) / _BYTES_PER_SECOND
        if head != b"RIFF" or not expected <= sound <= expected + _SILENCE_SECONDS:
            raise FailedRequestError(f"{head!r}, {sound:.2f} s of sound, not {expected:.2f} s")
    finally:
        stream.ended = True
        stream.progress.set()


async def transcribe(session: aiohttp.ClientSession, arm: Arm, clip: bytes) -> tuple[float, str]:
    """Seconds until the transcript, and its hash. Raises FailedRequestError."""
    form = aiohttp.FormData(arm.fields)
    form.add_field("file", clip, filename="clip.wav")
    sent = time.perf_counter()
    async with session.post(arm.path, data=form) as response:
        body = await response.read()
    taken = time.perf_counter() - sent
    if response.status != 200:
        raise FailedRequestError(f"{response.status}: {body[:300]!r}")
    transcript = json.loads(body)["text"]
    return taken, hashlib.sha256(transcript.encode()).hexdigest()[:16]


async def collect(tasks: list[Awaitable[None]], failures: list[str]) -> None:
    """Wait for all clients; what went wrong goes to `failures`, unless they were cancelled."""
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, (FailedRequestError, aiohttp.ClientError, TimeoutError)):
            failures.append(f"{type(outcome).__name__}: {outcome}")
        elif outcome is not None and not isinstance(outcome, asyncio.CancelledError):
            raise outcome


@contextlib.asynccontextmanager
async def asking_health(
    session: aiohttp.ClientSession, times: list[float], failures: list[str]
) -> AsyncIterator[None]:
    """Ask GET /health at a fixed rate until the block ends, each time on whatever connection.

    A request is sent when it is due, whether or not those before are answered, so a server that
    stands still does not stop the clock.
    """

    async def ask() -> None:
        sent = time.perf_counter()
        async with session.get("/health") as response:
            await response.read()
            if response.status != 200:
                raise FailedRequestError(f"/health: {response.status}")
        times.append(time.perf_counter() - sent)

    asked: list[Awaitable[None]] = []

    async def ask_on() -> None:
        start = time.perf_counter()
        while True:
            asked.append(asyncio.create_task(ask()))
            await asyncio.sleep(max(0, start + len(asked) / _HEALTH_RATE - time.perf_counter()))

    clock = asyncio.create_task(ask_on())
    try:
        yield
    finally:
        clock.cancel()
        await collect(asked, failures)


async def burst(
    arm: Arm,
    clients: int,
    *,
    frames: int,
    clips: list[bytes],
    clip_seconds: float,
    beside: str = "",
) -> Burst:
    """`clients` clients of one arm that start together; each asks once."""
    streams = [Stream(asyncio.Event()) for _ in range(clients)]
    answers: list[tuple[float, str]] = [(0.0, "")] * clients
    health: list[float] = []
    failures: list[str] = []

    async def answer(client: int) -> None:
        answers[client] = await transcribe(session, arm, clips[client])

    speech = arm.kind is Kind.TTS
    one: Callable[[int], Awaitable[None]] = (
        (lambda client: speak(session, arm, client, frames, streams[client])) if speech else answer
    )
    async with session_of(arm) as session, asking_health(session, health, failures):
        started = time.perf_counter()
        await collect([one(client) for client in range(clients)], failures)
        seconds = time.perf_counter() - started
    return Burst(
        kind=arm.kind.value,
        arm=arm.name,
        clients=clients,
        beside=beside,
        seconds=_rounded(seconds),
        sound=sum(stream.sound for stream in streams) if speech else clients * clip_seconds,
        first=[
            _rounded(stream.first or 0.0 if speech else taken)
            for stream, (taken, _) in zip(streams, answers, strict=True)
        ],
        gaps=[_rounded(stream.gap) for stream in streams] if speech else [],
        health=list(map(_rounded, health)),
        transcripts=[] if speech else [transcript for _, transcript in answers],
        failures=failures,
    )


def _rounded(seconds: float) -> float:
    return round(seconds, 4)


async def in_a_row(
    arm: Arm,
    clients: int,
    over: asyncio.Event,
    *,
    clips: list[bytes],
    clip_seconds: float,
    beside: str,
) -> Burst:
    """Clients that each send one recording after the other until `over` is set.

    The recordings under way then count in part, by the share of their time that was before.
    """
    times: list[tuple[float, float]] = []
    failures: list[str] = []

    async def client(number: int) -> None:
        while not over.is_set():
            sent = time.perf_counter()
            taken, _ = await transcribe(session, arm, clips[number])
            times.append((sent, taken))

    async with session_of(arm) as session:
        started = time.perf_counter()
        tasks = [asyncio.create_task(client(number)) for number in range(clients)]
        await over.wait()
        ended = time.perf_counter()
        await collect([*tasks], failures)
    return Burst(
        kind=arm.kind.value,
        arm=arm.name,
        clients=clients,
        beside=beside,
        seconds=_rounded(ended - started),
        sound=clip_seconds * sum(min(1.0, (ended - sent) / taken) for sent, taken in times),
        first=[_rounded(taken) for _, taken in times],
        gaps=[],
        health=[],
        transcripts=[],
        failures=failures,
    )
