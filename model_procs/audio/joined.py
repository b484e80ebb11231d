"""Several recordings as one voice: where each begins, and their samples joined. Runs in workers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from ipc.operations import Recording
from model_procs.audio.pcm import Samples


def sources(recording: Recording) -> Iterator[bytes | str]:
    """Each recording in `recording`: its bytes, or the path of the file that holds it alone."""
    source = recording.source
    assert source is not None
    if not recording.parts:
        yield source
    elif isinstance(source, bytes):
        starts = itertools.accumulate(recording.parts, initial=0)
        for start, size in zip(starts, recording.parts, strict=False):
            yield source[start : start + size]
    else:
        with open(source, "rb") as file:
            for size in recording.parts:
                yield file.read(size)


def joined(pieces: Sequence[Samples], limit: int) -> Samples:
    """`pieces` one after the other, at most `limit` samples in all.

    If they are longer, each is cut to the same length, except for those that are shorter anyway.
    """
    if len(pieces) == 1:
        return pieces[0][:limit]
    room = limit
    allowed = [0] * len(pieces)
    by_length = sorted(range(len(pieces)), key=lambda place: len(pieces[place]))
    for left, place in zip(range(len(pieces), 0, -1), by_length, strict=True):
        allowed[place] = min(len(pieces[place]), room // left)
        room -= allowed[place]
    return np.concatenate([piece[:length] for piece, length in zip(pieces, allowed, strict=True)])
