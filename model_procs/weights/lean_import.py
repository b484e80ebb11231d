"""Import submodules of a package without its `__init__`, or without PyTorch's compiler.

Runs in templates, spawned workers and `voice-engine models`. `import funasr` imports every
submodule of the package, which takes ten seconds and half a gigabyte. Its model, frontend and
tokenizer are plain modules; importing only these takes half a second.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def lean_import(package: str) -> Iterator[Path]:
    """Make `package` an empty namespace in the block: submodules import, `__init__` does not run.

    Yields the package's folder. Afterwards the namespace is removed, so a later `import package` is
    the real import, which reuses the loaded submodules. Changes nothing when the package has been
    imported before. Raises ModuleNotFoundError when it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    folders = list(spec.submodule_search_locations)
    if package in sys.modules:
        yield Path(folders[0])
        return
    namespace = types.ModuleType(package)
    namespace.__path__ = folders
    sys.modules[package] = namespace
    try:
        yield Path(folders[0])
    finally:
        if sys.modules.get(package) is namespace:
            del sys.modules[package]


@contextmanager
def without_compiler() -> Iterator[None]:
    """Make `torch.compiler.disable` do nothing in the block, for libraries that use it on import.

    It keeps the compiler off a function, but imports the compiler for that, which takes over a
    second and tens of megabytes. Nothing is compiled here.
    """
    import torch.compiler

    compiler = vars(torch.compiler)
    disable = compiler["disable"]
    compiler["disable"] = _unchanged
    try:
        yield
    finally:
        compiler["disable"] = disable


def _unchanged(function: Any = None, *_: object, **__: object) -> Any:
    """As `torch.compiler.disable` is used: on a function, or with options to get a decorator."""
    return _unchanged if function is None else function


@contextmanager
def without_values() -> Iterator[None]:
    """Modules that are made in the block have neither memory nor values: they are loaded next.

    Drawing random values on the device "meta" has no effect, but imports PyTorch's compiler, too.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class WithoutValues(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            if getattr(func, "__module__", "") == "torch.nn.init":  # not each function has one
                return kwargs["tensor"] if "tensor" in kwargs else args[0]
            return func(*args, **kwargs)

    with torch.device("meta"), WithoutValues():
        yield
