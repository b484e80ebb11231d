"""Eight streams of Pocket TTS in one worker, on tiny random weights: none hears of another's fate.

Each stream has a text, a voice and a seed of its own. All wait at a gate in the middle of their
texts, so that all are in flight when something happens; then each must be what it is alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.recordings import spoken
from tests.support.sentences import SENTENCES
from tests.support.service import SCRIPTED, Gate, RunningService, production, running
from tests.support.voice_engines import AT_THE_GATE, GATED

STREAMS = 8
HEADER = 44


def text_of(number: int) -> str:
    """A text of several sentences with the gate in its middle."""
    before, after = (SENTENCES[(number + offset) % len(SENTENCES)] for offset in range(2))
    return f"{before} {AT_THE_GATE} {after}"


@pytest.fixture(scope="module")
def recordings() -> list[bytes]:
    """Of two voices."""
    return [spoken("The birch canoe slid on the planks.", voice) for voice in ("slt", "rms")]


class Place:
    """A service whose speech worker serves eight streams, and the gate at which these wait."""

    def __init__(self, service: RunningService, folder: Path, recordings: list[bytes]) -> None:
        self.service = service
        self.gate = Gate(folder / "gate")
        self._leak = folder / "leak"
        self._recordings = recordings
        self.alone: list[bytes] = []
        """What each stream is alone, once that is known."""

    def form(self, number: int) -> aiohttp.FormData:
        """The request of a stream; every third has a built-in voice."""
        form = aiohttp.FormData(
            {"text": text_of(number), "seed": str(number), "stream": "true"}
            | ({"voice_id": "alba"} if number % 3 == 2 else {}),
            default_to_multipart=True,
        )
        if number % 3 != 2:
            form.add_field("reference_audio", self._recordings[number % 3], filename="me.wav")
        return form

    async def learn(self, client: aiohttp.ClientSession) -> None:
        """Let each stream be spoken alone, if that is not known yet, and close the gate."""
        self.gate.open()
        self.alone = self.alone or [await self.stream(client, number) for number in range(STREAMS)]
        self.gate.path.unlink()

    async def stream(
        self, client: aiohttp.ClientSession, number: int, begun: asyncio.Event | None = None
    ) -> bytes:
        """All of a stream; it has `begun` with its first sound."""
        async with client.post("/v1/tts", data=self.form(number)) as response:
            assert response.status == 200, await response.text()
            received = await response.content.readexactly(HEADER + 2)
            if begun is not None:
                begun.set()
            return received + await response.read()

    async def begin(
        self, client: aiohttp.ClientSession, count: int = STREAMS
    ) -> list[asyncio.Task[bytes]]:
        """Streams that have begun, and cannot end before the gate is open."""
        begun = [asyncio.Event() for _ in range(count)]
        tasks = [
            asyncio.create_task(self.stream(client, number, event))
            for number, event in enumerate(begun)
        ]
        await asyncio.gather(*(event.wait() for event in begun))
        assert self.worker()["in_flight"] == count
        return tasks

    def worker(self) -> dict[str, Any]:
        (worker,) = self.service.children(model="tts")
        return worker

    def replays(self) -> int:
        count: int = self.service.health()["models"]["tts"]["replays"]
        return count

    def leak(self, megabytes: int) -> None:
        """Have one of those who wait leak."""
        order = self._leak.with_suffix(".new")
        order.write_text(str(megabytes))
        order.rename(self._leak)


@contextlib.contextmanager
def place(models: Path, recordings: list[bytes], **settings: str) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="voice-engine-gated-") as folder:
        environment = {
            **production(models),
            "VOICE_ENGINE_TTS_ENGINE": "tests.support.voice_engines:GatedPocket",
            "VOICE_ENGINE_STT_ENGINE": SCRIPTED["VOICE_ENGINE_STT_ENGINE"],  # nothing is recognized
            "VOICE_ENGINE_TTS_WORKERS": "1",
            "VOICE_ENGINE_TTS_CAPACITY": str(STREAMS),
            "VOICE_ENGINE_TTS_LIVE": str(STREAMS),
            "VOICE_ENGINE_CLIENT_SHARE": "1",
            GATED: folder,
            **settings,
        }
        with running(environment) as service:
            service.wait_ready()
            yield Place(service, Path(folder), recordings)


@pytest.fixture(scope="module")
def shared(nano_models: Path, recordings: list[bytes]) -> Iterator[Place]:
    with place(nano_models, recordings) as shared:
        yield shared


@contextlib.asynccontextmanager
async def client_of(place: Place) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(place.service.url) as client:
        await place.learn(client)
        yield client


def queued(count: int) -> Callable[[Any], bool]:
    return lambda health: bool(health["models"]["tts"]["queued"] == count)


async def test_each_is_what_it_is_alone(shared: Place) -> None:
    async with client_of(shared) as client:
        streams = await shared.begin(client)
        shared.gate.open()
        assert await asyncio.gather(*streams) == shared.alone
    assert len(set(shared.alone)) == STREAMS


async def test_all_go_on_without_a_seam_when_their_worker_is_killed(shared: Place) -> None:
    before = shared.replays()
    async with client_of(shared) as client:
        streams = await shared.begin(client)
        os.kill(shared.worker()["pid"], signal.SIGKILL)
        shared.gate.open()
        assert await asyncio.gather(*streams) == shared.alone
    assert shared.replays() == before + STREAMS


async def test_all_go_on_when_their_worker_is_killed_at_work(shared: Place) -> None:
    before = shared.replays()
    async with client_of(shared) as client:
        begun = asyncio.Event()
        streams = [
            asyncio.create_task(shared.stream(client, number, begun)) for number in range(STREAMS)
        ]
        await begun.wait()  # for the first of them; others are still reading or being decoded
        os.kill(shared.worker()["pid"], signal.SIGKILL)
        shared.gate.open()
        assert await asyncio.gather(*streams) == shared.alone
    assert shared.replays() > before


async def test_one_that_leaves_makes_room_and_disturbs_nobody(shared: Place) -> None:
    async with client_of(shared) as client:
        streams = await shared.begin(client)
        pid, before = shared.worker()["pid"], shared.replays()
        waiting = asyncio.create_task(shared.stream(client, 0))
        await asyncio.to_thread(shared.service.wait_until, queued(1))
        leaving = streams.pop()
        leaving.cancel()
        await asyncio.to_thread(shared.service.wait_until, queued(0))
        assert not any(stream.done() for stream in streams)
        shared.gate.open()
        assert await asyncio.gather(*streams) == shared.alone[:-1]
        assert await waiting == shared.alone[0]
    assert (shared.worker()["pid"], shared.replays()) == (pid, before)


async def test_a_new_voice_is_registered_while_others_stream(shared: Place) -> None:
    async with client_of(shared) as client:
        streams = await shared.begin(client, STREAMS - 1)
        form = aiohttp.FormData({"voice_id": "new"})
        form.add_field("audio", spoken("Nobody has sent this before.", "awb"), filename="new.wav")
        async with client.post("/v1/voices/register", data=form) as response:
            assert response.status == 200, await response.text()

        async def hello() -> bytes:
            speech = {"text": "Hello there.", "voice_id": "new", "seed": "1"}
            form = aiohttp.FormData(speech, default_to_multipart=True)
            async with client.post("/v1/tts", data=form) as response:
                assert response.status == 200, await response.text()
                return await response.read()

        beside = await hello()
        assert not any(stream.done() for stream in streams)
        shared.gate.open()
        assert await asyncio.gather(*streams) == shared.alone[:-1]
        assert await hello() == beside


async def test_the_hard_limit_fails_none(nano_models: Path, recordings: list[bytes]) -> None:
    limits = {
        "VOICE_ENGINE_TTS_SOFT_LIMIT_MB": "+200",
        "VOICE_ENGINE_TTS_HARD_LIMIT_MB": "+400",
        "VOICE_ENGINE_MIN_LIFETIME": "600",
    }
    with place(nano_models, recordings, **limits) as limited:
        async with client_of(limited) as client:
            streams = await limited.begin(client)
            limited.leak(600)
            await asyncio.to_thread(limited.service.wait_for, "hard_limit")
            limited.gate.open()
            assert await asyncio.gather(*streams) == limited.alone
        assert limited.replays() == STREAMS


async def test_a_worker_that_is_recycled_finishes_all(
    nano_models: Path, recordings: list[bytes]
) -> None:
    limits = {
        "VOICE_ENGINE_TTS_SOFT_LIMIT_MB": "+200",
        "VOICE_ENGINE_TTS_HARD_LIMIT_MB": "+4000",
        "VOICE_ENGINE_SOFT_SAMPLES": "1",
        "VOICE_ENGINE_MIN_LIFETIME": "0",
    }
    with place(nano_models, recordings, **limits) as limited:
        async with client_of(limited) as client:
            streams = await limited.begin(client)
            limited.leak(300)
            await asyncio.to_thread(limited.service.wait_for, "worker_ready", child="tts-2")
            old, _ = limited.service.children(model="tts")
            assert (old["lifecycle"], old["in_flight"]) == ("DRAINING", STREAMS)
            assert not any(stream.done() for stream in streams)
            limited.gate.open()
            assert await asyncio.gather(*streams) == limited.alone
        recycled = await asyncio.to_thread(limited.service.wait_for, "recycled")
        assert recycled["child"] == old["name"]
        assert limited.replays() == 0
