"""What a hub is for the pull, and what can go wrong with one. Runs in `voice-engine models pull`.

A hub first tells the size and the hash of each file, then downloads the files into a folder. What
has been received stays there, so that the same call goes on after a failure, also in another
process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from model_procs.weights.published import PublishedFile

Received = Callable[[int], None]
"""Is told how many more bytes are there; less than 0 for those that were given up."""


@dataclass(frozen=True, slots=True)
class Digest:
    """A hash of a file: SHA-256, or that of git for files that are in the repository itself."""

    kind: Literal["sha256", "git"]
    value: str


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the hub describes it."""

    published: PublishedFile
    size: int
    digest: Digest
    commit: str

    @property
    def source(self) -> str:
        """Where it comes from, for people."""
        return f"{self.published.repository}/{self.published.path}@{self.commit}"


class HubError(Exception):
    """A hub does not give what it should, and asking again at once is of no use."""


class UnreachableError(HubError):
    """The hub cannot be reached, is overloaded, or the connection broke: later it may work."""


class AccessError(HubError):
    """The hub wants to know who asks, or that terms are accepted (401, 403)."""


class MissingError(HubError):
    """The hub has no such file (404)."""


class ChecksumError(HubError):
    """What was received is not the published file."""


class Hub(Protocol):
    """A hub; its methods raise `HubError`."""

    @property
    def title(self) -> str:
        """What people call it."""

    def describe(self, files: Sequence[PublishedFile]) -> list[RemoteFile]:
        """Size and hash of each file; downloads nothing."""

    def download(self, files: Sequence[RemoteFile], folder: Path, received: Received) -> None:
        """Bring the files that are not in `folder` yet, and go on with those that are in part."""
