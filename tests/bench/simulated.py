"""A simulated cluster: queues, routing, autoscaling and the loss of nodes, event by event.

Nothing is measured here and no process is started: `tests.bench.simulate` feeds it with measured
service times and draws what comes out. A replica serves up to `capacity` requests at once and
shares its speed among them, as a worker does that batches; the others wait in its queue. Time is
simulated, so the same seed gives the same result on every machine.
"""

from __future__ import annotations

import bisect
import heapq
import math
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, TypeVar

Routing = Literal["random", "power-of-two", "voice-affine"]
Outcome = Literal["done", "refused", "failed"]
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True)
class Engine:
    """How fast one replica is. `speed[n - 1]` is its sound per second with n requests at once."""

    name: str
    speed: tuple[float, ...]
    first: tuple[float, ...]
    """Seconds from the start of a request to its first sound (or its transcript: infinity means
    that there is nothing before the end), with n at once."""
    work_mean: float
    """Seconds of sound in a request, on average."""
    work_cv: float = 0.5
    """Its standard deviation as a share of the mean; 1 means exponential, 0 all the same."""
    cold_start: float = 10.0
    """Seconds from the decision to start a replica on a running node until it serves."""

    @property
    def capacity(self) -> int:
        """How many requests a replica serves at once."""
        return len(self.speed)

    @property
    def best_speed(self) -> float:
        """Seconds of sound in a second, at the most."""
        return max(self.speed)

    @property
    def requests_per_second(self) -> float:
        """What one replica serves when it always has enough to do."""
        return self.speed[-1] / self.work_mean


@dataclass(frozen=True, slots=True)
class Scaling:
    """Autoscaling by seconds of backlog, with the delays of a real cluster."""

    target: float = 1.0
    """Seconds of work that a replica shall have, in its queue and in progress."""
    smallest: int = 1
    largest: int = 100
    interval: float = 10.0
    """Seconds between two reports of the metric, and between two decisions."""
    look_back: float = 30.0
    """Seconds over which the metric is averaged."""
    up_delay: float = 20.0
    """Replicas are added up to the smallest number that was wanted in so many seconds."""
    down_delay: float = 300.0
    """Replicas are removed down to the largest number that was wanted in so many seconds."""
    tolerance: float = 0.1
    """A difference of at most this share of the replicas changes nothing."""
    growth: float = 2.0
    """How many times as many replicas one decision may ask for."""
    wait_for_starting: bool = True
    """Replicas that are starting count as if they served, and no more are added meanwhile."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Nodes that vanish at once: some at random, or all of a zone."""

    at: float
    nodes: int = 0
    zone: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: what comes in, what serves it, and what happens to it."""

    engine: Engine
    rate: Callable[[float], float]
    """Requests per second at each moment."""
    peak_rate: float
    """The highest value of `rate`."""
    seconds: float
    replicas: int
    seed: int = 1
    routing: Routing = "power-of-two"
    queue_seconds: float = 120.0
    """Longest estimated wait; then requests are refused (VOICE_ENGINE_QUEUE_SECONDS)."""
    queue_size: int = 64
    """Most requests in a queue (VOICE_ENGINE_QUEUE_SIZE)."""
    scaling: Scaling | None = None
    nodes: int | None = None
    """Nodes that run at the start, each with room for one replica; by default one per replica."""
    node_start: float = 90.0
    """Seconds until a new node runs."""
    zones: int = 3
    loss: Loss | None = None
    detection: float = 15.0
    """Seconds until the others know that a node is gone; meanwhile requests still go to it."""
    max_attempts: int = 3
    replace_lost: bool = True
    """Start a replica elsewhere for each one that was lost."""
    voices: int = 0
    """Number of voices, asked for by Zipf's law; 0 means that they do not matter."""
    voice_cache: int = 14
    """Encoded voices that a replica keeps."""
    voice_miss: float = 0.0
    """Seconds of sound that could have been made while a voice is encoded that is not kept."""
    spill: float = 1.0
    """Voice-affine: seconds of backlog from which a request goes elsewhere."""
    tick: float = 1.0
    """Seconds between samples of the state."""


@dataclass(slots=True)
class Request:
    """One request, from its arrival to its one end."""

    number: int
    arrived: float
    work: float
    voice: int = -1
    attempts: int = 0
    extra: float = 0.0
    first_sound: float = math.inf
    ended: float = math.inf
    outcome: Outcome | None = None
    started: float = math.inf
    """When it left the queue for the first time."""
    silent_since: float = math.inf
    gap: float = 0.0
    """How long a stream that had begun was silent, because its replica was lost."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The state at one moment."""

    at: float
    rate: float
    serving: int
    starting: int
    backlog: float
    """Seconds of work per serving replica."""
    waiting: int
    running: int


@dataclass(slots=True)
class Replica:
    """One replica: what it serves, what waits for it, and the voices that it knows."""

    name: int
    node: int
    zone: int
    alive: bool = True
    draining: bool = False
    queue: deque[Request] = field(default_factory=deque)
    queued_work: float = 0.0
    running: list[tuple[float, int, Request]] = field(default_factory=list)
    running_work: float = 0.0
    """Sum of the marks at which the running requests end."""
    mark: float = 0.0
    """Sound that each request which always ran would have by now."""
    updated: float = 0.0
    version: int = 0
    known: OrderedDict[int, None] = field(default_factory=OrderedDict)


@dataclass(slots=True)
class Result:
    """What a run has shown."""

    plan: Plan
    requests: list[Request] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    replays: int = 0
    voice_hits: int = 0
    voice_misses: int = 0
    decisions: list[tuple[float, int]] = field(default_factory=list)
    """When another number of replicas was asked for, and which."""

    def ended(self, outcome: Outcome) -> list[Request]:
        """The requests with this end."""
        return [each for each in self.requests if each.outcome == outcome]

    def first_sounds(self, since: float = 0.0, until: float = math.inf) -> list[float]:
        """Seconds to the first sound of all served that arrived in this time, sorted."""
        return sorted(
            min(each.first_sound, each.ended) - each.arrived
            for each in self.requests
            if each.outcome == "done" and since <= each.arrived < until
        )

    def refused_share(self, since: float = 0.0, until: float = math.inf) -> float:
        """The share of requests that were refused."""
        asked = [each for each in self.requests if since <= each.arrived < until]
        return sum(each.outcome == "refused" for each in asked) / max(1, len(asked))

    def turns(self) -> int:
        """How often autoscaling changed its direction."""
        numbers = [number for _, number in self.decisions]
        signs = [b > a for a, b in pairwise(numbers) if a != b]
        return sum(a != b for a, b in pairwise(signs))


def percentile(ordered: list[float], share: float) -> float:
    """The value below which `share` of a sorted list lies."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else math.nan


def desired(scaling: Scaling, backlog: float, serving: int, starting: int) -> int:
    """The number of replicas that this many seconds of work in all ask for."""
    wanted = math.ceil(backlog / scaling.target)
    have = serving + starting
    if wanted > have and scaling.wait_for_starting and starting:
        wanted = have
    wanted = min(wanted, math.ceil(scaling.growth * max(1, have)))
    return max(scaling.smallest, min(scaling.largest, wanted))


def settled(scaling: Scaling, wanted: list[tuple[float, int]], have: int) -> int:
    """The number to have now, by what was wanted when: (seconds ago, replicas)."""
    up = min(number for ago, number in wanted if ago <= scaling.up_delay)
    down = max(number for ago, number in wanted if ago <= scaling.down_delay)
    slack = scaling.tolerance * have
    if up > have + slack:
        return up
    return down if down < have - slack else have


class Cluster:
    """Runs one plan. `run` may be called once."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._engine = plan.engine
        self._random = random.Random(plan.seed)
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._replicas: dict[int, Replica] = {}
        """What a front may choose: also the lost, until it is known that they are."""
        self._choice: list[Replica] = []
        self._ring: list[tuple[float, int]] = []
        self._names = 0
        self._free_nodes: list[tuple[int, int]] = []
        self._nodes = 0
        self._starting = 0
        self._result = Result(plan)
        self._weights = _zipf(plan.voices)
        self._history: deque[tuple[float, float]] = deque()
        self._wanted: deque[tuple[float, int]] = deque()

    def run(self) -> Result:
        """Run to the end: until no request is left."""
        plan = self._plan
        for _ in range(max(plan.replicas, plan.nodes or 0)):
            self._free_nodes.append(self._new_node())
        for _ in range(plan.replicas):
            self._serve(self._free_nodes.pop(0))
        self._at(self._next_arrival(0.0), self._arrive)
        self._at(0.0, self._sample)
        if plan.scaling:
            self._at(plan.scaling.interval, self._decide)
        if plan.loss:
            self._at(plan.loss.at, self._lose)
        while self._events:
            self._now, _, happen = heapq.heappop(self._events)
            happen()
        return self._result

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (when, self._order, happen))

    # What comes in

    def _next_arrival(self, now: float) -> float:
        """Of a Poisson process whose rate changes."""
        plan = self._plan
        while True:
            now += self._random.expovariate(plan.peak_rate)
            if now >= plan.seconds or self._random.random() * plan.peak_rate < plan.rate(now):
                return now

    def _arrive(self) -> None:
        if self._now >= self._plan.seconds:
            return
        self._at(self._next_arrival(self._now), self._arrive)
        request = Request(len(self._result.requests), self._now, self._draw_work())
        if self._weights:
            point = self._random.random() * self._weights[-1]
            request.voice = bisect.bisect_left(self._weights, point)
        self._result.requests.append(request)
        self._route(request)

    def _draw_work(self) -> float:
        mean, cv = self._engine.work_mean, self._engine.work_cv
        if cv == 0:
            return mean
        if cv == 1:
            return self._random.expovariate(1 / mean)
        variance = math.log(1 + cv * cv)
        return self._random.lognormvariate(math.log(mean) - variance / 2, math.sqrt(variance))

    # Where it goes

    def _route(self, request: Request) -> None:
        if not self._choice:
            self._at(self._now + 1.0, lambda: self._route(request))
            return
        replica = self._pick(request)
        request.attempts += 1
        if not replica.alive:
            replica.queue.append(request)  # nobody knows; it is replayed when somebody does
            return
        self._advance(replica)
        waits = replica.queued_work / self._engine.best_speed
        if len(replica.running) >= self._engine.capacity and (
            len(replica.queue) >= self._plan.queue_size or waits >= self._plan.queue_seconds
        ):
            self._end(request, "refused")
            return
        replica.queue.append(request)
        replica.queued_work += request.work
        self._fill(replica)

    def _pick(self, request: Request) -> Replica:
        choice = self._choice
        if self._plan.routing == "voice-affine" and request.voice >= 0:
            own = self._replica_of(request.voice)
            if self._backlog(own) < self._plan.spill:
                return own
        a = choice[int(self._random.random() * len(choice))]
        if self._plan.routing == "random":
            return a
        b = choice[int(self._random.random() * len(choice))]
        return a if self._backlog(a) <= self._backlog(b) else b

    def _replica_of(self, voice: int) -> Replica:
        """The replica whose point on the ring is the next after the voice's."""
        if not self._ring:
            self._ring = sorted(
                (_hashed(each.name, turn), each.name) for each in self._choice for turn in range(16)
            )
        index = bisect.bisect_left(self._ring, (_hashed(-1 - voice, 0), 0)) % len(self._ring)
        return self._replicas[self._ring[index][1]]

    def _backlog(self, replica: Replica) -> float:
        """Seconds of work that a replica has, as it was heard last from one that is lost."""
        mark = replica.mark
        if replica.alive:
            mark += self._speed_each(replica) * (self._now - replica.updated)
        left = replica.running_work - len(replica.running) * mark
        return (replica.queued_work + max(0.0, left)) / self._engine.best_speed

    # How a replica works

    def _speed_each(self, replica: Replica) -> float:
        at_once = len(replica.running)
        return self._engine.speed[at_once - 1] / at_once if at_once else 0.0

    def _advance(self, replica: Replica) -> None:
        replica.mark += self._speed_each(replica) * (self._now - replica.updated)
        replica.updated = self._now

    def _fill(self, replica: Replica) -> None:
        """Start what there is room for, and say when the next one ends. After `_advance`."""
        while replica.queue and len(replica.running) < self._engine.capacity:
            request = replica.queue.popleft()
            replica.queued_work -= request.work
            work = request.work + self._voice_work(replica, request)
            end = replica.mark + work
            heapq.heappush(replica.running, (end, request.number, request))
            replica.running_work += end
            request.started = min(request.started, self._now)
            first = self._now + self._engine.first[len(replica.running) - 1] + request.extra
            if request.first_sound == math.inf:
                request.first_sound = first
            else:
                request.gap += first - request.silent_since
        self._expect(replica)

    def _voice_work(self, replica: Replica, request: Request) -> float:
        request.extra = 0.0
        if request.voice < 0:
            return 0.0
        if request.voice in replica.known:
            replica.known.move_to_end(request.voice)
            self._result.voice_hits += 1
            return 0.0
        self._result.voice_misses += 1
        replica.known[request.voice] = None
        if len(replica.known) > self._plan.voice_cache:
            replica.known.popitem(last=False)
        request.extra = self._plan.voice_miss / self._engine.speed[0]
        return self._plan.voice_miss

    def _expect(self, replica: Replica) -> None:
        replica.version += 1
        if replica.running:
            left = replica.running[0][0] - replica.mark
            version = replica.version
            self._at(
                self._now + max(0.0, left) / self._speed_each(replica),
                lambda: self._finish(replica, version),
            )

    def _finish(self, replica: Replica, version: int) -> None:
        if not replica.alive or version != replica.version:
            return
        self._advance(replica)
        end, _, request = heapq.heappop(replica.running)
        replica.running_work -= end
        if not replica.running:  # no rounding errors are carried on
            replica.mark = replica.running_work = 0.0
        self._end(request, "done")
        self._fill(replica)
        if replica.draining and not replica.running:
            replica.alive = False
            self._free_nodes.append((replica.node, replica.zone))

    def _end(self, request: Request, outcome: Outcome) -> None:
        if request.outcome is not None:
            raise RuntimeError(f"request {request.number} ended twice")
        request.outcome = outcome
        request.ended = self._now

    # Nodes and replicas

    def _new_node(self) -> tuple[int, int]:
        self._nodes += 1
        return self._nodes, self._nodes % self._plan.zones

    def _serve(self, node: tuple[int, int]) -> None:
        self._names += 1
        replica = Replica(self._names, *node, updated=self._now)
        self._replicas[replica.name] = replica
        self._choose_anew()

    def _choose_anew(self) -> None:
        self._choice = [each for each in self._replicas.values() if not each.draining]
        self._ring = []

    def _start(self) -> None:
        """Start a replica: at once on a free node, else once a new one runs."""
        self._starting += 1
        wait = 0.0 if self._free_nodes else self._plan.node_start
        node = self._free_nodes.pop(0) if self._free_nodes else self._new_node()

        def ready() -> None:
            self._starting -= 1
            self._serve(node)

        self._at(self._now + wait + self._engine.cold_start, ready)

    def _drain(self) -> None:
        """Drain the replica with the least to do."""
        replica = min(self._choice, key=self._backlog)
        replica.draining = True
        del self._replicas[replica.name]
        self._choose_anew()
        if replica.alive and not replica.running:
            replica.alive = False
            self._free_nodes.append((replica.node, replica.zone))

    def _decide(self) -> None:
        scaling = self._plan.scaling
        if scaling is None or self._now > self._plan.seconds:
            return
        self._at(self._now + scaling.interval, self._decide)
        backlog = sum(map(self._backlog, self._choice))
        _remember(self._history, self._now, backlog, scaling.look_back)
        backlog = sum(value for _, value in self._history) / len(self._history)
        wanted = desired(scaling, backlog, len(self._choice), self._starting)
        _remember(self._wanted, self._now, wanted, max(scaling.up_delay, scaling.down_delay))
        have = len(self._choice) + self._starting
        number = settled(scaling, [(self._now - at, n) for at, n in self._wanted], have)
        if number != have:
            self._result.decisions.append((self._now, number))
        for _ in range(number - have):
            self._start()
        for _ in range(min(have - number, len(self._choice) - 1)):
            self._drain()

    # Losses

    def _lose(self) -> None:
        loss = self._plan.loss
        assert loss is not None
        here = list(self._replicas.values())
        if loss.zone is not None:
            lost = [each for each in here if each.zone == loss.zone]
        else:
            lost = self._random.sample(here, min(loss.nodes, len(here)))
        self._free_nodes = [node for node in self._free_nodes if node[1] != loss.zone]
        for replica in lost:
            self._advance(replica)
            replica.alive = False
            for _, _, request in replica.running:
                if request.first_sound > self._now:
                    request.first_sound = math.inf
                else:
                    request.silent_since = self._now
        self._at(self._now + self._plan.detection, lambda: self._replay(lost))

    def _replay(self, lost: list[Replica]) -> None:
        """Now it is known: what the lost ones had is asked of others."""
        for replica in lost:
            self._replicas.pop(replica.name, None)
        self._choose_anew()
        if self._plan.replace_lost:
            for _replica in lost:
                self._start()
        for replica in lost:
            held = [request for _, _, request in replica.running] + list(replica.queue)
            for request in held:
                if request.attempts >= self._plan.max_attempts:
                    self._end(request, "failed")
                    continue
                self._result.replays += 1
                self._route(request)

    def _sample(self) -> None:
        if self._now > self._plan.seconds:
            return
        self._at(self._now + self._plan.tick, self._sample)
        serving = [each for each in self._choice if each.alive]
        self._result.samples.append(
            Sample(
                at=self._now,
                rate=self._plan.rate(self._now),
                serving=len(serving),
                starting=self._starting,
                backlog=sum(map(self._backlog, serving)) / max(1, len(serving)),
                waiting=sum(len(each.queue) for each in self._choice),
                running=sum(len(each.running) for each in serving),
            )
        )


def _remember(
    values: deque[tuple[float, _Number]], now: float, value: _Number, seconds: float
) -> None:
    """Append a value, and forget those that are older than so many seconds."""
    values.append((now, value))
    while values[0][0] < now - seconds:
        values.popleft()


def _zipf(voices: int) -> list[float]:
    """Sums of 1, 1/2, 1/3, ...: a point below the last of them is a voice by Zipf's law."""
    return list(_sums(voices))


def _sums(voices: int) -> Iterator[float]:
    total = 0.0
    for rank in range(1, voices + 1):
        total += 1 / rank
        yield total


def _hashed(number: int, turn: int) -> float:
    """A point from 0 to 1, the same in every process."""
    return random.Random(number * 1009 + turn).random()
