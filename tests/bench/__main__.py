"""The bench's command line, `make bench`: runs the parts and prints their tables."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from tests.bench.report import Table, machine, step

PARTS = {
    "pipe": "an answer through a worker's pipe against a bare handler",
    "fork": "a forked worker's start against a cold one",
    "memory": "RSS, USS and PSS of every process",
    "health": "how fast /health answers while a model misbehaves",
    "front": "the front's memory under load",
    "recycle": "requests while their worker is replaced again and again",
    "overload": "many times more requests than the worker can answer",
    "first_byte": "how soon a stream begins, against the engine alone",
    "neural": "Kokoro and Whisper, against their libraries alone",
    "understood": "word error rates of the default engines, for themselves and for people",
    "live": "sessions: first sound while text is written, final text after speech",
    "metrics": "what events, the access log and metrics cost",
    "simulate": "what 1,000 nodes would do, by the measured service times; measures nothing itself",
    "cluster": "what a cluster adds to a request, and what more replicas bring",
    "loop": "how long supervision holds the front's event loop",
}
"""Each is a module of this package with `run(quick=...) -> list[Table]`."""


def main(argv: list[str] | None = None) -> int:
    """Run the parts that are asked for; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measures speed and memory, each figure beside a baseline of the same run.",
        epilog="parts: " + "; ".join(f"{name}: {what}" for name, what in PARTS.items()),
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, tiny models")
    parser.add_argument("--only", type=_parts, default=list(PARTS), metavar="PART,...")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    args = parser.parse_args(argv)
    results: dict[str, Any] = {"machine": machine(), "quick": args.quick, "parts": {}}
    print(", ".join(f"{name}: {value}" for name, value in results["machine"].items()))
    if results["machine"]["load_average_before"] > 0.5:
        step("the machine is busy with something else: trust the ratios, not the figures")
    failed = False
    for part in args.only:
        step(f"{part}: {PARTS[part]}")
        try:
            tables: list[Table] = importlib.import_module(f"tests.bench.{part}").run(
                quick=args.quick
            )
        except Exception as error:  # the other parts' figures are still worth having
            print(f"\n{part} failed: {type(error).__name__}: {error}", file=sys.stderr)
            results["parts"][part] = {"error": f"{type(error).__name__}: {error}"}
            failed = True
            continue
        results["parts"][part] = [table.json() for table in tables]
        for table in tables:
            print(f"\n{table.text()}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    return int(failed)


def _parts(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(PARTS):
        raise argparse.ArgumentTypeError(
            f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}"
        )
    return names


if __name__ == "__main__":
    sys.exit(main())
