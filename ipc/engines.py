"""The table of engines: which model each serves, where its class is, what it needs on disk.

The front reads it to choose; a template reads it to import. Nothing here imports an engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MODELS = ("tts", "stt")
"""The models that the service offers, each with its own template and workers."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What an engine needs, in MB as `make bench` measures it, for planning before it is loaded.

    `template` is the RSS of the loaded template, `worker` the USS of a worker at READY, `request`
    what a large request takes on top.
    """

    template: int
    worker: int
    request: int


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine: `factory` is "module:Class"; `files` are paths below the models folder."""

    name: str
    model: str
    profile: str
    factory: str
    footprint: Footprint
    files: tuple[str, ...] = ()

    def installed(self, models_dir: Path) -> bool:
        """Whether every file that the engine loads is in `models_dir`."""
        return all((models_dir / file).is_file() for file in self.files)


ENGINES = {
    spec.name: spec
    for spec in (
        EngineSpec(
            "pocket",
            "tts",
            "production",
            "model_procs.engines.pocket:PocketEngine",
            Footprint(template=650, worker=100, request=200),
            ("pocket-tts/config.yaml", "pocket-tts/model.safetensors", "pocket-tts/tokenizer.json"),
        ),
        EngineSpec(
            "sensevoice",
            "stt",
            "production",
            "model_procs.engines.sensevoice:SenseVoiceEngine",
            Footprint(template=620, worker=100, request=250),
            (
                "SenseVoiceSmall/config.yaml",
                "SenseVoiceSmall/model.pt",
                "SenseVoiceSmall/am.mvn",
                "SenseVoiceSmall/chn_jpn_yue_eng_ko_spectok.bpe.model",
            ),
        ),
        EngineSpec(
            "flite",
            "tts",
            "embedded",
            "model_procs.engines.flite:FliteEngine",
            Footprint(template=60, worker=30, request=60),
        ),
        EngineSpec(
            "sphinx",
            "stt",
            "embedded",
            "model_procs.engines.sphinx:SphinxEngine",
            Footprint(template=130, worker=40, request=100),
        ),
    )
}
