"""A simulated cluster of up to 1,000 nodes, from measured service times; `make bench` runs it too.

`python -m tests.bench.simulate --out FOLDER` prints the tables of docs/scale.md and draws its
pictures. `PARAMETERS` has everything that it is fed with: put new measurements there. It starts no
process and measures nothing: `tests.bench.simulated` computes what would happen.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.bench.queue_theory import erlang_c, shared
from tests.bench.report import Table, step
from tests.bench.simulated import (
    Cluster,
    Engine,
    Loss,
    Plan,
    Result,
    Routing,
    Scaling,
    percentile,
)

_REPLICA_START = 5.0
"""Assumed: seconds for the replica's own process and its place in the cluster."""


def between(measured: dict[int, float]) -> tuple[float, ...]:
    """What was measured with some numbers of requests at once, with the numbers between them."""
    known = sorted(measured)
    values = []
    for low, high in pairwise(known):
        values += [
            measured[low] + (measured[high] - measured[low]) * (n - low) / (high - low)
            for n in range(low, high)
        ]
    return (*values, measured[known[-1]])


# Measured, on two cores: docs/benchmarks.md has the rows that are named.

# "Speech: figures", this service, 1 to 8 clients; "cold start to READY", pocket
POCKET = Engine(
    "pocket",
    speed=between({1: 3.36, 2: 6.55, 4: 8.79, 8: 9.49}),
    first=between({1: 0.073, 2: 0.10, 4: 0.18, 8: 0.29}),
    work_mean=4.0,
    cold_start=4.658 + _REPLICA_START,
)
# "12 sentences, one by one", service, 1 and 2 clients, of 3.9 s; each is made whole
KOKORO = Engine(
    "kokoro",
    speed=(3.06, 5.21),
    first=(math.inf, math.inf),
    work_mean=3.9,
    cold_start=2.5 + _REPLICA_START,
)
# "Recognition: figures", this service, 1 to 4 clients; the transcript is there at the end
SENSEVOICE = Engine(
    "sensevoice",
    speed=between({1: 19.0, 2: 32.2, 4: 37.1}),
    first=(math.inf,) * 4,
    work_mean=10.0,
    cold_start=5.463 + _REPLICA_START,
)
# "recordings of people (10, 28, 44 s)", service, 1 client
WHISPER = Engine(
    "whisper",
    speed=(11.4,),
    first=(math.inf,),
    work_mean=27.3,
    cold_start=0.8 + _REPLICA_START,
)


@dataclass(frozen=True, slots=True)
class Parameters:
    """All that goes in."""

    pocket: Engine = POCKET
    kokoro: Engine = KOKORO
    sensevoice: Engine = SENSEVOICE
    whisper: Engine = WHISPER
    work_cv: float = 0.5
    """Assumed: how much the lengths of requests differ, as a share of their mean."""
    queue_seconds: float = 10.0
    """Chosen: longest estimated wait; the service's default of 120 s is for whole files."""
    node_start: float = 90.0
    """Assumed: seconds from the order of a node until it runs, with the image on it."""
    detection: float = 15.0
    """Assumed: seconds until a node that vanished is known to be gone."""
    target: float = 0.5
    """Chosen: seconds of backlog per replica that autoscaling aims at."""
    voices: int = 2000
    """Assumed: voices in use, by Zipf's law."""
    voice_cache: int = 14
    """Computed: 64 MB (VOICE_ENGINE_VOICE_CACHE_MEMORY_MB) of 4.6 MB for each encoded voice."""
    voice_miss: float = 1.0
    """Assumed: seconds of sound that could have been made while a voice is encoded."""

    def engines(self) -> tuple[Engine, ...]:
        """All engines, with the spread of their work."""
        every = (self.pocket, self.kokoro, self.sensevoice, self.whisper)
        return tuple(replace(each, work_cv=self.work_cv) for each in every)


PARAMETERS = Parameters()


def steady(engine: Engine, replicas: int, load: float, seconds: float, **other: Any) -> Result:
    """Requests come at `load` of what the replicas can serve, for so long."""
    rate = load * replicas * engine.requests_per_second
    return Cluster(Plan(engine, lambda _: rate, rate, seconds, replicas, **other)).run()


def theory(quick: bool) -> Table:
    """The simulation beside the closed form, where there is one."""
    table = Table(
        "Simulation and theory: mean seconds of waiting (in a queue) and in all",
        ("queue", "load", "waiting, theory", "simulated", "in all, theory", "simulated"),
        [],
    )
    pocket = replace(PARAMETERS.pocket, work_cv=1.0)
    seconds = 4_000.0 if quick else 40_000.0
    for load in (0.5, 0.7, 0.85):
        plain = Engine("M/M/8", tuple(float(n) for n in range(1, 9)), (0.0,) * 8, 1.0, 1.0)
        for engine in (plain, pocket):
            arrivals = load * engine.requests_per_second
            if engine is plain:
                expected = erlang_c(arrivals, engine.work_mean, 8)
            else:
                expected = shared(arrivals, engine.work_mean, engine.speed)
            result = steady(engine, 1, load, seconds, queue_seconds=math.inf, queue_size=10**9)
            served = result.requests
            wait = sum(each.started - each.arrived for each in served) / len(served)
            whole = sum(each.ended - each.arrived for each in served) / len(served)
            table.rows.append(
                (engine.name, f"{load:.0%}", expected.wait, wait, expected.response, whole)
            )
    return table


def queueing(quick: bool) -> tuple[Table, dict[str, list[tuple[float, float, float, float]]]]:
    """The time to the first sound, or to the transcript, by load."""
    table = Table(
        "First sound (pocket) or whole answer, by load, power-of-two routing",
        ("engine", "replicas", "load", "requests/s", "p50 s", "p99 s", "refused %"),
        [],
        ["load: of what the replicas can serve at the most"],
    )
    curves: dict[str, list[tuple[float, float, float, float]]] = {}
    loads = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.05, 1.2)
    for engine in PARAMETERS.engines():
        for replicas in (1, 20):
            points = []
            for load in loads:
                rate = load * replicas * engine.requests_per_second
                result = steady(
                    *(engine, replicas, load, (2_000 if quick else 15_000) / rate + 60),
                    queue_seconds=PARAMETERS.queue_seconds,
                )
                first = result.first_sounds(since=60)
                point = (percentile(first, 0.5), percentile(first, 0.99))
                refused = 100 * result.refused_share(since=60)
                points.append((load, *point, refused))
                if load in (0.5, 0.7, 0.8, 0.9, 1.2):
                    table.rows.append(
                        (engine.name, replicas, f"{load:.0%}", rate, *point, round(refused, 1))
                    )
            curves[f"{engine.name}, {replicas}"] = points
    return table, curves


def stepped(now: float) -> float:
    """Six requests a second, then sixty at once, then six again."""
    return 60.0 if 300 <= now < 1800 else 6.0


def daily(now: float) -> float:
    """A day in an hour: from 6 requests a second to 60 and back."""
    return 33 - 27 * math.cos(2 * math.pi * now / 3600)


def scaled(rate: Callable[[float], float], nodes: int, **other: Any) -> Result:
    """An hour of Pocket with autoscaling, from four replicas and so many nodes on."""
    scaling = Scaling(target=PARAMETERS.target, tolerance=0.2)
    return Cluster(
        Plan(
            *(PARAMETERS.engines()[0], rate, 60.0, 3600.0, 4),
            nodes=nodes,
            node_start=PARAMETERS.node_start,
            queue_seconds=PARAMETERS.queue_seconds,
            scaling=replace(scaling, **other),
        )
    ).run()


HASTY: dict[str, Any] = {
    "look_back": 0.0,
    "up_delay": 0.0,
    "down_delay": 0.0,
    "growth": 1e9,
    "wait_for_starting": False,
}
"""Autoscaling that obeys each report of the metric at once."""


def autoscaling() -> tuple[Table, dict[str, Result]]:
    """Load that grows tenfold, at once or slowly, with and without nodes that stand by."""
    runs = {
        "tenfold at once, new nodes": scaled(stepped, 6),
        "tenfold at once, nodes stand by": scaled(stepped, 100),
        "a day in an hour, new nodes": scaled(daily, 6),
        "a day in an hour, hasty": scaled(daily, 6, **HASTY),
    }
    table = Table(
        "Autoscaling of pocket by seconds of backlog: 6 to 60 requests/s and back in an hour",
        (
            *("load", "first sound p50 s", "p99 s", "refused %", "most replicas"),
            *("replica hours", "decisions", "turns", "all served again after s"),
        ),
        [],
        [
            "hasty: no averages and delays; turns: changes of direction",
            "served again: from the step to the last refusal or wait of over 1 s",
        ],
    )
    for name, result in runs.items():
        first = result.first_sounds()
        late = [
            each.arrived
            for each in result.requests
            if each.outcome == "refused" or each.started - each.arrived > 1.0
        ]
        late = [at for at in late if 300 <= at < 1800] if "once" in name else []
        table.rows.append(
            (
                *(name, percentile(first, 0.5), percentile(first, 0.99)),
                round(100 * result.refused_share(), 1),
                max(each.serving for each in result.samples),
                sum(each.serving for each in result.samples) / 3600,
                *(len(result.decisions), result.turns()),
                max(late) - 300 if late else None,
            )
        )
    return table, runs


def lost(replicas: int, load: float, loss: Loss, replace_lost: bool = True) -> Result:
    """Some minutes of many nodes, of which some vanish."""
    return steady(
        *(PARAMETERS.engines()[0], replicas, load, 420.0),
        queue_seconds=PARAMETERS.queue_seconds,
        node_start=PARAMETERS.node_start,
        detection=PARAMETERS.detection,
        loss=loss,
        replace_lost=replace_lost,
    )


def normal_again(result: Result) -> float | None:
    """Seconds from the loss until the backlog is within a tenth of what it was, for 10 s."""
    loss = result.plan.loss
    assert loss is not None
    before = [each.backlog for each in result.samples if 20 <= each.at < loss.at]
    usual = 1.1 * sum(before) / len(before)
    after = [each for each in result.samples if each.at >= loss.at + result.plan.detection]
    for index, sample in enumerate(after):
        if all(each.backlog <= usual for each in after[index : index + 10]):
            return sample.at - loss.at
    return None


def losses(quick: bool) -> tuple[Table, dict[str, Result]]:
    """1,000 nodes: some vanish at random, or a whole zone of three does."""
    replicas = 100 if quick else 1000
    runs = {
        f"{name}, load {load:.0%}": lost(replicas, load, loss)
        for load in (0.5, 0.8)
        for name, loss in (
            ("1 % of the nodes", Loss(60.0, nodes=replicas // 100)),
            ("10 % of the nodes", Loss(60.0, nodes=replicas // 10)),
            ("a zone of three", Loss(60.0, zone=0)),
        )
    }
    table = Table(
        f"{replicas:,} nodes, of which some vanish: pocket",
        (
            *("lost", "requests", "replayed", "failed", "refused %", "p99 s before"),
            *("p99 s in the next minute", "longest gap of a stream s", "normal again after s"),
        ),
        [],
        ["every request ends exactly once: served, refused at once, or failed"],
    )
    for name, result in runs.items():
        table.rows.append(
            (
                *(name, len(result.requests), result.replays, len(result.ended("failed"))),
                round(100 * result.refused_share(since=60), 1),
                percentile(result.first_sounds(20, 45), 0.99),
                percentile(result.first_sounds(60, 120), 0.99),
                max((each.gap for each in result.requests), default=0.0),
                normal_again(result),
            )
        )
    return table, runs


def routing(quick: bool) -> tuple[Table, dict[str, list[tuple[float, float, float, float]]]]:
    """Where a request goes: anywhere, to the better of two, or where its voice is known."""
    table = Table(
        "Routing of 50 replicas of pocket, 2,000 voices",
        ("routing", "load", "voice known %", "p50 s", "p99 s", "refused %"),
        [],
    )
    curves: dict[str, list[tuple[float, float, float, float]]] = {}
    kinds: tuple[Routing, ...] = ("random", "power-of-two", "voice-affine")
    for kind in kinds:
        points = []
        for load in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9):
            result = steady(
                *(PARAMETERS.engines()[0], 50, load, 100.0 if quick else 300.0),
                routing=kind,
                queue_seconds=PARAMETERS.queue_seconds,
                voices=PARAMETERS.voices,
                voice_cache=PARAMETERS.voice_cache,
                voice_miss=PARAMETERS.voice_miss,
            )
            first = result.first_sounds(since=40)
            point = (percentile(first, 0.5), percentile(first, 0.99))
            known = 100 * result.voice_hits / (result.voice_hits + result.voice_misses)
            points.append((load, *point, known))
            if load in (0.5, 0.7, 0.8):
                table.rows.append(
                    (kind, f"{load:.0%}", known, *point, round(100 * result.refused_share(40), 1))
                )
        curves[kind] = points
    table.notes.append("load: without what it costs to encode voices that are not known")
    return table, curves


def run(*, quick: bool, folder: Path | None = None) -> list[Table]:
    """All parts; with a folder, the pictures are drawn into it."""
    tables = [theory(quick)]
    step("queueing")
    by_load, queue_curves = queueing(quick)
    step("autoscaling")
    by_scaling, scaling_runs = autoscaling()
    step("loss of nodes")
    by_loss, loss_runs = losses(quick)
    step("routing")
    by_routing, routing_curves = routing(quick)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        _draw_curves(queue_curves, routing_curves, folder / "simulated-load.png")
        _draw_scaling(scaling_runs, folder / "simulated-scaling.png")
        _draw_losses(loss_runs, folder / "simulated-loss.png")
    return [*tables, by_load, by_scaling, by_loss, by_routing]


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _draw_curves(
    queues: dict[str, list[tuple[float, float, float, float]]],
    routes: dict[str, list[tuple[float, float, float, float]]],
    file: Path,
) -> None:
    pyplot = _pyplot()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axes, curves in ((left, queues), (right, routes)):
        for index, (name, points) in enumerate(curves.items()):
            if axes is left and not name.startswith(("pocket", "sensevoice")):
                continue
            loads = [100 * point[0] for point in points]
            colour = f"C{index}"
            axes.plot(loads, [point[1] for point in points], color=colour, linestyle=":")
            axes.plot(loads, [point[2] for point in points], color=colour, label=name)
        axes.set_yscale("log")
        axes.set_xlabel("load, %")
        axes.grid(alpha=0.3)
        axes.legend()
    left.set_title("by number of replicas")
    right.set_title("50 replicas of pocket, by routing")
    left.set_ylabel("seconds to first sound or transcript\np99 (line), p50 (dots)")
    figure.savefig(file, dpi=100)
    pyplot.close(figure)


def _draw_scaling(runs: dict[str, Result], file: Path) -> None:
    pyplot = _pyplot()
    figure, rows = pyplot.subplots(
        2, len(runs), figsize=(13, 5), sharex=True, sharey="row", layout="constrained"
    )
    for (above, below), (name, result) in zip(zip(*rows, strict=True), runs.items(), strict=True):
        minutes = [each.at / 60 for each in result.samples]
        needed = result.plan.engine.requests_per_second
        above.plot(minutes, [each.rate / needed for each in result.samples], "k:", label="needed")
        above.plot(minutes, [each.serving for each in result.samples], label="serving")
        above.plot(minutes, [each.starting for each in result.samples], label="starting")
        below.plot(minutes, [each.backlog for each in result.samples], color="C3")
        above.set_title(name, fontsize=9)
        below.set_xlabel("minutes")
        for axes in (above, below):
            axes.grid(alpha=0.3)
    rows[0][0].set_ylabel("replicas")
    rows[0][0].legend()
    rows[1][0].set_ylabel("backlog per replica, s")
    figure.savefig(file, dpi=100)
    pyplot.close(figure)


def _draw_losses(runs: dict[str, Result], file: Path) -> None:
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(9, 4), layout="constrained")
    for index, (name, result) in enumerate(runs.items()):
        axes.plot(
            [each.at - 60 for each in result.samples],
            [each.backlog for each in result.samples],
            color=f"C{index % 3}",
            linestyle="-" if index < 3 else "--",
            label=name,
        )
    axes.set_xlabel("seconds from the loss")
    axes.set_ylabel("backlog per serving replica, s")
    axes.set_title("1,000 nodes of pocket")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=100)
    pyplot.close(figure)


def main() -> None:
    """Print the tables, and draw."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.simulate", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer requests, 100 nodes")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="draw the pictures there")
    parser.add_argument("--markdown", action="store_true", help="print tables as in the documents")
    args = parser.parse_args()
    for table in run(quick=args.quick, folder=args.out):
        print(f"\n{table.title}\n\n{table.markdown()}" if args.markdown else f"\n{table.text()}")


if __name__ == "__main__":
    main()
