"""API keys of clients, each with a name, and the operators' key. Runs in the front.

Only reads the file of keys; everything else is pure. Keeps digests instead of keys, so that no key
can get into a log, a traceback or a response.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY = re.compile(r"[!-~]{1,512}")
"""Printable ASCII without spaces, which every HTTP header can carry."""

_SINGLE_NAME = "default"
_ADMIN_NAME = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """The owner of the key that a request was sent with."""

    name: str
    admin: bool = False


class Keys:
    """All keys from the settings."""

    def __init__(self, entries: Iterable[tuple[str, str]] = (), admin: str | None = None) -> None:
        """`entries` are names and keys. A name may have several keys, so that one can be replaced.

        Raises `ValueError` when two callers have the same key.
        """
        self._callers: list[tuple[bytes, Caller]] = []
        for name, key in entries:
            self._add(key, Caller(name))
        self.open = not self._callers
        """Whether the service is open to everyone who can reach it."""
        self.separate_admin = admin is not None
        """Whether operators' endpoints need the operators' key."""
        if admin is not None:
            self._add(admin, Caller(_ADMIN_NAME, admin=True))

    @classmethod
    def load(
        cls, *, keys: str | None, key: str | None, file: Path | None, admin: str | None
    ) -> Keys:
        """Read the keys from the settings. Raises `ValueError`; its message contains no key."""
        entries: list[tuple[str, str]] = []
        if keys is not None:
            entries += _parse(keys.split(","), "entry", "VOICE_ENGINE_API_KEYS")
        if key is not None:
            entries.append((_SINGLE_NAME, _check_key(key, "VOICE_ENGINE_API_KEY")))
        if file is not None:
            entries += _read(file)
        if admin is not None:
            admin = _check_key(admin, "VOICE_ENGINE_ADMIN_KEY")
        return cls(entries, admin)

    def find(self, key: str) -> Caller | None:
        """The owner of `key`, or None. Takes the same time for every key, valid or not."""
        digest = _digest(key)
        found = None
        for known, caller in self._callers:
            if hmac.compare_digest(known, digest):
                found = caller
        return found

    def _add(self, key: str, caller: Caller) -> None:
        owner = self.find(key)
        if owner is not None and owner != caller:
            raise ValueError(f"{owner.name} and {caller.name} have the same key; give each its own")
        self._callers.append((_digest(key), caller))


def _digest(key: str) -> bytes:
    # All digests have the same length, so that comparing them does not reveal a key's length.
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


def _read(file: Path) -> list[tuple[str, str]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"VOICE_ENGINE_API_KEYS_FILE: {error}") from None
    except UnicodeDecodeError:
        raise ValueError(f"VOICE_ENGINE_API_KEYS_FILE: {file} is not UTF-8") from None
    lines = ["" if line.lstrip().startswith("#") else line for line in lines]
    entries = _parse(lines, "line", str(file), skip_empty=True)
    if not entries:
        raise ValueError(f"{file} has no key; write one name:key on each line")
    return entries


def _parse(
    entries: list[str], unit: str, source: str, *, skip_empty: bool = False
) -> list[tuple[str, str]]:
    parsed = []
    for number, entry in enumerate(entries, 1):
        if skip_empty and not entry.strip():
            continue
        name, _, key = entry.strip().partition(":")
        where = f"{unit} {number} of {source}"
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{where} has no valid name; write name:key, where the name is 1 to 64 letters, "
                "digits, '.', '-' or '_'"
            )
        parsed.append((name, _check_key(key, where)))
    return parsed


def _check_key(key: str, where: str) -> str:
    key = key.strip()
    if not key:
        raise ValueError(f"{where} has an empty key, which would let everyone in; set a key")
    if not _KEY.fullmatch(key):
        raise ValueError(
            f"{where} has a key that an HTTP header cannot carry; use printable ASCII, no spaces"
        )
    return key
