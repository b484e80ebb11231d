"""Importing a library without what it would import for comfort. Runs in the front."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without(name: str) -> Iterator[None]:
    """As if the package `name` were not installed; what has imported it already keeps it."""
    hidden = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]  # documented: it cannot be imported
    try:
        yield
    finally:
        del sys.modules[name]
        if hidden is not None:
            sys.modules[name] = hidden
