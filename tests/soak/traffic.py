"""The clients: they send requests one after the other, and look at every answer."""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from tqdm import tqdm

from ipc.engines import Json
from tests.soak.catalog import Catalog, Clone, Transcribe, WrongAnswer

_WEIGHTS = {"clone": 35, "stream": 25, "transcribe": 30, "health": 10}
MODEL_OF = {"clone": "tts", "stream": "tts", "transcribe": "stt"}
_TIMEOUT = aiohttp.ClientTimeout(total=330, sock_connect=30)
"""A net beyond the service's own deadline."""

_HEALTH = {
    "status": str,
    "version": str,
    "uptime_s": float,
    "asr_loaded": bool,
    "tts_loaded": bool,
    "voices_loaded": int,
    "memory": dict,
    "cores": dict,
    "sessions": dict,
    "models": dict,
    "children": list,
}
_MODEL = {
    *("state", "engine", "profile", "message", "retry_in_s", "notes", "in_flight", "queued"),
    *("backlog_s", "speed", "threads", "replays", "recycles", "kind", "sandbox"),
    *("workers", "free_slots", "paused", "real_time_factor", "hint"),
}
_CHILD = {
    *("name", "role", "state", "model", "engine", "pid", "uptime_s", "rss_mb", "uss_mb"),
    *("pss_mb", "baseline_mb", "soft_limit_mb", "hard_limit_mb", "requests", "restarts"),
    *(
        "last_exit",
        "node",
        "kind",
        "lifecycle",
        "in_flight",
        "live_in_flight",
        "capacity",
        "live",
        "sandbox",
    ),
}


class Failed(Exception):  # noqa: N818 - named for what happened
    """The service did not answer, or with an error."""


class Refused(Exception):  # noqa: N818 - named for what happened
    """503 with a Retry-After, for a reason that a client must live with."""

    def __init__(self, code: str, retry_after: float) -> None:
        super().__init__(code)
        self.code = code
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Record:
    """One answered request; seconds since the start of the soak, and until the whole answer."""

    kind: str
    started: float
    seconds: float
    chaos: bool


@dataclass(slots=True)
class Flight:
    """A request on its way; `blows` is how many deaths it may have seen at most."""

    model: str
    blows: int


@dataclass(slots=True)
class Traffic:
    """All clients, and what became of their requests."""

    url: str
    catalog: Catalog
    seed: int
    started: float = field(default_factory=time.monotonic)
    chaos: bool = False
    records: list[Record] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    """Right answers of each model so far."""
    failures: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    not_serving: int = 0
    """Health answers that said that no model serves just now."""
    flights: dict[int, Flight] = field(default_factory=dict)
    ordered: Counter[str] = field(default_factory=Counter)
    """Orders that lie there for each model: whoever comes next may have to obey."""
    disk_full: bool = False
    _disk_was_full: float = -1e9
    _ids: Any = field(default_factory=lambda: itertools.count(1))

    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def blow(self, model: str, count: int = 1) -> None:
        """Every request on its way to that model may lose its worker."""
        for flight in self.flights.values():
            if flight.model == model:
                flight.blows += count

    def blows(self, model: str) -> int:
        """How many workers one request may have lost by now, at most."""
        return max((f.blows for f in self.flights.values() if f.model == model), default=0)

    def fill_disk(self, full: bool) -> None:
        """The spool's disk is full from now on, or is not."""
        self.disk_full = full
        self._disk_was_full = self.now()

    def failed(self, what: str) -> None:
        """Note a failure, and say so at once."""
        self.failures.append(f"{self.now():.1f} s: {what}")
        tqdm.write(f"soak: failed: {self.failures[-1]}", file=sys.stderr)

    def was_wrong(self, what: str) -> None:
        """Note a wrong answer, and say so at once."""
        self.wrong.append(f"{self.now():.1f} s: {what}")
        tqdm.write(f"soak: wrong answer: {self.wrong[-1]}", file=sys.stderr)

    async def client(self, number: int, wanted: Callable[[], bool]) -> None:
        """One client: sends as long as `wanted()`, each request when the last one is answered."""
        rng = random.Random(f"{self.seed}-{number}-{self.chaos}")
        async with aiohttp.ClientSession(self.url, timeout=_TIMEOUT) as session:
            while wanted():
                (kind,) = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
                if kind == "health":
                    await self.measured(session, kind, None)
                    # Health is cheap: without a pause, a client in luck would ask nothing else.
                    await asyncio.sleep(0.05)
                elif kind == "transcribe":
                    await self.measured(session, kind, rng.choice(self.catalog.transcribes))
                else:
                    await self.measured(session, kind, rng.choice(self.catalog.clones))

    async def measured(
        self, session: aiohttp.ClientSession, kind: str, item: Clone | Transcribe | None
    ) -> None:
        """One request, sent again after each refusal; its time is that of the last sending."""
        name = f"{kind} {item.name}" if item else kind
        while True:
            started = self.now()
            number = next(self._ids)
            if kind in MODEL_OF:
                model = MODEL_OF[kind]
                self.flights[number] = Flight(model, self.ordered[model])
            try:
                await self._send(session, kind, item)
            except Refused as refusal:
                if self.disk_full or self._disk_was_full > started:
                    self.refusals[refusal.code] += 1
                    await asyncio.sleep(refusal.retry_after)
                    continue
                self.failed(f"{name}: {refusal.code} without a cause")
            except WrongAnswer as error:
                self.was_wrong(f"{name}, sent at {started:.1f} s: {error}")
            except (Failed, aiohttp.ClientError, OSError, TimeoutError) as error:
                self.failed(f"{name}, sent at {started:.1f} s: {type(error).__name__}: {error}")
                await asyncio.sleep(1)  # a front that is gone would make failures by the thousand
            else:
                self.records.append(Record(kind, started, self.now() - started, self.chaos))
                self.answered[MODEL_OF.get(kind, kind)] += 1
            finally:
                self.flights.pop(number, None)
            return

    async def _send(
        self, session: aiohttp.ClientSession, kind: str, item: Clone | Transcribe | None
    ) -> None:
        if isinstance(item, Clone):
            form = item.form(stream=kind == "stream")
            async with session.post("/v1/clone", data=form) as response:
                body = await response.read()
                await _raise_for(response)
                if kind == "stream":
                    item.check_stream(body)
                else:
                    item.check_whole(response.headers, body)
        elif isinstance(item, Transcribe):
            async with session.post("/v1/transcribe", data=item.form()) as response:
                await response.read()
                await _raise_for(response)
                item.check(await response.json())
        else:
            await self.health(session)

    async def health(self, session: aiohttp.ClientSession) -> Json:
        """What /health says. Raises `WrongAnswer` when that has not the shape that it must have."""
        async with session.get("/health") as response:
            body: Json = await response.json()
        serving = body["asr_loaded"] or body["tts_loaded"]
        if response.status != (200 if serving else 503):
            raise WrongAnswer(f"status {response.status} with {body}")
        self.not_serving += not serving
        for name, kind in _HEALTH.items():
            if not isinstance(body.get(name), kind):
                raise WrongAnswer(f"{name} is {body.get(name)!r}")
        for what, keys, entries in (
            ("models", _MODEL, body["models"].values()),
            ("children", _CHILD, body["children"]),
        ):
            if any(set(entry) != keys for entry in entries):
                raise WrongAnswer(f"{what} are {body[what]}")
        return body

    async def look(self, session: aiohttp.ClientSession) -> Json:
        """What /health says, for those who only want to know; trouble with it is noted."""
        try:
            return await self.health(session)
        except WrongAnswer as error:
            self.was_wrong(f"health: {error}")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.failed(f"health: {type(error).__name__}: {error}")
        return {"models": {}, "children": []}

    async def learn(self, session: aiohttp.ClientSession) -> None:
        """Keep the undisturbed answers, and see that each comes twice."""
        await asyncio.gather(self._learn_clones(session), self._learn_transcribes(session))

    async def _learn_clones(self, session: aiohttp.ClientSession) -> None:
        for clone in self.catalog.clones:
            async with session.post("/v1/clone", data=clone.form(stream=False)) as response:
                body = await response.read()
                await _raise_for(response)
            clone.keep(body)
            await self._send(session, "stream", clone)

    async def _learn_transcribes(self, session: aiohttp.ClientSession) -> None:
        for item in self.catalog.transcribes:
            async with session.post("/v1/transcribe", data=item.form()) as response:
                await response.read()
                await _raise_for(response)
                item.expected = await response.json()
            await self._send(session, "transcribe", item)


async def _raise_for(response: aiohttp.ClientResponse) -> None:
    if response.status == 200:
        return
    text = await response.text()
    if response.status == 503 and "spool_full" in text and "Retry-After" in response.headers:
        raise Refused("spool_full", float(response.headers["Retry-After"]))
    raise Failed(f"status {response.status}: {text[:500]}")
