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
        self.hold_until(digest, now + self._duration)

    def hold_until(self, digest: bytes, until: float) -> None:
        """Refuse this content until then."""
        self._until.pop(digest, None)
        while len(self._until) >= _MOST:
            del self._until[next(iter(self._until))]
        self._until[digest] = until

    def left(self, now: float) -> dict[bytes, float]:
        """The content that is still refused, and for how many seconds."""
        self._until = {digest: until for digest, until in self._until.items() if until > now}
        return {digest: until - now for digest, until in self._until.items()}

    def holds(self, digest: bytes, now: float) -> bool:
        """Whether this content is still refused."""
        until = self._until.get(digest)
        if until is None:
            return False
        if now >= until:
            del self._until[digest]
            return False
        return True
