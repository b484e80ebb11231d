"""`voice-engine serve`: read the settings and become the front. Runs in the front.

It knows nothing of the other commands, so the front carries none of their libraries.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

USAGE = 64
"""The exit code for a wrong usage; 2 is that of a wrong setting."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message}; see `voice-engine serve --help`\n")


def parser() -> argparse.ArgumentParser:
    """The options of `voice-engine serve`; `supervisor.cli.app` has their help."""
    options = _Parser(prog="voice-engine serve", add_help=False, allow_abbrev=False)
    options.add_argument("--host")
    options.add_argument("--port", type=int)
    options.add_argument("--env-file")
    options.add_argument("--cluster")
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the service until a signal stops it; returns the exit code."""
    options = parser().parse_args(arguments)
    given = {"host": options.host, "port": options.port, "cluster": options.cluster}
    return _serve(
        {key: value for key, value in given.items() if value is not None}, options.env_file
    )


def _serve(given: dict[str, Any], env_file: str | None) -> int:
    from supervisor.app import run
    from supervisor.memory.limits import DoesNotFit
    from supervisor.settings import Settings

    def load_settings() -> Settings:
        if env_file is not None:
            # Settings ignores a missing file. The service would then start without API keys.
            Path(env_file).read_text(encoding="utf-8")
        return Settings(_env_file=env_file, **given)

    try:
        load_settings()
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            name = ".".join(str(part) for part in problem["loc"]) or "settings"
            print(f"voice-engine: {name}: {problem['msg']}", file=sys.stderr)
        return 2
    except (OSError, UnicodeDecodeError) as error:
        print(f"voice-engine: --env-file: {error}", file=sys.stderr)
        return 2
    try:
        run(load_settings)
    except (OSError, DoesNotFit) as error:
        print(f"voice-engine: {error}", file=sys.stderr)
        return 1
    return 0
