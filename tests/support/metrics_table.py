"""The table of metrics in docs/metrics.md, made of what the service exposes.

`python -m tests.support.metrics_table` prints it; with --write it is put into the document.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.support.made_up import happen, made_up
from tests.support.service import ROOT

DOCUMENT = ROOT / "docs" / "metrics.md"
_BEGIN, _END = "<!-- metrics -->\n", "<!-- /metrics -->"


class Scraped:
    """What one scrape has found."""

    def __init__(self, text: str) -> None:
        self.families: dict[str, Metric] = {
            _full_name(each): each for each in text_string_to_metric_families(text)
        }
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        """The value of a series, without the prefix of its name; None when there is none."""
        return self._values.get((f"voice_engine_{name}", frozenset(labels.items())))

    def labels(self, name: str) -> set[str]:
        """The names of a metric's labels."""
        samples = self.families[f"voice_engine_{name}"].samples
        return {label for sample in samples for label in sample.labels} - {"le"}

    def label_values(self, name: str, label: str) -> set[str]:
        """All values that a label of a metric has."""
        samples = self.families[f"voice_engine_{name}"].samples
        return {sample.labels[label] for sample in samples}


def _full_name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def table(families: Iterable[Metric]) -> str:
    """A row for each metric: its name, its type, its labels, and what it is."""
    rows = ["| metric | type | labels | what it is |", "| --- | --- | --- | --- |"]
    for family in families:
        labels = {label: None for sample in family.samples for label in sample.labels}
        named = ", ".join(f"`{label}`" for label in labels if label != "le")
        rows.append(
            f"| `{_full_name(family)}` | {family.type} | {named} | {family.documentation} |"
        )
    return "\n".join(rows) + "\n"


async def scrape() -> str:
    """The metrics of a service to which one event of each kind has happened."""
    with tempfile.TemporaryDirectory() as folder:
        service, _, metrics = made_up(Path(folder))
        metrics.start()
        happen(service)
        text, _ = await metrics.render("")
        await metrics.close()
        await service.close()
    return text.decode()


def in_document() -> str:
    """The table as the document has it."""
    return DOCUMENT.read_text().partition(_BEGIN)[2].partition(_END)[0]


def write() -> None:
    """Put the table into the document."""
    before, _, rest = DOCUMENT.read_text().partition(_BEGIN)
    made = table(Scraped(asyncio.run(scrape())).families.values())
    DOCUMENT.write_text(before + _BEGIN + made + _END + rest.partition(_END)[2])


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        write()
    else:
        print(table(Scraped(asyncio.run(scrape())).families.values()), end="")
