"""The figures of `make bench-peers`: what they are made of, and when there are none."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.bench.peers_clients import Stream
from tests.bench.peers_measure import LIVE_FIRST_SECONDS, LIVE_GAP_SECONDS, live_bounds
from tests.bench.peers_report import FOLDER, figures, in_document, percentile, section
from tests.bench.peers_results import Burst, load

_BURST = Burst(
    kind="tts",
    arm="any",
    clients=2,
    beside="",
    seconds=4.0,
    sound=8.0,
    first=[0.1, 0.3],
    gaps=[0.0, 0.5],
    health=[0.001, 0.002],
    transcripts=[],
    failures=[],
)


@pytest.mark.parametrize(
    ("arrivals", "gap"),
    [
        ([(1.0, 0.5), (1.5, 1.0), (1.9, 2.0)], 0.0),
        ([(1.0, 0.5), (1.75, 1.0)], 0.25),
        # Playback that has stood still goes on later; the lateness is the same.
        ([(1.0, 0.5), (1.75, 0.75), (2.0, 1.0), (2.5, 2.0)], 0.5),
        # Sound that comes after playback has caught up does not undo a gap.
        ([(0.0, 1.0), (1.25, 9.0), (2.0, 10.0)], 0.25),
    ],
)
def test_the_gap_is_how_far_playback_would_run_dry(
    arrivals: list[tuple[float, float]], gap: float
) -> None:
    stream = Stream(asyncio.Event())
    for at, sound in arrivals:
        stream.receive(sound, at)
    assert stream.first == arrivals[0][0]
    assert stream.gap == pytest.approx(gap)


def test_figures_are_of_all_bursts() -> None:
    found = figures([_BURST, replace(_BURST, seconds=2.0, first=[0.2, 0.9], gaps=[0.0, 0.1])])
    assert found is not None
    assert found.rate == 3.0
    assert found.first == pytest.approx(0.25)
    assert (found.first_p95, found.gap, found.total) == (0.9, 0.5, 3.0)
    assert found.health_p99 == 0.002


def test_one_failure_leaves_no_figure() -> None:
    assert figures([_BURST, replace(_BURST, failures=["cut"])]) is None
    assert figures([]) is None


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile(range(1, 101), 0.95) == 95
    assert percentile([3.0, 1.0], 0.95) == 3.0
    assert percentile([7.0], 0.5) == 7.0


def test_streams_are_live_up_to_the_first_number_that_is_not() -> None:
    live = replace(_BURST, gaps=[LIVE_GAP_SECONDS])
    late = replace(_BURST, gaps=[0.0, LIVE_GAP_SECONDS + 0.01])

    def bounds(*bursts: tuple[Burst, int]) -> tuple[int, int | None]:
        return live_bounds([replace(burst, clients=clients) for burst, clients in bursts])

    assert bounds((live, 1), (live, 2), (late, 4), (live, 8)) == (2, 4)
    assert bounds((live, 1), (live, 2), (late, 2)) == (1, 2)
    assert bounds((live, 1), (live, 8)) == (8, None)
    assert bounds((late, 1)) == (0, 1)
    waiting = replace(live, first=[0.1, LIVE_FIRST_SECONDS + 0.01])
    assert bounds((live, 1), (waiting, 2)) == (1, 2)
    assert bounds((live, 1), (replace(live, failures=["cut"]), 2)) == (1, 2)


def test_the_document_has_the_figures_of_the_file() -> None:
    assert in_document() == section(load(FOLDER / "peers.json")), (
        "run: python -m tests.bench.peers --results docs/bench/peers.json --write"
    )
    assert (FOLDER / "peers.png").read_bytes().startswith(b"\x89PNG")
    assert load(FOLDER / "peers.json").failures() == []
