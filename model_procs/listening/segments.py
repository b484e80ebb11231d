"""Split a long recording at its quietest places. Runs in workers."""

from __future__ import annotations

import numpy as np

from model_procs.audio.pcm import Samples

_FRAME_SECONDS = 0.02
_PAUSE_SECONDS = 0.3


def segments(samples: Samples, rate: int, max_seconds: float) -> list[tuple[int, int]]:
    """Ranges (start, end) that cover `samples` without gaps or overlaps.

    No range is longer than `max_seconds`. A longer recording is split in the middle of the quietest
    0.3 s in the second half of the longest possible range; of equally quiet places the last.
    """
    limit = int(max_seconds * rate)
    if len(samples) <= limit:
        return [(0, len(samples))]
    frame = int(_FRAME_SECONDS * rate)
    pause = round(_PAUSE_SECONDS / _FRAME_SECONDS)
    ranges = []
    start = 0
    while len(samples) - start > limit:
        half = samples[start + limit // 2 : start + limit]
        frames = len(half) // frame
        energy = np.square(half[: frames * frame]).reshape(frames, frame).mean(axis=1)
        loudness = np.convolve(energy, np.ones(pause), mode="valid")
        quietest = len(loudness) - 1 - int(np.argmin(loudness[::-1]))
        end = start + limit // 2 + quietest * frame + pause * frame // 2
        ranges.append((start, end))
        start = end
    ranges.append((start, len(samples)))
    return ranges
