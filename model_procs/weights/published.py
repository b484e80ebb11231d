"""What is published of each engine's weights: where, in which revision, with which hashes.

Runs in `voice-engine models pull`. This is the table; `pull` is what downloads by it. A revision is
a commit wherever the hub names one, so that nobody gets other weights tomorrow. A hash that is not
here is taken from the hub's own metadata, which the pull compares with what it received.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ipc.engines import ENGINES
from ipc.variants import variant_engine, variant_files, variant_folder
from model_procs.weights.packages import package_folder

HubName = Literal["huggingface", "modelscope"]


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A file of a repository; `name` is its path below the folder of the model."""

    name: str
    repository: str
    path: str
    revision: str
    size: int | None = None
    sha256: str | None = None
    optional: bool = False
    """Whether it is left out if the hub has no such file."""


@dataclass(frozen=True, slots=True)
class Release:
    """One complete set of weights, from one hub.

    - `written`: files that the pull writes beside them, by name;
    - `terms`: for weights that are given only to those who accept terms: what to do about it;
    - `lacks`: what somebody must know who has to take this set instead of the first.
    """

    label: str
    hub: HubName
    files: tuple[PublishedFile, ...]
    written: tuple[tuple[str, str], ...] = ()
    terms: str | None = None
    lacks: str | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """The weights of an engine: their folder below the models folder, and the sets to take.

    The first set that can be had is taken. `variant` is that of an engine which is one.
    """

    engine: str
    folder: str
    releases: tuple[Release, ...]
    variant: str | None = None

    @property
    def needed(self) -> tuple[str, ...]:
        """Patterns in the models folder, each of which a file must match for the engine to load."""
        if self.variant is not None:
            return variant_files(self.variant)
        return ENGINES[self.engine].files


def _all_of(repository: str, revision: str, *files: PublishedFile) -> tuple[PublishedFile, ...]:
    return tuple(replace(file, repository=repository, revision=revision) for file in files)


def _file(name: str, size: int | None = None, sha256: str | None = None) -> PublishedFile:
    """A file that lies in its repository as it will here."""
    return PublishedFile(name, "", name, "", size, sha256)


# SenseVoiceSmall

_SENSEVOICE = (
    _file(
        "model.pt",
        936_291_369,
        "833ca2dcfdf8ec91bd4f31cfac36d6124e0c459074d5e909aec9cabe6204a3ea",
    ),
    _file(
        "am.mvn",
        11_203,
        "29b3c740a2c0cfc6b308126d31d7f265fa2be74f3bb095cd2f143ea970896ae5",
    ),
    _file(
        "chn_jpn_yue_eng_ko_spectok.bpe.model",
        377_341,
        "aa87f86064c3730d799ddf7af3c04659151102cba548bce325cf06ba4da4e6a8",
    ),
    _file("config.yaml"),
    _file("configuration.json"),
)


def sensevoice() -> Published:
    """SenseVoiceSmall, which its makers publish on both hubs."""
    return Published(
        "sensevoice",
        "SenseVoiceSmall",
        (
            Release(
                "SenseVoiceSmall from ModelScope",
                "modelscope",
                _all_of(
                    "iic/SenseVoiceSmall", "70514a3da51f1160f51d18449dab6128bbd4928b", *_SENSEVOICE
                ),
            ),
            Release(
                "SenseVoiceSmall from Hugging Face",
                "huggingface",
                _all_of(
                    "FunAudioLLM/SenseVoiceSmall",
                    "3847d57b6bdf2dd8875cb1508d2af43d80a16bf7",
                    *_SENSEVOICE,
                ),
            ),
        ),
    )


# Kokoro and Whisper


def kokoro() -> Published:
    """Kokoro-82M in float32, with all its voices; no hub has the int8 export of the packages.

    The repository is read at its head: its commit is not known here, but both files' hashes are.
    """
    files = _all_of(
        "fastrtc/kokoro-onnx",
        "main",
        _file(
            "kokoro-v1.0.onnx",
            325_532_387,
            "7d5df8ecf7d4b1878015a32686053fd0eebe2bc377234608764cc0ef3636a6c5",
        ),
        _file(
            "voices-v1.0.bin",
            28_214_398,
            "bca610b8308e8d99f32e6fe4197e7ec01679264efed0cac9140fe9c29f1fbf7d",
        ),
    )
    return Published("kokoro", "kokoro", (Release("Kokoro-82M", "huggingface", files),))


def whisper() -> Published:
    """Whisper base in CTranslate2's format: the files that the packages have, too."""
    files = _all_of(
        "Systran/faster-whisper-base",
        "ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66",
        _file(
            "model.bin",
            145_217_532,
            "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        ),
        _file(
            "config.json",
            2_309,
            "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
        ),
        _file(
            "tokenizer.json",
            2_203_239,
            "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
        ),
        _file(
            "vocabulary.txt",
            459_861,
            "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
        ),
    )
    return Published("whisper", "whisper/base", (Release("Whisper base", "huggingface", files),))


# Pocket TTS

_POCKET = "pocket"


def _pocket_terms(engine: str) -> str:
    return (
        "Kyutai gives the weights that clone voices to those who accept its terms: log in at "
        "https://huggingface.co/kyutai/pocket-tts and accept them there, make a token with the "
        "right to read at https://huggingface.co/settings/tokens, and set HF_TOKEN to it (or run "
        f"`hf auth login`); then run `voice-engine models pull {engine}` again"
    )


def open_pocket(variant: str | None = None) -> str:
    """What somebody must know who has weights of Pocket TTS that cannot clone."""
    return (
        "these weights of Pocket TTS speak in their built-in voices and cannot clone any. "
        f"{_pocket_terms(_engine_of(variant))}"
    )


def pocket(variant: str | None = None) -> Published:
    """Pocket TTS in English or another `variant`: the files that the library's configuration names.

    Its addresses have commits in them. Without access to the weights with an encoder of voices, the
    library takes others, and so does the pull. The library does not tell which of its voices a
    variant has, so those are taken that are there.
    """
    import yaml

    package = package_folder("pocket_tts")
    config = variant or "english"
    settings = yaml.safe_load((package / "config" / f"{config}.yaml").read_text("utf-8"))
    origins, address = "_ORIGINS_OF_PREDEFINED_VOICES", "get_predefined_voice"
    library = {
        **_definitions(package / "utils" / "utils.py", origins, address),
        **_definitions(package / "default_parameters.py", "DEFAULT_VOICE_FOR_LANGUAGE"),
    }
    natives = library["DEFAULT_VOICE_FOR_LANGUAGE"]
    foreign = {name for language, name in natives.items() if not config.startswith(language)}
    names = [name for name in library[origins] if name not in foreign]
    return pocket_of(settings, {name: library[address](config, name) for name in names}, variant)


def pocket_variants() -> list[str]:
    """The library's names of the languages and sizes of Pocket TTS, besides the default one."""
    folder = package_folder("pocket_tts") / "config"
    return sorted(path.stem for path in folder.glob("*.yaml") if path.stem != "english")


def _engine_of(variant: str | None) -> str:
    return _POCKET if variant is None else variant_engine(variant)


def _definitions(file: Path, *names: str) -> dict[str, Any]:
    """Some definitions of a module that is not imported: it would load PyTorch, 170 MB."""
    found: dict[str, Any] = {}
    for node in ast.parse(file.read_text("utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node]
        if any(getattr(target, "id", getattr(target, "name", "")) in names for target in targets):
            exec(compile(ast.Module([node], []), str(file), "exec"), found)
    return {name: found[name] for name in names}


def pocket_of(
    settings: dict[str, Any], voices: dict[str, str], variant: str | None = None
) -> Published:
    """The same for a configuration of the library, and voices by name with their addresses."""
    engine = _engine_of(variant)
    table = settings["flow_lm"]["lookup_table"]
    states = (_at(address, f"voices/{name}.safetensors") for name, address in voices.items())
    beside = (
        _at(table["tokenizer_path"], "tokenizer.json"),
        *(replace(state, optional=variant is not None) for state in states),
    )
    cloning, without = "weights_path", "weights_path_without_voice_cloning"

    def release(key: str, label: str, *, terms: str | None, lacks: str | None) -> Release:
        # The engine tells by the remaining key whether the weights can clone.
        local = {name: value for name, value in settings.items() if name not in (cloning, without)}
        local[key] = "model.safetensors"
        local["flow_lm"] = {
            **settings["flow_lm"],
            "lookup_table": {**table, "tokenizer_path": "tokenizer.json"},
        }
        return Release(
            label,
            "huggingface",
            (_at(settings[key], "model.safetensors"), *beside),
            (("config.yaml", _as_yaml(local)),),
            terms,
            lacks,
        )

    title = "Pocket TTS" if variant is None else f"Pocket TTS {variant}"
    terms, lacks = _pocket_terms(engine), open_pocket(variant)
    return Published(
        engine,
        "pocket-tts" if variant is None else str(variant_folder(variant)),
        (
            release(cloning, f"{title} with voice cloning", terms=terms, lacks=None),
            release(without, f"{title} without voice cloning", terms=None, lacks=lacks),
        ),
        variant,
    )


def _at(address: str, name: str) -> PublishedFile:
    """A file at hf://OWNER/REPOSITORY/PATH@REVISION, the library's form of an address."""
    owner, repository, path = address.removeprefix("hf://").split("/", 2)
    path, _, revision = path.partition("@")
    return PublishedFile(name, f"{owner}/{repository}", path, revision or "main")


def _as_yaml(settings: dict[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(settings, allow_unicode=True)
    return text


PUBLISHED: dict[str, Callable[[], Published]] = {
    _POCKET: pocket,
    "sensevoice": sensevoice,
    "kokoro": kokoro,
    "whisper": whisper,
}
"""By the name of the engine. A function each, because Pocket's libraries are large."""


def all_published() -> dict[str, Callable[[], Published]]:
    """The same with Pocket's other languages and sizes."""
    variants = {variant_engine(name): partial(pocket, name) for name in pocket_variants()}
    return {**PUBLISHED, **variants}


PRODUCTION = tuple(name for name in PUBLISHED if ENGINES[name].profile == "production")
"""What a pull brings that names no engine: the others' weights come with packages."""
