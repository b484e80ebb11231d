"""docs/design.md says what is there: its table of files, and the files that it names."""

from __future__ import annotations

import re

from tests.support.file_table import DOCUMENT, file_table, in_document
from tests.support.service import ROOT


def test_the_table_of_files_is_that_of_the_tree() -> None:
    assert in_document() == file_table(), "run: python -m tests.support.file_table --write"


def test_every_file_has_a_first_line_that_says_what_it_is_for() -> None:
    rows = [row.split("|") for row in file_table().splitlines()[2:]]
    assert len(rows) > 80
    assert [row[1] for row in rows if not row[2].strip().endswith(".")] == []


def test_every_path_that_the_design_names_exists() -> None:
    named = re.findall(
        r"`((?:ipc|model_procs|supervisor|tests|ops|docs)/[\w/.]*)`", DOCUMENT.read_text()
    )
    assert len(named) > 20
    assert [path for path in named if not (ROOT / path).exists() and "NAME" not in path] == []
