"""What the engines of the bench load, made once and kept. Runs in the bench's main process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ipc.engines import ENGINES
from tests.bench.report import step
from tests.support.service import ROOT

PRODUCTION = tuple(spec for spec in ENGINES.values() if spec.profile == "production")
EMBEDDED = tuple(spec for spec in ENGINES.values() if spec.profile == "embedded")

CACHE = ROOT / "build" / "bench-cache"
"""Where the embedded engines put their weights together."""


def models_folder(*, quick: bool) -> Path:
    """Random checkpoints of both production engines: of the published size, or tiny when `quick`.

    What they compute has no meaning; how long it takes and what memory it needs is real.
    """
    size = "nano" if quick else "full"
    folder = ROOT / "build" / "bench-models" / size
    if not all(spec.installed(folder) for spec in PRODUCTION):
        step(f"writing random checkpoints of size {size}; they are kept for the next run")
        subprocess.run(
            [
                *(sys.executable, "-m", "model_procs.weights.fetch"),
                *("synth", str(folder), "--size", size, "--force"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=ROOT,
        )
    return folder
