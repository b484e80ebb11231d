"""The program behind `voice-engine models`: pull published weights, or write random ones.

Runs as a separate command, `python -m model_procs.weights.fetch`, because it may need PyTorch.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from model_procs import lifeline
from model_procs.weights.locate import weights_folder
from model_procs.weights.place import replacing
from model_procs.weights.pull import LaterError, PullError, World, present_error, pull
from model_procs.weights.synthetic import NOTE, NOTE_FILE, SIZES

LATER = 75
"""The exit code when the same command may work later: EX_TEMPFAIL of <sysexits.h>."""


def synth(models_dir: Path, size: str, *, force: bool = False) -> None:
    """Write random weights for both production engines into `models_dir`.

    `size` is "nano" or "full" (the published dimensions: 109.5 and 234.0 million parameters).
    If weights exist already, raises WeightsPresentError before writing, unless `force`.
    """
    from tqdm import tqdm

    from model_procs.weights.synthetic.pocket import write_pocket
    from model_procs.weights.synthetic.sensevoice import write_sensevoice

    writers: dict[str, Callable[[Path, str], int]] = {
        "pocket": write_pocket,
        "sensevoice": write_sensevoice,
    }
    for engine in writers:
        place = weights_folder(models_dir, engine)
        if place.exists() and not force:
            raise present_error(place)
    for engine, write in tqdm(
        writers.items(), desc=f"random weights, {size}", unit="model", disable=size == "nano"
    ):
        place = weights_folder(models_dir, engine)
        with replacing(place) as folder:
            parameters = write(folder, size)
            (folder / NOTE_FILE).write_text(NOTE + "\n")
        tqdm.write(f"{place.name}: {parameters / 1e6:.1f} M parameters", sys.stderr)


def main(argv: list[str] | None = None, world: World | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="voice-engine models", description="Put weights into a models folder."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    pull_parser = commands.add_parser("pull", help="download published weights")
    pull_parser.add_argument("engines", nargs="+", metavar="ENGINE")
    pull_parser.add_argument("--lifeline", type=int, help="end when this pipe is closed")
    synth_parser = commands.add_parser(
        "synth", help="write random weights for tests: real shapes, meaningless output"
    )
    synth_parser.add_argument("--size", choices=SIZES, default="nano", help="default: %(default)s")
    for command in (pull_parser, synth_parser):
        command.add_argument("dir", type=Path, help="the models folder")
        command.add_argument("--force", action="store_true", help="replace existing weights")
    args = parser.parse_args(argv)
    try:
        if args.command == "synth":
            synth(args.dir, args.size, force=args.force)
            print(f"Next: VOICE_ENGINE_MODELS_DIR={args.dir} make run")
        else:
            if args.lifeline is not None:
                lifeline.arm(args.lifeline)
            os.environ["TQDM_DISABLE"] = "1"  # the hubs' own bars: ours shows it all
            os.environ.setdefault("MODELSCOPE_LOG_LEVEL", "WARNING")
            pull(args.dir, args.engines, force=args.force, world=world)
    except LaterError as error:
        print(f"error: {error}", file=sys.stderr)
        return LATER
    except PullError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it was", file=sys.stderr)
        return 130
    except Exception as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
