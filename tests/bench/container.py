"""Both full-size models in a container's worth of memory: `python -m tests.bench.container`.

The real service with its defaults, in a control group with a limit, under varied requests. Looks at
every answer, samples memory each second, and writes a report with a plot. The exit code is 0 when
no request failed and the kernel killed nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from tests.bench import container_report
from tests.bench.memory_group import MemoryGroup, memory_group
from tests.bench.models import models_folder
from tests.bench.report import machine, step
from tests.bench.varied import Varied
from tests.support.service import ROOT, RunningService, read_wav

_MB = 1024 * 1024
_TIMEOUT_SECONDS = 900
_MAX_CHARACTERS = 5000
_CLIENTS = (
    (("clone", 6), ("longest", 1)),
    (("transcribe", 1),),
    (("clone", 2), ("transcribe", 2)),
)
"""What each client sends, by weight."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Megabytes at one moment: of the group, and of each process by name."""

    at: float
    charged: float
    held: float
    """Without what the kernel can drop."""
    rss: dict[str, float]


@dataclass(slots=True)
class Run:
    """What was done and seen."""

    limit_mb: int
    enforced: str | None
    seed: int
    minutes: float
    quick: bool
    started: float = field(default_factory=time.monotonic)
    answers: Counter[str] = field(default_factory=Counter)
    seconds_of: dict[str, list[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    health_before: dict[str, Any] = field(default_factory=dict)
    health_after: dict[str, Any] = field(default_factory=dict)
    processes: list[tuple[str, float, float, float]] = field(default_factory=list)
    """Name, RSS, USS and PSS in MB at the end."""
    stat: dict[str, int] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    oom_kills: int = 0
    limit_hits: int = 0
    """How often an allocation met the limit, so that the kernel had to drop pages first."""
    machine: dict[str, Any] = field(default_factory=machine)

    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started


def run(limit_mb: int, minutes: float, seed: int, *, quick: bool) -> Run:
    """Start the service in a group, load it, measure."""
    folder = models_folder(quick=quick)
    _drop_from_cache(folder)
    environment = {
        "VOICE_ENGINE_PROFILE": "production",
        "VOICE_ENGINE_MODELS_DIR": str(folder),
        # Three clients with the longest texts on a busy machine: this is about memory, not time.
        "VOICE_ENGINE_REQUEST_TIMEOUT": str(_TIMEOUT_SECONDS),
    }
    with memory_group(limit_mb) as group:
        if group is None:
            environment["VOICE_ENGINE_MEMORY_LIMIT_MB"] = str(limit_mb)
            service = RunningService(environment)
        else:
            environment |= group.environment
            service = RunningService(environment, module="tests.bench.memory_group")
        result = Run(limit_mb, group.container.source if group else None, seed, minutes, quick)
        try:
            step("container: loading both models")
            service.wait_ready()
            result.started = time.monotonic()
            asyncio.run(_load(service, group, result))
        finally:
            if service.process.poll() is None:
                service.stop()
            result.events = list(service.events)
    return result


async def _load(service: RunningService, group: MemoryGroup | None, result: Run) -> None:
    result.health_before = await asyncio.to_thread(service.health)
    kills = group.container.oom_kills() or 0 if group else 0
    sampler = asyncio.create_task(_sample(service, group, result))
    end = result.started + result.minutes * 60
    async with aiohttp.ClientSession(
        service.url, timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS + 60)
    ) as session:
        await asyncio.gather(
            *(
                _client(session, kinds, Varied(result.seed * 100 + number), end, result)
                for number, kinds in enumerate(_CLIENTS)
            )
        )
    sampler.cancel()
    result.health_after = await asyncio.to_thread(service.health)
    names = {child["pid"]: child["name"] for child in result.health_after["children"]}
    for process in service.processes():
        info = process.memory_full_info()
        name = "front" if process.pid == service.process.pid else names.get(process.pid, "other")
        result.processes.append((name, info.rss / _MB, info.uss / _MB, info.pss / _MB))
    if group is not None:
        result.oom_kills = (group.container.oom_kills() or 0) - kills
        result.stat = group.stat()
        failcnt = group.folder / "memory.failcnt"
        result.limit_hits = int(failcnt.read_text()) if failcnt.exists() else 0


async def _client(
    session: aiohttp.ClientSession,
    kinds: tuple[tuple[str, int], ...],
    varied: Varied,
    end: float,
    result: Run,
) -> None:
    """One request after the other, each when the one before is answered."""
    while time.monotonic() < end:
        kind = varied.choice(*kinds)
        started = time.monotonic()
        try:
            if kind == "transcribe":
                await _transcribe(session, varied)
            else:
                text = varied.long_text(_MAX_CHARACTERS) if kind == "longest" else varied.text()
                await _clone(session, varied, text)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            told = f"{result.now():.0f} s: {kind}: {type(error).__name__}: {error}"
            result.failures.append(told)
            print(told, file=sys.stderr, flush=True)
            await asyncio.sleep(1)  # a service that refuses all is not asked without end
        else:
            result.answers[kind] += 1
            result.seconds_of.setdefault(kind, []).append(time.monotonic() - started)


async def _clone(session: aiohttp.ClientSession, varied: Varied, text: str) -> None:
    reference, _ = await asyncio.to_thread(varied.recording, 3, 25)
    form = aiohttp.FormData({"text": text})
    form.add_field("reference_audio", reference, filename="reference")
    body, headers = await _post(session, "/v1/clone", form)
    try:
        rate, pcm = read_wav(body)
    except Exception as error:
        raise ValueError(f"not a WAV: {error}") from error
    seconds = len(pcm) / 2 / rate
    words = len(text.split())
    # A word takes a third of a second in English; weights that are random speak less evenly.
    if not words * 0.05 <= seconds <= 3 + words * 1.5:
        raise ValueError(f"{words} words in {seconds:.1f} s")
    if abs(float(headers["X-Audio-Duration"]) - seconds) > 0.001:
        raise ValueError(f"{seconds:.3f} s, X-Audio-Duration {headers['X-Audio-Duration']}")


async def _transcribe(session: aiohttp.ClientSession, varied: Varied) -> None:
    recording, seconds = await asyncio.to_thread(varied.recording, 3, 300)
    form = aiohttp.FormData()
    form.add_field("file", recording, filename="recording")
    await _post(session, "/v1/transcribe", form, seconds)


async def _post(
    session: aiohttp.ClientSession, path: str, form: aiohttp.FormData, seconds: float = 0.0
) -> tuple[bytes, Any]:
    """The answer; `seconds` is what the transcript must say of the recording's length."""
    async with session.post(path, data=form) as response:
        body = await response.read()
        if response.status != 200:
            raise ValueError(f"{response.status}: {body[:300]!r}")
        if seconds:
            transcript = await response.json()
            if {"text", "language", "emotion"} - transcript.keys():
                raise ValueError(f"the transcript has only {sorted(transcript)}")
            # MP3 and resampling may add or take a frame.
            if abs(transcript["duration"] - seconds) > 0.2:
                raise ValueError(f"{seconds:.3f} s were heard as {transcript['duration']} s")
        return body, response.headers


async def _sample(service: RunningService, group: MemoryGroup | None, result: Run) -> None:
    """Each second, what is held; each minute, how it goes."""
    count = 0
    while True:
        names = {child["pid"]: child["name"] for child in (await _health(service))["children"]}
        rss = {name: _rss_mb(pid) for pid, name in names.items()}
        rss["front"] = _rss_mb(service.process.pid)
        if group is not None:
            charged, held = group.charged() / _MB, group.container.usage() / _MB
        else:
            charged = held = (await _health(service))["memory"]["usage_mb"] or 0.0
        result.samples.append(Sample(result.now(), charged, held, rss))
        count += 1
        if count % 60 == 0:
            step(
                f"container: {result.now() / 60:.0f} min, {sum(result.answers.values())} answers, "
                f"{len(result.failures)} failures, {held:.0f} MB held, {charged:.0f} MB charged"
            )
        await asyncio.sleep(1)


async def _health(service: RunningService) -> dict[str, Any]:
    return await asyncio.to_thread(service.health)


def _rss_mb(pid: int) -> float:
    try:
        return float(psutil.Process(pid).memory_info().rss) / _MB
    except psutil.Error:
        return 0.0


def _drop_from_cache(folder: Path) -> None:
    """Forget the weights' pages: those in the cache already count against whoever read them."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def main(argv: list[str] | None = None) -> int:
    """Run and report; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.container")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--limit-mb", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="tiny models")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "soak" / "container")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the service ends with this
    result = run(args.limit_mb, args.minutes, args.seed, quick=args.quick)
    command = subprocess.list2cmdline(
        ["python", "-m", "tests.bench.container", *(sys.argv[1:] if argv is None else argv)]
    )
    print(container_report.write(result, command, args.out))
    return int(bool(result.failures or result.oom_kills))


if __name__ == "__main__":
    sys.exit(main())
