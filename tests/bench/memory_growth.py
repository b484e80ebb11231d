"""`make bench-memory`: how a speech worker grows, with each measure against it off and on.

The same seeded requests, texts of 3 to 400 words and references of 3 to 25 s, go to a real worker
that was forked from a real template, once for each set of measures; nothing is recycled. Prints a
table of RSS and draws one line for each set. With --at-once the worker is never idle, and all
measures are on, as served.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ipc.engines import Kind
from ipc.messages import WorkerOptions
from ipc.operations import Recording, Sampling, Speak, Voice
from supervisor import log
from supervisor.memory.usage import resident_bytes
from supervisor.workers import launch
from supervisor.workers.handle import Call
from supervisor.workers.launch import LaunchConfig
from supervisor.workers.template import Template
from tests.bench.models import models_folder
from tests.bench.report import Table, machine, step
from tests.bench.varied import Varied
from tests.support.service import ROOT

_MB = 1024 * 1024
_PAUSE_SECONDS = 0.25
"""After each request, so that a worker that trims when it is idle has been idle."""
_IDLE_SECONDS = 1.0
_TRIM_GROWTH_MB = 64
_NEVER_MB = 1 << 20


@dataclass(frozen=True, slots=True)
class Measures:
    """One set of measures against growth."""

    name: str
    malloc: bool = False
    collect: bool = False
    trim: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked: varied requests with texts of 3 to `words` words."""

    size: str
    requests: int
    at_once: int
    words: int
    seed: int

    def __str__(self) -> str:
        return f"{self.requests} varied requests, {self.at_once} at once, {self.size} size"


SETS = (
    Measures("nothing"),
    Measures("gc.collect() after each request", collect=True),
    Measures("malloc_trim() when idle", trim=True),
    Measures("malloc settings", malloc=True),
    Measures("malloc settings and gc.collect()", malloc=True, collect=True),
    Measures("all three, as served", malloc=True, collect=True, trim=True),
)


@dataclass(frozen=True, slots=True)
class Growth:
    """RSS in MB: at READY, after each request, and when the worker has been idle."""

    measures: Measures
    ready: float
    rss: list[float]
    idle: float


def run(plan: Plan) -> list[Growth]:
    """Each set of measures in turn; with several requests at once only all measures together."""
    log.configure("error")
    sets = SETS if plan.at_once == 1 else SETS[-1:]
    return [asyncio.run(_grow(measures, plan)) for measures in sets]


async def _grow(measures: Measures, plan: Plan) -> Growth:
    step(f"memory: {measures.name}, {plan}")
    lifeline, lifeline_writer = os.pipe()
    factory = "model_procs.engines.pocket.engine:PocketEngine"
    if not measures.collect:
        factory = "tests.bench.memory_engines:WithoutCollection"
    config = LaunchConfig(
        model=Kind.TTS,
        factory=factory,
        models_dir=str(models_folder(quick=plan.size == "nano")),
        cache_dir="",
        threads=len(os.sched_getaffinity(0)),
        options={"quantize": True},
        worker_options=WorkerOptions(
            trim_growth=(_TRIM_GROWTH_MB if measures.trim else _NEVER_MB) * _MB
        ),
        lifeline=lifeline,
        load_timeout=300.0,
    )
    with _malloc_settings(on=measures.malloc), tempfile.TemporaryDirectory() as scratch:
        template = Template(config, lambda _: None)
        await template.start()
        worker = await template.launch("worker", lambda _: None)
        await asyncio.wait_for(worker.ready, 60)
        ready = worker.baseline_rss / _MB
        rss = []
        calls = enumerate(_requests(plan, Path(scratch)))

        async def client() -> None:
            for number, speech in calls:
                outcome = asyncio.get_running_loop().create_future()
                worker.submit(Call(number, speech, 0, lambda _: None, outcome))
                await outcome
                if plan.at_once == 1:
                    await asyncio.sleep(_PAUSE_SECONDS)
                rss.append((resident_bytes(worker.process.pid) or 0) / _MB)

        await asyncio.gather(*(client() for _ in range(plan.at_once)))
        await asyncio.sleep(_IDLE_SECONDS)
        idle = (resident_bytes(worker.process.pid) or 0) / _MB
        worker.stop("measured", grace=5.0)
        await worker.process.exited
        await template.close()
    os.close(lifeline)
    os.close(lifeline_writer)
    return Growth(measures, ready, rss, idle)


def _requests(plan: Plan, scratch: Path) -> Iterator[Speak]:
    """The same for every set of measures."""
    varied = Varied(plan.seed)
    for number in range(1, plan.requests + 1):
        reference = scratch / str(number)
        reference.write_bytes(varied.recording(3, 25)[0])
        voice = Voice(recording=Recording(str(number), path=str(reference)))
        yield Speak(varied.text(high=plan.words), voice, Sampling(seed=number))


@contextmanager
def _malloc_settings(*, on: bool) -> Iterator[None]:
    """Take glibc's settings out of what children get, or leave them there."""
    kept = dict(launch.CHILD_ENVIRONMENT)
    if not on:
        for name in [name for name in kept if name.startswith("MALLOC_")]:
            del launch.CHILD_ENVIRONMENT[name]
    try:
        yield
    finally:
        launch.CHILD_ENVIRONMENT.update(kept)


def table(grown: list[Growth], plan: Plan) -> Table:
    """The figures."""
    worst = max(growth.rss[-1] - growth.ready for growth in grown)
    return Table(
        f"memory: RSS in MB of a speech worker over {plan}",
        (
            *("measures", "at READY", "after 1", f"after {plan.requests}", "highest", "idle"),
            *("growth", "of worst"),
        ),
        [
            (
                *(growth.measures.name, growth.ready, growth.rss[0], growth.rss[-1]),
                *(max(growth.rss), growth.idle, growth.rss[-1] - growth.ready),
                round((growth.rss[-1] - growth.ready) / worst, 2),
            )
            for growth in grown
        ],
        [
            f"texts of 3 to {plan.words} words, references of 3 to 25 s, seed {plan.seed}",
            f"RSS after each answer, {_PAUSE_SECONDS} s later if one at a time; idle: after "
            f"{_IDLE_SECONDS} s without requests; no worker was replaced",
            "growth: from READY to the last request, shared pages of the template included",
        ],
    )


def plot(grown: list[Growth], plan: Plan, file: Path) -> None:
    """One line for each set of measures."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    for growth in grown:
        axes.plot([growth.ready, *growth.rss], label=growth.measures.name)
    axes.set_xlabel("requests")
    axes.set_ylabel("RSS of the speech worker, MB")
    axes.set_title(str(plan).capitalize())
    axes.set_ylim(bottom=0)
    axes.legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, draw; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.memory_growth")
    parser.add_argument("--size", choices=("nano", "full"), default="nano")
    parser.add_argument("--requests", type=int, default=30)
    parser.add_argument("--at-once", type=int, default=1, help="requests at once")
    parser.add_argument("--words", type=int, default=400, help="the longest text")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    print(", ".join(f"{name}: {value}" for name, value in machine().items()))
    plan = Plan(args.size, args.requests, args.at_once, args.words, args.seed)
    grown = run(plan)
    print(f"\n{table(grown, plan).text()}")
    name = (
        f"memory-{plan.size}" if plan.at_once == 1 else f"memory-{plan.size}-{plan.at_once}-at-once"
    )
    file = args.plot or ROOT / "docs" / "bench" / f"{name}.png"
    plot(grown, plan, file)
    print(f"\nplot: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
