"""What a worker can still reach: its sandbox, tried from inside an engine."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import landlockpy
import pytest

from model_procs.engine import EngineConfig, Needs
from model_procs.engines.flite import FliteEngine
from tests.support.service import (
    NOBODY,
    ROOT,
    RunningService,
    python_of,
    recording_form,
    running,
)

INTRUDER = {"VOICE_ENGINE_STT_ENGINE": "tests.support.intruder_engine:Intruder"}
LAYERS = ["rlimits", "no_new_privs", "landlock", "seccomp"]
LANDLOCK = landlockpy.abi_version()
"""The version of Landlock in this kernel, 0 for none; what it cannot do is not expected."""
HERE = [layer for layer in LAYERS if LANDLOCK or layer != "landlock"]
"""The layers of this kernel."""
SPOOLED = 300 * 1024
"""Bytes of a recording that reaches the worker in a file."""


@dataclass(frozen=True, slots=True)
class Place:
    """A service, and what lies around it for an intruder to reach."""

    service: RunningService
    folder: Path
    port: int

    @property
    def secret(self) -> Path:
        """A file of the service's user that is no business of a worker."""
        return self.folder / "secret"

    @property
    def socket(self) -> Path:
        """A Unix socket that listens."""
        return self.folder / "socket"

    @property
    def spool(self) -> Path:
        """The folder with the uploads."""
        (found,) = self.folder.glob("spool/voice-engine-spool-*")
        return found


class Open:
    """Something that listens, on TCP and on a Unix socket, for as long as the test runs."""

    def __init__(self, path: Path) -> None:
        self._servers = [socket.create_server(("127.0.0.1", 0))]
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(str(path))
        unix.listen()
        self._servers.append(unix)
        os.chmod(path, 0o777)
        self.port: int = self._servers[0].getsockname()[1]

    def close(self) -> None:
        """Stop to listen."""
        for server in self._servers:
            server.close()


def place(user: int | None = None, **settings: str) -> Iterator[Place]:
    """A service with the intruder, run by `user`, and its surroundings."""
    with tempfile.TemporaryDirectory() as name:  # not tmp_path, which root's tests keep for root
        folder = Path(name)
        (folder / "spool").mkdir()
        (folder / "secret").write_text("a key")
        if user is not None:
            for path in (folder, folder / "spool", folder / "secret"):
                os.chown(path, user, user)
        listening = Open(folder / "socket")
        environment = {**INTRUDER, "VOICE_ENGINE_SPOOL_DIR": f"{folder}/spool"}
        environment |= {f"VOICE_ENGINE_{key}": value for key, value in settings.items()}
        try:
            with running(environment, user=user) as service:
                service.wait_ready()
                yield Place(service, folder, listening.port)
        finally:
            listening.close()


def user_of(who: str) -> int | None:
    """The id to run the service with: None means that of the tests. Skips what cannot be had."""
    if who == "root":
        if os.getuid() != 0:
            pytest.skip("only root can run the service as root")
        return None
    if os.getuid() != 0:
        return None
    if python_of(NOBODY) is None:
        pytest.skip("there is no Python here that an ordinary user can run")
    return NOBODY


@pytest.fixture(
    scope="module",
    params=[(who, method) for who in ("root", "user") for method in ("fork", "spawn")],
    ids="-".join,
)
def confined(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A service with the sandbox on, as it is without any setting."""
    who, method = request.param
    yield from place(user_of(who), START_METHOD=method)


async def attempt(service: RunningService, *lines: str) -> dict[str, str]:
    """Try all of it in one request; the name of the error that each met, or "done"."""
    async with aiohttp.ClientSession(service.url) as client:
        form = recording_form("\n".join(lines), SPOOLED)
        async with client.post("/v1/transcribe", data=form) as response:
            assert response.status == 200, await response.text()
            outcomes: dict[str, str] = json.loads((await response.json())["text"])
            return outcomes


def worker(service: RunningService) -> dict[str, Any]:
    """The only transcription worker, as /health tells of it."""
    (found,) = service.children(model="stt")
    return found


async def test_an_engine_reaches_nothing_that_it_does_not_need(confined: Place) -> None:
    front = confined.service.process.pid
    before = worker(confined.service)
    by_landlock = {
        "read /etc/passwd": "EACCES",
        f"read /proc/{front}/environ": "EACCES",
        f"read /proc/{before['pid']}/environ": "EACCES",
        f"read {confined.secret}": "EACCES",
        f"append {confined.secret}": "EACCES",
        f"make {confined.folder}": "EACCES",
        f"make {confined.spool}": "EACCES",
        f"make {ROOT / 'model_procs'}": "EACCES",
        "list /": "EACCES",
        f"list {confined.folder}": "EACCES",
    }
    expected = (by_landlock if LANDLOCK else {}) | {
        f"connect {confined.port}": "EPERM",
        f"connect_unix {confined.socket}": "EPERM",
        "exec /bin/true": "EPERM",
        "run /bin/true": "EPERM",
        "fork": "EPERM",
        f"trace {front}": "EPERM",
        f"mode {confined.secret}": "EPERM",
        "large": "EFBIG",
        "core": "EPERM",
        "descriptors": "EMFILE",
        "type": "EPERM",
        "namespace": "EPERM",
        **{f"call {name}": "EPERM" for name in ("socket", "process_vm_readv", "io_uring_setup")},
    }
    if LANDLOCK >= 6:
        expected[f"signal {front}"] = "EPERM"
    if platform.machine() == "x86_64":
        expected["x32 socket"] = "ENOSYS"
    assert await attempt(confined.service, *expected) == expected
    after = worker(confined.service)
    assert (after["pid"], after["requests"]) == (before["pid"], before["requests"] + 1)


async def test_an_engine_keeps_what_it_needs(confined: Place) -> None:
    needed = (
        "thread",
        "memory",
        f"list {confined.spool}",
        f"read {ROOT / 'model_procs' / 'worker.py'}",
        f"read {os.__file__}" if python_is_ours(confined) else f"list {ROOT / 'ipc'}",
    )
    assert await attempt(confined.service, *needed) == dict.fromkeys(needed, "done")


def python_is_ours(confined: Place) -> bool:
    """Whether the service runs in the Python of the tests."""
    return os.readlink(f"/proc/{confined.service.process.pid}/exe") == os.path.realpath(
        f"/proc/{os.getpid()}/exe"
    )


async def test_health_and_the_log_tell_of_every_layer(confined: Place) -> None:
    health = confined.service.health()
    told = health["models"]["stt"]["sandbox"]
    assert told["enabled"]
    assert list(told["active"]) == HERE
    assert list(told["refused"]) == [layer for layer in LAYERS if layer not in HERE]
    if LANDLOCK >= 6:
        assert told["active"] == dict.fromkeys(LAYERS)
    for child in health["children"]:
        if child["model"] == "stt":
            assert child["sandbox"] == (told if child["role"] == "worker" else None)
    assert confined.service.wait_for("sandbox", model="stt")["layers"] == told["active"]


async def test_the_front_still_reads_the_memory_of_workers(confined: Place) -> None:
    health = confined.service.wait_until(
        lambda health: all(child["uss_mb"] for child in health["children"])
    )
    assert all(child["rss_mb"] > 5 for child in health["children"])


@pytest.mark.parametrize("method", ["fork", "spawn"])
async def test_the_setting_turns_it_off(method: str) -> None:
    for outside in place(SANDBOX="off", START_METHOD=method):
        attempts = (
            f"connect {outside.port}",
            f"connect_unix {outside.socket}",
            "run /bin/true",
            "fork",
            f"signal {outside.service.process.pid}",
            "read /etc/passwd",
            f"read {outside.secret}",
            f"append {outside.secret}",
            f"mode {outside.secret}",
            f"make {outside.folder}",
            "list /",
            "large",
        )
        outcomes = await attempt(outside.service, *attempts)
        assert outcomes == dict.fromkeys(attempts, "done") | {"large": outcomes["large"]}
        off = {"enabled": False, "active": {}, "refused": {}}
        assert outside.service.health()["models"]["stt"]["sandbox"] == off
        assert worker(outside.service)["sandbox"] == off


# A kernel that refuses


async def recycled(service: RunningService) -> None:
    """Replace the transcription worker."""
    name = worker(service)["name"]
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post(f"/v1/children/{name}/recycle") as response,
    ):
        assert response.status in (200, 202)
    await asyncio.to_thread(service.wait_for, "recycled", child=name)


@pytest.mark.parametrize(
    "refused", [LAYERS, ["landlock"], *([["seccomp"]] if LANDLOCK else [])], ids=str
)
async def test_a_layer_that_the_kernel_refuses_is_told_once_and_costs_nothing(
    refused: list[str],
) -> None:
    settings = {**INTRUDER, "VOICE_TEST_REFUSED": ",".join(refused)}
    with running(settings, module="tests.support.refusing") as service:
        service.wait_ready()
        rest = [layer for layer in LAYERS if layer not in refused]
        for _ in range(2):
            told = worker(service)["sandbox"]
            assert told["enabled"]
            assert (list(told["active"]), list(told["refused"])) == (rest, refused)
            assert all(told["refused"].values())
            assert service.health()["models"]["stt"]["sandbox"] == told
            outcomes = await attempt(service, "read /etc/passwd", "fork")
            assert outcomes["read /etc/passwd"] == ("EACCES" if "landlock" in rest else "done")
            assert outcomes["fork"] == ("EPERM" if "seccomp" in rest else "done")
            await recycled(service)
        named = [entry for entry in service.events if entry["event"] == "sandbox_refused"]
        assert sorted(entry["model"] for entry in named) == ["stt", "tts"]
        assert [list(entry["layers"]) for entry in named] == [refused, refused]


# An engine that starts a program


async def test_an_engine_may_start_the_programs_it_declares_and_no_others() -> None:
    engine = f"{INTRUDER['VOICE_ENGINE_STT_ENGINE']}WithProgram"
    with running({"VOICE_ENGINE_STT_ENGINE": engine}) as service:
        service.wait_ready()
        told = worker(service)["sandbox"]
        assert list(told["active"]) == HERE
        assert told["active"]["seccomp"] == "the engine may start programs: true"
        by_landlock = ("run /bin/false", "run /bin/sh", "exec /bin/sh", "read /etc/passwd")
        expected = {
            "run /bin/true": "done",
            **(dict.fromkeys(by_landlock, "EACCES") if LANDLOCK else {}),
            "namespace": "EPERM",
            "call socket": "EPERM",
            f"trace {service.process.pid}": "EPERM",
        }
        assert await attempt(service, *expected) == expected


def test_flite_declares_its_programs() -> None:
    assert FliteEngine(EngineConfig(ROOT)).needs == Needs(programs=("flite", "setpriv"))


async def test_threads_from_the_load_are_confined_or_the_report_says_how_far() -> None:
    engine = f"{INTRUDER['VOICE_ENGINE_STT_ENGINE']}WithThread"
    settings = {"VOICE_ENGINE_STT_ENGINE": engine, "VOICE_ENGINE_START_METHOD": "spawn"}
    with running(settings) as service:
        service.wait_ready()
        told = worker(service)["sandbox"]["active"]
        outcomes = await attempt(service, "fork", "call socket", "read /etc/passwd")
        assert (outcomes["fork"], outcomes["call socket"]) == ("EPERM", "EPERM")
        # One is of the engine; the libraries that it imports may have started others.
        open_still = not LANDLOCK or "threads that the engine had" in str(told["landlock"])
        assert outcomes["read /etc/passwd"] == ("done" if open_still else "EACCES")
