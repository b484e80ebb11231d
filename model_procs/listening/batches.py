"""Which clips a transcription engine computes next, and with which others. Runs in workers.

Each clip has a time at which it is due, a longer one later: a short clip need not wait for a long
one that came before it, and the long one still gets its turn. Clips that wait form a batch. Nothing
joins a batch later, but one that is due earlier overtakes it.

Several batches are computed at once, each by one thread, which waits for the others only at the end
of a step. Threads that share a batch would wait for each other hundreds of times, each time until a
busy neighbour lets the slowest of them run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import attrgetter
from typing import Generic, TypeVar

from ipc.operations import Transcribe
from model_procs.audio.pcm import Samples

BATCH_ROWS = 320
"""The most rows of a batch of several clips. More rows make a row hardly cheaper."""

SHARE_ROWS = 128
"""Clips that wait are not divided into batches of fewer rows: the less rows, the dearer is each."""

ROW_SECONDS = 0.01
"""How much later a clip is due for each of its rows."""

TURN_SECONDS = 0.1
"""How long a step takes: between steps a cancelled request leaves, and new ones begin."""

Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class Clip(Generic[Result]):
    """A part of a recording that is computed as one, from `offset` seconds on.

    It has `rows` rows in a batch, and is due at `due` on the clock of `time.monotonic`. It ends
    with a result or an error, unless it is `dropped`: then nobody waits for it any more.
    """

    samples: Samples
    options: Transcribe
    offset: float
    rows: int
    due: float
    result: Result | None = None
    error: Exception | None = None
    dropped: bool = False


@dataclass(slots=True, eq=False)
class _Batch(Generic[Result]):
    """Clips that are computed together, due when the first of them is due."""

    clips: list[Clip[Result]]
    due: float
    work: Generator[None, None, list[Result]]
    results: list[Result] | None = None
    error: Exception | None = None


class Batches(Generic[Result]):
    """Clips that wait, and batches that are being computed.

    `recognize` gives the results of clips that are computed together. It yields wherever it may be
    interrupted, and may be continued in another thread.
    """

    def __init__(
        self,
        recognize: Callable[[list[Clip[Result]]], Generator[None, None, list[Result]]],
    ) -> None:
        self._recognize = recognize
        self._threads = 1
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: list[Clip[Result]] = []
        self._running: list[_Batch[Result]] = []
        self._until = 0.0

    def start_threads(self, count: int) -> None:
        """From now on compute up to `count` batches at once. Before, it is one at a time."""
        self._threads = count
        self._pool = ThreadPoolExecutor(count, "batch")

    def add(self, clips: list[Clip[Result]]) -> None:
        """Let `clips` wait."""
        self._waiting += clips

    def step(self) -> None:
        """Compute for `TURN_SECONDS`, or until the first results are there."""
        batches = self._next()
        self._until = time.monotonic() + TURN_SECONDS
        if self._pool is None or len(batches) <= 1:
            for batch in batches:
                self._compute(batch)
        else:
            for done in [self._pool.submit(self._compute, batch) for batch in batches]:
                done.result()
        for batch in batches:
            self._settle(batch)

    def wake(self) -> None:
        """End the running step soon, from any thread."""
        self._until = 0.0

    def _next(self) -> list[_Batch[Result]]:
        """The batches that are due first; those that wait are formed now."""
        waiting = [clip for clip in self._waiting if not clip.dropped]
        waiting.sort(key=attrgetter("due"))
        running = [batch for batch in self._running if not all(one.dropped for one in batch.clips)]
        running.sort(key=attrgetter("due"))
        chosen: list[_Batch[Result]] = []
        later = list(running)
        while len(chosen) < self._threads and (waiting or later):
            if not waiting or (later and later[0].due <= waiting[0].due):
                chosen.append(later.pop(0))
            else:
                clips = together(waiting, lanes=self._threads - len(chosen))
                waiting = [clip for clip in waiting if clip not in clips]
                chosen.append(self._batch(clips))
                running.append(chosen[-1])
        self._waiting, self._running = waiting, running
        return chosen

    def _batch(self, clips: list[Clip[Result]]) -> _Batch[Result]:
        return _Batch(clips, clips[0].due, self._recognize(clips))

    def _compute(self, batch: _Batch[Result]) -> None:
        """Compute `batch` until the step is over, or end the step because it is complete."""
        try:
            while time.monotonic() < self._until:
                next(batch.work)
            return
        except StopIteration as end:
            batch.results = end.value
        except MemoryError:
            raise  # this process cannot be trusted any more
        except Exception as error:
            batch.error = error
        self._until = 0.0

    def _settle(self, batch: _Batch[Result]) -> None:
        """Give the clips of a batch that is complete their results."""
        if batch.results is not None:
            for clip, result in zip(batch.clips, batch.results, strict=True):
                clip.result = result
        elif batch.error is None:
            return
        elif len(batch.clips) == 1:
            batch.clips[0].error = batch.error
        else:  # only the one at fault shall fail
            self._running += [self._batch([clip]) for clip in batch.clips]
        self._running.remove(batch)


def together(waiting: list[Clip[Result]], lanes: int) -> list[Clip[Result]]:
    """The first of `waiting`, and as many of the others as have room beside it in a batch.

    `lanes` batches can be computed at once; each of them shall get its share, unless that is small.
    """
    share = sum(clip.rows for clip in waiting) / lanes
    room = min(max(share, SHARE_ROWS), BATCH_ROWS)
    chosen: list[Clip[Result]] = []
    rows = 0
    for clip in waiting:
        if not chosen or rows + clip.rows <= room:
            chosen.append(clip)
            rows += clip.rows
    return chosen
