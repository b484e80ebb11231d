"""`voice-engine models` with a table of weights that fits random ones. Runs as `model_procs` does.

The repositories are those of the real table. Their contents are tiny, so nothing of them is known.
VOICE_TEST_MODELS is the folder with the weights that a test has published.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from model_procs.weights import fetch
from model_procs.weights.published import Published, pocket_of, sensevoice
from model_procs.weights.pull import World
from tests.support.hubs import COMMIT, Hubs

CLONING, OPEN = "kyutai/pocket-tts", "kyutai/pocket-tts-without-voice-cloning"
FRENCH = "pocket-french"
_LANGUAGES = ("english", "french")
SENSEVOICE = ("iic/SenseVoiceSmall", "FunAudioLLM/SenseVoiceSmall")


def table(models: Path) -> Mapping[str, Callable[[], Published]]:
    """The table for the random weights in `models`."""
    return {
        "pocket": lambda: _pocket(models),
        "sensevoice": _sensevoice,
        FRENCH: lambda: _pocket(models, "french"),
    }


def publish(hubs: Hubs, models: Path) -> None:
    """Put the random weights in `models` on both hubs, where the table says that they are.

    French has the same as English.
    """
    folder = models / "pocket-tts"
    for language in _LANGUAGES:
        for repository in (CLONING, OPEN):
            weights = (folder / "model.safetensors").read_bytes()
            hubs.publish(repository, f"languages/{language}/model.safetensors", weights)
        tokenizer = (folder / "tokenizer.json").read_bytes()
        hubs.publish(OPEN, f"languages/{language}/tokenizer.json", tokenizer)
        hubs.publish_folder(OPEN, folder / "voices", f"languages/{language}/embeddings/")
    hubs.gated.add(CLONING)
    for repository in SENSEVOICE:
        hubs.publish_folder(repository, models / "SenseVoiceSmall")
        hubs.publish(repository, "configuration.json", b"{}")
        hubs.publish(repository, "README.md", b"not for us")


def _pocket(models: Path, variant: str | None = None) -> Published:
    import yaml

    def address(repository: str, path: str) -> str:
        return f"hf://{repository}/languages/{variant or 'english'}/{path}@{COMMIT}"

    folder = models / "pocket-tts"
    settings = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    settings["weights_path"] = address(CLONING, "model.safetensors")
    settings["weights_path_without_voice_cloning"] = address(OPEN, "model.safetensors")
    settings["flow_lm"]["lookup_table"]["tokenizer_path"] = address(OPEN, "tokenizer.json")
    names = sorted(path.stem for path in (folder / "voices").iterdir())
    if variant:
        names.append("nobody")  # the library does not tell which voices there are
    voices = {name: address(OPEN, f"embeddings/{name}.safetensors") for name in names}
    return pocket_of(settings, voices, variant)


def _sensevoice() -> Published:
    real = sensevoice()
    return replace(
        real,
        releases=tuple(
            replace(
                release,
                files=tuple(replace(file, size=None, sha256=None) for file in release.files),
            )
            for release in real.releases
        ),
    )


if __name__ == "__main__":
    models = Path(os.environ["VOICE_TEST_MODELS"])
    sys.exit(fetch.main(world=World(published=table(models))))
