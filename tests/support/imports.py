"""What a file imports, for the tests that hold it to something."""

from __future__ import annotations

import ast
from pathlib import Path


def imported(file: Path) -> set[str]:
    """The top-level packages that `file` imports anywhere, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names
