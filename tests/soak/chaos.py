"""What is done to the service while clients use it.

One task for each model does one lethal thing at a time; others fill the disk and drop connections,
and one kills children at random, many within seconds. A request may cost two workers and no third
one, for then the service refuses it, as it should. So the chaos counts for each request under way
how many of its deeds may have hit it, and waits where a third one could. Kills do not count: no
request is blamed for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil

from tests.soak.engines import order_file, taken_files
from tests.soak.settings import LETHAL, Preset, Storm
from tests.soak.traffic import Traffic
from tests.support.service import RunningService

_NET = 240.0
"""Seconds after which something that must happen counts as a failure."""
_MAX_BLOWS = 2


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that was done, at `at` seconds since the start."""

    at: float
    kind: str
    what: str


@dataclass(slots=True)
class Chaos:
    """Does its worst until `over()`."""

    service: RunningService
    traffic: Traffic
    preset: Preset
    kinds: frozenset[str]
    storm: Storm
    orders: Path
    spool: Path
    over: Callable[[], bool]
    storming: bool = False
    deeds: list[Deed] = field(default_factory=list)
    disk_full: list[tuple[float, float]] = field(default_factory=list)
    """When the disk was full, from and to."""

    async def run(self, seed: int) -> None:
        """All kinds that are wanted, at the same time."""
        tasks = []
        self.storming = "storm" in self.kinds
        lethal = [kind for kind in LETHAL if kind in self.kinds]
        if lethal:
            for model in ("tts", "stt"):
                rng = random.Random(f"{seed}-{model}")
                tasks.append(self._hurt(model, lethal, rng))
        if self.storming:
            tasks.append(self._storms(random.Random(f"{seed}-storm")))
        if "disk" in self.kinds:
            tasks.append(self._fill_disk(random.Random(f"{seed}-disk")))
        if "drop" in self.kinds:
            tasks.append(self._drop(random.Random(f"{seed}-drop")))
        await asyncio.gather(*tasks)

    @property
    def counts(self) -> Counter[str]:
        """How often each kind was done."""
        return Counter(deed.kind for deed in self.deeds)

    def _done(self, kind: str, what: str) -> None:
        self.deeds.append(Deed(self.traffic.now(), kind, what))

    async def _until(self, what: str, condition: Callable[[], bool]) -> bool:
        """Wait; False when the chaos is over before. A failure when it does not come to that."""
        end = self.traffic.now() + _NET
        while not condition():
            if self.over():
                return False
            if self.traffic.now() > end:
                self.traffic.failed(f"waited {_NET:.0f} s for {what}")
                return False
            await asyncio.sleep(0.05)
        return True

    async def _pause(self, seconds: float) -> None:
        for _ in range(int(seconds / 0.05)):
            if self.over():
                return
            await asyncio.sleep(0.05)

    # To a model's children

    async def _hurt(self, model: str, kinds: list[str], rng: random.Random) -> None:
        """Rounds of all kinds in random order, each when the model has recovered from the last."""
        traffic = self.traffic
        async with aiohttp.ClientSession(self.service.url) as session:
            while not self.over():
                for kind in rng.sample(kinds, len(kinds)):
                    if not await self._until(
                        f"requests of {model} to get through", lambda: self._may_hurt(model)
                    ):
                        break
                    before = traffic.answered[model]
                    if kind in ("kill", "stop"):
                        await self._signal(session, model, kind, rng)
                    else:
                        await self._order(model, kind, rng)
                    await self._until(
                        f"answers of {model} after {kind}",
                        lambda before=before: traffic.answered[model] > before,  # type: ignore[misc]
                    )
                    await self._pause(rng.uniform(0, 1))
        order_file(self.orders, model).unlink(missing_ok=True)

    def _may_hurt(self, model: str) -> bool:
        return self.traffic.blows(model) < _MAX_BLOWS

    async def _signal(
        self, session: aiohttp.ClientSession, model: str, kind: str, rng: random.Random
    ) -> None:
        health = await self.traffic.look(session)
        children = [child for child in health["children"] if child["model"] == model]
        workers = [
            child for child in children if child["role"] == "worker" and child["rss_mb"] is not None
        ]
        templates = [child for child in children if child["role"] == "template"]
        if kind == "kill" and templates and rng.random() < 0.25:
            chosen = templates[0]
        elif workers:
            chosen = rng.choice(workers)
        else:
            return
        if chosen["pid"] not in {process.pid for process in self.service.processes()}:
            return  # it has gone in the meantime
        name, pid = chosen["name"], chosen["pid"]
        # A stopped worker is given requests until it counts as unresponsive, and loses those, too.
        blows = int(kind == "stop")
        self.traffic.blow(model, blows)
        self.traffic.ordered[model] += blows
        verb = "kill -9" if kind == "kill" else "kill -STOP"
        self._done(kind, f"{verb} of a {model} {chosen['role']}")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
        await self._until(f"the end of {name}", lambda: not _lives(pid))
        self.traffic.ordered[model] -= blows

    async def _order(self, model: str, kind: str, rng: random.Random) -> None:
        order = f"leak {rng.choice(self.preset.leaks)}" if kind == "leak" else kind
        file = order_file(self.orders, model)
        draft = file.with_suffix(".draft")
        draft.write_text(order)
        self.traffic.blow(model)
        self.traffic.ordered[model] += 1
        draft.rename(file)
        taken = await self._until(
            f"a request to take the order {order}", lambda: bool(taken_files(self.orders, model))
        )
        self.traffic.ordered[model] -= 1
        if not taken:
            return
        (receipt,) = taken_files(self.orders, model)
        receipt.unlink()
        pid = int(receipt.suffix[1:])
        self._done(kind, f"{order} in a {model} worker")
        if kind != "leak":
            await self._until(f"the end of the worker with {order}", lambda: not _lives(pid))

    # To all children at once

    async def _storms(self, rng: random.Random) -> None:
        """Storms, with some time to breathe after each; there is at least one, and all end."""
        interval = self.storm.seconds / self.storm.kills
        while self.storming:
            start = self.traffic.now()
            for number in range(self.storm.kills):
                due = start + (number + rng.random()) * interval
                await asyncio.sleep(max(0.0, due - self.traffic.now()))
                while not await self._kill_one(rng):  # noqa: ASYNC110 - nothing to wait on
                    await asyncio.sleep(0.01)
            self.storming = False
            await self._pause(rng.uniform(15, 45))
            self.storming = not self.over()

    async def _kill_one(self, rng: random.Random) -> bool:
        """Kill a child of any kind; False when there was none."""
        children = await asyncio.to_thread(lambda: self.service.processes()[1:])
        if not children:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            rng.choice(children).kill()
            self._done("storm", "kill -9 of a child, among many")
            return True
        return False

    # Around them

    async def _fill_disk(self, rng: random.Random) -> None:
        ballast = self.spool / "ballast"
        while not self.over():
            await self._pause(rng.uniform(2, 10))
            if self.over():
                return
            self.traffic.fill_disk(True)
            since = self.traffic.now()
            self._done("disk", "the spool's disk is full")
            try:
                _fill(ballast)
                end = since + rng.uniform(2, 5)
                while self.traffic.now() < end and not self.over():
                    await asyncio.sleep(0.1)
                    _fill(ballast)  # also what the service has freed meanwhile
            finally:
                ballast.unlink(missing_ok=True)
                self.traffic.fill_disk(False)
            self.disk_full.append((since, self.traffic.now()))

    async def _drop(self, rng: random.Random) -> None:
        """A client that leaves: in the middle of its upload, or of the answer."""
        while not self.over():
            await self._pause(rng.uniform(0.5, 3))
            if self.over():
                return
            clone = max(rng.sample(self.traffic.catalog.clones, 2), key=lambda c: len(c.text))
            # It may be refused while the disk is full; what counts is that it leaves.
            with contextlib.suppress(aiohttp.ClientError, OSError, EOFError):
                if rng.random() < 0.5:
                    await self._drop_stream(clone.form(stream=True), rng)
                else:
                    await self._drop_upload(clone.reference, rng)

    async def _drop_stream(self, form: aiohttp.FormData, rng: random.Random) -> None:
        async with (
            aiohttp.ClientSession(self.service.url) as session,
            session.post("/v1/clone", data=form) as response,
        ):
            await response.content.readexactly(rng.randrange(1, 4000))
            self._done("drop", "a client left in the middle of a stream")
            response.close()

    async def _drop_upload(self, recording: bytes, rng: random.Random) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", self.service.port)
        head = (
            b'--x\r\nContent-Disposition: form-data; name="text"\r\n\r\nHello.\r\n'
            b'--x\r\nContent-Disposition: form-data; name="reference_audio"; filename="a"\r\n\r\n'
        )
        writer.write(
            b"POST /v1/clone HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n"
            + f"Content-Length: {len(head) + len(recording) + 9}\r\n\r\n".encode()
            + head
            + recording[: rng.randrange(len(recording))]
        )
        await writer.drain()
        self._done("drop", "a client left in the middle of its upload")
        if rng.random() < 0.5:
            writer.transport.abort()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _fill(ballast: Path) -> None:
    """Write until nothing more fits; the disk is a small one of its own."""
    with ballast.open("ab", buffering=0) as file:
        try:
            while file.write(b"\0" * 65536):
                pass
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
