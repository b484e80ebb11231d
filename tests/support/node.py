"""TypeScript and JavaScript in tests, compiled and run by the Node that setup has prepared."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.service import NET, ROOT

PACKAGE = ROOT / "tests" / "js"
"""The folder of package.json, with the installed packages and the sources."""


def compile_typescript(config: Path, out: Path) -> None:
    """Check and compile what `config` (a tsconfig.json) lists, into the folder `out`."""
    run([str(PACKAGE / "node_modules" / ".bin" / "tsc"), "-p", str(config), "--outDir", str(out)])
    # Where the compiled files find their packages, and that they are modules.
    (out / "node_modules").symlink_to(PACKAGE / "node_modules")
    (out / "package.json").write_text('{"type": "module"}')


def run(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    folder: Path = PACKAGE,
) -> None:
    """Run a command in `folder`; fails with all that it prints when it fails."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=NET,
        check=False,
    )
    assert done.returncode == 0, done.stdout
