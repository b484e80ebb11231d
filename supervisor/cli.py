"""The command line: `voice-engine serve`, `models`, `settings`. `serve` becomes the front."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="voice-engine", description="Text to speech and speech to text on CPUs, over HTTP."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="run the service")
    serve.add_argument(
        "--host", help="address to listen on (default: all addresses, IPv4 and IPv6)"
    )
    serve.add_argument("--port", type=int, help="port to listen on (default: PORT, else 8000)")
    serve.add_argument(
        "--env-file", help="file with settings; the environment overrides it, SIGHUP reloads it"
    )
    models = commands.add_parser(
        "models", help="download the real models, or write random ones for tests", add_help=False
    )
    models.add_argument("arguments", nargs=argparse.REMAINDER)
    commands.add_parser("settings", help="list every setting")
    args = parser.parse_args(argv)
    if args.command == "models":
        # That command needs torch, which this process must never import.
        os.execv(
            sys.executable, [sys.executable, "-m", "model_procs.weights.fetch", *args.arguments]
        )
    if args.command == "settings":
        from supervisor.settings import Settings

        print(Settings.table())
        return 0
    return _serve(args.host, args.port, args.env_file)


def _serve(host: str | None, port: int | None, env_file: str | None) -> int:
    from supervisor.app import run
    from supervisor.memory.limits import DoesNotFit
    from supervisor.settings import Settings

    given: dict[str, Any] = {"host": host, "port": port}
    given = {key: value for key, value in given.items() if value is not None}

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


if __name__ == "__main__":
    sys.exit(main())
