"""Check the weights of engines: `voice-engine models verify` becomes this program.

Each engine is loaded in a process of its own, so that damaged weights that crash a library cost one
line, and the memory of one engine is free before the next one loads.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

from ipc.engines import ENGINES, EngineSpec
from ipc.errors import ErrorCode, ServiceError
from model_procs.engine import Engine, EngineConfig
from model_procs.weights import manifest


def check(spec: EngineSpec, config: EngineConfig) -> str:
    """Load an engine as its template does; a line about it. Raises what is wrong with it.

    Weights that were pulled are compared with the hashes that the pull has noted; those that come
    in packages with the published ones, while they load.
    """
    facts = as_pulled(spec, config.models_dir)
    module, _, name = spec.factory.partition(":")
    engine: Engine = getattr(importlib.import_module(module), name)(config)
    start = time.monotonic()
    engine.load()
    facts += [f"loaded in {time.monotonic() - start:.1f} s", *engine.info().notes]
    return "; ".join(facts)


def as_pulled(spec: EngineSpec, models_dir: Path) -> list[str]:
    """What there is to say about pulled weights. Raises `ServiceError` if they are others.

    The manifest lies beside one of the files, or there is none.
    """
    folders = {path.parent for pattern in spec.files for path in models_dir.glob(pattern)}
    told = []
    for folder in sorted(folders):
        pulled = manifest.read(folder)
        if pulled is None:
            continue
        if damaged := manifest.damage(folder, pulled):
            raise ServiceError(
                ErrorCode.model_unavailable,
                f"{folder}: {'; '.join(damaged)}; get it again with `voice-engine models pull "
                f"{spec.name} {models_dir} --force`",
            )
        told.append(f"{len(pulled.files)} files as they were pulled ({pulled.label})")
    return told


def missing(spec: EngineSpec, models_dir: Path) -> list[str]:
    """The files and modules that an engine lacks."""
    if spec.installed(models_dir):
        return []
    modules = [name for name in spec.libraries if importlib.util.find_spec(name) is None]
    files = [pattern for pattern in spec.files if not any(models_dir.glob(pattern))]
    return [*modules, *(str(models_dir / pattern) for pattern in files)]


def _one(name: str, config: EngineConfig) -> int:
    try:
        print(check(ENGINES[name], config))
    except ServiceError as error:
        print(error.message)
        return 1
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
        return 1
    return 0


def _line(name: str, config: EngineConfig) -> tuple[bool, str]:
    """Whether an engine is in order, and a line about it."""
    if lacks := missing(ENGINES[name], config.models_dir):
        return False, f"missing: {', '.join(lacks)}"
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "model_procs.weights.verify", "--one"),
            *("--models-dir", str(config.models_dir), "--cache-dir", str(config.cache_dir), name),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    if finished.returncode < 0:
        return False, f"its process was ended by signal {-finished.returncode}"
    lines = finished.stdout.strip().splitlines() or ["no word from its process"]
    return finished.returncode == 0, lines[-1]


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="voice-engine models verify")
    parser.add_argument("--models-dir", type=Path, required=True)
    parser.add_argument("--cache-dir", type=Path, required=True)
    parser.add_argument("--one", action="store_true")
    parser.add_argument("engines", nargs="*", metavar="ENGINE")
    options = parser.parse_args(argv)
    config = EngineConfig(options.models_dir.resolve(), cache_dir=options.cache_dir.resolve())
    if options.one:
        return _one(options.engines[0], config)
    if unknown := [name for name in options.engines if name not in ENGINES]:
        known = ", ".join(ENGINES)
        print(
            f"voice-engine: there is no engine {unknown[0]}; use some of {known}", file=sys.stderr
        )
        return 64
    names = options.engines or [
        name for name, spec in ENGINES.items() if spec.installed(config.models_dir)
    ]
    well = True
    for name in names:
        good, words = _line(name, config)
        well = well and good
        print(f"{name:<11} {'ok' if good else 'failed':<7} {words}", flush=True)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
