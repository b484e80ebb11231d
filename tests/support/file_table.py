"""The table of files in docs/design.md, made of the files' own docstrings.

`python -m tests.support.file_table` prints it; with --write it is put into the document.
"""

from __future__ import annotations

import ast
import sys

from tests.support.service import ROOT

DOCUMENT = ROOT / "docs" / "design.md"
_BEGIN, _END = "<!-- files -->\n", "<!-- /files -->"
_PACKAGES = ("ipc", "model_procs", "supervisor", "ops")


def file_table() -> str:
    """A row for each module: its path and the first line of its docstring."""
    rows = ["| file | what it is |", "| --- | --- |"]
    for package in _PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
            first = docstring.partition("\n")[0]
            if path.name != "__init__.py" or first:
                name = path.relative_to(ROOT).as_posix().replace("/__init__.py", "/")
                rows.append(f"| {name} | {first} |")
    return "\n".join(rows) + "\n"


def in_document() -> str:
    """The table as the document has it."""
    return DOCUMENT.read_text().partition(_BEGIN)[2].partition(_END)[0]


def write() -> None:
    """Put the table into the document."""
    before, _, rest = DOCUMENT.read_text().partition(_BEGIN)
    DOCUMENT.write_text(before + _BEGIN + file_table() + _END + rest.partition(_END)[2])


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        write()
    else:
        print(file_table(), end="")
