"""The file that says which models a cluster runs. Read by `voice-engine cluster` and by KubeRay.

    models:
      - engine: kokoro
        replicas: {min: 1, max: 8}
        cpus: 2
      - engine: whisper
    settings:
      models_dir: /models

Of each kind the first model is the default one, as in `VOICE_ENGINE_MODELS`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ipc.engines import ENGINES, SERVING_KINDS, SILERO, EngineSpec, Kind
from ipc.variants import find_variant
from supervisor.cluster.messages import ReplicaSpec
from supervisor.settings import APPLICATION, CUSTOM_FOOTPRINT, Settings

_ACTOR_MB = 256
"""Memory of a replica's own process, in MB: Python, Ray, aiohttp."""

_FRONT_SETTINGS = ("host", "port", "cluster", "application", "memory_limit_mb", "models", "engines")
"""Settings that the file says in another way, or that only fronts have."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Replicas(_Part):
    """How many replicas a model has; their number follows the load."""

    min: Annotated[int, Field(ge=1)] = 1
    max: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _in_order(self) -> Replicas:
        if self.max < self.min:
            raise ValueError(f"max is {self.max}, which is less than min, {self.min}")
        return self


class ModelConfig(_Part):
    """One model: what runs, how often, and what each replica gets of its machine."""

    engine: str
    kind: Kind | None = None
    """Only for an engine of one's own (module:Class)."""
    replicas: Replicas = Replicas()
    cpus: Annotated[float, Field(gt=0)] = 1.0
    memory_mb: Annotated[int, Field(ge=256)] | None = None
    """Left out: what the engine needs with two requests' worth of room."""
    settings: dict[str, Any] = {}


class ClusterConfig(_Part):
    """The whole file."""

    application: Annotated[str, Field(pattern=APPLICATION)] = "voice-engine"
    models: Annotated[list[ModelConfig], Field(min_length=1)]
    live_transcription: bool = True
    """Whether there is a replica that finds the speech in live sound."""
    settings: dict[str, Any] = {}

    @model_validator(mode="after")
    def _check(self) -> ClusterConfig:
        models_dir = Path(str(self.settings.get("models_dir", "models")))
        kinds = [kind_of(model, models_dir) for model in self.models]
        for kind in SERVING_KINDS:
            if kind not in kinds:
                raise ValueError(f"no model is for {kind}; add one, such as {_example(kind)}")
        names = [model.engine for model in self.models]
        if len(set(names)) < len(names):
            raise ValueError("an engine is there twice; give it more replicas instead")
        for given in (self.settings, *(model.settings for model in self.models)):
            for name in given:
                if name in _FRONT_SETTINGS or name not in Settings.model_fields:
                    raise ValueError(f"settings: {name} is not a setting of replicas")
        return self


def load(path: Path) -> ClusterConfig:
    """Read a file. Raises `ValueError` with one line for each fault, and `OSError`."""
    try:
        return ClusterConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    except ValidationError as error:
        faults = (
            ".".join(str(part) for part in fault["loc"]) + f": {fault['msg']}"
            for fault in error.errors(include_url=False)
        )
        raise ValueError("\n".join(f"{path}: {fault}" for fault in faults)) from None


def kind_of(model: ModelConfig, models_dir: Path) -> Kind:
    """Whether a model speaks or transcribes. Raises `ValueError` for an unknown engine."""
    spec = _engine(model.engine, models_dir)
    if spec is not None:
        return spec.kind
    if ":" not in model.engine:
        raise ValueError(
            f"{model.engine} is unknown; use one of {', '.join(sorted(ENGINES))}, or a class of "
            "your own (module:Class)"
        )
    if model.kind is None:
        raise ValueError(f"{model.engine}: say its kind, tts or stt")
    return model.kind


def specs(config: ClusterConfig) -> list[tuple[ReplicaSpec, Replicas]]:
    """What each replica gets, and how many there are; of each kind the default model first."""
    models_dir = Path(str(config.settings.get("models_dir", "models")))
    kinds = {model.engine: kind_of(model, models_dir) for model in config.models}
    found: list[tuple[ReplicaSpec, Replicas]] = []
    taken: set[Kind] = set()
    for model in config.models:
        kind = kinds[model.engine]
        spec = _engine(model.engine, models_dir)
        found.append(
            (
                ReplicaSpec(
                    application=config.application,
                    model=model.engine.rpartition(":")[2].lower() if kind in taken else kind.value,
                    kind=kind,
                    engine=model.engine,
                    cpus=model.cpus,
                    memory_mb=model.memory_mb or _memory(spec),
                    others=tuple(
                        name
                        for name, other in kinds.items()
                        if other is kind and name != model.engine
                    ),
                    settings={**config.settings, **model.settings},
                ),
                model.replicas,
            )
        )
        taken.add(kind)
    if config.live_transcription:
        settings = {
            name: value
            for name, value in config.settings.items()
            if not name.startswith(("tts_", "stt_"))
        }
        engine = str(settings.pop("vad_engine", SILERO.name))
        vad = ReplicaSpec(
            config.application,
            Kind.VAD.value,
            Kind.VAD,
            engine,
            0.25,
            _memory(SILERO),
            (),
            settings,
        )
        found.append((vad, Replicas(min=1, max=4)))
    return found


def _engine(name: str, models_dir: Path) -> EngineSpec | None:
    return ENGINES.get(name) or find_variant(models_dir, name)


def _memory(spec: EngineSpec | None) -> int:
    """MB for a replica: the model, a worker with requests, and its successor."""
    need = CUSTOM_FOOTPRINT if spec is None else spec.footprint
    capacity = 1 if spec is None else spec.capacity
    worker = need.worker + need.request + (capacity - 1) * need.further
    return _ACTOR_MB + math.ceil((need.template + 2 * worker) / 0.92)


def _example(kind: Kind) -> str:
    return next(name for name, spec in ENGINES.items() if spec.kind is kind)
