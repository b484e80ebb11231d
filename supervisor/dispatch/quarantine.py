"""Contents of requests that killed workers, refused for some time. Runs in the front."""

from __future__ import annotations

_MOST = 1024
"""Digests kept; the oldest goes first."""


class Quarantine:
    """The digests that are refused, each until a time on the caller's clock, in seconds."""

    def __init__(self, duration: float) -> None:
        self._duration = duration
        self._until: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def add(self, digest: bytes, now: float) -> None:
        """Refuse this content from now on."""
        self._until.pop(digest, None)
        while len(self._until) >= _MOST:
            del self._until[next(iter(self._until))]
        self._until[digest] = now + self._duration

    def holds(self, digest: bytes, now: float) -> bool:
        """Whether this content is still refused."""
        until = self._until.get(digest)
        if until is None:
            return False
        if now >= until:
            del self._until[digest]
            return False
        return True
