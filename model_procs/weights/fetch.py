"""Download the published weights, or write random ones for tests and benchmarks.

Runs as a separate command, `python -m model_procs.weights.fetch`; `voice-engine models` starts it.
Each model is written into a temporary folder and moved into its place when it is complete, so the
models folder never contains an incomplete model.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ipc.engines import ENGINES
from model_procs.weights.locate import VOICES_FOLDER, notes, weights_folder
from model_procs.weights.synthetic import NOTE, NOTE_FILE, SIZES

SENSEVOICE_MODELSCOPE = "iic/SenseVoiceSmall"
SENSEVOICE_HUGGINGFACE = "FunAudioLLM/SenseVoiceSmall"
_SENSEVOICE_FILES = ["*.yaml", "*.pt", "*.mvn", "*.bpe.model", "configuration.json"]


class WeightsPresentError(Exception):
    """The models folder already contains the model that is about to be written."""


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
            raise _present(place)
    for engine, write in tqdm(
        writers.items(), desc=f"random weights, {size}", unit="model", disable=size == "nano"
    ):
        place = weights_folder(models_dir, engine)
        with replacing(place) as folder:
            parameters = write(folder, size)
            (folder / NOTE_FILE).write_text(NOTE + "\n")
        tqdm.write(f"{place.name}: {parameters / 1e6:.1f} M parameters", sys.stderr)


def fetch(models_dir: Path, *, force: bool = False) -> None:
    """Download the published weights of both engines, and voices, into `models_dir`.

    Skips models that are complete, unless `force`, so another run continues after a failure. Raises
    WeightsPresentError when other files are in the way, and any exception of the hubs' libraries.
    """
    for engine, download in (("sensevoice", _download_sensevoice), ("pocket", _download_pocket)):
        place = weights_folder(models_dir, engine)
        if place.exists() and not force:
            if notes(place) or not ENGINES[engine].installed(models_dir):
                raise _present(place)
            print(f"{place.name}: already there", file=sys.stderr)
        else:
            with replacing(place) as folder:
                download(folder)
                names = [Path(file).name for file in ENGINES[engine].files]
                missing = [name for name in names if not (folder / name).is_file()]
                if missing:
                    missed = ", ".join(missing)
                    raise FileNotFoundError(
                        f"the download of {place.name} did not contain {missed}"
                    )
    voices = weights_folder(models_dir, "pocket") / VOICES_FOLDER
    if not voices.exists():
        with replacing(voices) as folder:
            _download_voices(folder)


def _download_pocket(folder: Path) -> None:
    """Pocket TTS with voice cloning: the files that the library's english.yaml refers to."""
    import yaml

    from model_procs.weights.lean_import import lean_import

    with lean_import("pocket_tts") as package:
        settings = yaml.safe_load((package / "config" / "english.yaml").read_text("utf-8"))

    table = settings["flow_lm"]["lookup_table"]
    _take(table["tokenizer_path"], folder / "tokenizer.json")
    _take(settings["weights_path"], folder / "model.safetensors")
    table["tokenizer_path"], settings["weights_path"] = "tokenizer.json", "model.safetensors"
    # Without this key the library cannot fall back to weights that ignore the voice.
    del settings["weights_path_without_voice_cloning"]
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True), "utf-8")


def _download_voices(folder: Path) -> None:
    """The library's voices for its English weights, without those of other languages."""
    from tqdm import tqdm

    from model_procs.weights.lean_import import lean_import

    with lean_import("pocket_tts"):
        from pocket_tts.default_parameters import DEFAULT_VOICE_FOR_LANGUAGE
        from pocket_tts.utils.utils import _ORIGINS_OF_PREDEFINED_VOICES, get_predefined_voice

    foreign = DEFAULT_VOICE_FOR_LANGUAGE.values()
    names = [name for name in _ORIGINS_OF_PREDEFINED_VOICES if name not in foreign]
    for name in tqdm(names, desc="voices", unit="voice"):
        address = get_predefined_voice(language="english", name=name)
        _take(address, folder / f"{name}.safetensors")


def _take(address: str, place: Path) -> None:
    """Download hf://OWNER/REPOSITORY/PATH@REVISION, the library's form of an address."""
    from huggingface_hub import hf_hub_download

    owner, repository, path = address.removeprefix("hf://").split("/", 2)
    path, _, revision = path.partition("@")
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        downloaded = hf_hub_download(
            f"{owner}/{repository}", path, revision=revision or None, local_dir=scratch
        )
        shutil.move(downloaded, place)


def _download_sensevoice(folder: Path) -> None:
    """SenseVoiceSmall from ModelScope, or from Hugging Face if that fails."""
    try:
        from modelscope import snapshot_download

        snapshot_download(
            SENSEVOICE_MODELSCOPE, local_dir=str(folder), allow_patterns=_SENSEVOICE_FILES
        )
    except Exception as error:
        print(f"ModelScope failed ({error}); trying Hugging Face", file=sys.stderr)
        from huggingface_hub import snapshot_download as huggingface_download

        huggingface_download(
            SENSEVOICE_HUGGINGFACE, local_dir=folder, allow_patterns=_SENSEVOICE_FILES
        )


def _present(place: Path) -> WeightsPresentError:
    what = "".join(f" ({note})" for note in notes(place))
    return WeightsPresentError(
        f"{place} already exists{what}; choose another folder, or add --force to replace it"
    )


@contextmanager
def replacing(place: Path) -> Iterator[Path]:
    """A new folder that replaces `place` when the block succeeds, and is removed when it fails."""
    place.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    fresh, old = scratch / "new", scratch / "old"
    fresh.mkdir()
    try:
        yield fresh
        for file in fresh.rglob("*"):  # some libraries write files that only the owner can read
            file.chmod(0o755 if file.is_dir() else 0o644)
        if place.exists():
            os.rename(place, old)
        try:
            os.rename(fresh, place)
        except OSError:
            if old.exists():
                os.rename(old, place)
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="voice-engine models", description="Put weights into a models folder."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    fetch_parser = commands.add_parser(
        "fetch", help="download published weights (1.4 GB) and voices"
    )
    synth_parser = commands.add_parser(
        "synth", help="write random weights for tests: real shapes, meaningless output"
    )
    synth_parser.add_argument("--size", choices=SIZES, default="nano", help="default: %(default)s")
    for command in (fetch_parser, synth_parser):
        command.add_argument("dir", type=Path, help="the models folder")
        command.add_argument("--force", action="store_true", help="replace existing weights")
    args = parser.parse_args(argv)
    try:
        if args.command == "synth":
            synth(args.dir, args.size, force=args.force)
        else:
            fetch(args.dir, force=args.force)
    except WeightsPresentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        if args.command == "fetch":
            print(
                "If access was refused: accept the terms of Pocket TTS at "
                "https://huggingface.co/kyutai/pocket-tts, log in with `hf auth login` and run "
                "this command again; it downloads what is missing.",
                file=sys.stderr,
            )
        return 1
    print(f"Next: VOICE_ENGINE_MODELS_DIR={args.dir} make run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
