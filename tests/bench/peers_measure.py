"""What `make bench-peers` measures, and in which order. Runs in the bench's main process.

First each arm alone in memory: PSS, and its return from SIGKILL. Then all servers are started, and
rounds go through every number of clients and every arm, so that a machine that changes its speed
changes it for all. Only one arm computes at a time. A quick run, whose figures mean nothing, starts
all servers once and at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace

import aiohttp
import psutil
from tqdm import tqdm

from ipc.engines import SERVING_KINDS, Kind
from tests.bench import peers_clients
from tests.bench.cpu_group import cpu_quota
from tests.bench.peers_clients import FailedRequestError, Stream, session_of, speak, transcribe
from tests.bench.peers_results import SERVICE, Alone, Burst, Join, Results
from tests.bench.peers_servers import (
    FRAME_SAMPLES,
    SAMPLE_RATE,
    TORCHAO,
    Arm,
    ServiceServer,
    arms,
    checkpoints,
)
from tests.bench.report import machine
from tests.bench.varied import Varied
from tests.support.service import NET

_MB = 1024 * 1024
ROUNDS = 2
_REPEATS = {1: 3}
"""How often a round repeats a burst of few clients, which tells little and takes little time."""
_JOINED = 7
_JOIN_SECONDS = 0.8
"""The sound that each of the others has on average when one joins them."""
LIVE_FIRST_SECONDS = 1.0
LIVE_GAP_SECONDS = 0.1
"""A stream is live if it begins so soon, and if a player that has buffered so much never runs dry.

Without the first, streams that wait for each other would all be live.
"""
_PROBES = 2
_MEMORY_CLIENTS = 8
_BESIDE_HOG = (1, 4)
HOG = "a busy process on one core"
QUOTA = "a quota of one core"
_QUOTA_CORES = 1.0
"""Less than the service has threads for, which it started without a quota."""
BOTH_KINDS = "the other kind"
IN_A_ROW = "nothing, one after the other"
_TOGETHER = {Kind.TTS: 4, Kind.STT: 2}
_SHORT_CLIP_SECONDS = 1.0
_IDLE_SHARE = 0.2
_IDLE_SECONDS = 0.25
_PSS_SECONDS = 0.5
_RETRY_SECONDS = 0.05

Step = tuple[str, Callable[[], Awaitable[None]]]
"""What is measured, and how."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure."""

    quick: bool
    rounds: int
    clients: tuple[int, ...]
    frames: int
    """Of each stream; a frame is 80 ms of sound."""
    clip_seconds: float

    @property
    def together(self) -> dict[Kind, int]:
        """How many clients of each kind at once."""
        return dict.fromkeys(SERVING_KINDS, 1) if self.quick else _TOGETHER


class Measurement:
    """One run, and what it has measured until now."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._models = checkpoints(quick=plan.quick, frames=plan.frames)
        varied = Varied(0)
        count = max(*plan.clients, *plan.together.values())
        self._clips = [varied.wav(plan.clip_seconds, 16_000) for _ in range(count)]
        self._short_clip = varied.wav(_SHORT_CLIP_SECONDS, 16_000)
        self._bar: tqdm[None] = tqdm(disable=True)
        self.results = Results(
            machine(),
            {
                "quick": plan.quick,
                "rounds": plan.rounds,
                "clients": list(plan.clients),
                "stream_seconds": plan.frames * FRAME_SAMPLES / SAMPLE_RATE,
                "clip_seconds": plan.clip_seconds,
                "torchao": TORCHAO,
                "joined": _JOINED,
            },
        )

    async def run(self) -> Results:
        """Measure everything."""
        started = time.monotonic()
        service = ServiceServer(self._models)
        alone: list[Arm] = []
        by_kind: dict[Kind, list[Arm]] = {}
        for kind in SERVING_KINDS:
            ours, *peers = arms(self._models, kind, ServiceServer(self._models, only=kind))
            alone += [ours, *peers]
            by_kind[kind] = [replace(ours, server=service), *peers]
        together = [arm for kind in SERVING_KINDS for arm in by_kind[kind]]
        steps = self._round(by_kind)
        quick = self._plan.quick
        started_for_each = _already_started if quick else _started
        interval = 1.0 if sys.stderr.isatty() else 30.0
        with (
            tqdm(
                total=len(alone) + self._plan.rounds * len(steps) + len(by_kind[Kind.TTS]),
                unit="step",
                file=sys.stderr,
                mininterval=interval,
                maxinterval=interval,
            ) as self._bar,
            _started([*alone, *together] if quick else [], at_once=True),
        ):
            for arm in alone:
                with self._step(f"{arm.name}, {arm.kind.value}, alone"), started_for_each([arm]):
                    self.results.alone.append(await self._alone(arm))
            self._bar.set_description("starting all servers")
            with started_for_each(together):
                for arm in together:
                    await self._warm_up(arm)
                for number in range(self._plan.rounds):
                    # Every other round goes backwards, so that no arm always follows the same one.
                    for name, measure in steps if number % 2 == 0 else reversed(steps):
                        with self._step(name):
                            await measure()
                for arm in by_kind[Kind.TTS]:
                    with self._step(f"{arm.name}, live"):
                        await self._probe_live(arm)
        self.results.minutes = round((time.monotonic() - started) / 60, 1)
        return self.results

    def _round(self, by_kind: dict[Kind, list[Arm]]) -> list[Step]:
        """The steps of a round."""
        steps: list[Step] = []
        for kind in SERVING_KINDS:
            for clients in self._plan.clients:
                for arm in by_kind[kind]:
                    name = f"{arm.name}, {kind.value}, {clients} at once"
                    steps.append((name, functools.partial(self._bursts, arm, clients)))
        for kind in SERVING_KINDS:
            for clients in _BESIDE_HOG:
                if clients in self._plan.clients:
                    arm = by_kind[kind][0]
                    name = f"{arm.name}, {kind.value}, {clients}"
                    beside_hog = functools.partial(self._beside_hog, arm, clients)
                    with_quota = functools.partial(self._with_quota, arm, clients)
                    steps += [(f"{name} beside a hog", beside_hog), (f"{name}, quota", with_quota)]
        ours = {kind: by_kind[kind][0] for kind in SERVING_KINDS}
        steps.append((f"{SERVICE}, both kinds", functools.partial(self._both_kinds, ours)))
        for arm in by_kind[Kind.TTS]:
            steps.append((f"{arm.name}, joining", functools.partial(self._join, arm)))
        return steps

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self._bar.set_description(name, refresh=sys.stderr.isatty())
        yield
        self._bar.update()

    async def _warm_up(self, arm: Arm) -> None:
        """Ask twice, so that the voice is known and whatever is made late has been made."""
        if failures := (await self._burst(arm, 2)).failures:
            raise RuntimeError(f"{arm.name} does not work: {failures}; its log: {arm.server.log()}")

    async def _burst(self, arm: Arm, clients: int, beside: str = "") -> Burst:
        await settle(arm)
        return await self._burst_now(arm, clients, beside)

    async def _burst_now(self, arm: Arm, clients: int, beside: str) -> Burst:
        return await peers_clients.burst(
            arm,
            clients,
            frames=self._plan.frames,
            clips=self._clips,
            clip_seconds=self._plan.clip_seconds,
            beside=beside,
        )

    async def _bursts(self, arm: Arm, clients: int) -> None:
        for _ in range(_REPEATS.get(clients, 1)):
            self.results.bursts.append(await self._burst(arm, clients))

    async def _beside_hog(self, arm: Arm, clients: int) -> None:
        with _hog():
            self.results.bursts.append(await self._burst(arm, clients, HOG))

    async def _with_quota(self, arm: Arm, clients: int) -> None:
        await settle(arm)
        pids = [process.pid for process in arm.server.processes(arm.kind)]
        with cpu_quota(pids, _QUOTA_CORES) as enforced:
            if enforced:
                self.results.bursts.append(await self._burst_now(arm, clients, QUOTA))

    async def _both_kinds(self, ours: dict[Kind, Arm]) -> None:
        """Speech beside recognition, then the same recognition for as long without speech."""
        for arm in ours.values():
            await settle(arm)
        over = asyncio.Event()
        recognition = asyncio.create_task(self._in_a_row(ours[Kind.STT], over, BOTH_KINDS))
        try:
            clients = self._plan.together[Kind.TTS]
            speech = await self._burst_now(ours[Kind.TTS], clients, BOTH_KINDS)
        finally:
            over.set()
        self.results.bursts += [speech, await recognition]
        over = asyncio.Event()
        asyncio.get_running_loop().call_later(speech.seconds, over.set)
        self.results.bursts.append(await self._in_a_row(ours[Kind.STT], over, IN_A_ROW))

    async def _join(self, arm: Arm) -> None:
        """Others begin; when they have some sound, one more begins; all end at its first sound."""
        await settle(arm)
        frames = self._plan.frames
        progress = asyncio.Event()
        streams = [Stream(progress) for _ in range(_JOINED + 1)]
        *others, joining = streams
        needed = min(_JOIN_SECONDS, frames * FRAME_SAMPLES / SAMPLE_RATE / 4) * _JOINED
        failures: list[str] = []
        async with session_of(arm) as session:

            def start(client: int) -> asyncio.Task[None]:
                return asyncio.create_task(speak(session, arm, client, frames, streams[client]))

            tasks = [start(client) for client in range(_JOINED)]
            while sum(stream.sound for stream in others) < needed and not _failed(tasks):
                progress.clear()
                await progress.wait()
            tasks.append(start(_JOINED))
            while joining.first is None and not _failed(tasks):
                progress.clear()
                await progress.wait()
            ended = sum(stream.ended for stream in others)
            for task in tasks:
                task.cancel()
            await peers_clients.collect([*tasks], failures)
        self.results.joins.append(
            Join(arm.name, _JOINED, ended, round(joining.first or 0.0, 4), failures)
        )

    async def _probe_live(self, arm: Arm) -> None:
        """Halve the distance between the most streams that stay live and the fewest that do not."""
        bursts = [burst for burst in self.results.bursts if burst.arm == arm.name]
        bursts = [burst for burst in bursts if burst.kind == arm.kind.value and not burst.beside]
        most, fewest = live_bounds(bursts)
        while fewest is not None and fewest - most > 1:
            clients = (most + fewest) // 2
            probes = [await self._burst(arm, clients) for _ in range(_PROBES)]
            self.results.probes += probes
            if all(is_live(probe) for probe in probes):
                most = clients
            else:
                fewest = clients

    async def _in_a_row(self, arm: Arm, over: asyncio.Event, beside: str) -> Burst:
        return await peers_clients.in_a_row(
            arm,
            self._plan.together[arm.kind],
            over,
            clips=self._clips,
            clip_seconds=self._plan.clip_seconds,
            beside=beside,
        )

    async def _alone(self, arm: Arm) -> Alone:
        """Memory before and under load, and the return from SIGKILL."""
        failures: list[str] = []
        clients = min(max(self._plan.clients), _MEMORY_CLIENTS)
        await self._warm_up(arm)
        await settle(arm)
        idle = _pss_mb(arm)
        async with _highest_pss(arm) as samples:
            burst = await self._burst(arm, clients)
        failures += burst.failures
        again = []
        for _ in range(arm.server.kills):
            await settle(arm)
            killed = time.perf_counter()
            await asyncio.to_thread(arm.server.kill, arm.kind)
            again.append(round(await self._serve_again(arm, killed, failures), 4))
        return Alone(
            arm.kind.value, arm.name, idle, max(samples, default=idle), clients, again, failures
        )

    async def _serve_again(self, arm: Arm, killed: float, failures: list[str]) -> float:
        """Seconds from `killed` until the answer to the first request that gets one.

        A server that starts again refuses connections until it listens; nothing else is excused.
        """
        async with session_of(arm) as session:
            while time.perf_counter() - killed < NET:
                sent = time.perf_counter() - killed
                try:
                    if arm.kind is Kind.STT:
                        taken, _ = await transcribe(session, arm, self._short_clip)
                        return sent + taken
                    stream = Stream(asyncio.Event())
                    await speak(session, arm, 0, self._plan.frames, stream)
                    return sent + (stream.first or 0.0)
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(_RETRY_SECONDS)
                except (FailedRequestError, aiohttp.ClientError, TimeoutError) as error:
                    failures.append(f"after SIGKILL: {type(error).__name__}: {error}")
                    return NET
        failures.append(f"not there {NET} s after SIGKILL")
        return NET


def is_live(burst: Burst) -> bool:
    """Whether every stream of it was."""
    if burst.failures:
        return False
    return max(burst.first) <= LIVE_FIRST_SECONDS and max(burst.gaps) <= LIVE_GAP_SECONDS


def live_bounds(bursts: list[Burst]) -> tuple[int, int | None]:
    """The most streams that stay live in every burst, and the fewest that do not, if known."""
    late = {burst.clients for burst in bursts if not is_live(burst)}
    fewest = min(late, default=None)
    live = {burst.clients for burst in bursts if fewest is None or burst.clients < fewest}
    return max(live, default=0), fewest


async def settle(arm: Arm) -> None:
    """Wait until the arm's processes rest: a stream that was cut off may go on for a while."""
    processes = arm.server.processes(arm.kind)
    give_up = time.monotonic() + NET
    while time.monotonic() < give_up:
        before = _cpu_seconds(processes)
        await asyncio.sleep(_IDLE_SECONDS)
        if _cpu_seconds(processes) - before < _IDLE_SHARE * _IDLE_SECONDS:
            return
    raise RuntimeError(f"{arm.name} computes though nobody asks; its log: {arm.server.log()}")


def _cpu_seconds(processes: list[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _failed(tasks: list[asyncio.Task[None]]) -> bool:
    return any(task.done() and task.exception() for task in tasks)


def _pss_mb(arm: Arm) -> float:
    total = 0
    for process in arm.server.processes(arm.kind):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return round(total / _MB, 1)


@contextlib.asynccontextmanager
async def _highest_pss(arm: Arm) -> AsyncIterator[list[float]]:
    """Sample the PSS of the arm until the block ends."""
    samples: list[float] = []

    async def sample() -> None:
        while True:
            samples.append(await asyncio.to_thread(_pss_mb, arm))
            await asyncio.sleep(_PSS_SECONDS)

    task = asyncio.create_task(sample())
    try:
        yield samples
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.contextmanager
def _started(wanted: list[Arm], *, at_once: bool = False) -> Iterator[None]:
    """Have the servers of these arms ready; they are gone afterwards.

    One starts after the other, because large models take longer together, or all `at_once`.
    """
    servers = list({id(arm.server): arm.server for arm in wanted}.values())
    try:
        for server in servers:
            server.start()
            if not at_once:
                server.wait_ready()
        for server in servers:
            server.wait_ready()
        yield
    finally:
        for server in servers:
            server.end()


def _already_started(_: list[Arm]) -> contextlib.AbstractContextManager[None]:
    """As `_started`, for arms whose servers run already and go on."""
    return contextlib.nullcontext()


@contextlib.contextmanager
def _hog() -> Iterator[None]:
    """A process that is busy on one core."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
        yield
    finally:
        process.kill()
        process.wait()
