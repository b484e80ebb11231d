"""Which sentence is computed next, and by which thread. Runs in workers.

Each thread computes one job alone, so that none waits for another inside a computation. Who first
has nothing left to hear is first: a newcomer, then whoever has the least sound ahead.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from model_procs.engine import Cancelled

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Job(Generic[T]):
    """Some work for a thread, due at `due` on the clock of `time.monotonic`.

    `work` gets the options of its run: their attribute `terminate` ends it. It ends with a result
    or an error, unless it is `dropped`: then nobody waits for it any more.
    """

    work: Callable[[Any], T]
    due: float
    stop: threading.Event
    options: Any
    done: bool = False
    dropped: bool = False
    error: BaseException | None = None
    results: list[T] = field(default_factory=list)

    def wait(self) -> Generator[None, None, T]:
        """Yield until it is done; its result. Raises what it raised."""
        try:
            while not self.done:
                yield None
        finally:
            self.drop()
        if self.error is not None:
            raise self.error
        return self.results[0]

    def drop(self) -> None:
        """Nobody waits for it any more."""
        if not self.done:
            self.dropped = True
            self.options.terminate = True


class Jobs:
    """Jobs that wait, and threads that compute them. Without threads `step` computes one."""

    def __init__(self, make_options: Callable[[], Any]) -> None:
        self._make_options = make_options
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int, Job[Any]]] = []
        self._order = itertools.count()
        self._running: set[Job[Any]] = set()
        self._threads = 0
        self._news = False

    def start_threads(self, count: int) -> None:
        """From now on compute up to `count` jobs at once, beside the caller."""
        self._threads = count
        for number in range(count):
            threading.Thread(target=self._work, name=f"job-{number}", daemon=True).start()

    def add(self, work: Callable[[Any], T], due: float, stop: threading.Event) -> Job[T]:
        """Let `work` wait for a thread, until `stop` is set."""
        job = Job(work, due, stop, self._make_options())
        with self._changed:
            heapq.heappush(self._waiting, (due, next(self._order), job))
            self._changed.notify_all()
        return job

    def step(self) -> None:
        """Wait until a job is done, or `wake` is called."""
        if not self._threads:
            job = self._take()
            if job is not None:
                self._compute(job)
            return
        with self._changed:
            self._changed.wait_for(lambda: self._news)
            self._news = False

    def wake(self) -> None:
        """End the running step, and the jobs whose `stop` is set; from any thread."""
        with self._changed:
            for job in self._running:
                if job.stop.is_set():
                    job.options.terminate = True
            self._tell()

    def _tell(self) -> None:
        self._news = True
        self._changed.notify_all()

    def _work(self) -> None:
        """The loop of a thread."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
            job = self._take()
            if job is not None:
                self._compute(job)

    def _take(self) -> Job[Any] | None:
        """The next job, which is running from now on."""
        with self._changed:
            while self._waiting:
                _, _, job = heapq.heappop(self._waiting)
                if not job.dropped and not job.stop.is_set():
                    self._running.add(job)
                    return job
                job.error, job.done = Cancelled(), True
                self._tell()
        return None

    def _compute(self, job: Job[Any]) -> None:
        try:
            job.results.append(job.work(job.options))
        except BaseException as error:  # it belongs to the request, which raises it
            job.error = Cancelled() if job.stop.is_set() else error
        with self._changed:
            self._running.discard(job)
            job.done = True
            self._tell()
