"""`make bench-peers`: this service against the models' own servers, over HTTP, in one run.

The same random checkpoints, a known voice, the same texts and recordings. Prints tables of ratios
and of figures, writes them as JSON and as a plot; with --write into docs/benchmarks.md, too.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from tests.bench import peers_report
from tests.bench.peers_measure import ROUNDS, Measurement, Plan
from tests.bench.peers_results import Results, load
from tests.support.service import ROOT

_CLIENTS = (1, 2, 4, 8)
_MORE_CLIENTS = 16


def main(argv: list[str] | None = None) -> int:
    """Measure, print, draw; returns the exit status: 1 if any request failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run with tiny models")
    parser.add_argument("--more", action="store_true", help=f"also {_MORE_CLIENTS} clients")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench-peers", metavar="DIR")
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="report these; measure nothing"
    )
    parser.add_argument("--write", action="store_true", help="put the report into the documents")
    args = parser.parse_args(argv)
    results: Results
    if args.results:
        results = load(args.results)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end with this
        plan = (
            Plan(quick=True, rounds=1, clients=(1, 2), frames=12, clip_seconds=2.0)
            if args.quick
            else Plan(
                quick=False,
                rounds=args.rounds,
                clients=(*_CLIENTS, _MORE_CLIENTS) if args.more else _CLIENTS,
                frames=50,
                clip_seconds=10.0,
            )
        )
        results = asyncio.run(Measurement(plan).run())
        results.save(args.out / "peers.json")
    for table in peers_report.tables(results):
        print(f"\n{table.text()}")
    print("\n" + "\n".join(peers_report.notes(results)))
    plot = args.out / "peers.png"
    peers_report.plot(results, plot)
    failures = results.failures()
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    print(f"\nraw figures and plot: {args.out}")
    if args.write and not failures:
        peers_report.write(results, plot)
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
