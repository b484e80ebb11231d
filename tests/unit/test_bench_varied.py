"""The bench's varied requests: the same for a seed, within their bounds, readable."""

from __future__ import annotations

import pytest

from model_procs.audio.decode import decode
from tests.bench.varied import Varied

_VORBIS_SEED = 0


def test_a_seed_gives_the_same_requests() -> None:
    first, second, other = Varied(1), Varied(1), Varied(2)
    texts = [[varied.text() for _ in range(20)] for varied in (first, second, other)]
    assert texts[0] == texts[1] != texts[2]
    lengths = [varied.recording(0.1, 0.5)[1] for varied in (first, second)]
    assert lengths[0] == lengths[1]


def test_texts_are_within_their_bounds_and_differ() -> None:
    varied = Varied(0)
    counts = [len(varied.text(3, 400).split()) for _ in range(300)]
    assert 3 <= min(counts) < 6
    assert 300 < max(counts) <= 400
    assert len(varied.long_text(5000)) in range(4998, 5001)


@pytest.mark.parametrize("seed", range(4))
def test_recordings_are_as_long_as_they_say(seed: int) -> None:
    recording, seconds = Varied(seed).recording(0.5, 3)
    samples = decode(recording, rate=16_000, max_seconds=60, truncate=False)
    assert len(samples) / 16_000 == pytest.approx(seconds, abs=0.1)
    assert 0.5 <= seconds <= 3


def test_long_vorbis_is_encoded_without_harm() -> None:
    recording, seconds = Varied(_VORBIS_SEED).recording(200, 210)
    assert recording[:4] == b"OggS"
    assert seconds >= 200
