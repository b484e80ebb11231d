"""Part `pipe`: what the way to a worker and back costs, beside the bare HTTP server."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from tests.bench.load import Measured, Plan, measure
from tests.bench.report import Cell, Table, step
from tests.support.service import ROOT

_SIZES = {"200 B": 200, "200 KB": 200_000}


@dataclass(frozen=True, slots=True)
class _Round:
    """One measurement; CPU in microseconds a request."""

    load: Measured
    front_cpu: float
    worker_cpu: float


@contextmanager
def server(way: str) -> Iterator[dict[str, Any]]:
    """A server that answers in that way: its port, pid, and the pids of its workers."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.pipe_server", way],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        process.stdin.close()
        process.stdin = None
        process.wait(30)


def _cpu_seconds(pids: list[int]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return float(sum(t.user + t.system for t in times))


def _round(facts: dict[str, Any], plan: Plan) -> _Round:
    front, workers = _cpu_seconds([facts["pid"]]), _cpu_seconds(facts["workers"])
    load = measure(plan)
    if load.statuses != {"200": plan.requests}:
        raise RuntimeError(f"{plan.path} answered {load.statuses}")
    return _Round(
        load,
        (_cpu_seconds([facts["pid"]]) - front) / plan.requests * 1e6,
        (_cpu_seconds(facts["workers"]) - workers) / plan.requests * 1e6,
    )


def run(*, quick: bool) -> list[Table]:
    """Measure both ways in turns, so that what else the machine does falls on both."""
    rounds = 1 if quick else 5
    rows: list[tuple[Cell, ...]] = []
    with server("bare") as bare, server("pipe") as pipe:
        facts = {"bare": bare, "pipe": pipe}
        for label, size in _SIZES.items():
            requests = {200: 20_000, 200_000: 8_000}[size] // (10 if quick else 1)
            results: dict[str, list[_Round]] = {"bare": [], "pipe": []}
            for way in results:
                measure(Plan(facts[way]["port"], f"/{size}", requests // 10))
            for number in range(rounds):
                for way, taken in results.items():
                    step(f"pipe: {label}, {way}, round {number + 1} of {rounds}")
                    plan = Plan(facts[way]["port"], f"/{size}", requests)
                    taken.append(_round(facts[way], plan))
            rows += _rows(label, results)
    return [
        Table(
            "pipe: an answer through a worker's pipe against a bare handler, 8 connections",
            (
                *("answer", "way", "requests/s", "of bare", "p50 ms", "p99 ms"),
                *("front CPU us/request", "worker CPU us/request"),
            ),
            rows,
            [f"median of {rounds} alternating rounds; the load generator has a process of its own"],
        )
    ]


def _rows(label: str, results: dict[str, list[_Round]]) -> list[tuple[Cell, ...]]:
    speed = {
        way: statistics.median(one.load.per_second for one in taken)
        for way, taken in results.items()
    }
    return [
        (
            label,
            way,
            speed[way],
            round(speed[way] / speed["bare"], 3),
            statistics.median(one.load.p50 for one in taken),
            statistics.median(one.load.p99 for one in taken),
            statistics.median(one.front_cpu for one in taken),
            statistics.median(one.worker_cpu for one in taken) if way == "pipe" else None,
        )
        for way, taken in results.items()
    ]
