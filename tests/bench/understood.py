"""Part `understood`: how much of speech the default engines understand, their own and people's.

Fifty sentences are spoken by /v1/tts and read back by /v1/transcribe; the recordings of people are
those of `tests/support/human.py`.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

from tests.bench.report import Table, step
from tests.support.human import HUMAN, human
from tests.support.service import EMBEDDED, MINIMAL, NET, RunningService, running
from tests.support.spoken import SENTENCES, word_error_rate

FEW = tuple(SENTENCES[at + more] for at in (1, 11, 21, 33, 39) for more in (0, 1))
"""Two sentences of each kind."""

_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Rates:
    """Word error rates, 0 to 1."""

    own: float
    people: float


async def understood(service: RunningService, sentences: Sequence[str]) -> Rates:
    """Have `service` speak and read back the sentences, and listen to people."""
    room = asyncio.Semaphore(_AT_ONCE)
    timeout = aiohttp.ClientTimeout(total=NET)
    async with aiohttp.ClientSession(service.url, timeout=timeout) as client:

        async def transcribe(recording: bytes) -> str:
            form = aiohttp.FormData()
            form.add_field("file", io.BytesIO(recording), filename="recording.wav")
            async with client.post("/v1/transcribe", data=form) as response:
                body = await response.json()
                assert response.status == 200, body
                return str(body["text"])

        async def read_back(sentence: str) -> str:
            async with room:
                async with client.post("/v1/tts", json={"text": sentence}) as response:
                    spoken = await response.read()
                    assert response.status == 200, spoken
                return await transcribe(spoken)

        own = await asyncio.gather(*map(read_back, sentences))
        people = [await transcribe(human(name)) for name in HUMAN]
    said = list(HUMAN.values())
    return Rates(word_error_rate(sentences, own), word_error_rate(said, people))


def table(rates: Sequence[tuple[str, int, Rates]]) -> Table:
    """Of each pair of engines: how many sentences they read back, and their word error rates."""
    return Table(
        "understood: word error rates, %",
        ("engines", "sentences", "read back", "recordings of people"),
        [(name, count, 100 * rate.own, 100 * rate.people) for name, count, rate in rates],
    )


def run(*, quick: bool) -> list[Table]:
    """The rates of the neural default engines and of the minimal ones."""
    rates = []
    few = FEW[:2] if quick else FEW
    for settings, sentences in ((EMBEDDED, few if quick else SENTENCES), (MINIMAL, few)):
        name = " and ".join(settings.values())
        step(f"understood: {name}")
        with running(settings) as service:
            service.wait_ready()
            rates.append((name, len(sentences), asyncio.run(understood(service, sentences))))
    return [table(rates)]
