"""Clients that keep the service busy while something is measured. Runs in the main process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import aiohttp

from tests.support.service import RunningService

_PAUSE_AFTER_REFUSAL = 0.05


@dataclass(frozen=True, slots=True)
class Client:
    """One client: sends `form(n)` as its n-th request, each when the one before is answered."""

    path: str
    form: Callable[[int], aiohttp.FormData]


Answers = dict[str, Counter[str]]
"""For each path how many answers had which status; "cut" for those that broke off."""


@contextlib.asynccontextmanager
async def busy(service: RunningService, clients: Sequence[Client]) -> AsyncIterator[Answers]:
    """Run the clients until the block ends; the counts grow meanwhile."""
    answers: Answers = {client.path: Counter() for client in clients}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(service.url, connector=connector) as session:
        tasks = [asyncio.create_task(_run(session, client, answers)) for client in clients]
        try:
            yield answers
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if not task.cancelled():
            task.result()  # a client ends by itself only when the bench is at fault


async def _run(session: aiohttp.ClientSession, client: Client, answers: Answers) -> None:
    counter = answers[client.path]
    for number in itertools.count():
        try:
            async with session.post(client.path, data=client.form(number)) as response:
                await response.read()
                counter[str(response.status)] += 1
                good = response.status == 200
        except aiohttp.ClientError:
            counter["cut"] += 1
            good = False
        if not good:
            await asyncio.sleep(_PAUSE_AFTER_REFUSAL)
