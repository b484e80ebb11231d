"""From a request to a worker: admission, queue, deadline, replay. In the front, one per model."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ipc.errors import ErrorCode, ServiceError
from ipc.messages import Json, Request
from supervisor.dispatch.admission import Limits, admit
from supervisor.dispatch.cost import Speed
from supervisor.dispatch.fair_queue import FairQueue
from supervisor.dispatch.quarantine import Quarantine
from supervisor.dispatch.response_buffer import Answer
from supervisor.log import logger
from supervisor.workers.handle import Worker, WorkerDied
from supervisor.workers.pool import Pool, PoolState

_ids = itertools.count(1)
_STOP_RETRY_SECONDS = 5.0


@dataclass(slots=True)
class Job:
    """One client's request for one model.

    `deadline` is on the clock of `time.monotonic`. `kind` and `size` say how much work it is, in
    units of its kind, and `longest`, of a recording, how many seconds it may last; `digest` is of
    all that a worker would be sent, but for the seed.
    """

    operation: str
    params: Json
    answer: Answer
    deadline: float
    client: str
    kind: str
    size: float
    digest: bytes
    longest: float | None = None
    audio: bytes | None = None
    audio_path: str | None = None
    id: int = field(default_factory=lambda: next(_ids))
    cost: float = 0.0
    queued_s: float = 0.0
    running_s: float = 0.0
    attempts: int = 0

    def request(self) -> Request:
        """What a worker is sent: bytes of an earlier attempt that a client has are left out."""
        return Request(
            id=self.id,
            operation=self.operation,
            params=self.params,
            audio=self.audio,
            audio_path=self.audio_path,
            skip=self.answer.size,
        )


@dataclass(frozen=True, slots=True)
class DispatchConfig:
    """Limits of one model's queue, and how failing requests are treated; times in seconds."""

    limits: Limits
    max_attempts: int
    cancel_grace: float


class Dispatcher:
    """Gives the jobs of one model to its workers."""

    def __init__(
        self, config: DispatchConfig, speed: Speed, quarantine: Quarantine, pool: Callable[[], Pool]
    ) -> None:
        self.config = config
        self._speed = speed
        self._quarantine = quarantine
        self._pool = pool
        self._waiting: FairQueue[asyncio.Future[Worker]] = FairQueue()
        self._running: dict[int, tuple[float, float]] = {}
        """When each running job was given to its worker, and its cost."""
        self.in_flight = 0
        self.replays = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def pool(self) -> Pool:
        """The workers."""
        return self._pool()

    @property
    def queued(self) -> int:
        """Jobs that wait for a worker."""
        return len(self._waiting)

    @property
    def backlog(self) -> float:
        """Seconds of work that wait or are under way, as estimated."""
        return self._running_seconds() + sum(cost for cost, _ in self._waiting.waiting(""))

    async def idle(self) -> None:
        """Wait until no job is in flight."""
        await self._idle.wait()

    def drain(self) -> None:
        """Refuse new jobs; those admitted go on."""
        self._draining = True

    async def run(self, job: Job) -> Json:
        """Have a worker answer `job`; its bytes go to `job.answer`, its description is returned.

        Raises `ServiceError` when it cannot be admitted, fails, or passes its deadline. Cancel the
        call when the client has gone.
        """
        error: BaseException | None = None
        allowed = job.deadline - time.monotonic()
        try:
            self._admit(job)
            self.in_flight += 1
            self._idle.clear()
            try:
                async with asyncio.timeout_at(self._loop_time(job.deadline)):
                    return await self._attempt(job)
            finally:
                self.in_flight -= 1
                if self.in_flight == 0:
                    self._idle.set()
        except TimeoutError:
            error = ServiceError(
                ErrorCode.deadline_exceeded,
                f"the request was not answered within {round(allowed, 1):g} s; send a "
                "shorter text or recording, or try again when the service is less busy",
            )
            raise error from None
        except BaseException as raised:
            error = raised
            raise
        finally:
            job.answer.finish(error)
            # Its traceback refers to this frame, and so to itself and to the recording, which would
            # stay until a collection of cycles.
            error = None

    def match(self) -> None:
        """Give waiting jobs to idle workers; called whenever either may have appeared."""
        pool = self.pool
        while self._waiting and (worker := pool.idle_worker()) is not None:
            waiter = self._waiting.pop(time.monotonic(), pool.config.size)
            if not waiter.done():
                worker.assign()
                waiter.set_result(worker)
        if self._waiting and pool.state is PoolState.FAILED:
            for waiter in self._waiting.items():
                self._waiting.remove(waiter)
                if not waiter.done():
                    waiter.set_exception(self._unavailable())

    def _admit(self, job: Job) -> None:
        if self._draining:
            raise ServiceError(
                ErrorCode.shutting_down,
                "the service is shutting down; try again",
                retry_after=_STOP_RETRY_SECONDS,
            )
        if self.pool.state is PoolState.FAILED:
            raise self._unavailable()
        if self._quarantine.holds(job.digest, time.monotonic()):
            raise ServiceError(
                ErrorCode.quarantined,
                f"this request has cost {self.config.max_attempts} workers their lives a short "
                "while ago; do not send it again unchanged",
            )
        job.cost = self._speed.estimate(job.kind, job.size, job.longest)
        refusal = admit(
            cost=job.cost,
            allowed=job.deadline - time.monotonic(),
            running=self._running_seconds(),
            waiting=self._waiting.waiting(job.client),
            workers=self.pool.config.size,
            limits=self.config.limits,
        )
        if refusal is not None:
            raise ServiceError(
                ErrorCode.overloaded,
                f"{refusal.reason}; send less at once, or allow more time"
                if refusal.hopeless
                else f"the service is busy: {refusal.reason}; try again later",
                retry_after=max(1.0, refusal.retry_after),
            )

    def _running_seconds(self) -> float:
        """What the workers still have to do on the jobs that they have."""
        now = time.monotonic()
        return sum(max(0.0, cost - (now - since)) for since, cost in self._running.values())

    def _unavailable(self) -> ServiceError:
        return ServiceError(
            ErrorCode.model_unavailable,
            f"the model for {self.pool.config.model} cannot be started: {self.pool.message}",
            retry_after=max(1.0, self.pool.retry_after),
        )

    async def _attempt(self, job: Job) -> Json:
        replay = False
        while True:
            enqueued = time.monotonic()
            worker = await self._acquire(job, first=replay)
            started = time.monotonic()
            job.queued_s += started - enqueued
            self._running[job.id] = (started, job.cost)
            try:
                grace = self.config.cancel_grace
                done = await worker.run(job.request(), job.answer.append, grace)
            except WorkerDied as death:
                self._lost_worker(job, worker, death)
                job.answer.rewind()
                death.__traceback__ = None  # refers to frames that refer to it, see `run`
                replay = True
            except ServiceError:
                self.pool.succeeded()  # the worker lives and has judged the request
                raise
            else:
                self.pool.succeeded()
                if not replay:
                    # Of a recording the worker knows how long it was.
                    sound = None if job.longest is None else done.result["duration"]
                    self._speed.measured(job.kind, job.size, time.monotonic() - started, sound)
                return done.result
            finally:
                job.running_s += time.monotonic() - started
                del self._running[job.id]

    def _lost_worker(self, job: Job, worker: Worker, death: WorkerDied) -> None:
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
            self.pool.crashed(worker, str(death))
        if job.attempts >= self.config.max_attempts:
            self._quarantine.add(job.digest, time.monotonic())
            raise ServiceError(
                ErrorCode.worker_crashed,
                f"{job.attempts} workers died on this request (the last one: {death}); "
                "do not send it again unchanged",
            ) from death
        self.replays += 1

    async def _acquire(self, job: Job, *, first: bool) -> Worker:
        """Wait for a worker; a replay goes `first`, it has waited before."""
        waiter: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        if first:
            self._waiting.push_front(waiter, job.client, job.cost)
        else:
            self._waiting.push(waiter, job.client, job.cost, job.deadline)
        self.match()
        try:
            return await waiter
        except asyncio.CancelledError:
            self._waiting.remove(waiter)
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                waiter.result().release()
            raise

    @staticmethod
    def _loop_time(deadline: float) -> float:
        """`deadline` on the loop's clock, which need not be `time.monotonic`."""
        return asyncio.get_running_loop().time() + (deadline - time.monotonic())
