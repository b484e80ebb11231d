"""A conversation of half a minute with real voices, in real time, while its workers are killed.

A person speaks and is transcribed while an agent answers over ElevenLabs' protocol, and is
interrupted in each third turn. Each of the three models loses its worker several times.
"""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import json
import os
import signal
import wave
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.human import HUMAN, human
from tests.support.service import EMBEDDED, RunningService, running
from tests.support.spoken import SENTENCES, word_error_rate

pytestmark = [pytest.mark.slow, pytest.mark.neural, pytest.mark.alone]

NAME = "beckett.wav"
UTTERANCES = HUMAN[NAME].count(".")
SECONDS = 30.0
FRAME_SECONDS = 0.04
KILL_EVERY = 3.0
"""Seconds; each kill hits the next of the models."""

SPEAKER = "/v1/text-to-speech/jf_alpha/multi-stream-input?output_format=pcm_24000"
TURNS = [SENTENCES[at : at + 2] for at in range(0, 6, 2)]
"""What the agent says, again and again."""

Message = dict[str, Any]


async def test_nothing_is_lost_and_nothing_said_twice(packaged_weights: Path) -> None:
    settings = {
        **EMBEDDED,
        "VOICE_ENGINE_CACHE_DIR": str(packaged_weights),
        "VOICE_ENGINE_MAX_ATTEMPTS": "9",
    }
    with running(settings) as service:
        service.wait_ready()
        async with aiohttp.ClientSession(service.url) as client:
            expected = await _agent(client, asyncio.Event(), rounds=len(TURNS), barge_in=False)
            over = asyncio.Event()
            agent = asyncio.create_task(_agent(client, over))
            chaos = asyncio.create_task(_chaos(service))
            rounds, period, told = await _person(client)
            over.set()
            turns = await agent
            chaos.cancel()

        # What the agent said: the same sound as without kills, and only what it had to say.
        assert len(turns) > len(TURNS)
        for number, sound in enumerate(turns):
            whole = expected[number % len(TURNS)]
            if number % 3 == 2:
                assert sound == whole[: len(sound)] != whole
            else:
                assert sound == whole

        # What the person said: each utterance once, and all of them.
        finals = [each for each in told if each["type"] == "final"]
        stopped = [each["utterance"] for each in told if each["type"] == "speech_stopped"]
        assert [each["utterance"] for each in finals] == stopped == [*range(1, len(finals) + 1)]
        assert len(finals) == rounds * UTTERANCES
        for before, after in itertools.pairwise(finals[::UTTERANCES]):
            assert after["start"] - before["start"] == pytest.approx(period, abs=0.1)
        said = " ".join([HUMAN[NAME]] * rounds)
        assert word_error_rate([said], [" ".join(each["text"] for each in finals)]) < 0.4

        killed = [event["model"] for event in service.events if event["event"] == "worker_died"]
        assert {"tts", "stt", "vad"} <= set(killed)
        assert len(killed) >= SECONDS / KILL_EVERY / 2


async def _person(client: aiohttp.ClientSession) -> tuple[int, float, list[Message]]:
    """Say the same all the time; how often, how many seconds each takes, and what came back."""
    with wave.open(io.BytesIO(human(NAME))) as file:
        rate = file.getframerate()
        sound = file.readframes(file.getnframes()) + bytes(rate * 2)
    frame = int(rate * FRAME_SECONDS) * 2
    period = len(sound) / 2 / rate
    rounds = round(SECONDS / period)
    told: list[Message] = []
    async with client.ws_connect("/v1/transcribe/stream") as socket:

        async def listen() -> None:
            async for message in socket:
                told.append(json.loads(message.data))
                assert told[-1]["type"] != "error", told[-1]

        listening = asyncio.create_task(listen())
        await socket.send_json({"type": "start", "sample_rate": rate, "language": "en"})
        for _ in range(rounds):
            for at in range(0, len(sound), frame):
                await socket.send_bytes(sound[at : at + frame])
                await asyncio.sleep(FRAME_SECONDS)
        await socket.send_json({"type": "end"})
        await listening
    assert told[-1] == {"type": "done"}
    return rounds, period, told


async def _agent(
    client: aiohttp.ClientSession,
    over: asyncio.Event,
    *,
    rounds: int | None = None,
    barge_in: bool = True,
) -> list[bytes]:
    """Answer until the conversation is over; the sound of each turn."""
    turns: list[bytes] = []
    async with client.ws_connect(SPEAKER) as socket:
        for number in itertools.count():
            if over.is_set() or number == rounds:
                break
            name = str(number)
            interrupted = barge_in and number % 3 == 2
            first, second = TURNS[number % len(TURNS)]
            for sentence in (first, second):
                for word in sentence.split():
                    await socket.send_json({"context_id": name, "text": f"{word} "})
                # So the sentences are always two pieces, however soon the second one came. A text
                # that is flushed to its end would be spoken to its end.
                if sentence == first or not interrupted:
                    await socket.send_json({"context_id": name, "flush": True})
            if not interrupted:
                await socket.send_json({"context_id": name, "close_context": True})
            sound, closed = b"", False
            async for message in socket:
                told = json.loads(message.data)
                assert told.get("contextId") == name, told
                sound += base64.b64decode(told.get("audio") or "")
                if interrupted and sound and not closed:
                    closed = True
                    await socket.send_json({"context_id": name, "close_context": True})
                if told.get("isFinal"):
                    break
            turns.append(sound)
        await socket.send_json({"close_socket": True})
    return turns


async def _chaos(service: RunningService) -> None:
    """Kill the workers of one model after the other."""
    for model in itertools.cycle(("tts", "stt", "vad")):
        await asyncio.sleep(KILL_EVERY)
        for worker in await asyncio.to_thread(service.children, "worker"):
            if worker["model"] == model:
                os.kill(worker["pid"], signal.SIGKILL)
