"""Part `live`: sessions that speak while the text is written, and hear while it is said.

Words are pushed as a language model writes them, sound in real time as a person speaks. Beside it
stand the libraries, called directly with the same sentence or recording.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
import wave
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.bench.models import CACHE, models_folder
from tests.bench.neural import alone
from tests.bench.report import Cell, Table, step
from tests.support.human import human_file
from tests.support.service import NET, RunningService, running
from tests.support.spoken import SENTENCES

_WORDS_A_SECOND = 15
"""A language model on a fast machine; a person reads aloud two or three."""
_FRAME_SECONDS = 0.02
_SILENCE_SECONDS = 1.5
_POLL_SECONDS = 0.005
_SESSIONS = (1, 8)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is measured: an engine with so many sessions; `library` is its baseline in ms."""

    engine: str
    sessions: int
    rounds: int
    library: float | None


@dataclass(slots=True)
class _Heard:
    """What sessions of transcription have measured, in seconds."""

    after_end: list[float] = field(default_factory=list)
    """From the end of speech, as it was sent, to the final text."""
    after_stop: list[float] = field(default_factory=list)
    """From the moment at which the service knew that it had ended."""
    partials: int = 0
    speech: float = 0.0


def run(*, quick: bool) -> list[Table]:
    """Speech and transcription, each with the embedded and with the full production engines."""
    folder = models_folder(quick=quick)
    rounds = 1 if quick else 3
    texts = [" ".join(SENTENCES[at : at + 3]) for at in range(0, 9, 3)]
    recording = human_file("beckett.wav")
    spoken: list[tuple[Cell, ...]] = []
    heard: list[tuple[Cell, ...]] = []
    freed: list[tuple[Cell, ...]] = []
    for tts, stt in (("kokoro", "whisper"), ("pocket", "sensevoice")):
        settings = {
            "VOICE_ENGINE_TTS_ENGINE": tts,
            "VOICE_ENGINE_STT_ENGINE": stt,
            "VOICE_ENGINE_CACHE_DIR": str(CACHE),
            "VOICE_ENGINE_MODELS_DIR": str(folder),
        }
        step(f"live: starting {tts} and {stt}")
        with running(settings) as service:
            service.wait_ready()
            direct = _direct(tts, [texts[0].partition(".")[0] + "."], rounds)
            for sessions in _SESSIONS:
                step(f"live: {tts}, {sessions} sessions")
                spoken.append(_spoken(service, _Plan(tts, sessions, rounds, direct), texts))
            freed.append(_freed(service, tts, " ".join(texts), 3 * rounds))
            direct = _direct(stt, [str(recording)], rounds)
            for sessions in _SESSIONS:
                step(f"live: {stt}, {sessions} sessions")
                heard.append(_heard(service, _Plan(stt, sessions, rounds, direct), recording))
    return [
        Table(
            "live: from the message that completes the first sentence to its first sound",
            ("engine", "sessions", "p50 ms", "worst ms", "library p50 ms", "sound / wall clock"),
            spoken,
            [
                f"{rounds} rounds; each session pushes {_WORDS_A_SECOND} words a second of three "
                "sentences, and reads pcm",
                "library: kokoro-onnx alone, from the call to all of the same sentence",
            ],
        ),
        Table(
            "live: from a barge-in to a free worker",
            ("engine", "told p50 ms", "told worst ms", "free p50 ms", "free worst ms"),
            freed,
            [
                f"{3 * rounds} rounds; nine sentences are cancelled at their first sound",
                "told: the message that nothing more comes",
                f"free: /health, read every {_POLL_SECONDS * 1000:.0f} ms, shows no request",
            ],
        ),
        Table(
            "live: from the end of speech to the final text",
            (
                *("engine", "sessions", "after speech p50 ms", "worst ms", "after stop p50 ms"),
                *("partials a second of speech", "library p50 ms"),
            ),
            heard,
            [
                f"{rounds} rounds; each session sends {recording.name} in real time and then "
                f"{_SILENCE_SECONDS} s of silence, all at once but not in step",
                "after speech: from the moment at which its last sample was sent; the silence that "
                "tells its end is in it",
                "after stop: from the message that speech has stopped",
                "library: faster-whisper alone, from the call to the text of the whole recording",
            ],
        ),
    ]


def _direct(engine: str, items: Sequence[str], rounds: int) -> float | None:
    """Median of milliseconds that the library alone takes; None without such a baseline."""
    if engine not in ("kokoro", "whisper"):
        return None
    with alone(engine) as one_round:
        one_round(items)
        times = []
        for _ in range(rounds):
            started = time.perf_counter()
            one_round(items)
            times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def _spoken(service: RunningService, plan: _Plan, texts: Sequence[str]) -> tuple[Cell, ...]:
    first: list[float] = []
    sound = 0.0
    started = time.perf_counter()

    async def all_at_once() -> None:
        nonlocal sound
        timeout = aiohttp.ClientTimeout(total=NET)
        async with aiohttp.ClientSession(service.url, timeout=timeout) as client:
            for number in range(plan.rounds):
                text = texts[number % len(texts)]
                done = await asyncio.gather(*(_speak(client, text) for _ in range(plan.sessions)))
                first.extend(begin for begin, _ in done)
                sound += sum(seconds for _, seconds in done)

    asyncio.run(all_at_once())
    wall = time.perf_counter() - started
    median, worst = statistics.median(first) * 1000, max(first) * 1000
    return (plan.engine, plan.sessions, median, worst, plan.library, sound / wall)


async def _speak(client: aiohttp.ClientSession, text: str) -> tuple[float, float]:
    """Seconds from the first complete sentence to its first sound, and seconds of sound."""
    complete = begin = 0.0
    received, rate = 0, 24_000
    async with client.ws_connect("/v1/tts/stream") as socket:
        await socket.send_json({"type": "start", "format": "pcm"})

        async def push() -> None:
            nonlocal complete
            for word in text.split():
                await socket.send_json({"type": "text", "text": f"{word} "})
                if word.endswith(".") and not complete:
                    complete = time.perf_counter()
                await asyncio.sleep(1 / _WORDS_A_SECOND)
            await socket.send_json({"type": "end"})

        pushing = asyncio.create_task(push())
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                begin = begin or time.perf_counter()
                received += len(message.data)
            else:
                told = json.loads(message.data)
                assert told["type"] != "error", told
                rate = told.get("sample_rate", rate)
        await pushing
    assert received, "it has spoken"
    return begin - complete, received / 2 / rate


def _freed(service: RunningService, engine: str, text: str, rounds: int) -> tuple[Cell, ...]:
    """How soon a barge-in stops the model."""
    told: list[float] = []
    free: list[float] = []

    async def busy(client: aiohttp.ClientSession) -> bool:
        await asyncio.sleep(_POLL_SECONDS)
        async with client.get("/health") as response:
            children = (await response.json())["children"]
        return any(each["in_flight"] for each in children if each["kind"] == "tts")

    async def all_of_them() -> None:
        timeout = aiohttp.ClientTimeout(total=NET)
        async with aiohttp.ClientSession(service.url, timeout=timeout) as client:
            for _ in range(rounds):
                async with client.ws_connect("/v1/tts/stream") as socket:
                    await socket.send_json({"type": "start", "format": "pcm"})
                    await socket.send_json({"type": "text", "text": text, "flush": True})
                    while (await socket.receive()).type is not aiohttp.WSMsgType.BINARY:
                        pass
                    assert await busy(client)
                    began = time.perf_counter()
                    await socket.send_json({"type": "cancel"})
                    cancelled = asyncio.create_task(_cancelled(socket))
                    while await busy(client):
                        pass
                    free.append(time.perf_counter() - began)
                    told.append(await cancelled - began)

    asyncio.run(all_of_them())
    columns = ((statistics.median(times) * 1000, max(times) * 1000) for times in (told, free))
    return (engine, *(figure for column in columns for figure in column))


async def _cancelled(socket: aiohttp.ClientWebSocketResponse) -> float:
    """When the service said that nothing more comes."""
    async for message in socket:
        if message.type is not aiohttp.WSMsgType.TEXT:
            continue
        if json.loads(message.data)["type"] == "cancelled":
            return time.perf_counter()
    raise AssertionError("the session ended")


def _heard(service: RunningService, plan: _Plan, recording: Path) -> tuple[Cell, ...]:
    measured = _Heard()

    async def all_at_once() -> None:
        timeout = aiohttp.ClientTimeout(total=NET)
        async with aiohttp.ClientSession(service.url, timeout=timeout) as client:
            for _ in range(plan.rounds):
                delays = (0.3 * at for at in range(plan.sessions))
                await asyncio.gather(
                    *(_listen(client, recording, delay, measured) for delay in delays)
                )

    asyncio.run(all_at_once())
    return (
        plan.engine,
        plan.sessions,
        statistics.median(measured.after_end) * 1000,
        max(measured.after_end) * 1000,
        statistics.median(measured.after_stop) * 1000,
        measured.partials / measured.speech,
        plan.library,
    )


async def _listen(
    client: aiohttp.ClientSession, recording: Path, delay: float, measured: _Heard
) -> None:
    """Send a recording in real time, and measure what comes back."""
    with wave.open(str(recording)) as file:
        assert (file.getsampwidth(), file.getnchannels()) == (2, 1)
        rate = file.getframerate()
        sound = file.readframes(file.getnframes()) + bytes(int(_SILENCE_SECONDS * rate) * 2)
    await asyncio.sleep(delay)
    loop = asyncio.get_running_loop()
    async with client.ws_connect("/v1/transcribe/stream") as socket:
        await socket.send_json({"type": "start", "format": "pcm16", "sample_rate": rate})
        started = loop.time()

        async def push() -> None:
            frame = int(_FRAME_SECONDS * rate) * 2
            for number, at in enumerate(range(0, len(sound), frame), start=1):
                await asyncio.sleep(started + number * _FRAME_SECONDS - loop.time())
                await socket.send_bytes(sound[at : at + frame])
            await socket.send_json({"type": "end"})

        pushing = asyncio.create_task(push())
        stopped = 0.0
        async for message in socket:
            told, now = json.loads(message.data), loop.time()
            match told["type"]:
                case "error":
                    raise RuntimeError(told)
                case "speech_stopped":
                    stopped = now
                case "partial":
                    measured.partials += 1
                case "final":
                    measured.after_end.append(now - started - told["end"])
                    measured.after_stop.append(max(0.0, now - stopped))
                    measured.speech += told["end"] - told["start"]
        await pushing
