"""Several recordings of a voice as one, without the service."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ipc.operations import Recording
from model_procs.audio.joined import joined, sources


@pytest.mark.parametrize(
    ("lengths", "used"),
    [
        ([10], [10]),
        ([40], [30]),
        ([10, 10], [10, 10]),
        ([100, 100], [15, 15]),
        ([100, 5], [25, 5]),
        ([5, 100, 100], [5, 12, 13]),
        ([1, 2, 100], [1, 2, 27]),
    ],
)
def test_each_has_the_same_share(lengths: list[int], used: list[int]) -> None:
    pieces = [np.full(length, number, np.float32) for number, length in enumerate(lengths)]
    whole = joined(pieces, 30)
    assert [int(np.sum(whole == number)) for number in range(len(pieces))] == used
    assert list(whole) == sorted(whole)


def test_parts_are_found_in_memory_and_in_a_file(tmp_path: Path) -> None:
    data = b"onethreetwo"
    path = tmp_path / "recording"
    path.write_bytes(data)
    for recording in (
        Recording("k", data, parts=(3, 5, 3)),
        Recording("k", path=str(path), parts=(3, 5, 3)),
    ):
        assert list(sources(recording)) == [b"one", b"three", b"two"]
    assert list(sources(Recording("k", path=str(path)))) == [str(path)]
    assert list(sources(Recording("k", data))) == [data]
