"""SIGKILL for each part of a cluster while two fronts serve whole answers and streams."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.support.cluster import Nodes, front_of, nodes, scripted, up
from tests.support.service import NET, RunningService, running, script_form

pytestmark = [pytest.mark.timeout(300)]

REPLICAS = 3

SCRIPT = "say 5; sleep 0.1; say 20; sleep 0.1; say 5"


@pytest.fixture(scope="module")
def three() -> Iterator[Nodes]:
    with nodes(3) as found:
        yield found


@pytest.fixture(scope="module")
def fronts(
    three: Nodes, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[RunningService]]:
    folder = tmp_path_factory.mktemp("kills")
    environment = front_of(three.address, up(three.address, config_of(REPLICAS), folder))
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(running(environment)) for _ in range(3)]
        for front in found:
            front.wait_until(_whole)
        yield found


def config_of(replicas: int, **settings: int) -> dict[str, Any]:
    """The cluster's file, with so many replicas that speak."""
    return scripted(replicas=replicas, voice_cache_mb=0, **settings)


@dataclass(slots=True)
class Load:
    """Clients that ask one front again and again, and what they got."""

    front: RunningService
    expected: dict[bool, bytes] = field(default_factory=dict)
    finished: Counter[bool] = field(default_factory=Counter)
    """Right answers, by whether they were streams."""
    faults: list[str] = field(default_factory=list)
    over: bool = False
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    async def ask(self, session: aiohttp.ClientSession, streamed: bool) -> bytes:
        """One answer. Raises when it is not whole."""
        options = {"seed": "5"} | ({"stream": "true"} if streamed else {})
        form = script_form(SCRIPT, **options)
        async with session.post(f"{self.front.url}/v1/clone", data=form) as answer:
            data = await answer.read()
            assert answer.status == 200, data
            return data

    async def run(self, session: aiohttp.ClientSession, streamed: bool) -> None:
        """Ask until it is over."""
        while not self.over:
            try:
                data = await self.ask(session, streamed)
                if data != self.expected[streamed]:
                    self.faults.append(f"{len(data)} bytes with a seam")
            except (AssertionError, aiohttp.ClientError) as error:
                self.faults.append(repr(error))
            self.finished[streamed] += 1
            self._more.set()

    async def more(self, count: int) -> None:
        """Wait until so many more answers of both kinds have come."""
        wanted = {streamed: self.finished[streamed] + count for streamed in (False, True)}
        while any(self.finished[streamed] < number for streamed, number in wanted.items()):
            self._more.clear()
            await self._more.wait()


@pytest.fixture
async def loads(fronts: list[RunningService]) -> AsyncIterator[list[Load]]:
    """Two clients of each kind at each front."""
    timeout = aiohttp.ClientTimeout(total=NET)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        made = [Load(front) for front in fronts if front.process.poll() is None]
        expected = {streamed: await made[0].ask(session, streamed) for streamed in (False, True)}
        for load in made:
            load.expected = expected
        tasks = [
            asyncio.create_task(load.run(session, streamed))
            for load in made
            for streamed in (False, True)
            for _ in range(2)
        ]
        for load in made:
            await load.more(1)
        yield made
        for load in made:
            load.over = True
        await asyncio.gather(*tasks)


def _whole(health: dict[str, Any], replicas: int = REPLICAS) -> bool:
    """Whether all replicas serve."""
    children = health["children"]
    workers = [c for c in children if c["model"] == "tts" and c["role"] == "worker"]
    return len(workers) == replicas and all(c["lifecycle"] == "READY" for c in workers)


async def recovered(loads: list[Load], gone: set[int], replicas: int = REPLICAS) -> None:
    """All replicas serve again, none of them in the processes that are gone; requests go on."""

    def again(health: dict[str, Any]) -> bool:
        children = health["children"]
        return _whole(health, replicas) and not gone & {child["pid"] for child in children}

    living = [load for load in loads if not load.over]
    await asyncio.to_thread(living[0].front.wait_until, again)
    for load in living:
        await load.more(2)
        assert load.faults == []


def _template(front: RunningService) -> int:
    return int(front.children("template", "tts")[0]["pid"])


async def test_a_replica(loads: list[Load]) -> None:
    template = await asyncio.to_thread(_template, loads[0].front)
    replica = psutil.Process(template).parent()
    assert replica is not None
    replica.send_signal(signal.SIGKILL)
    await recovered(loads, {template})


async def test_a_node_with_all_that_it_has(three: Nodes, loads: list[Load]) -> None:
    workers = await asyncio.to_thread(loads[0].front.children, "worker", "tts")
    on = {child["pid"]: three.of(child["pid"]) for child in workers}
    assert len(set(on.values())) > 1, "the replicas are all on one node"
    number = next(node for node in on.values() if node != 0)  # the head is needed
    three.kill(number)
    await recovered(loads, {pid for pid, node in on.items() if node == number})


async def test_the_controller_of_serve(three: Nodes, loads: list[Load]) -> None:
    (controller,) = three.named("ray::ServeController")
    os.kill(controller, signal.SIGKILL)
    while not (again := three.named("ray::ServeController")) or again == [controller]:
        await loads[0].more(1)
    await recovered(loads, set())


async def test_the_registry(three: Nodes, loads: list[Load]) -> None:
    (registry,) = three.named("ray::Registry")
    os.kill(registry, signal.SIGKILL)
    while not (again := three.named("ray::Registry")) or again == [registry]:
        await loads[0].more(1)
    await recovered(loads, set())


async def test_another_version_and_fewer_replicas(
    three: Nodes, loads: list[Load], tmp_path: Path
) -> None:
    before = await asyncio.to_thread(_pids, loads[0].front)
    other = config_of(REPLICAS, max_requests=1000)  # another version: every replica is replaced
    await asyncio.to_thread(up, three.address, other, tmp_path)
    await recovered(loads, before)
    before = await asyncio.to_thread(_pids, loads[0].front)
    await asyncio.to_thread(up, three.address, config_of(1, max_requests=1000), tmp_path)
    await recovered(loads, set(), replicas=1)
    await asyncio.to_thread(up, three.address, other, tmp_path)  # as other tests expect it
    await recovered(loads, set())


async def test_a_front(loads: list[Load]) -> None:
    dying = loads[-1]
    dying.over = True
    dying.front.process.kill()
    await recovered(loads[:-1], set())


def _pids(front: RunningService) -> set[int]:
    return {int(child["pid"]) for child in front.children("worker", "tts")}
