"""From a request to a worker: admission, queue, deadline, replay. In the front, one for each model.

run(job) --> admit --> wait in the queue <--match--> free slot --> worker.run
                          ^                                          |
                          +---------------- replay <--- worker died -+
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from ipc.errors import ErrorCode, ServiceError
from ipc.operations import ResultT, Transcript
from supervisor.dispatch.admission import QueueLimits, admit
from supervisor.dispatch.cost import CostModel
from supervisor.dispatch.fair_queue import FairQueue
from supervisor.dispatch.job import Job
from supervisor.dispatch.quarantine import Quarantine
from supervisor.log import logger
from supervisor.workers.handle import WorkerDied, WorkerHandle
from supervisor.workers.lifecycle import ModelState
from supervisor.workers.pool import Pool

_STOP_RETRY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class DispatchConfig:
    """Limits of one model's queue, and the treatment of failing requests; times in seconds."""

    limits: QueueLimits
    max_attempts: int
    cancel_grace: float


@dataclass(slots=True, eq=False)
class _Waiter:
    """A job in the queue; `worker` is set when a slot is reserved for it.

    `alone`: it must run alone in its worker.
    """

    job_id: int
    alone: bool
    worker: asyncio.Future[WorkerHandle]


class Dispatcher:
    """Gives the jobs of one model to its workers."""

    def __init__(
        self, config: DispatchConfig, cost: CostModel, quarantine: Quarantine, pool: Pool
    ) -> None:
        self.config = config
        self._cost = cost
        self._quarantine = quarantine
        self._pool = pool
        self._waiting: FairQueue[_Waiter] = FairQueue()
        self._running: dict[int, tuple[float, float]] = {}
        """When each running job went to its worker, and its cost in seconds."""
        self.in_flight = 0
        self.replays = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._changed = False
        """Whether something has changed since the loop last looked."""
        self._matching = False

    @property
    def queued(self) -> int:
        """How many jobs wait for a worker."""
        return len(self._waiting)

    @property
    def backlog(self) -> float:
        """Estimated seconds of work that waits or runs."""
        return self._running_seconds() + sum(cost for cost, _ in self._waiting.waiting(""))

    async def idle(self) -> None:
        """Wait until no job is in flight."""
        await self._idle.wait()

    def drain(self) -> None:
        """Refuse new jobs; admitted jobs continue."""
        self._draining = True

    def wake(self) -> None:
        """A slot may have become free, or the state of the model may have changed.

        One loop gives waiting jobs to workers; a change that comes meanwhile has it go round again.
        """
        self._changed = True
        if self._matching:
            return
        self._matching = True
        try:
            while self._changed and self._waiting:
                self._changed = False
                self._match()
        except Exception:  # a bug here must be logged, and must not reach the worker that woke us
            logger.exception("matching_failed", model=self._pool.config.model)
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
                async with asyncio.timeout_at(loop_deadline):
                    return await self._attempt(job)
            finally:
                self.in_flight -= 1
                if self.in_flight == 0:
                    self._idle.set()
        except TimeoutError:
            error = ServiceError(
                ErrorCode.deadline_exceeded,
                f"the request was not finished within {round(allowed, 1):g} s; send a "
                "shorter text or recording, or try again when the service is less busy",
            )
            raise error from None
        except BaseException as raised:
            error = raised
            raise
        finally:
            job.output.finish(error)
            # The traceback refers to this frame, which refers to the error and the recording. This
            # cycle would keep the recording in memory until the garbage collector runs.
            error = None

    def _match(self) -> None:
        """Give waiting jobs to workers."""
        while (first := self._waiting.first()) is not None:
            # A job that must run alone waits for an empty worker; no other job overtakes it.
            worker = self._pool.free_worker(empty=first.alone)
            if worker is None:
                break
            waiter = self._waiting.pop(time.monotonic(), self._pool.parallel)
            if not waiter.worker.done():
                worker.reserve(waiter.job_id, alone=waiter.alone)
                waiter.worker.set_result(worker)
        if self._waiting and self._pool.state is ModelState.FAILED:
            for waiter in self._waiting.items():
                self._waiting.remove(waiter)
                if not waiter.worker.done():
                    waiter.worker.set_exception(self._unavailable())

    def _admit(self, job: Job[Any], allowed: float) -> None:
        if self._draining:
            raise ServiceError(
                ErrorCode.shutting_down,
                "the service is shutting down; try again",
                retry_after=_STOP_RETRY_SECONDS,
            )
        if self._pool.state is ModelState.FAILED:
            raise self._unavailable()
        if self._quarantine and self._quarantine.holds(job.digest(), time.monotonic()):
            raise ServiceError(
                ErrorCode.quarantined,
                f"this request has crashed {self.config.max_attempts} workers recently; "
                "do not send it again unchanged",
            )
        job.cost = self._cost.estimate(job.work)
        refusal = admit(
            cost=job.cost,
            allowed=allowed,
            running=self._running_seconds(),
            waiting=self._waiting.waiting(job.client),
            workers=self._pool.parallel,
            limits=self.config.limits,
        )
        if refusal is not None:
            raise ServiceError(
                ErrorCode.overloaded,
                f"{refusal.reason}; send a shorter text or recording, or allow more time"
                if refusal.hopeless
                else f"the service is busy: {refusal.reason}; try again later",
                retry_after=max(1.0, refusal.retry_after),
            )

    def _running_seconds(self) -> float:
        """Estimated seconds of work left in the jobs that workers run."""
        now = time.monotonic()
        return sum(max(0.0, cost - (now - since)) for since, cost in self._running.values())

    def _unavailable(self) -> ServiceError:
        return ServiceError(
            ErrorCode.model_unavailable,
            f"the model for {self._pool.config.model} cannot be started: {self._pool.message}",
            retry_after=max(1.0, self._pool.retry_after),
        )

    async def _attempt(self, job: Job[ResultT]) -> ResultT:
        replay = False
        while True:
            enqueued = time.monotonic()
            worker = await self._acquire(job, first=replay)
            started = time.monotonic()
            job.queued_s += started - enqueued
            self._running[job.id] = (started, job.cost)
            try:
                result = await worker.run(
                    job.id,
                    job.operation,
                    job.output.size,
                    job.output.append,
                    self.config.cancel_grace,
                )
            except WorkerDied as death:
                self._lost_worker(job, worker, death)
                job.output.rewind()
                death.__traceback__ = None  # a reference cycle, see `run`
                replay = True
            except ServiceError:
                self._pool.succeeded()  # the worker lives; the request itself is at fault
                raise
            else:
                self._pool.succeeded()
                if not replay:
                    sound = result.duration if isinstance(result, Transcript) else None
                    self._cost.measured(job.work, time.monotonic() - started, sound)
                return result
            finally:
                job.running_s += time.monotonic() - started
                del self._running[job.id]

    def _lost_worker(self, job: Job[Any], worker: WorkerHandle, death: WorkerDied) -> None:
        """Decide whether the job may have another worker. Raises `ServiceError` when not."""
        job.attempts += death.blame
        logger.warning(
            "request_lost_worker",
            request=job.id,
            child=worker.name,
            reason=str(death),
            attempts=job.attempts,
        )
        if death.blame and job.attempts == 1:
            self._pool.crashed(worker, str(death))
        if job.attempts >= self.config.max_attempts:
            self._quarantine.add(job.digest(), time.monotonic())
            raise ServiceError(
                ErrorCode.worker_crashed,
                f"{job.attempts} workers died on this request (the last one: {death}); "
                "do not send it again unchanged",
            ) from death
        self.replays += 1

    async def _acquire(self, job: Job[Any], *, first: bool) -> WorkerHandle:
        """A worker with a slot reserved for `job`. A replay goes `first`: it has waited before."""
        # Requests that shared a worker share the blame for its death. The last attempt of each runs
        # alone, so that only the request at fault ends in quarantine.
        alone = 0 < job.attempts == self.config.max_attempts - 1
        if not self._waiting and (free := self._pool.free_worker(empty=alone)) is not None:
            free.reserve(job.id, alone=alone)
            return free
        waiter = _Waiter(job.id, alone, asyncio.get_running_loop().create_future())
        if first:
            self._waiting.push_front(waiter, job.client, job.cost)
        else:
            self._waiting.push(waiter, job.client, job.cost, job.deadline)
        self.wake()
        try:
            return await waiter.worker
        except asyncio.CancelledError:
            self._waiting.remove(waiter)
            reserved = waiter.worker
            if reserved.done() and not reserved.cancelled() and reserved.exception() is None:
                reserved.result().release(job.id)
            raise
