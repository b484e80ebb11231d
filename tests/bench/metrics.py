"""Part `metrics`: what events, the access log and metrics cost the front, against a front without.

Five services at once, measured in turns in short rounds, so that what else the machine does falls
on all. Two of them are the same: what differs between these is noise.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.load import Plan, measure
from tests.bench.report import Cell, Table, step
from tests.support.service import ROOT

_AIM_COST, _AIM_MB, _AIM_FRONT_MB = 0.02, 8, 64
_CONNECTIONS = 8
_OFF = "off"
_WAYS = {
    _OFF: ("off", "info"),
    "off again": ("off", "info"),
    "events": ("events", "warning"),
    "events and log": ("events", "info"),
    "all": ("all", "info"),
}
"""The rows of a table, and what each tells its server: the way, the level of the log."""
_SCRAPES_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of request: its engine, its text, how many a round has."""

    name: str
    engine: str
    text: str
    requests: int


_KINDS = (
    _Kind("200 B, at once", "tests.bench.engine:Answering", "200", 1500),
    _Kind(
        "a sentence by flite",
        "flite",
        "The quick brown fox jumps over the lazy dog while the band plays on.",
        40,
    ),
)


@dataclass(frozen=True, slots=True)
class _Server:
    """A service that runs."""

    port: int
    pid: int


@dataclass(frozen=True, slots=True)
class _Round:
    """One measurement."""

    per_second: float
    cpu: float
    """Of the front, in microseconds a request."""


def run(*, quick: bool) -> list[Table]:
    """Measure all ways with each kind of request."""
    return [_table(kind, rounds=2 if quick else 15, quick=quick) for kind in _KINDS]


def _table(kind: _Kind, *, rounds: int, quick: bool) -> Table:
    requests = kind.requests // (10 if quick else 1)
    results: dict[str, list[_Round]] = {name: [] for name in _WAYS}
    with contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context(_server(way, level, kind.engine))
            for name, (way, level) in _WAYS.items()
        }
        stack.enter_context(_scraped(servers["all"].port))
        for server in servers.values():
            _round(server, kind, requests)
        for number in range(rounds):
            step(f"metrics: {kind.name}, round {number + 1} of {rounds}")
            order = list(_WAYS)[number % len(_WAYS) :] + list(_WAYS)[: number % len(_WAYS)]
            for name in order:
                results[name].append(_round(servers[name], kind, requests))
        memory = {name: _memory_mb(server.pid) for name, server in servers.items()}
    return Table(
        f"metrics: {kind.name}, {_CONNECTIONS} connections (aim: under {_AIM_COST:.0%} of the "
        f"throughput and {_AIM_MB} MB, the front under {_AIM_FRONT_MB} MB)",
        (
            *("way", "requests/s", "of off", "front CPU us/request", "more us"),
            *("front peak MB", "more MB"),
        ),
        [_row(name, results, memory) for name in _WAYS],
        [
            f"median of {rounds} rounds of {requests} requests, all ways in each round; of off: "
            "median of the ratios in one round",
            "events: they are told and counted, one for each request; and log: a line in a file",
            f"all: the same, with metrics that are scraped every {_SCRAPES_SECONDS:g} s",
        ],
    )


def _row(name: str, results: dict[str, list[_Round]], memory: dict[str, float]) -> tuple[Cell, ...]:
    pairs = list(zip(results[name], results[_OFF], strict=True))
    return (
        name,
        statistics.median(one.per_second for one in results[name]),
        round(statistics.median(one.per_second / off.per_second for one, off in pairs), 3),
        statistics.median(one.cpu for one in results[name]),
        round(statistics.median(one.cpu - off.cpu for one, off in pairs), 1),
        memory[name],
        round(memory[name] - memory[_OFF], 1),
    )


@contextlib.contextmanager
def _server(way: str, log_level: str, engine: str) -> Iterator[_Server]:
    """A service that leaves out what `way` leaves out."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            "VOICE_ENGINE_HOST": "127.0.0.1",
            "PORT": str(port),
            "VOICES_DIR": f"{folder}/voices",
            "VOICE_ENGINE_LOG_LEVEL": log_level,
            "VOICE_ENGINE_TTS_ENGINE": engine,
            "VOICE_ENGINE_STT_ENGINE": "tests.bench.engine:Answering",
            "VOICE_ENGINE_TTS_WORKERS": "2",
            "VOICE_ENGINE_QUEUE_SECONDS": "3000",
            "VOICE_ENGINE_CLIENT_SHARE": "1",
        }
        with (
            Path(folder, "log").open("w") as log,
            subprocess.Popen(
                [sys.executable, "-m", "tests.bench.metrics_server", way],
                stderr=log,
                env={**os.environ, **environment},
                cwd=ROOT,
            ) as process,
        ):
            try:
                for model in ("tts", "stt"):
                    _wait_ready(f"http://127.0.0.1:{port}/readyz?model={model}", process)
                yield _Server(port, process.pid)
            finally:
                process.terminate()


def _wait_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the service has ended with {process.returncode}")


@contextlib.contextmanager
def _scraped(port: int) -> Iterator[None]:
    """Have the metrics of a service scraped all the time, more often than Prometheus does."""
    ended = threading.Event()

    def scrape() -> None:
        while not ended.wait(_SCRAPES_SECONDS):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
                response.read()

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _round(server: _Server, kind: _Kind, requests: int) -> _Round:
    body = json.dumps({"text": kind.text})
    plan = Plan(server.port, "/v1/tts", requests, _CONNECTIONS, body=body)
    before = _cpu_seconds(server.pid)
    load = measure(plan)
    if load.statuses != {"200": requests}:
        raise RuntimeError(f"{plan.path} answered {load.statuses}")
    return _Round(load.per_second, (_cpu_seconds(server.pid) - before) / requests * 1e6)


def _cpu_seconds(pid: int) -> float:
    """CPU time of all threads; finer than the kernel's ticks."""
    files = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


def _memory_mb(pid: int) -> float:
    """The most that the front has used, as the kernel knows it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return int(status["VmHWM"].split()[0]) / 1024
