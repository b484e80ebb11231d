"""Part `fork`: how soon a worker is READY, forked from its template or started for itself."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from pathlib import Path

from ipc.engines import EngineSpec
from ipc.messages import WorkerOptions
from supervisor import log
from supervisor.workers.launch import LaunchConfig, Launcher, SpawnLauncher
from supervisor.workers.template import Template
from tests.bench.models import CACHE, EMBEDDED, PRODUCTION, models_folder
from tests.bench.report import Cell, Table, step


def run(*, quick: bool) -> list[Table]:
    """Fork and start workers of the neural engines, one at a time."""
    folder = models_folder(quick=quick)
    log.configure("error")
    forks, colds = (3, 1) if quick else (11, 3)
    return [
        Table(
            "fork: from a worker's start to READY",
            (
                *("engine", "template load s", "fork ms", "fork to READY ms", "longest ms"),
                *("cold start to READY ms", "cold / fork"),
            ),
            [asyncio.run(_row(spec, folder, forks, colds)) for spec in (*PRODUCTION, *EMBEDDED)],
            [
                f"medians of {forks} forks and {colds} cold starts (start method spawn), "
                "files in the page cache, 1 thread",
                "fork ms: until the process exists and its pipes are open",
                "READY: after a first inference, which the template has made for all its workers; "
                "whisper's makes it, because only the workers open its network",
            ],
        )
    ]


async def _row(spec: EngineSpec, folder: Path, forks: int, colds: int) -> tuple[Cell, ...]:
    lifeline, lifeline_writer = os.pipe()
    config = LaunchConfig(
        model=spec.kind,
        factory=spec.factory,
        models_dir=str(folder),
        cache_dir=str(CACHE),
        threads=1,
        options={"quantize": True},
        worker_options=WorkerOptions(sandbox=True),
        lifeline=lifeline,
        load_timeout=300.0,
    )
    step(f"fork: {spec.name}, template")
    template = Template(config, lambda _: None)
    started = time.perf_counter()
    await template.start()
    load = time.perf_counter() - started
    step(f"fork: {spec.name}, {forks} forks")
    forked = [await _launch(template, f"fork-{n}") for n in range(forks)]
    await template.close()
    step(f"fork: {spec.name}, {colds} cold starts")
    cold = [await _launch(SpawnLauncher(config), f"cold-{n}") for n in range(colds)]
    os.close(lifeline)
    os.close(lifeline_writer)
    fork_to_ready = statistics.median(ready for _, ready in forked)
    cold_to_ready = statistics.median(ready for _, ready in cold)
    return (
        spec.name,
        load,
        statistics.median(exists for exists, _ in forked) * 1000,
        fork_to_ready * 1000,
        max(ready for _, ready in forked) * 1000,
        cold_to_ready * 1000,
        cold_to_ready / fork_to_ready,
    )


async def _launch(launcher: Launcher, name: str) -> tuple[float, float]:
    """Seconds until a new worker's process existed, and until it was READY; it is gone then."""
    started = time.perf_counter()
    worker = await launcher.launch(name, lambda _: None)
    exists = time.perf_counter() - started
    await asyncio.wait_for(worker.ready, 300)
    ready = time.perf_counter() - started
    worker.stop("measured", grace=5.0)
    await worker.exited
    return exists, ready
