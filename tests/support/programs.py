"""Programs that some tests run for real: setup installs them where it can (ops/setup.sh --dev)."""

from __future__ import annotations

import os
import shutil

import pytest

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def program(name: str) -> str:
    """The path of a program; its name where it is missing, so that running it fails."""
    return shutil.which(name, path=_PATH) or name


def needs_program(*names: str) -> pytest.MarkDecorator:
    """Skip tests where a program is missing, by its name. In CI they run, and fail."""
    missing = [name for name in names if shutil.which(name, path=_PATH) is None]
    return pytest.mark.skipif(
        bool(missing) and os.environ.get("CI") != "true", reason=f"no {', '.join(missing)} here"
    )
