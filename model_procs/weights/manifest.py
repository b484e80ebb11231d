"""What a pull has brought: a file beside the weights, with their hashes. Runs in commands.

Weights that somebody has put there by hand have none; nothing but `voice-engine models` reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MANIFEST = "pulled.json"
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class PulledFile:
    """A file as it was when the pull was complete; `source` says where it came from."""

    size: int
    sha256: str
    source: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a model, by their paths below its folder; `label` is that of the release."""

    engine: str
    label: str
    files: Mapping[str, PulledFile]

    def write(self, folder: Path) -> None:
        """Put it into `folder`."""
        content = {
            "engine": self.engine,
            "label": self.label,
            "files": {name: asdict(file) for name, file in self.files.items()},
        }
        (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def read(folder: Path) -> Manifest | None:
    """The manifest in `folder`; None without one. Raises `ValueError` if it cannot be read."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        files = {name: PulledFile(**file) for name, file in content["files"].items()}
        return Manifest(content["engine"], content["label"], files)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def damage(folder: Path, manifest: Manifest) -> list[str]:
    """What is not as it was pulled: a few words for each such file. Reads all of them."""
    found = []
    for name, pulled in manifest.files.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif path.stat().st_size != pulled.size:
            found.append(f"{name} has {path.stat().st_size} bytes instead of {pulled.size}")
        elif sha256_of(path) != pulled.sha256:
            found.append(f"{name} is another file: its SHA-256 has changed")
    return found


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_hash_of(path: Path) -> str:
    """The hash that git gives a file."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
