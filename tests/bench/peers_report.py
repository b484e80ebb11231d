"""The report of `make bench-peers`: tables, a plot, a section of docs/benchmarks.md."""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipc.engines import SERVING_KINDS, Kind
from tests.bench.peers_measure import (
    BOTH_KINDS,
    HOG,
    IN_A_ROW,
    LIVE_FIRST_SECONDS,
    LIVE_GAP_SECONDS,
    QUOTA,
    ROUNDS,
    live_bounds,
)
from tests.bench.peers_results import SERVICE, Burst, Results
from tests.bench.report import Cell, Table
from tests.support.service import ROOT

DOCUMENT = ROOT / "docs" / "benchmarks.md"
FOLDER = ROOT / "docs" / "bench"
"""Where the figures of the document are kept."""
_BEGIN, _END = "<!-- peers -->\n", "<!-- /peers -->"
_FAILED = "failed"
_FIRST = {Kind.TTS: "first sound", Kind.STT: "transcript after"}
_TITLES = {Kind.TTS: "Speech", Kind.STT: "Recognition"}


@dataclass(frozen=True, slots=True)
class Figures:
    """What the bursts of one arm with one number of clients come to; times in seconds."""

    rate: float
    """Seconds of sound per second: the median of the bursts."""
    first: float
    first_p95: float
    gap: float | None
    """The longest of all streams; None for recognition."""
    total: float
    """Until the last client had its answer: the median of the bursts."""
    health_p99: float | None
    """None where /health was not asked."""


def figures(bursts: list[Burst]) -> Figures | None:
    """None if there are none, or if a request failed: half a figure would flatter."""
    if not bursts or any(burst.failures for burst in bursts):
        return None
    first = [taken for burst in bursts for taken in burst.first]
    gaps = [gap for burst in bursts for gap in burst.gaps]
    health = [taken for burst in bursts for taken in burst.health]
    return Figures(
        rate=statistics.median(burst.sound / burst.seconds for burst in bursts),
        first=statistics.median(first),
        first_p95=percentile(first, 0.95),
        gap=max(gaps, default=None),
        total=statistics.median(burst.seconds for burst in bursts),
        health_p99=percentile(health, 0.99) if health else None,
    )


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that so large a share of all does not exceed."""
    ordered = sorted(values)
    return ordered[math.ceil(len(ordered) * share) - 1]


def select(
    results: Results, kind: Kind, arm: str, clients: int | None = None, beside: str = ""
) -> list[Burst]:
    """The bursts of one arm; of all numbers of clients if `clients` is None."""
    return [
        burst
        for burst in results.bursts
        if (burst.kind, burst.arm, burst.beside) == (kind.value, arm, beside)
        and clients in (None, burst.clients)
    ]


def tables(results: Results) -> list[Table]:
    """Ratios first, then the figures that they are made of."""
    return [
        *(_ratios(results, kind) for kind in SERVING_KINDS),
        _other_ratios(results),
        _beside(results),
        *(_figures(results, kind) for kind in SERVING_KINDS),
        _other_figures(results),
    ]


def _arms(results: Results, kind: Kind) -> list[str]:
    names = [burst.arm for burst in results.bursts if burst.kind == kind.value]
    return sorted(dict.fromkeys(names), key=lambda name: (name != SERVICE, names.index(name)))


def _ratios(results: Results, kind: Kind) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for peer in _arms(results, kind)[1:]:
        for clients in results.conditions["clients"]:
            ours, theirs = (figures(select(results, kind, arm, clients)) for arm in (SERVICE, peer))
            if ours is None or theirs is None:
                rows.append((peer, clients, *(_FAILED,) * 5))
                continue
            rows.append(
                (
                    *(peer, clients, ours.rate / theirs.rate, ours.first / theirs.first),
                    *(ours.first_p95 / theirs.first_p95, ours.total / theirs.total),
                    _ratio(ours.health_p99, theirs.health_p99),
                )
            )
    first = _FIRST[kind]
    return Table(
        f"{_TITLES[kind]}: this service / peer",
        (
            *("peer", "clients", "sound per second", f"{first}, median", f"{first}, p95"),
            *("total time", "/health p99"),
        ),
        rows,
    )


def _figures(results: Results, kind: Kind) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for arm in _arms(results, kind):
        for clients in results.conditions["clients"]:
            bursts = select(results, kind, arm, clients)
            found = figures(bursts)
            if found is None:
                rows.append((arm, clients, *(_FAILED,) * 6))
                continue
            last: Cell = found.gap if kind is Kind.TTS else _same_transcripts(results, arm, clients)
            rows.append(
                (
                    *(arm, clients, found.rate, found.first, found.first_p95, last),
                    found.total,
                    None if found.health_p99 is None else found.health_p99 * 1000,
                )
            )
    first = _FIRST[kind]
    return Table(
        f"{_TITLES[kind]}: figures",
        (
            *("arm", "clients", "sound per second", f"{first}, median s", f"{first}, p95 s"),
            "longest gap s" if kind is Kind.TTS else "same transcripts",
            *("total s", "/health p99 ms"),
        ),
        rows,
    )


def _same_transcripts(results: Results, arm: str, clients: int) -> str:
    """Whether each recording got the transcript that it got in every other burst."""
    expected: dict[int, str] = {}
    for burst in select(results, Kind.STT, arm):
        for number, transcript in enumerate(burst.transcripts):
            expected.setdefault(number, transcript)
    compared = [
        transcript == expected[number]
        for burst in select(results, Kind.STT, arm, clients)
        for number, transcript in enumerate(burst.transcripts)
    ]
    return f"{sum(compared)} of {len(compared)}"


def _other_ratios(results: Results) -> Table:
    rows: list[tuple[Cell, ...]] = []
    alone = {(each.kind, each.arm): each for each in results.alone}
    for kind in SERVING_KINDS:
        ours = alone[kind.value, SERVICE]
        for peer in _arms(results, kind)[1:]:
            theirs = alone[kind.value, peer]
            rows.append(
                (
                    peer,
                    _ratio(_joined(results, SERVICE), _joined(results, peer)),
                    f"{_live(results, SERVICE)} / {_live(results, peer)}"
                    if kind is Kind.TTS
                    else None,
                    ours.idle_mb / theirs.idle_mb,
                    ours.busy_mb / theirs.busy_mb,
                    statistics.median(ours.again) / statistics.median(theirs.again),
                )
            )
    return Table(
        "Streams that join, live streams, memory, SIGKILL: this service / peer",
        (
            *("peer", f"first sound, joining {results.conditions['joined']}", "live streams"),
            *("PSS, idle", "PSS, busy", "serves again after"),
        ),
        rows,
    )


def _other_figures(results: Results) -> Table:
    return Table(
        "Streams that join, live streams, memory, SIGKILL: figures",
        (
            *("arm", "kind", f"first sound s, joining {results.conditions['joined']}"),
            *("live streams", "PSS MB, idle", "PSS MB, busy", "clients", "serves again after s"),
        ),
        [
            (
                *(each.arm, each.kind, _joined(results, each.arm) if each.kind == "tts" else None),
                _live(results, each.arm) if each.kind == "tts" else None,
                *(each.idle_mb, each.busy_mb, each.clients, statistics.median(each.again)),
            )
            for each in results.alone
        ],
    )


def _joined(results: Results, arm: str) -> float | None:
    joins = [join for join in results.joins if join.arm == arm]
    if not joins or any(join.failures for join in joins):
        return None
    return statistics.median(join.first for join in joins)


def _live(results: Results, arm: str) -> str:
    """The most streams that stayed live; "8 or more" if no larger number was tried."""
    most, fewest = live_bounds(
        [
            *select(results, Kind.TTS, arm),
            *(probe for probe in results.probes if probe.arm == arm),
        ]
    )
    return str(most) if fewest is not None else f"{most} or more"


def _beside(results: Results) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for burst in {(b.kind, b.clients, b.beside): b for b in results.bursts}.values():
        if burst.beside not in (HOG, QUOTA, BOTH_KINDS):
            continue
        kind = Kind(burst.kind)
        in_a_row = burst.beside == BOTH_KINDS and kind is Kind.STT
        ours = select(results, kind, SERVICE, burst.clients, burst.beside)
        with_, without = (
            figures(ours),
            figures(select(results, kind, SERVICE, burst.clients, IN_A_ROW if in_a_row else "")),
        )
        start: tuple[Cell, ...] = (_TITLES[kind].lower(), burst.clients, burst.beside)
        if with_ is None or without is None:
            rows.append((*start, *(_FAILED,) * 4))
            continue
        rows.append(
            (
                *(*start, with_.rate / without.rate, with_.first / without.first),
                *(with_.rate, with_.gap),
            )
        )
    return Table(
        "This service with something beside it, or with less of the processor / alone",
        (
            *("kind", "clients", "with", "sound per second", "first sound or transcript"),
            *("sound per second, with it", "longest gap s, with it"),
        ),
        sorted(rows, key=lambda row: (str(row[2]), str(row[0]), row[1])),
    )


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else ours / theirs


def notes(results: Results) -> list[str]:
    """How the figures were made."""
    conditions = results.conditions
    machine = results.machine
    lines = [
        f"{machine['cpus']} CPUs ({machine['cpu']}), Python {machine['python']}; "
        f"{'tiny' if conditions['quick'] else 'full-size'} random weights, the same files for all "
        f"arms of a kind; {_count(conditions['rounds'], 'round')}, each with every number of "
        f"clients and every arm, in {results.minutes:.0f} minutes; only one arm computed at once.",
        f"All clients of a burst start together. Each has a sentence of about ten words spoken and "
        f"streamed, in a voice that the server has at hand, or {conditions['clip_seconds']:.0f} s "
        "of sound transcribed.",
        f"Random weights end a sentence at random. Here the config of the weights, the same for "
        f"all arms, lets each end at once and recommends so many frames after the end that each "
        f"stream has exactly {conditions['stream_seconds']:.2f} s of sound; the length of every "
        "answer was checked. The 0.2 s of silence that the library appends do not count.",
        "Longest gap: how far playback from the first sound on would have run dry; 0 = never. "
        f"Live streams: so many at once that in every burst each began within "
        f"{LIVE_FIRST_SECONDS:.0f} s and had no gap of more than {LIVE_GAP_SECONDS} s.",
        "/health was asked ten times per second, on time whether or not it answered.",
        f"PSS: of all processes of the arm, while {'every' if conditions['quick'] else 'no'} other "
        "arm was in memory (this service: front, template and worker of that kind). Serves again "
        "after: from SIGKILL of what computes (this service: the worker; the peers: the server, "
        "started again at once) until the first sound of the next request, or the transcript of "
        "1 s.",
        "`pocket-tts serve` and `--quantize` are the library's own program; "
        + (
            "torchao is installed, and was hidden from it, because the library would take it."
            if conditions["torchao"]
            else "torchao is not installed, so its int8 is the library's own."
        )
        + " `funasr-server` is FunASR's own program around its AutoModel, in fp32, without VAD.",
    ]
    ended = sum(join.ended for join in results.joins if join.arm == SERVICE)
    if ended:
        lines.append(
            f"Of the streams that one joined, {ended} had ended before its first sound (this "
            "service, all rounds): they had not been served at once."
        )
    return lines


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def section(results: Results) -> str:
    """What stands in the document between its marks."""
    options = ["--more"] if max(results.conditions["clients"]) > 8 else []
    if results.conditions["rounds"] != ROUNDS:
        options.append(f"--rounds {results.conditions['rounds']}")
    command = "make bench-peers" + (f' ARGS="{" ".join(options)}"' if options else "")
    parts = [
        "![Sound per second, first sound and /health by number of clients](bench/peers.png)",
        *(f"**{table.title}**\n\n{table.markdown()}" for table in tables(results)),
        f"Measured with `{command}`; raw figures in [bench/peers.json](bench/peers.json).",
        "\n".join(f"- {note}" for note in notes(results)),
    ]
    return "\n\n".join(parts) + "\n"


def in_document() -> str:
    """The section as the document has it."""
    return DOCUMENT.read_text().partition(_BEGIN)[2].partition(_END)[0]


def write(results: Results, plot_file: Path) -> None:
    """Put figures, plot and section into the documents."""
    results.save(FOLDER / "peers.json")
    shutil.copy(plot_file, FOLDER / "peers.png")
    before, _, rest = DOCUMENT.read_text().partition(_BEGIN)
    DOCUMENT.write_text(before + _BEGIN + section(results) + _END + rest.partition(_END)[2])


def plot(results: Results, file: Path) -> None:
    """By number of clients, a line for each arm."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullLocator

    figure, grid = pyplot.subplots(2, 3, figsize=(13, 7.5), layout="constrained")
    for kind, row in zip(SERVING_KINDS, grid, strict=True):
        shown: tuple[tuple[Any, str, Callable[[Figures], float]], ...] = (
            (row[0], "seconds of sound per second", lambda found: found.rate),
            (row[1], f"{_FIRST[kind]}, median s", lambda found: found.first),
            (row[2], "/health p99, ms", lambda found: (found.health_p99 or 0.0) * 1000),
        )
        for axes, label, value in shown:
            for arm in _arms(results, kind):
                points = [
                    (clients, value(found))
                    for clients in results.conditions["clients"]
                    if (found := figures(select(results, kind, arm, clients)))
                ]
                axes.plot(*zip(*points, strict=True), marker="o", label=arm)
            axes.set_xscale("log", base=2)
            axes.set_xticks(results.conditions["clients"], results.conditions["clients"])
            axes.set_xlabel("clients")
            axes.set_ylabel(label)
        row[0].set_ylim(bottom=0)
        for axes in row[1:]:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_locator(NullLocator())
        row[0].set_title(_TITLES[kind])
        row[0].legend(fontsize="small")
        if kind is Kind.TTS:
            row[0].axhline(1, color="0.8", linestyle=":")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
