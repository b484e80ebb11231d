"""docs/scale.md has the tables that are computed, and the figures that it calls measured exist."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from itertools import pairwise

import pytest

from tests.bench.scale import (
    BENCHMARKS,
    CLUSTER,
    DOCUMENT,
    FIGURES,
    LISTENERS,
    Figure,
    in_document,
    size,
    tables,
)
from tests.bench.simulate import PARAMETERS


@pytest.mark.parametrize("name", tables())
def test_the_document_has_what_is_computed(name: str) -> None:
    assert in_document(name) == tables()[name], "run: python -m tests.bench.scale --write"


def test_each_figure_says_how_it_is_known() -> None:
    benchmarks = BENCHMARKS.read_text()
    for group in (FIGURES, CLUSTER):
        for each in fields(group):
            figure: Figure = getattr(group, each.name)
            assert figure.what
            if figure.source == "measured":
                assert figure.where, each.name
            assert figure.where in benchmarks, each.name


def test_the_simulation_is_fed_with_the_same_speeds() -> None:
    assert max(PARAMETERS.pocket.speed) == FIGURES.pocket.value
    assert max(PARAMETERS.sensevoice.speed) == FIGURES.sensevoice.value
    assert PARAMETERS.pocket.work_mean == FIGURES.speech_request.value


def test_a_thousand_listeners_by_hand() -> None:
    assert FIGURES.heard.value * 1000 / 3600 * 3 == pytest.approx(100)  # seconds of sound a second
    thousand = size(1000)
    assert thousand.speech_requests == pytest.approx(25)
    assert thousand.pocket == 18  # 100 / (9.49 * 0.6) = 17.6
    assert thousand.nodes == 3  # of 7 replicas each
    # 33.3 seconds heard in a second, 8.3 said; a month of it
    api = 730 * 3600 * (1000 * 120 / 3600 * 15 * 15 / 1e6 + 1000 * 30 / 3600 / 60 * 0.006)
    assert thousand.api_month == pytest.approx(api)


def test_more_listeners_never_need_less() -> None:
    sizes = [size(listeners) for listeners in LISTENERS]
    for small, large in pairwise(sizes):
        assert (small.pocket, small.nodes, small.cores) <= (large.pocket, large.nodes, large.cores)
        assert small.month <= large.month
        assert small.clusters <= large.clusters
    assert all(each.scaled_month <= each.month for each in sizes)
    assert all(each.cores * 2 >= each.memory for each in sizes)  # 2 GB a core are enough


def test_worse_clusters_need_more_replicas_and_fronts() -> None:
    worse = replace(CLUSTER, replicas_3=Figure(2.4, "worse"), front_ms=Figure(20, "worse"))
    assert size(10_000, cluster=worse).pocket > size(10_000).pocket
    assert size(10_000, cluster=worse).fronts > size(10_000).fronts


def test_links_and_pictures_exist() -> None:
    targets = re.findall(r"\]\(([^)#]+)", DOCUMENT.read_text())
    assert len(targets) > 5
    assert [each for each in targets if not (DOCUMENT.parent / each).exists()] == []
