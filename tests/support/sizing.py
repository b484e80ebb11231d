"""The table of sizes in docs/operations.md, made of the plan that the service makes at its start.

`python -m tests.support.sizing` prints it; with --write it is put into the document.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from supervisor.memory.limits import FRONT_MB, MB, DoesNotFit, plan
from supervisor.settings import Settings
from tests.support.service import ROOT

DOCUMENT = ROOT / "docs" / "operations.md"
_BEGIN, _END = "<!-- sizing -->\n", "<!-- /sizing -->"
_SIZES = (2, 4, 8)
"""Of the container, in GB."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """Engines, speech and transcription, with how many workers each of both has."""

    engines: str
    tts: int = 1
    stt: int = 1

    def settings(self) -> Settings:
        return Settings(
            _env_file=None,
            engines=self.engines,
            tts_workers=str(self.tts),
            stt_workers=str(self.stt),
        )


_CHOICES = (
    _Choice("flite,sphinx"),
    _Choice("kokoro,whisper"),
    _Choice("kokoro,whisper", 2, 2),
    _Choice("pocket,whisper"),
    _Choice("pocket,sensevoice"),
    _Choice("pocket,sensevoice", 2),
    _Choice("pocket,kokoro,sensevoice,whisper"),
)


def sizing_table() -> str:
    """A row for each choice: its memory at rest, and what fits into each size."""
    sizes = [f"{size} GB" for size in _SIZES]
    rows = [
        ("engines", "workers", "at rest", *sizes),
        *[("---",) * (3 + len(sizes))],
    ]
    for choice in _CHOICES:
        needs = {model.name: model.need for model in choice.settings().models}
        rest = FRONT_MB + sum(need.template + need.worker * need.workers for need in needs.values())
        rows.append(
            (
                choice.engines.replace(",", ", "),
                f"{choice.tts} + {choice.stt}",
                f"{rest} MB",
                *(_fitting(size, choice.settings()) for size in _SIZES),
            )
        )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _fitting(size: int, settings: Settings) -> str:
    """Requests at once of each model, and the growth at which a worker is replaced and killed."""
    try:
        plans = plan(size * 1024 * MB, {model.name: model.need for model in settings.all_models})
    except DoesNotFit:
        return "-"
    at_once = ", ".join(str(plans[model.name].capacity) for model in settings.models)
    limits = plans[settings.models[0].name].limits
    return f"{at_once}; {limits.soft.describe()}, {limits.hard.describe()}"


def in_document() -> str:
    """The table as the document has it."""
    return DOCUMENT.read_text().partition(_BEGIN)[2].partition(_END)[0]


def write() -> None:
    """Put the table into the document."""
    before, _, rest = DOCUMENT.read_text().partition(_BEGIN)
    DOCUMENT.write_text(before + _BEGIN + sizing_table() + _END + rest.partition(_END)[2])


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        write()
    else:
        print(sizing_table(), end="")
