"""Children that fail at the worst moment: between two steps of the front, or several at once."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import resource
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import datetime

import aiohttp
import psutil
import pytest

from ipc.channel import ControlSocket
from ipc.engines import EngineSpec, Footprint, Kind
from ipc.errors import ServiceError
from ipc.messages import Message, WorkerOptions
from supervisor.events import Events
from supervisor.memory.cgroup import find_container
from supervisor.memory.limits import MB, Limit, MemoryLimits
from supervisor.memory.recycling import Policy
from supervisor.workers import process
from supervisor.workers.backoff import Backoff
from supervisor.workers.child_log import close_logs
from supervisor.workers.config import PoolConfig
from supervisor.workers.handle import WorkerDied
from supervisor.workers.launch import LaunchConfig, LaunchError, SpawnLauncher
from supervisor.workers.lifecycle import State
from supervisor.workers.monitor import Monitor, MonitorConfig
from supervisor.workers.pool import Environment, Pool
from supervisor.workers.template import Template
from tests.support.service import NET, Gate, RunningService, running, script_form


@asynccontextmanager
async def launch_config() -> AsyncIterator[LaunchConfig]:
    """For the scripted engine; children that are left die with the block."""
    lifeline, writer = os.pipe()
    try:
        yield LaunchConfig(
            model="tts",
            factory="tests.support.script_engine:Script",
            models_dir="",
            cache_dir="",
            threads=1,
            options={},
            worker_options=WorkerOptions(),
            lifeline=lifeline,
            load_timeout=60.0,
        )
    finally:
        os.close(writer)
        os.close(lifeline)
        await close_logs()


@asynccontextmanager
async def subreaper() -> AsyncIterator[None]:
    """Adopt orphans, as the front does."""
    process.become_subreaper()
    try:
        yield
    finally:
        ctypes.CDLL(None).prctl(process._PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until `condition` holds; a net catches what never does."""
    async with asyncio.timeout(NET):
        while not condition():  # noqa: ASYNC110 - nothing to wait on
            await asyncio.sleep(0.01)


def stand_still_until_dead(pid: int) -> None:
    """Block the loop, as a busy machine may, while a child dies and others say their last words."""
    while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)


# A template


async def test_a_template_that_dies_as_it_becomes_ready_is_not_taken_for_one(
    monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    monkeypatch.setenv("VOICE_TEST_LOAD", f"wait {gate}; alarm 0.05")
    async with launch_config() as config:
        exits: list[Template] = []
        template = Template(config, exits.append)
        starting = asyncio.create_task(template.start())
        while template.process is None:  # noqa: ASYNC110 - nothing to wait on
            await asyncio.sleep(0.01)
        gate.open()  # nothing of it has been heard before
        stand_still_until_dead(template.process.pid)
        with pytest.raises(LaunchError, match="SIGALRM"):
            await starting
        assert not template.ready
        assert exits == [template]


async def test_a_template_that_cannot_load_is_gone_even_if_it_cannot_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VOICE_TEST_LOAD", "thread")
    async with launch_config() as config:
        template = Template(config, lambda _: None)
        with pytest.raises(LaunchError, match="threads after loading"):
            await template.start()
        assert template.process is not None
        await template.process.exited


async def test_a_worker_that_cannot_load_is_gone_even_if_it_cannot_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VOICE_TEST_LOAD", "thread; raise no weights")
    async with launch_config() as config:
        worker = await SpawnLauncher(config).launch("tts-1", lambda _: None)
        with pytest.raises(ServiceError, match="no weights"):
            await worker.ready
        await worker.process.exited


async def test_a_template_that_nobody_waits_for_any_more_is_gone(
    monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    monkeypatch.setenv("VOICE_TEST_LOAD", f"wait {gate}")
    async with launch_config() as config:
        template = Template(config, lambda _: None)
        starting = asyncio.create_task(template.start())
        await until(lambda: template.process is not None)
        control = template._control
        assert control is not None
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert control.socket.fileno() == -1
        assert template.process is not None
        assert await template.process.exited == -signal.SIGKILL


# A worker


async def test_how_a_worker_ended_is_known_even_if_it_did_at_once(
    monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    monkeypatch.setenv("VOICE_TEST_WARM_UP", f"wait {gate}; exit 3")
    async with launch_config() as config:
        template = Template(config, lambda _: None)
        await template.start()
        assert template.process is not None
        control, parent = template._control, psutil.Process(template.process.pid)
        assert control is not None

        def send_and_stand_still(message: Message, descriptors: Sequence[int] = ()) -> None:
            ControlSocket.send(control, message, descriptors)
            while not parent.children():
                time.sleep(0.01)
            gate.open()
            while parent.children():
                time.sleep(0.01)

        monkeypatch.setattr(control, "send", send_and_stand_still)
        worker = await template.launch("tts-1", lambda _: None)
        with pytest.raises(WorkerDied, match="exit code 3"):
            await worker.ready
        await template.close()


async def test_a_worker_and_its_template_may_die_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_RELAY_SECONDS", 1e6)
    async with launch_config() as config, subreaper():
        template = Template(config, lambda _: None)
        await template.start()
        worker = await template.launch("tts-1", lambda _: None)
        await worker.ready
        assert template.process is not None
        template.process.send_signal(signal.SIGSTOP)  # it will not tell how the worker ended
        worker.process.send_signal(signal.SIGKILL)
        stand_still_until_dead(worker.process.pid)
        await asyncio.sleep(0.01)
        template.kill()
        assert await worker.process.exited == -signal.SIGKILL


# Descriptors


@pytest.mark.parametrize("method", ["fork", "spawn"])
async def test_without_descriptors_a_launch_fails_and_keeps_none(method: str) -> None:
    def descriptors() -> list[int]:
        return [int(name) for name in os.listdir("/proc/self/fd")]

    async with launch_config() as config:
        await asyncio.to_thread(lambda: None)  # the loop's own threads and pipes are there
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        before = len(descriptors())
        started = None
        more = 0
        while started is None:
            used = descriptors()
            limit = next(n for n in range(soft) if n - sum(fd < n for fd in used) == more)
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            try:
                if method == "spawn":
                    started = (await SpawnLauncher(config).launch("tts-1", lambda _: None)).process
                else:
                    template = Template(config, lambda _: None)
                    await template.start()
                    started = template.process
            except LaunchError:
                more += 1
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            while started is None and len(descriptors()) > before:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert more > 5
        started.send_signal(signal.SIGKILL)
        await started.exited
        while len(descriptors()) > before:  # noqa: ASYNC110 - nothing to wait on
            await asyncio.sleep(0.01)


# Many at once


async def test_many_workers_that_are_killed_at_once_are_one_failure(gate: Gate) -> None:
    with running({"VOICE_ENGINE_TTS_WORKERS": "6"}) as service:
        await asyncio.to_thread(service.wait_until, lambda _: len(idle(service)) == 6)

        async def killed(client: aiohttp.ClientSession, script: str) -> int:
            async with client.post("/v1/clone", data=script_form(script)) as response:
                await response.read()
                return response.status

        async with aiohttp.ClientSession(service.url) as client:
            for pid in idle(service):
                os.kill(pid, signal.SIGKILL)
            assert await killed(client, "say 1") == 200
            await asyncio.to_thread(service.wait_until, lambda _: len(idle(service)) == 6)
            script = f"print begun; wait {gate}; say 1"
            busy = [asyncio.create_task(killed(client, script)) for _ in range(6)]
            await asyncio.to_thread(service.wait_for, "child_output", line="begun", count=6)
            for child in service.children(model="tts"):
                os.kill(child["pid"], signal.SIGKILL)
            gate.open()
            assert await asyncio.gather(*busy) == [200] * 6


def idle(service: RunningService) -> list[int]:
    children = service.children(model="tts")
    return [child["pid"] for child in children if child["state"] == "IDLE"]


# The pool's own clock


def pool_of(config: LaunchConfig, kernel_killed: bool | None = False) -> Pool:
    limit = Limit(1024 * MB, growth=True)
    return Pool(
        PoolConfig(
            model="tts",
            engine=EngineSpec(
                "Script",
                Kind.TTS,
                "custom",
                "tests.support.script_engine:Script",
                Footprint(64, 32, 32),
            ),
            limit_setting="",
            size=1,
            start_method="fork",
            launch=config,
            policy=Policy(
                limits=MemoryLimits(soft=limit, hard=limit),
                soft_samples=1,
                min_lifetime=0.0,
                max_requests=0,
                max_age=0.0,
                jitter=0.0,
            ),
        ),
        Backoff(base=1e6, maximum=1e6, failures_max=5),
        Environment(
            publish=Events().publish,
            on_change=lambda: None,
            has_room=lambda _: True,
            kernel_killed=lambda: kernel_killed,
        ),
    )


async def test_a_change_in_the_moment_of_the_stop_does_not_hold_it_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VOICE_TEST_LOAD", "raise no weights")
    async with launch_config() as config:
        for steps in range(5):
            pool = pool_of(config)
            pool.start()
            while not pool.retry_after:  # noqa: ASYNC110 - nothing to wait on
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.01)
            pool._changed.set()
            for _ in range(steps):
                await asyncio.sleep(0)
            assert pool._tasks
            async with asyncio.timeout(NET):
                await pool.close()
            assert [task for task in pool._tasks if not task.done()] == []
            assert pool.slots == []


@pytest.mark.parametrize("last", range(1, 6))
async def test_a_pause_that_ends_between_two_looks_is_over(
    last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = itertools.count(1)
    monkeypatch.setattr(
        Pool, "retry_after", property(lambda _: 1e-6 if next(looks) == last else 0.0)
    )
    async with launch_config() as config:
        pool = pool_of(config)
        pool.start()
        async with asyncio.timeout(NET):
            info = await pool.known_info()
        assert info is not None
        assert info.engine == "script"
        await pool.close()


# Output


async def test_a_model_that_prints_without_end_stops_nobody() -> None:
    with running() as service:
        service.wait_ready()
        async with (
            aiohttp.ClientSession(service.url) as client,
            client.post("/v1/clone", data=script_form("flood 100000; say 1")) as response,
        ):
            assert response.status == 200

        def lines() -> tuple[int, int]:
            of_worker = [event for event in list(service.events) if event.get("child") == "tts-1"]
            logged = sum(event.get("line") == "x" for event in of_worker)
            return logged, sum(event.get("lines", 0) for event in of_worker)

        await asyncio.to_thread(service.wait_until, lambda _: sum(lines()) == 100_000)
        logged, dropped = lines()
        assert 0 < logged < dropped


# Disks


async def test_a_disk_that_stands_still_keeps_nobody_from_watching_and_starting() -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(max_workers=1))
    go_on = threading.Event()
    disk = loop.run_in_executor(None, go_on.wait)
    try:
        async with launch_config() as config:
            pool = pool_of(config)
            monitor = Monitor(MonitorConfig(0.01, 60.0, 0.9), find_container(), Events().publish)
            monitor.pools = [pool]
            monitoring = asyncio.create_task(monitor.run())
            pool.start()
            async with asyncio.timeout(NET):
                info = await pool.known_info()
            assert info is not None
            assert info.engine == "script"
            await until(lambda: monitor.usage > 0)
            assert not monitoring.done()
            assert not disk.done()
            monitoring.cancel()
            await pool.close()
    finally:
        go_on.set()
        await disk


# The stop


@pytest.mark.parametrize("seconds", [0, 20])
async def test_a_stop_takes_no_longer_than_it_may(seconds: int) -> None:
    with running({"VOICE_ENGINE_DRAIN_TIMEOUT": str(seconds)}) as service:
        service.wait_ready()
        async with aiohttp.ClientSession(service.url) as client:
            form = script_form("print begun; hang")
            asking = asyncio.create_task(client.post("/v1/clone", data=form))
            await asyncio.to_thread(service.wait_for, "child_output", line="begun")
            assert await asyncio.to_thread(service.stop) == 0
            with pytest.raises(aiohttp.ClientError):
                await asking
        begin, end = (
            datetime.fromisoformat(service.wait_for(event)["timestamp"])
            for event in ("stopping", "stopped")
        )
        # Three times as long, as it once took, is more than this and a slow machine's work.
        assert (end - begin).total_seconds() < 2 * seconds + 19


# The container


async def test_a_container_that_is_paused_loses_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    async with launch_config() as config:
        pool = pool_of(config)
        calm = MonitorConfig(0.01, ping_timeout=60.0, pressure=0.9)
        monitor = Monitor(calm, find_container(), Events().publish)
        monitor.pools = [pool]
        pool.start()
        await pool.known_info()
        await until(lambda: len(pool.replaceable()) == 1)
        (slot,) = pool.replaceable()
        worker = slot.worker
        monitoring = asyncio.create_task(monitor.run())
        try:
            os.kill(worker.pid, signal.SIGSTOP)
            await until(lambda: worker.unanswered_pings > 0)  # one was on its way
            # Both stand still for an hour, and the front is the first to go on.
            for clock in ("monotonic", "time"):
                real = getattr(time, clock)
                monkeypatch.setattr(time, clock, lambda real=real: real() + 3600)
            looked = worker.unanswered_pings
            await until(lambda: worker.unanswered_pings > looked + 3)
            os.kill(worker.pid, signal.SIGCONT)
            await until(lambda: worker.unanswered_pings == 0)
            assert (worker.state, worker.end_reason) == (State.READY, None)
            assert pool.replaceable() == [slot]
        finally:
            monitoring.cancel()
            os.kill(worker.pid, signal.SIGCONT)
            await pool.close()
