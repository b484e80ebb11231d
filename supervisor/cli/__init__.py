"""The command line. Its commands talk to the service over HTTP, as any client does.

Nothing here is imported by the service: `serve` is answered before typer, rich and httpx are.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["serve"] and not {"--help", "-h"} & set(arguments):
        from supervisor.serve import main as serve

        return serve(arguments[1:])
    from supervisor.cli.app import run

    return run(arguments)
