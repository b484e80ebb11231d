"""Files that commands write: whole, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from supervisor.cli.client import CommandError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block succeeds, and is gone when it fails.

    The name is always the same, so that what a killed command has left is used up by the next one.
    """
    unfinished = path.with_name(f".{path.name}.part")
    try:
        try:
            with unfinished.open("w+b") as file:
                yield file
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise CommandError(
            f"{path} cannot be written: {error.strerror or error}; name another place with -o"
        ) from error
