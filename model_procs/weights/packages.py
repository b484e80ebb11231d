"""Weights that come in packages: put together once in the cache folder, and checked.

Used in templates. Packages have an upper size, so that large files come in several parts. A file
that is not the published one, to the last bit, is never loaded.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ipc.errors import ErrorCode, ServiceError

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """A published file of `size` bytes; `parts` are (module, path below it), in order."""

    name: str
    size: int
    sha256: str
    parts: tuple[tuple[str, str], ...]


def package_folder(module: str) -> Path:
    """Where a top-level package is installed. Raises `ServiceError` (model_unavailable)."""
    found = importlib.util.find_spec(module)
    places = [] if found is None else list(found.submodule_search_locations or ())
    if not places:
        raise ServiceError(
            ErrorCode.model_unavailable,
            f"the package {module} is not installed; run `make setup`, or put the weights into the "
            "models folder",
        )
    return Path(places[0])


def assembled(file: PackagedFile, folder: Path) -> Path:
    """The path of `file` in `folder`, made from its parts unless it is there already.

    Its hash is checked each time. Raises `ServiceError` (model_unavailable) when the parts are not
    those of the published file, or the folder cannot be written.
    """
    path = folder / file.name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.geteuid():
            raise PermissionError("it belongs to another user, who could change the file")
        if _matches(path, file):
            return path
        with _locked(folder):
            if not _matches(path, file):  # another process may have made it meanwhile
                _assemble(file, path)
    except OSError as error:
        raise ServiceError(
            ErrorCode.model_unavailable,
            f"{file.name} cannot be written to {folder}: {error}; set VOICE_ENGINE_CACHE_DIR to a "
            f"folder with {file.size >> 20} MB of free space",
        ) from error
    return path


def _assemble(file: PackagedFile, path: Path) -> None:
    unfinished = path.with_name(f"{path.name}.unfinished")
    digest = hashlib.sha256()
    try:
        with unfinished.open("wb") as whole:
            for module, name in file.parts:
                for block in _blocks(package_folder(module) / name):
                    digest.update(block)
                    whole.write(block)
            whole.flush()
            os.fsync(whole.fileno())
        if digest.hexdigest() != file.sha256:
            modules = ", ".join(module for module, _ in file.parts)
            raise ServiceError(
                ErrorCode.model_unavailable,
                f"{file.name} from the packages {modules} is not the published file; install them "
                "again: remove .venv, then run `make setup`",
            )
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _matches(path: Path, file: PackagedFile) -> bool:
    try:
        if path.stat().st_size != file.size:
            return False
    except FileNotFoundError:
        return False
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest() == file.sha256


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as source:
        while block := source.read(_BLOCK):
            yield block


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let only one process write in `folder`."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
