"""Parts of the Kokoro engine without its weights: durations and jobs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from model_procs.engine import Cancelled
from model_procs.engines.kokoro.durations import with_durations
from model_procs.engines.kokoro.jobs import Job, Jobs

# The output with the durations


def field(number: int, data: bytes) -> bytes:
    """A field of a protobuf message."""
    assert len(data) < 128
    return bytes([number << 3 | 2, len(data)]) + data


def node(operator: str, given: str, made: str) -> bytes:
    """A node of an ONNX graph."""
    return field(
        1, field(1, given.encode()) + field(2, made.encode()) + field(4, operator.encode())
    )


def graph(*parts: bytes, output: str = "audio") -> bytes:
    """An ONNX file with a version and a graph."""
    return (
        b"\x08\x07"
        + b"".join(field(7, part) for part in parts)
        + field(7, field(12, field(1, output.encode())))
    )


ROUND, CLIP, CAST = node("Round", "a", "b"), node("Clip", "b", "c"), node("Cast", "c", "d")
OTHERS = node("Round", "x", "y") + node("Cast", "y", "z") + node("Clip", "a", "e")


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (graph(ROUND, OTHERS, CLIP, CAST), "d"),
        (graph(OTHERS, ROUND, CLIP), "c"),
        (graph(OTHERS, ROUND), None),
        (graph(ROUND, CLIP, node("Clip", "b", "f")), None),
        (graph(ROUND, CLIP, output="duration"), "duration"),
    ],
)
def test_the_durations_are_what_is_rounded_and_clipped(model: bytes, found: str | None) -> None:
    assert with_durations(model)[1] == found


def test_they_become_an_output_by_a_few_bytes_behind_the_file() -> None:
    model = graph(ROUND, CLIP, CAST)
    longer, _ = with_durations(model)
    assert longer == model + field(7, field(12, field(1, b"d")))
    own = graph(ROUND, CLIP, output="duration")
    assert with_durations(own)[0] == own


def test_a_file_that_is_no_model_is_an_error() -> None:
    with pytest.raises(ValueError, match="no ONNX file"):
        with_durations(b"\x0f\x00")


# Jobs


@dataclass(slots=True)
class Options:
    """What a job looks at."""

    terminate: bool = False


def never() -> threading.Event:
    return threading.Event()


def result(jobs: Jobs, job: Job[str]) -> str:
    """What comes out of a job, by steps."""
    waiting = job.wait()
    while True:
        try:
            next(waiting)
        except StopIteration as end:
            return str(end.value)
        jobs.step()


def test_without_threads_a_step_computes_what_is_due_first() -> None:
    jobs = Jobs(Options)
    done: list[str] = []

    def work(name: str) -> Callable[[Options], None]:
        return lambda _: done.append(name)

    for name, due in (("later", 5.0), ("first", 0.0), ("newcomer", 0.0), ("soon", 2.0)):
        jobs.add(work(name), due, never())
    for _ in range(5):
        jobs.step()
    assert done == ["first", "newcomer", "soon", "later"]


def test_threads_compute_side_by_side() -> None:
    jobs = Jobs(Options)
    jobs.start_threads(2)
    together = threading.Barrier(2, timeout=30)

    def work(_: Options) -> str:
        together.wait()
        return "done"

    pair = [jobs.add(work, 0.0, never()) for _ in range(2)]
    assert [result(jobs, job) for job in pair] == ["done", "done"]


def test_an_error_belongs_to_its_job() -> None:
    jobs = Jobs(Options)
    jobs.start_threads(1)

    def fail(_: Options) -> str:
        raise ValueError("this one")

    bad, good = jobs.add(fail, 0.0, never()), jobs.add(lambda _: "fine", 1.0, never())
    with pytest.raises(ValueError, match="this one"):
        result(jobs, bad)
    assert result(jobs, good) == "fine"


def test_who_is_cancelled_ends_in_the_middle_and_the_others_go_on() -> None:
    jobs = Jobs(Options)
    jobs.start_threads(1)
    began, stop = threading.Event(), threading.Event()

    def long(options: Options) -> str:
        began.set()
        deadline = time.monotonic() + 30
        while not options.terminate:
            assert time.monotonic() < deadline
        raise RuntimeError("terminated")

    running, waiting = jobs.add(long, 0.0, stop), jobs.add(long, 1.0, stop)
    other = jobs.add(lambda _: "fine", 2.0, never())
    assert began.wait(30)
    stop.set()
    jobs.wake()
    assert result(jobs, other) == "fine"
    for job in (running, waiting):
        with pytest.raises(Cancelled):
            result(jobs, job)


def test_a_job_that_nobody_waits_for_is_not_begun() -> None:
    jobs = Jobs(Options)
    begun: list[str] = []
    dropped = jobs.add(lambda _: begun.append("dropped"), 0.0, never())
    dropped.drop()
    kept = jobs.add(lambda _: begun.append("kept"), 1.0, never())
    jobs.step()
    assert (begun, kept.done) == (["kept"], True)
