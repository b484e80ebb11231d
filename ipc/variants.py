"""Pocket TTS's other languages and sizes, as engines of their own. Used in every process.

The weights of a variant lie in a folder of its own beside those of the default model, and have the
name of the library's configuration: `pocket-tts/french` is the engine `pocket-french`. Variants are
found in the models folder, and loaded when a request asks for one.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from ipc.engines import ENGINES, PULLABLE, BuiltinVoice, EngineInfo, EngineSpec, Footprint

LANGUAGES = {
    "english": "en",
    "french": "fr",
    "german": "de",
    "spanish": "es",
    "italian": "it",
    "portuguese": "pt",
    "dutch": "nl",
}
"""The library's names of the languages it has weights for, and their codes."""

VOICES_FOLDER = "voices"
"""Beside the weights: the built-in voices, NAME.safetensors."""

VARIANT = "variant"
"""The option that tells an engine which of its weights to load."""

_POCKET = ENGINES["pocket"]
_PREFIX = f"{_POCKET.name}-"
_FOLDER = Path(_POCKET.files[0]).parent
_NAME = re.compile(r"[a-z0-9][A-Za-z0-9_.-]{0,63}")
_VOICE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SAMPLE_RATE = 24_000

_BASE_MB = 300
"""What a template has besides its weights: Python, PyTorch, the tokenizer."""
_DEFAULT_MB = 438
"""The size of the default model's weights, for which its footprint was measured."""


def language_of(variant: str) -> str | None:
    """The code of a variant's language; None if its name does not tell."""
    return LANGUAGES.get(re.split(r"[^a-z]", variant, maxsplit=1)[0])


def variant_for(language: str) -> str | None:
    """The name of the library's default weights for a language, given as a code."""
    return next((name for name, code in LANGUAGES.items() if code == language), None)


def is_pullable(engine: str) -> bool:
    """Whether published weights of an engine of this name can be downloaded, if there are some."""
    variant = engine.removeprefix(_PREFIX)
    return engine in PULLABLE or (variant != engine and _NAME.fullmatch(variant) is not None)


def variant_engine(variant: str) -> str:
    """The name of a variant as an engine."""
    return f"{_PREFIX}{variant}"


def variant_folder(variant: str) -> Path:
    """The folder of a variant's weights, in the models folder."""
    return _FOLDER / variant


def variant_files(variant: str) -> tuple[str, ...]:
    """The files in the models folder without which a variant cannot be loaded."""
    return tuple(str(variant_folder(variant) / Path(file).name) for file in _POCKET.files)


def find_variants(models_dir: Path) -> list[EngineSpec]:
    """The variants whose weights are complete, by name; all are loaded on demand.

    The first of each language but English serves requests in that language: `french` comes before
    `french_24l`.
    """
    folders = sorted((models_dir / _FOLDER).glob("*/config.yaml"))
    names = [path.parent.name for path in folders]
    found = [spec for name in names if (spec := find_variant(models_dir, name)) is not None]
    served = {"en"}
    for index, spec in enumerate(found):
        if spec.language in served:
            found[index] = replace(spec, language=None)
        elif spec.language is not None:
            served.add(spec.language)
    return found


def find_variant(models_dir: Path, name: str) -> EngineSpec | None:
    """The variant called `french` or `pocket-french`, if its weights are complete."""
    variant = name.removeprefix(_PREFIX)
    if not _NAME.fullmatch(variant):
        return None
    files = variant_files(variant)
    spec = replace(
        _POCKET,
        name=variant_engine(variant),
        files=files,
        default=False,
        variant=variant,
        language=language_of(variant),
        on_demand=True,
    )
    if not spec.installed(models_dir):
        return None
    weights = sum((models_dir / file).stat().st_size for file in files) // 2**20
    folder = models_dir / variant_folder(variant)
    return replace(spec, footprint=_footprint(weights), known=_known(spec, folder, spec.language))


def _footprint(weights: int) -> Footprint:
    """That of a model with so many MB of weights: more layers keep more of what was said."""
    default = _POCKET.footprint
    larger = max(1.0, weights / _DEFAULT_MB)
    further = round(default.further * larger)
    return Footprint(
        template=_BASE_MB + round(1.05 * weights),
        worker=default.worker,
        request=default.request - default.further + further,
        further=further,
    )


def _known(spec: EngineSpec, folder: Path, language: str | None) -> EngineInfo:
    """What the folder tells before the engine has loaded."""
    files = sorted((folder / VOICES_FOLDER).glob("*.safetensors"))
    names = [file.stem for file in files if _VOICE_NAME.fullmatch(file.stem)]
    voices = [BuiltinVoice(name, name.replace("_", " ").title(), language) for name in names]
    return EngineInfo(spec.name, _SAMPLE_RATE, voices=tuple(voices))
