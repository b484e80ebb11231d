"""Put a folder in its place when it is complete. Runs in `voice-engine models`.

Who looks finds the old folder or the new one, never a half or a mixture.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # <fcntl.h>, <linux/fs.h>; Python has no name for them


def put(fresh: Path, place: Path) -> None:
    """Make `fresh` the folder at `place`; both are on one file system.

    What was at `place` is at `fresh` afterwards, for the caller to remove. Models with folders of
    their own in `place` stay there.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    for model in nested_models(place):
        if not (fresh / model.name).exists():
            shutil.copytree(model, fresh / model.name, copy_function=_link)
    for path in (fresh, *fresh.rglob("*")):
        # Some libraries write files that only the owner can read.
        path.chmod(0o755 if path.is_dir() else 0o644)
        _sync(path)  # or a crash of the machine may leave the name without the bytes
    try:
        if place.exists():
            _exchange(fresh, place)
        else:
            fresh.rename(place)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
            raise
        _replace(fresh, place)
    _sync(place.parent)


def nested_models(place: Path) -> list[Path]:
    """The folders of other models in the folder of one: Pocket's languages and sizes."""
    return [path.parent for path in place.glob("*/config.yaml")]


def _link(source: str, target: str) -> None:
    """The same file under another name; a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(one: Path, other: Path) -> None:
    """Exchange two folders in one step. Raises `OSError`; some file systems cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(other))


def _replace(fresh: Path, place: Path) -> None:
    """The same in three steps; if the second fails, the old folder is back."""
    old = fresh.with_name(f"{fresh.name}.old")
    place.rename(old)
    try:
        fresh.rename(place)
    except OSError:
        old.rename(place)
        raise
    old.rename(fresh)


@contextmanager
def replacing(place: Path) -> Iterator[Path]:
    """A new folder that replaces `place` when the block succeeds, and is removed when it fails."""
    place.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    fresh = scratch / "new"
    fresh.mkdir()
    try:
        yield fresh
        put(fresh, place)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
