"""The dispatcher without processes: how a job gets to a worker, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ipc.codec import FrameError
from ipc.errors import ErrorCode, ServiceError
from ipc.operations import Sampling, Speak, SpeechResult, Voice
from supervisor.dispatch.admission import QueueLimits
from supervisor.dispatch.cost import CostModel, Unit, Work
from supervisor.dispatch.dispatcher import DispatchConfig, Dispatcher
from supervisor.dispatch.job import Job
from supervisor.dispatch.quarantine import Quarantine
from supervisor.dispatch.response_buffer import SegmentBuffer
from supervisor.events import Event, Finished, RequestLostWorker
from supervisor.workers.handle import Call, WorkerDied
from supervisor.workers.lifecycle import ModelState
from supervisor.workers.pool import Pool

RESULT = SpeechResult(sample_rate=8000, samples=8000)


class OneWorker:
    """A pool of one worker, and that worker: what it gets stays in `calls` until a test ends it."""

    config = SimpleNamespace(model="tts")
    state = ModelState.SERVING
    retry_after = 0.0
    message = "no weights"
    parallel = parallel_live = 1
    ready_in = 0.0
    users = 0
    name = "tts-1"

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.cancelled: list[int] = []
        self.successes = 0
        self.crashes: list[str] = []
        self.refuses: Exception | None = None
        self.events: list[Event] = []
        self.publish = self.events.append

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1

    def free_worker(
        self, *, live: bool = False, empty: bool = False, slots: int = 1
    ) -> OneWorker | None:
        return None if self.calls or self.state is not ModelState.SERVING else self

    def submit(self, call: Call) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.calls.append(call)

    def cancel(self, call: Call, grace: float) -> None:
        self.cancelled.append(call.id)

    def succeeded(self) -> None:
        self.successes += 1

    def crashed(self, worker: OneWorker, reason: str) -> None:
        self.crashes.append(reason)


@pytest.fixture
def worker() -> OneWorker:
    return OneWorker()


@pytest.fixture
def dispatcher(worker: OneWorker) -> Dispatcher:
    config = DispatchConfig(QueueLimits(8, 1000.0, 1.0), max_attempts=2, cancel_grace=1.0)
    return Dispatcher(config, CostModel(), Quarantine(600.0), cast(Pool, worker))


def speak(text: str = "hello", seconds: float = 60.0) -> Job[SpeechResult]:
    """A job with a stream, though its items are not looked at."""
    operation = Speak(text, Voice(), Sampling(seed=0))
    work = Work(Unit.CHARACTERS, len(text))
    return Job(operation, SegmentBuffer(), time.monotonic() + seconds, "client", work)


async def started(dispatcher: Dispatcher, *jobs: Job[SpeechResult]) -> list[asyncio.Task[Any]]:
    """The tasks of these jobs, each of which has come to the worker or to the queue."""
    tasks = [asyncio.create_task(dispatcher.run(job)) for job in jobs]
    await asyncio.sleep(0)
    return tasks


def end(worker: OneWorker, dispatcher: Dispatcher, outcome: SpeechResult | Exception) -> None:
    """The worker ends what it runs, and has a free slot again."""
    call = worker.calls.pop()
    if isinstance(outcome, Exception):
        call.outcome.set_exception(outcome)
    else:
        call.outcome.set_result(outcome)
    dispatcher.wake()


@contextlib.contextmanager
def no_collector() -> Iterator[None]:
    """Without Python's collector of cycles: what a cycle keeps stays."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def test_the_next_job_is_sent_in_the_same_step_as_a_slot_becomes_free(
    dispatcher: Dispatcher, worker: OneWorker
) -> None:
    first, second = speak("first"), speak("second")
    tasks = await started(dispatcher, first, second)
    assert [call.id for call in worker.calls] == [first.id]
    assert dispatcher.queued == 1
    end(worker, dispatcher, RESULT)
    assert [call.id for call in worker.calls] == [second.id]
    assert dispatcher.queued == 0
    end(worker, dispatcher, RESULT)
    assert await asyncio.gather(*tasks) == [RESULT, RESULT]
    assert worker.successes == 2


async def test_a_job_that_cannot_be_sent_fails_alone(
    dispatcher: Dispatcher, worker: OneWorker
) -> None:
    worker.refuses = FrameError("too long")
    with pytest.raises(FrameError, match="too long"):
        await dispatcher.run(speak())
    worker.refuses = None
    assert (dispatcher.in_flight, dispatcher.queued, dispatcher.backlog) == (0, 0, 0.0)
    (task,) = await started(dispatcher, speak())
    end(worker, dispatcher, RESULT)
    assert await task == RESULT


async def test_a_job_whose_client_leaves_is_stopped_where_it_is(
    dispatcher: Dispatcher, worker: OneWorker
) -> None:
    running, waiting = speak("running"), speak("waiting")
    tasks = await started(dispatcher, running, waiting)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [task.cancelled() for task in tasks] == [True, True]
    assert worker.cancelled == [running.id]  # the other one has never been there
    assert [call.id for call in worker.calls] == [running.id]
    assert (dispatcher.in_flight, dispatcher.queued, dispatcher.backlog) == (0, 0, 0.0)


async def test_one_that_leaves_as_the_slot_becomes_free_does_not_take_it(
    dispatcher: Dispatcher, worker: OneWorker
) -> None:
    jobs = [speak("first"), speak("leaves"), speak("third")]
    first, leaves, third = await started(dispatcher, *jobs)
    leaves.cancel()
    end(worker, dispatcher, RESULT)
    assert [call.id for call in worker.calls] == [jobs[2].id]
    end(worker, dispatcher, RESULT)
    assert (await first, await third) == (RESULT, RESULT)
    assert leaves.cancelled()
    assert worker.cancelled == []


async def test_a_job_passes_its_deadline_in_the_queue(
    dispatcher: Dispatcher, worker: OneWorker
) -> None:
    (first,) = await started(dispatcher, speak())
    late = speak(seconds=0.2)
    late_task = (await started(dispatcher, late))[0]
    with pytest.raises(ServiceError) as error:
        await late_task
    assert error.value.code is ErrorCode.deadline_exceeded
    assert dispatcher.queued == 0
    end(worker, dispatcher, RESULT)
    assert await first == RESULT


@pytest.mark.parametrize("state", [ModelState.BACKOFF, ModelState.FAILED])
async def test_jobs_are_held_while_a_model_cannot_start_until_that_is_hopeless(
    dispatcher: Dispatcher, worker: OneWorker, state: ModelState
) -> None:
    worker.state, worker.retry_after = state, 30.0
    with pytest.raises(ServiceError, match="no weights") as refused:
        await dispatcher.run(speak(seconds=20.0))
    assert refused.value.code is ErrorCode.model_unavailable
    assert refused.value.retry_after == 30.0
    short, long = await started(dispatcher, speak(seconds=60.0), speak(seconds=600.0))
    assert dispatcher.queued == 2
    worker.retry_after = 60.0  # another start has failed
    dispatcher.wake()
    with pytest.raises(ServiceError, match="no weights"):
        await short
    assert dispatcher.queued == 1
    worker.state, worker.retry_after = ModelState.SERVING, 0.0
    dispatcher.wake()
    end(worker, dispatcher, RESULT)
    assert await long == RESULT


async def test_a_model_is_in_use_from_the_admission_of_a_job_to_its_end(
    dispatcher: Dispatcher, worker: OneWorker
) -> None:
    first, leaves, third = await started(dispatcher, speak(), speak("leaves"), speak("third"))
    assert worker.users == 3
    leaves.cancel()
    await asyncio.gather(leaves, return_exceptions=True)
    assert worker.users == 2
    end(worker, dispatcher, RESULT)
    await first
    assert worker.users == 1
    end(worker, dispatcher, ServiceError(ErrorCode.empty_text, "blank"))
    with pytest.raises(ServiceError, match="blank"):
        await third
    dispatcher.drain()
    with pytest.raises(ServiceError, match="shutting down"):
        await dispatcher.run(speak("never admitted"))
    assert worker.users == 0


async def test_who_is_refused_is_told_to_wait_for_the_load_too(
    dispatcher: Dispatcher, worker: OneWorker
) -> None:
    worker.state, worker.ready_in = ModelState.LOADING, 40.0
    full = dispatcher.config.limits.requests
    waiting = await started(dispatcher, *(speak(f"number {n}") for n in range(full)))
    with pytest.raises(ServiceError, match="waiting already") as refused:
        await dispatcher.run(speak("one too many"))
    worker.ready_in = 0.0
    with pytest.raises(ServiceError) as sooner:
        await dispatcher.run(speak("one too many"))
    assert refused.value.retry_after is not None
    assert refused.value.retry_after - 40.0 == pytest.approx(sooner.value.retry_after, abs=1.0)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_job_goes_to_the_next_worker_without_what_its_client_has(
    dispatcher: Dispatcher, worker: OneWorker
) -> None:
    job = speak()
    (task,) = await started(dispatcher, job)
    item: Any = object()
    worker.calls[0].on_item(item)
    assert isinstance(job.output, SegmentBuffer)
    assert await job.output.read() is item
    end(worker, dispatcher, WorkerDied("SIGKILL", blame=True))
    await asyncio.sleep(0)
    (call,) = worker.calls
    assert (call.skip, call.alone) == (1, True)  # the last attempt of two: alone
    assert worker.crashes == ["SIGKILL"]
    end(worker, dispatcher, RESULT)
    assert await task == RESULT
    assert job.attempts == 1
    lost, finished = worker.events
    assert isinstance(lost, RequestLostWorker)
    assert (lost.reason, lost.attempts, lost.replayed) == ("SIGKILL", 1, True)
    assert isinstance(finished, Finished)
    assert (finished.direction, finished.sound_s) == ("made", RESULT.duration)


@pytest.mark.parametrize("resume", [Dispatcher.resume, Dispatcher.drain])
async def test_a_paused_model_finishes_what_runs_and_holds_what_comes(
    dispatcher: Dispatcher, worker: OneWorker, resume: Callable[[Dispatcher], None]
) -> None:
    first, second = speak("first"), speak("second")
    tasks = await started(dispatcher, first)
    dispatcher.pause()
    tasks += await started(dispatcher, second)
    end(worker, dispatcher, RESULT)
    assert await tasks[0] == RESULT
    assert (worker.calls, dispatcher.queued) == ([], 1)
    resume(dispatcher)
    assert [call.id for call in worker.calls] == [second.id]
    end(worker, dispatcher, RESULT)
    assert await tasks[1] == RESULT


@pytest.mark.parametrize(
    "error",
    [
        lambda: ServiceError(ErrorCode.engine_error, "no"),
        lambda: WorkerDied("SIGKILL", blame=True),
    ],
    ids=["error", "crash"],
)
async def test_a_failed_job_is_gone_at_once(
    dispatcher: Dispatcher, worker: OneWorker, error: Callable[[], Exception]
) -> None:
    async def respond(job: Job[SpeechResult]) -> ErrorCode:
        with contextlib.closing(cast(SegmentBuffer, job.output)):
            try:
                await dispatcher.run(job)
            except ServiceError as refusal:
                return refusal.code
        raise AssertionError("it did not fail")

    job = speak()
    output = weakref.ref(job.output)
    with no_collector():
        task = asyncio.create_task(respond(job))
        del job
        await asyncio.sleep(0)
        while worker.calls:
            end(worker, dispatcher, error())
            await asyncio.sleep(0)
        await task
        assert output() is None
