"""From a request to a worker: admission, queue, deadline, replay. In the front, one for each model.

run(job) --> admit --> wait in the queue <--match--> free slot --> worker
                          ^                                         |
                          +---------------- replay <-- worker died -+
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from ipc.errors import ErrorCode, ServiceError
from ipc.operations import AnyOperation, AnyResult, Listened, ResultT, SpeechResult, Transcript
from supervisor.dispatch.admission import QueueLimits, admit
from supervisor.dispatch.cost import CostModel, Unit, Work
from supervisor.dispatch.fair_queue import FairQueue, Pace, anything
from supervisor.dispatch.forecast import Load, Room, forecast
from supervisor.dispatch.job import Job, Run
from supervisor.dispatch.quarantine import Quarantine
from supervisor.dispatch.throughput import Company, Throughput
from supervisor.events import Finished, Publish, Quarantined, Refused, RequestLostWorker
from supervisor.log import logger
from supervisor.workers.handle import Call, WorkerDied, WorkerHandle, is_live
from supervisor.workers.lifecycle import ModelState
from supervisor.workers.pool import Pool

_STOP_RETRY_SECONDS = 5.0

REFUSALS = frozenset(
    {
        *(ErrorCode.overloaded, ErrorCode.model_unavailable, ErrorCode.shutting_down),
        *(ErrorCode.quarantined, ErrorCode.deadline_exceeded),
    }
)
"""Errors that come from the state of the service."""

_NOT_RUNNING = (ModelState.BACKOFF, ModelState.FAILED)
"""The states in which no worker is READY because starts have failed."""


@dataclass(frozen=True, slots=True)
class DispatchConfig:
    """Limits of one model's queue, and the treatment of failing requests; times in seconds."""

    limits: QueueLimits
    max_attempts: int
    cancel_grace: float


@dataclass(slots=True, eq=False)
class _Attempt:
    """A job in the queue, or in a worker. Times are on the clock of `time.monotonic`."""

    job: Job[Any]
    call: Call
    run: Run
    worker: WorkerHandle | None = None
    """None while it waits in the queue."""
    before: Sequence[float] = ()
    """The seconds of `Company` when it went to its worker."""


def _needs_no_live_slot(attempt: _Attempt) -> bool:
    """Whether it may start while no live slot is free, or holds up the others until it starts."""
    return attempt.call.alone or not attempt.call.waits_live


class Dispatcher:
    """Gives the jobs of one model to its workers."""

    def __init__(
        self, config: DispatchConfig, cost: CostModel, quarantine: Quarantine, pool: Pool
    ) -> None:
        self.config = config
        self._cost = cost
        self._quarantine = quarantine
        self._pool = pool
        self._waiting: FairQueue[_Attempt] = FairQueue()
        self._running: dict[int, _Attempt] = {}
        """By the id of the job."""
        self._company = Company()
        self._throughput = Throughput()
        self.in_flight = 0
        self.paused = False
        """Whether jobs wait until `resume`; those that run are finished."""
        self._publish = pool.publish
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._changed = False
        """Whether something has changed since the loop last looked."""
        self._matching = False

    @property
    def _model(self) -> str:
        return self._pool.config.model

    @property
    def queued(self) -> int:
        """How many jobs wait for a worker."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether a new job would wait for others; not whether the model loads."""
        if self._waiting or self.paused:
            return True
        return self._pool.state is ModelState.SERVING and self._pool.free_worker() is None

    @property
    def backlog(self) -> float:
        """Estimated seconds of work that waits or runs, as if one by one."""
        return sum(load.cost for load in (*self._running_loads(), *self._waiting_loads()))

    @property
    def speed(self) -> float:
        """Seconds of such work that get done in a second while all slots are taken."""
        return self._throughput.speed(self._pool.parallel)

    async def idle(self) -> None:
        """Wait until no job is in flight."""
        await self._idle.wait()

    def drain(self) -> None:
        """Refuse new jobs; admitted jobs continue, also those that a pause holds."""
        self._draining = True
        self.resume()

    def pause(self) -> None:
        """Give no more jobs to workers; new ones wait."""
        self.paused = True

    def resume(self) -> None:
        """Go on after a pause."""
        self.paused = False
        self.wake()

    def wake(self) -> None:
        """A slot may have become free, or the state of the model may have changed.

        One loop gives waiting jobs to workers; a change that comes meanwhile has it go round again.
        """
        self._changed = True
        if self._matching:
            return
        self._matching = True
        try:
            while self._changed and self._waiting and not self.paused:
                self._changed = False
                self._match()
        except Exception:  # a bug here must be logged, and must not reach the worker that woke us
            logger.exception("matching_failed", model=self._model)
        finally:
            self._matching = False

    async def run(self, job: Job[ResultT]) -> ResultT:
        """Run `job` in a worker; its stream goes to `job.output`, its result is returned.

        Raises `ServiceError` when the job is not admitted, fails, or passes its deadline. Cancel
        the call when the client has gone.
        """
        error: BaseException | None = None
        allowed = job.deadline - time.monotonic()
        try:
            self._admit(job, allowed)
            self.in_flight += 1
            self._idle.clear()
            try:
                # The loop's clock may differ from the clock of the deadline.
                loop_deadline = asyncio.get_running_loop().time() + allowed
                with self._pool.in_use():
                    async with asyncio.timeout_at(loop_deadline):
                        return await self._until_finished(job)
            finally:
                self.in_flight -= 1
                if self.in_flight == 0:
                    self._idle.set()
        except TimeoutError:
            error = self._late(allowed)
            raise error from None
        except BaseException as raised:
            error = raised
            raise
        finally:
            tell_refusal(self._publish, self._model, job, error)
            job.output.finish(error)
            # The traceback refers to this frame, which refers to the error and the recording. This
            # cycle would keep the recording in memory until the garbage collector runs.
            error = None

    def _match(self) -> None:
        """Give waiting jobs to workers."""
        while True:
            # Live streams that wait for a slot of theirs do not hold up the others.
            fits = anything if self._pool.free_worker(live=True) else _needs_no_live_slot
            first = self._waiting.first(fits)
            # A job that must run alone waits for an empty worker; no other job overtakes it.
            if first is None or self._free_worker(first.call) is None:
                break
            pace = Pace(self.speed, self._throughput.stretch(self._pool.parallel))
            attempt = self._waiting.pop(time.monotonic(), pace, fits)
            worker = self._free_worker(attempt.call)
            assert worker is not None
            if not attempt.call.outcome.done():
                self._submit(attempt, worker)
        if self._waiting and self._pool.state in _NOT_RUNNING:
            next_start = time.monotonic() + self._pool.retry_after
            for attempt in self._waiting.items():
                if attempt.job.deadline < next_start:
                    self._waiting.remove(attempt)
                    attempt.call.settle(self._unavailable())

    def _free_worker(self, call: Call) -> WorkerHandle | None:
        return self._pool.free_worker(live=call.waits_live, empty=call.alone, slots=call.slots)

    def _submit(self, attempt: _Attempt, worker: WorkerHandle) -> None:
        try:
            worker.submit(attempt.call)
        except Exception as error:  # it cannot be sent: an error of this request alone
            attempt.call.settle(error)
            return
        attempt.worker = worker
        now = time.monotonic()
        attempt.run.worker, attempt.run.started = worker.name, now
        attempt.before = self._company.seconds(now)
        self._running[attempt.job.id] = attempt
        self._company.changed(len(self._running), now)

    def _admit(self, job: Job[Any], allowed: float) -> None:
        if self._draining and not job.continues:
            raise shutting_down()
        if self._pool.state in _NOT_RUNNING and self._pool.retry_after > allowed:
            raise self._unavailable()
        if self._quarantine and self._quarantine.holds(job.digest(), time.monotonic()):
            raise ServiceError(
                ErrorCode.quarantined,
                f"this request has crashed {self.config.max_attempts} workers recently; "
                "do not send it again unchanged",
            )
        job.cost = self._cost.estimate(job.work)
        room = Room(self._pool.parallel, self._pool.parallel_live, self._throughput.stretch)
        newcomer = Load(job.cost, is_live(cast(AnyOperation, job.operation)))
        start, end = forecast(self._running_loads(), self._waiting_loads(), newcomer, room)
        refusal = admit(
            cost=job.cost,
            allowed=allowed,
            start=start,
            end=end,
            waiting=self._waiting.waiting(job.client),
            speed=self.speed,
            limits=self.config.limits,
        )
        if refusal is not None:
            raise ServiceError(
                ErrorCode.overloaded,
                f"{refusal.reason}; send a shorter text or recording, or allow more time"
                if refusal.hopeless
                else f"the service is busy: {refusal.reason}; try again later",
                retry_after=max(1.0, refusal.retry_after + self._pool.ready_in),
            )

    def _running_loads(self) -> list[Load]:
        """What is left of the jobs that workers run, as estimated."""
        now = time.monotonic()
        return [
            Load(max(0.0, attempt.job.cost - self._work(attempt, now)), attempt.call.live)
            for attempt in self._running.values()
        ]

    def _waiting_loads(self) -> list[Load]:
        return [Load(attempt.job.cost, attempt.call.live) for attempt in self._waiting.items()]

    def _work(self, attempt: _Attempt, now: float) -> float:
        """Seconds of work that a running attempt has got."""
        return self._throughput.work(self._company.since(attempt.before, now))

    def _learn(self, attempt: _Attempt, result: AnyResult) -> None:
        """A job has been finished by its first worker: what it cost, and those beside it."""
        work = attempt.job.work
        sound = result.duration if isinstance(result, Transcript) else None
        spent = self._company.since(attempt.before, time.monotonic())
        known = work if sound is None else Work(Unit.SECONDS, sound)
        if self._cost.knows(known):
            self._throughput.learn(spent, self._cost.estimate(known))
        seconds, alone = self._throughput.work(spent), self._throughput.alone(spent)
        self._cost.measured(work, seconds, sound, alone)

    def _late(self, allowed: float) -> ServiceError:
        """The error of a request that has passed its deadline, after `allowed` seconds."""
        if self._pool.state in _NOT_RUNNING:
            return self._unavailable()
        if self.paused:
            return ServiceError(
                ErrorCode.deadline_exceeded,
                f"an operator has paused the model for {self._model}, and the request has waited "
                f"for {round(allowed, 1):g} s; try again later",
            )
        return too_late(allowed)

    def _unavailable(self) -> ServiceError:
        return ServiceError(
            ErrorCode.model_unavailable,
            f"the model for {self._model} cannot be started: {self._pool.message}",
            retry_after=max(1.0, self._pool.retry_after),
        )

    async def _until_finished(self, job: Job[ResultT]) -> ResultT:
        """Run `job`; when its worker dies, run it again in another one."""
        replay = False
        while True:
            attempt = self._start(job, replay=replay)
            try:
                result = cast(ResultT, await attempt.call.outcome)
            except asyncio.CancelledError:
                self._cancel(attempt)
                raise
            except WorkerDied as death:
                self._lost_worker(attempt, death)
                job.output.rewind()
                death.__traceback__ = None  # a reference cycle, see `run`
                replay = True
            except ServiceError:
                if attempt.worker is not None:  # it lives; the request itself is at fault
                    self._pool.succeeded()
                raise
            else:
                self._pool.succeeded()
                if not replay:
                    self._learn(attempt, cast(AnyResult, result))
                self._ended(attempt)
                job.result = result
                if not isinstance(result, Listened):  # a tenth of a second of a session
                    self._publish(finished(self._model, job))
                return result
            finally:
                self._ended(attempt)
                del attempt  # it refers to the error: a reference cycle, see `run`

    def _ended(self, attempt: _Attempt) -> None:
        """An attempt does not run any more; the second call does nothing."""
        job, run = attempt.job, attempt.run
        if self._running.pop(job.id, None) is not None:
            run.ended = now = time.monotonic()
            self._company.changed(len(self._running), now)
            job.queued_s += run.started - run.queued
            job.running_s += now - run.started

    def _start(self, job: Job[Any], *, replay: bool) -> _Attempt:
        """Give `job` to a free worker, or queue it. A replay goes first: it has waited before."""
        # Requests that shared a worker share the blame for its death. The last attempt of each runs
        # alone, so that only the request at fault ends in quarantine.
        call = Call(
            job.id,
            cast(AnyOperation, job.operation),
            job.output.size,
            job.output.append,
            asyncio.get_running_loop().create_future(),
            alone=0 < job.attempts == self.config.max_attempts - 1,
        )
        run = Run(time.monotonic())
        job.runs.append(run)
        attempt = _Attempt(job, call, run)
        if not self._waiting and not self.paused and (free := self._free_worker(call)) is not None:
            self._submit(attempt, free)
            return attempt
        if replay:
            self._waiting.push_front(attempt, job.client, job.cost)
        else:
            self._waiting.push(attempt, job.client, job.cost, job.deadline)
        self.wake()
        return attempt

    def _cancel(self, attempt: _Attempt) -> None:
        if attempt.worker is None:
            self._waiting.remove(attempt)
        else:
            attempt.worker.cancel(attempt.call, self.config.cancel_grace)

    def _lost_worker(self, attempt: _Attempt, death: WorkerDied) -> None:
        """Decide whether the job may have another worker. Raises `ServiceError` when not."""
        job, worker = attempt.job, attempt.worker
        assert worker is not None
        job.attempts += death.blame
        replayed = job.attempts < self.config.max_attempts
        self._publish(
            RequestLostWorker(
                model=self._model,
                request=job.id,
                child=worker.name,
                reason=str(death),
                attempts=job.attempts,
                replayed=replayed,
            )
        )
        if death.blame and job.attempts == 1:
            self._pool.crashed(worker, str(death))
        if not replayed:
            self._quarantine.add(job.digest(), time.monotonic())
            self._publish(Quarantined(model=self._model, request=job.id))
            raise ServiceError(
                ErrorCode.worker_crashed,
                f"{job.attempts} workers died on this request (the last one: {death}); "
                "do not send it again unchanged",
            ) from death


def tell_refusal(publish: Publish, model: str, job: Job[Any], error: BaseException | None) -> None:
    """Publish that `job` was refused, if `error` is a refusal."""
    if isinstance(error, ServiceError) and error.code in REFUSALS:
        publish(
            Refused(
                model=model,
                reason=error.code.wire_name,
                client=job.client,
                message=error.message,
            )
        )


def shutting_down() -> ServiceError:
    """The error of a new request while those that were admitted are finished."""
    return ServiceError(
        ErrorCode.shutting_down,
        "the service is shutting down; try again",
        retry_after=_STOP_RETRY_SECONDS,
    )


def too_late(allowed: float) -> ServiceError:
    """The error of a request that has passed its deadline, after `allowed` seconds."""
    return ServiceError(
        ErrorCode.deadline_exceeded,
        f"the request was not finished within {round(allowed, 1):g} s; send a "
        "shorter text or recording, or try again when the service is less busy",
    )


def finished(model: str, job: Job[Any]) -> Finished:
    """The event of a job that has its result."""
    event = partial(
        Finished,
        model=model,
        queue_s=job.queued_s,
        inference_s=job.inference_s,
        encode_s=job.encode_s,
    )
    match job.result:
        case SpeechResult(voice_cached=cached) as made:
            return event(direction="made", sound_s=made.duration, voice_cached=cached)
        case Transcript(duration=heard):
            return event(direction="heard", sound_s=heard)
        case _:
            return event()
