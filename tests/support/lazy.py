"""Libraries that take long to import, for test files that must be collected quickly."""

from __future__ import annotations

import importlib
from typing import Any


class Lazy:
    """Stands for the module `name`, which is imported when something of it is first asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # pytest looks for those when it collects
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)
