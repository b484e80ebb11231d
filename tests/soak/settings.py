"""What a soak is run with: the user's options, and what each set of engines needs."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

CHAOS = ("kill", "stop", "leak", "hang", "crash", "garbage", "storm", "disk", "drop")
"""Kinds of chaos. The first six happen to a model's children one at a time, a storm to all of them
at once, the others around them."""

LETHAL = CHAOS[:6]


@dataclass(frozen=True, slots=True)
class Storm:
    """So many kills within so many seconds, of children chosen at random."""

    kills: int
    seconds: float

    @classmethod
    def parse(cls, text: str) -> Storm:
        """From "KILLS/SECONDS". Raises `ValueError`."""
        kills, seconds = text.split("/")
        return cls(int(kills), float(seconds))

    def __str__(self) -> str:
        return f"{self.kills}/{self.seconds:g}"


STORM = Storm(25, 17.0)


@dataclass(frozen=True, slots=True)
class Options:
    """The command line. `out` has no suffix: the report is .md, the plot .png."""

    minutes: float
    seed: int
    engines: str
    chaos: frozenset[str]
    storm: Storm
    clients: int
    out: Path
    models: Path | None

    @property
    def command(self) -> str:
        """How to run the same again."""
        words = [f"MINUTES={self.minutes:g}", f"SEED={self.seed}", f"ENGINES={self.engines}"]
        if set(CHAOS) != self.chaos:
            words.append("CHAOS=" + ",".join(kind for kind in CHAOS if kind in self.chaos))
        if self.storm != STORM:
            words.append(f"STORM={self.storm}")
        words.append(f"CLIENTS={self.clients}")
        if self.models is not None:
            words.append("MODELS=FOLDER")
        if not self.out.is_absolute():
            words.append(f"OUT={shlex.quote(str(self.out))}")
        return "make soak " + " ".join(words)


@dataclass(frozen=True, slots=True)
class Preset:
    """What one set of engines is run with; memory in MB.

    `limits` are growth over a fresh worker (soft, hard); `leaks` are what one order leaks: some
    orders below the soft limit, which add up, one above it, one above the hard limit.
    """

    engines: tuple[str, str]
    workers: int
    limits: tuple[int, int]
    leaks: tuple[int, int, int]
    long_texts: bool
    checkpoints: str | None = None

    def environment(self, models: Path | None, spool: Path) -> dict[str, str]:
        """The settings of the service, beside its defaults."""
        soft, hard = self.limits
        settings = {
            "TTS_ENGINE": f"tests.soak.engines:{self.engines[0]}",
            "STT_ENGINE": f"tests.soak.engines:{self.engines[1]}",
            "SPOOL_DIR": str(spool),
            # Most uploads shall go to the disk that gets full.
            "SPOOL_THRESHOLD_KB": "64",
            # A hang shall cost seconds, not a quarter of a minute: more of them fit into a run.
            "PING_INTERVAL": "0.5",
            "PING_TIMEOUT": "5",
            "MIN_LIFETIME": "1",
            "CLIENT_SHARE": "1",
        }
        for model in ("TTS", "STT"):
            settings[f"{model}_WORKERS"] = str(self.workers)
            settings[f"{model}_SOFT_LIMIT_MB"] = f"+{soft}"
            settings[f"{model}_HARD_LIMIT_MB"] = f"+{hard}"
        if models is not None:
            settings["MODELS_DIR"] = str(models)
        return {f"VOICE_ENGINE_{name}": value for name, value in settings.items()}


_PRODUCTION = ("ChaoticPocket", "ChaoticSenseVoice")

PRESETS = {
    "minimal": Preset(
        engines=("ChaoticFlite", "ChaoticSphinx"),
        workers=2,
        limits=(100, 250),
        leaks=(40, 130, 300),
        long_texts=True,
    ),
    "embedded": Preset(
        engines=("ChaoticKokoro", "ChaoticWhisper"),
        workers=1,
        limits=(500, 900),
        leaks=(200, 550, 1000),
        long_texts=False,
    ),
    "nano": Preset(
        engines=_PRODUCTION,
        workers=2,
        limits=(150, 350),
        leaks=(60, 180, 400),
        long_texts=True,
        checkpoints="nano",
    ),
    "full": Preset(
        engines=_PRODUCTION,
        workers=1,
        limits=(400, 800),
        leaks=(150, 450, 900),
        long_texts=False,
        checkpoints="full",
    ),
}
