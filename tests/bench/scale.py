"""How many machines for how many listeners: the tables of docs/scale.md, computed.

`python -m tests.bench.scale` prints them; with --write they are put into the document. All that
goes in is in `Figures`, and each figure says whether it was measured, and where. It computes only.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, fields
from typing import Literal

from tests.bench.report import Cell, Table
from tests.support.service import ROOT

DOCUMENT = ROOT / "docs" / "scale.md"
BENCHMARKS = ROOT / "docs" / "benchmarks.md"
LISTENERS = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
_HOURS = 730
"""Of a month."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A number, and how it is known. `where` of a measured one stands in docs/benchmarks.md."""

    value: float
    what: str
    source: Literal["measured", "computed", "chosen", "assumed"] = "assumed"
    where: str = ""


@dataclass(frozen=True, slots=True)
class Figures:
    """All that goes in."""

    heard: Figure = Figure(120, "seconds of speech that a listener hears in an hour")
    said: Figure = Figure(30, "seconds that a listener says in an hour")
    peak: Figure = Figure(3, "the busiest minutes, as a multiple of the average")
    speech_request: Figure = Figure(
        4, "seconds of sound in a request for speech", "measured", "exactly 4.00 s of sound"
    )
    recording: Figure = Figure(
        10, "seconds of sound in a recording", "measured", "or 10 s of sound transcribed"
    )
    pocket: Figure = Figure(
        9.49,
        "seconds of sound in a second, one replica of pocket, two cores",
        "measured",
        "| this service | 8 | 9.49 |",
    )
    sensevoice: Figure = Figure(
        37.1,
        "seconds heard in a second, one replica of sensevoice, two cores",
        "measured",
        "| this service | 4 | 37.1 |",
    )
    first_sound: Figure = Figure(
        75.9, "ms to the first sound over HTTP, one machine", "measured", "median 75.9 ms"
    )
    load: Figure = Figure(0.6, "share of its speed that a replica is used at the peak", "chosen")
    replica_cores: Figure = Figure(2, "cores of a replica", "chosen")
    pocket_memory: Figure = Figure(
        1.5, "GB of a replica of pocket; busy it was 924 MB", "chosen", "| 786 | 924 |"
    )
    sensevoice_memory: Figure = Figure(
        1.8, "GB of a replica of sensevoice; busy it was 704 MB", "chosen", "| 654 | 704 |"
    )
    front_memory: Figure = Figure(
        0.5,
        "GB of a front; it was 180 MB, most of it Ray's library",
        "chosen",
        "and 180 MB in a cluster",
    )
    node_cores: Figure = Figure(16, "cores of a node, with 32 GB", "chosen")
    node_reserved: Figure = Figure(2, "of them for fronts, Ray and the system", "chosen")
    front_load: Figure = Figure(0.5, "share of its core that a front is used at the peak", "chosen")
    core_price: Figure = Figure(0.04, "USD for a core and hour, with its 2 GB")
    speech_price: Figure = Figure(15, "USD for a million characters at a cloud API")
    characters: Figure = Figure(15, "characters in a second of speech")
    hearing_price: Figure = Figure(0.006, "USD for a minute of transcription at a cloud API")
    voice_fetch: Figure = Figure(0.1, "requests to the object store for each request for speech")
    store_limit: Figure = Figure(5_500, "reads in a second that an object store serves of a prefix")
    replica_limit: Figure = Figure(2_000, "replicas that one Serve controller looks after")
    node_limit: Figure = Figure(1_000, "nodes that one Ray cluster has")
    front_limit: Figure = Figure(500, "fronts that one Serve controller keeps informed")


@dataclass(frozen=True, slots=True)
class ClusterFigures:
    """What a cluster of three nodes on one machine showed (`make bench ARGS="--only cluster"`)."""

    added_p50: Figure = Figure(
        3.81, "ms that the cluster adds to the first sound, p50", "measured", "| 3.81 | 12.1 |"
    )
    added_p99: Figure = Figure(
        12.1, "ms that the cluster adds to the first sound, p99", "measured", "| 3.81 | 12.1 |"
    )
    front_ms: Figure = Figure(
        10.5,
        "ms of a front's CPU for a request for speech, streamed",
        "measured",
        "| 3.80 | 10.5 |",
    )
    front_ms_recording: Figure = Figure(
        6.87, "ms of a front's CPU for a recording", "measured", "| 2.63 | 6.87 |"
    )
    replicas_2: Figure = Figure(
        2.0, "throughput of two replicas on two nodes, of one", "measured", "| 2 | 19.6 | 1.00 |"
    )
    replicas_3: Figure = Figure(
        2.98,
        "throughput of three replicas on three nodes, of one",
        "measured",
        "| 3 | 29.2 | 0.99 |",
    )


FIGURES = Figures()
CLUSTER = ClusterFigures()


@dataclass(frozen=True, slots=True)
class Size:
    """What so many listeners need at the peak."""

    listeners: int
    speech_requests: float
    """In a second."""
    recordings: float
    pocket: int
    sensevoice: int
    fronts: int
    nodes: int
    memory: float
    """GB of all replicas and fronts."""
    clusters: int
    limit: str
    """What is nearest to its limit, with the share of it that is used."""
    month: float
    """USD, all nodes always on."""
    scaled_month: float
    """USD, replicas as many as the average needs."""
    api_month: float

    cores: int
    """Of all nodes; of a part of one, if a part is enough."""


def size(listeners: int, figures: Figures = FIGURES, cluster: ClusterFigures = CLUSTER) -> Size:
    """What so many listeners need."""
    heard = listeners * figures.heard.value / 3600
    said = listeners * figures.said.value / 3600
    peak = figures.peak.value
    speech_requests = peak * heard / figures.speech_request.value
    recordings = peak * said / figures.recording.value
    pocket_speed = _speed(figures.pocket, figures, cluster)
    sensevoice_speed = _speed(figures.sensevoice, figures, cluster)
    pocket = _replicas(peak * heard, pocket_speed)
    sensevoice = _replicas(peak * said, sensevoice_speed)
    front_cores = (
        speech_requests * cluster.front_ms.value + recordings * cluster.front_ms_recording.value
    ) / 1000
    fronts = max(1, math.ceil(front_cores / figures.front_load.value))
    nodes = _nodes(pocket + sensevoice, fronts, figures)
    clusters = max(
        math.ceil((pocket + sensevoice) / figures.replica_limit.value),
        math.ceil(nodes / figures.node_limit.value),
        math.ceil(fronts / figures.front_limit.value),
    )
    shares = {
        "replicas of a controller": (pocket + sensevoice) / figures.replica_limit.value,
        "nodes of a cluster": nodes / figures.node_limit.value,
        "fronts of a controller": fronts / figures.front_limit.value,
        "reads of the object store": speech_requests
        * figures.voice_fetch.value
        / figures.store_limit.value,
    }
    nearest = max(shares, key=lambda name: shares[name])
    cores = _cores(pocket + sensevoice, fronts, figures)
    average_cores = _cores(
        _replicas(heard, pocket_speed) + _replicas(said, sensevoice_speed),
        max(1, math.ceil(fronts / peak)),
        figures,
    )
    core_month = figures.core_price.value * _HOURS
    return Size(
        listeners=listeners,
        speech_requests=speech_requests,
        recordings=recordings,
        pocket=pocket,
        sensevoice=sensevoice,
        fronts=fronts,
        nodes=nodes,
        memory=pocket * figures.pocket_memory.value
        + sensevoice * figures.sensevoice_memory.value
        + fronts * figures.front_memory.value,
        clusters=clusters,
        limit="cores of one machine" if nodes == 1 else f"{nearest}: {shares[nearest]:.1%}",
        month=cores * core_month,
        scaled_month=average_cores * core_month,
        api_month=_HOURS
        * (
            heard * 3600 * figures.characters.value / 1e6 * figures.speech_price.value
            + said * 60 * figures.hearing_price.value
        ),
        cores=cores,
    )


def _replicas(sound: float, speed: float) -> int:
    return max(1, math.ceil(sound / speed))


def _cores(replicas: int, fronts: int, figures: Figures) -> int:
    """Cores of all nodes; what fits into one is put on one that is as small as it can be."""
    needed = replicas * figures.replica_cores.value + fronts + 1
    nodes = _nodes(replicas, fronts, figures)
    return int(needed if nodes == 1 else nodes * figures.node_cores.value)


def _nodes(replicas: int, fronts: int, figures: Figures) -> int:
    """Nodes that hold so many replicas; fronts use what is reserved, then cores of their own."""
    cores, reserved = figures.node_cores.value, figures.node_reserved.value
    per_node = int((cores - reserved) // figures.replica_cores.value)
    nodes = math.ceil(replicas / per_node)
    besides = fronts - nodes * (reserved - 1)  # the other reserved core is Ray's and the system's
    return nodes + max(0, math.ceil(besides / (cores - 1)))


def _speed(alone: Figure, figures: Figures, cluster: ClusterFigures) -> float:
    """What one replica among others gets done in a second, at the load that is chosen."""
    return alone.value * figures.load.value * cluster.replicas_3.value / 3


def figures_table(figures: Figures | ClusterFigures) -> Table:
    """What goes in, and how it is known."""
    rows: list[tuple[Cell, ...]] = []
    for each in fields(figures):
        figure: Figure = getattr(figures, each.name)
        quoted = figure.where.strip("| ").replace(" | ", " / ")
        rows.append((f"{figure.value:,.10g}", figure.what, figure.source, quoted))
    return Table("Figures", ("figure", "what it is", "known", "in benchmarks.md"), rows)


def sizes_table() -> Table:
    """What so many listeners need at the peak."""
    rows: list[tuple[Cell, ...]] = [
        (
            *(each.listeners, each.speech_requests, each.recordings),
            *(each.pocket, each.sensevoice, each.fronts, each.nodes, each.cores),
            *(f"{each.memory:,.0f}", each.clusters, each.limit),
        )
        for each in map(size, LISTENERS)
    ]
    columns = (
        *("listeners", "speech requests/s", "recordings/s"),
        *("pocket replicas", "sensevoice replicas", "fronts", "nodes", "cores"),
        *("GB in use", "clusters", "nearest limit"),
    )
    return Table("Sizes", columns, rows)


def money_table() -> Table:
    """What it costs in a month."""
    rows: list[tuple[Cell, ...]] = []
    for each in map(size, LISTENERS):
        costs = (each.month, each.scaled_month, each.api_month)
        share = f"{each.month / each.api_month:.2f}"
        rows.append((each.listeners, *(f"{cost:,.0f}" for cost in costs), share))
    columns = (
        *("listeners", "USD a month, sized for the peak", "USD, sized for the average"),
        *("USD, cloud API", "peak / API"),
    )
    return Table("Money", columns, rows)


LANGUAGES = {"english": 0.5, "french": 0.2, "german": 0.12, "spanish": 0.1, "italian": 0.08}
"""Assumed: shares of speech."""


def languages_table() -> Table:
    """Replicas by language: each language of pocket has weights, and so replicas, of its own."""
    rows: list[tuple[Cell, ...]] = []
    for listeners in LISTENERS:
        sound = FIGURES.peak.value * listeners * FIGURES.heard.value / 3600
        each = [
            _replicas(share * sound, _speed(FIGURES.pocket, FIGURES, CLUSTER))
            for share in LANGUAGES.values()
        ]
        rows.append((listeners, *each, sum(each), size(listeners).pocket))
    named = (f"{name} ({share:.0%})" for name, share in LANGUAGES.items())
    return Table("Languages", ("listeners", *named, "in all", "if it were one language"), rows)


def tables() -> dict[str, str]:
    """The tables of the document, by the name of their place."""
    made = {
        "figures": figures_table(FIGURES),
        "cluster": figures_table(CLUSTER),
        "sizes": sizes_table(),
        "money": money_table(),
        "languages": languages_table(),
    }
    return {name: table.markdown() + "\n" for name, table in made.items()}


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- scale: {name} -->\n", f"<!-- /scale: {name} -->"


def in_document(name: str) -> str:
    """A table as the document has it."""
    begin, end = _marks(name)
    return DOCUMENT.read_text().partition(begin)[2].partition(end)[0]


def write() -> None:
    """Put the tables into the document."""
    text = DOCUMENT.read_text()
    for name, table in tables().items():
        begin, end = _marks(name)
        before, _, rest = text.partition(begin)
        text = before + begin + table + end + rest.partition(end)[2]
    DOCUMENT.write_text(text)


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        write()
    else:
        print("\n".join(tables().values()))
