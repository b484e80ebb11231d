"""`python -m wyoming_openai`, also on Python 3.11.

wyoming-openai is for Python 3.12. All that 3.11 lacks is the syntax of two generic functions
(PEP 695), whose type parameters stand in annotations alone. So on 3.11 they are left out as its
source is compiled; everything else runs as it was published.
"""

from __future__ import annotations
import __future__

import importlib.abc
import importlib.machinery
import re
import runpy
import sys
from collections.abc import Sequence
from types import CodeType, ModuleType

_GENERIC = re.compile(r"(\bdef \w+)\[[^\]]+\](?=\()")


class _Loader(importlib.machinery.SourceFileLoader):
    def source_to_code(self, data: bytes, path: str) -> CodeType:  # type: ignore[override]
        source = _GENERIC.sub(r"\1", data.decode())
        flags = __future__.annotations.compiler_flag
        code: CodeType = compile(source, path, "exec", flags=flags, dont_inherit=True)
        return code


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if fullname.startswith("wyoming_openai.") and spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin)
        return spec


if __name__ == "__main__":
    if sys.version_info < (3, 12):
        sys.meta_path.insert(0, _Finder())
    runpy.run_module("wyoming_openai", run_name="__main__", alter_sys=True)
