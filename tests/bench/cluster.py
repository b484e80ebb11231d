"""Part `cluster`: what a cluster adds to a request, and what more replicas bring.

The cluster is three nodes of this machine. The engine waits instead of computing, so that two cores
are enough for three replicas. Both services, with and without a cluster, get the same requests in
turn.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from tests.bench.clients import Client, busy
from tests.bench.report import Cell, Table, step
from tests.support.cluster import front_of, nodes, scripted, up
from tests.support.service import NET, RunningService, recording_form, running, script_form

_CLIENTS = 12
_WORK = "sleep 0.1; say 1"
_REPLICAS = (1, 2, 3)
_CALM = {"VOICE_ENGINE_PING_INTERVAL": "1"}
"""As it is by default; tests have it faster."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of request, and how it is made."""

    name: str
    path: str
    script: str
    size: int = 0
    streamed: bool = False

    def form(self) -> aiohttp.FormData:
        """One request."""
        if self.size:
            return recording_form(self.script, self.size)
        options = {"stream": "true"} if self.streamed else {}
        return script_form(self.script, **options)


_KINDS = (
    _Kind("speech of 4 s, streamed", "/v1/clone", "say 200", streamed=True),
    _Kind("speech of 4 s, whole", "/v1/clone", "say 200"),
    _Kind("a recording of 10 s", "/v1/transcribe", "segment Hello.", size=320_000),
)


@dataclass(slots=True)
class _Measured:
    """Milliseconds of each request to one service, and the CPU of its front."""

    first: list[float] = field(default_factory=list)
    """Until the first byte of the body."""
    cpu: float = 0.0
    """Seconds of the front's CPU for all of them."""


def run(*, quick: bool) -> list[Table]:
    """Measure on one cluster."""
    rounds, seconds = (10, 2) if quick else (300, 15)
    with tempfile.TemporaryDirectory() as name, nodes(3) as three:
        folder = Path(name)
        step("cluster: starting one replica")
        environment = {**front_of(three.address, up(three.address, scripted(), folder)), **_CALM}
        with running(environment) as front, running(_CALM) as local:
            front.wait_ready()
            local.wait_ready()
            latency = asyncio.run(_latency(local, front, rounds))
            memory = [_memory_mb(service) for service in (local, front)]
            throughput = []
            for replicas in _REPLICAS:
                up(three.address, scripted(replicas=replicas), folder)
                front.wait_until(lambda health, n=replicas: _serve(health, n))  # type: ignore[misc]
                step(f"cluster: {replicas} replicas, {seconds} s")
                throughput.append(asyncio.run(_throughput(front, seconds)))
    return [
        Table(
            "cluster: a request through a cluster, against the same on one machine",
            (
                *("request", "one machine p50 ms", "p99 ms", "cluster p50 ms", "p99 ms"),
                *("added p50 ms", "added p99 ms", "front CPU ms", "in a cluster"),
            ),
            latency,
            [
                f"{rounds} requests of each kind to each service, one after the other, in turn",
                "until the first byte of the answer's body; the engine itself takes no time",
                f"RSS of the front then: {memory[0]} MB, and {memory[1]} MB in a cluster",
            ],
        ),
        Table(
            f"cluster: replicas of an engine that waits 0.1 s, {_CLIENTS} clients",
            ("replicas", "requests/s", "of linear"),
            [
                (replicas, rate, round(rate / (throughput[0] * replicas), 3))
                for replicas, rate in zip(_REPLICAS, throughput, strict=True)
            ],
            ["of linear: against so many times the throughput of one replica"],
        ),
    ]


def _memory_mb(service: RunningService) -> int:
    return int(psutil.Process(service.process.pid).memory_info().rss / 2**20)


def _serve(health: dict[str, Any], replicas: int) -> bool:
    """Whether so many replicas serve, and no others."""
    model = health["models"]["tts"]
    return bool(model["workers"] == model["free_slots"] == replicas)


async def _latency(
    local: RunningService, front: RunningService, rounds: int
) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    timeout = aiohttp.ClientTimeout(total=NET)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for kind in _KINDS:
            step(f"cluster: {kind.name}, {rounds} times")
            services = {local: _Measured(), front: _Measured()}
            for warm in (True, False):
                for _ in range(5 if warm else rounds):
                    for service, measured in services.items():
                        process = psutil.Process(service.process.pid)
                        before = process.cpu_times()
                        first = await _ask(session, service, kind)
                        after = process.cpu_times()
                        if not warm:
                            measured.first.append(first * 1000)
                            measured.cpu += after.user + after.system - before.user - before.system
            alone, clustered = services.values()
            p50 = [statistics.median(each.first) for each in (alone, clustered)]
            p99 = [_percentile(each.first, 0.99) for each in (alone, clustered)]
            rows.append(
                (
                    *(kind.name, p50[0], p99[0], p50[1], p99[1]),
                    *(p50[1] - p50[0], p99[1] - p99[0]),
                    alone.cpu / rounds * 1000,
                    clustered.cpu / rounds * 1000,
                )
            )
    return rows


async def _ask(session: aiohttp.ClientSession, service: RunningService, kind: _Kind) -> float:
    """Seconds until the first byte of the answer."""
    began = time.perf_counter()
    async with session.post(f"{service.url}{kind.path}", data=kind.form()) as answer:
        assert answer.status == 200, await answer.text()
        await answer.content.readany()
        first = time.perf_counter() - began
        await answer.read()
    return first


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


async def _throughput(front: RunningService, seconds: float) -> float:
    """Answers in a second."""
    client = Client("/v1/clone", lambda _: script_form(_WORK))
    async with busy(front, [client] * _CLIENTS) as answers:
        await asyncio.sleep(1)  # all clients wait by then
        before, began = answers[client.path]["200"], time.perf_counter()
        await asyncio.sleep(seconds)
        count = answers[client.path]["200"] - before
        failed = answers[client.path].total() - answers[client.path]["200"]
        spent = time.perf_counter() - began
    if failed:
        raise RuntimeError(f"{failed} requests failed")
    return count / spent
