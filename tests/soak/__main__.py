"""The soak's command line, `make soak`: start the service, use it, hurt it, tell what came out."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
from tqdm import tqdm

from tests.bench.report import machine
from tests.soak import report
from tests.soak.catalog import make_catalog
from tests.soak.chaos import Chaos
from tests.soak.engines import ORDERS
from tests.soak.outcome import Outcome, gather
from tests.soak.settings import CHAOS, PRESETS, STORM, Options, Preset, Storm
from tests.soak.traffic import Traffic
from tests.soak.watcher import Watcher, spooled, survivors
from tests.support.service import RunningService

_DISK_MB = 48
_CALM_PART = 0.15
_CALM_MOST = 90.0


def main(argv: list[str] | None = None) -> int:
    """Run one soak; returns 0 when nothing failed."""
    options = _parse(argv)
    preset = PRESETS[options.engines]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="voice-engine-soak-")))
        orders, spool = folder / "orders", folder / "spool"
        orders.mkdir()
        spool.mkdir()
        left_out = {}
        if "disk" in options.chaos and (reason := stack.enter_context(_small_disk(spool))):
            left_out["disk"] = reason
        environment = preset.environment(_models(options, preset, folder), spool)
        service = RunningService({**environment, ORDERS: str(orders)}, module="tests.soak.front")
        stack.callback(_end, service)
        _step("the service is starting")
        outcome = asyncio.run(
            _soak(options, preset, service, orders=orders, spool=spool, left_out=left_out)
        )
        outcome.leftovers.extend(_leftovers(service, orders, spool))
        hidden = ("VOICE_ENGINE_SPOOL_DIR", "VOICE_ENGINE_MODELS_DIR")
        outcome.settings.update({k: v for k, v in environment.items() if k not in hidden})
    report.write(outcome, options.out)
    for problem in outcome.problems[:20]:
        print(problem)
    print(f"report: {options.out.with_suffix('.md')}")
    print(outcome.summary)
    return 1 if outcome.problems else 0


def _parse(argv: list[str] | None) -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description="Uses the real service while it is hurt, and verifies every answer.",
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engines", choices=PRESETS, default="minimal")
    parser.add_argument("--chaos", type=_kinds, default=frozenset(CHAOS), metavar=",".join(CHAOS))
    parser.add_argument("--storm", type=Storm.parse, default=STORM, metavar="KILLS/SECONDS")
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--out", type=Path, help="the report without its suffix")
    parser.add_argument(
        "--models", type=Path, help="folder of checkpoints (default: random ones, made for the run)"
    )
    args = parser.parse_args(argv)
    out: Path = args.out or Path("build/soak") / args.engines
    return Options(
        minutes=args.minutes,
        seed=args.seed,
        engines=args.engines,
        chaos=args.chaos,
        storm=args.storm,
        clients=args.clients,
        out=out.with_suffix("") if out.suffix == ".md" else out,
        models=args.models,
    )


def _kinds(text: str) -> frozenset[str]:
    kinds = frozenset(filter(None, text.split(",")))
    if unknown := kinds - set(CHAOS):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}; there are {', '.join(CHAOS)}")
    return kinds


def _models(options: Options, preset: Preset, folder: Path) -> Path | None:
    if preset.checkpoints is None or options.models is not None:
        return options.models
    from model_procs.weights.fetch import synth

    _step(f"writing random checkpoints of size {preset.checkpoints}")
    models = folder / "models"
    synth(models, preset.checkpoints)
    return models


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[str | None]:
    """A disk of its own at `folder`, small enough to be filled; else yields why there is none."""
    size = f"size={_DISK_MB}m,mode=700"
    if os.geteuid() != 0:
        yield "mounting a small disk takes root"
        return
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        yield f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}"
        return
    try:
        yield None
    finally:
        subprocess.run(["umount", folder], check=True)


async def _soak(
    options: Options,
    preset: Preset,
    service: RunningService,
    *,
    orders: Path,
    spool: Path,
    left_out: dict[str, str],
) -> Outcome:
    # As long as a model may take to load, on a machine with something else to do.
    await asyncio.to_thread(service.wait_until, _serves, net=300.0)
    catalog = make_catalog(random.Random(options.seed), long_texts=preset.long_texts)
    traffic = Traffic(service.url, catalog, options.seed)
    _step("asking every request of the catalog once, to know the right answers")
    async with aiohttp.ClientSession(service.url) as session:
        await traffic.learn(session)
    traffic.started = time.monotonic()
    origin = datetime.now(UTC)
    seconds = options.minutes * 60
    calm = min(_CALM_MOST, seconds * _CALM_PART)
    watcher = Watcher(service, traffic)
    chaos = Chaos(
        service=service,
        traffic=traffic,
        preset=preset,
        kinds=options.chaos - set(left_out),
        storm=options.storm,
        orders=orders,
        spool=spool,
        over=lambda: traffic.now() > seconds,
    )
    finished = asyncio.Event()
    watching = asyncio.create_task(watcher.run(finished.is_set))
    showing = asyncio.create_task(_show(traffic, chaos, seconds))

    async def clients(until: Callable[[], bool]) -> None:
        await asyncio.gather(*(traffic.client(n, until) for n in range(options.clients)))

    await clients(lambda: traffic.now() < calm)
    settled = await watcher.settle(preset.workers)
    before = await watcher.census(str(spool))
    chaos_at = traffic.now()
    traffic.chaos = True
    await asyncio.gather(
        chaos.run(options.seed), clients(lambda: traffic.now() < seconds or chaos.storming)
    )
    await showing
    if not (settled and await watcher.settle(preset.workers)):
        traffic.failed(f"the service did not come to rest: {service.health()}")
    after = await watcher.census(str(spool), before)
    finished.set()
    await watching
    health = service.health()
    return gather(
        traffic,
        chaos,
        command=options.command,
        engines=options.engines,
        settings={},
        machine=machine(),
        seconds=traffic.now(),
        calm_seconds=chaos_at,
        left_out=left_out,
        lines=list(watcher.lines.values()),
        before=before,
        after=after,
        replays=sum(model["replays"] for model in health["models"].values()),
        recycles={name: Counter(model["recycles"]) for name, model in health["models"].items()},
        events=service.events,
        leftovers=[],
        origin=origin,
        word_error_rate=catalog.word_error_rate() if preset.checkpoints is None else None,
    )


def _serves(health: dict[str, object]) -> bool:
    return bool(health["asr_loaded"] and health["tts_loaded"])


async def _show(traffic: Traffic, chaos: Chaos, seconds: float) -> None:
    """The progress bar; one line every half minute where there is no terminal."""
    interval = 1.0 if sys.stderr.isatty() else 30.0
    with tqdm(
        total=round(seconds), unit="s", file=sys.stderr, mininterval=interval, maxinterval=interval
    ) as bar:
        while (now := min(traffic.now(), seconds)) < seconds:
            bar.set_postfix(
                answers=len(traffic.records),
                failed=len(traffic.failures),
                wrong=len(traffic.wrong),
                chaos=len(chaos.deeds),
                refresh=False,
            )
            bar.update(round(now) - bar.n)
            await asyncio.sleep(min(1.0, seconds - now))
        bar.update(round(seconds) - bar.n)


def _end(service: RunningService) -> None:
    """Whatever happened, the service goes."""
    if service.process.poll() is None:
        service.process.kill()
        service.process.wait()
    assert service.process.stderr is not None
    service.process.stderr.close()


def _leftovers(service: RunningService, orders: Path, spool: Path) -> list[str]:
    """Stop the service; what of it is still there."""
    code = service.stop()
    left = [f"exit code {code}"] if code else []
    left += [f"process {process}" for process in survivors(str(orders))]
    left += [f"spooled file {file}" for file in spooled(str(spool))]
    left += [f"spool folder {path.name}" for path in spool.iterdir()]
    return left


def _step(what: str) -> None:
    print(f"soak: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
