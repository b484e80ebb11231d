"""Who may come in: API keys, by name, and the operators' key. Pure but for one file; in the front.

Only digests are kept, so that no key can reach a log, a traceback or an answer from here.
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
"""What fits into a header: printable ASCII without spaces."""

_SINGLE_NAME = "default"
_ADMIN_NAME = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose key a request has."""

    name: str
    admin: bool = False


class Keys:
    """The keys of the settings; falsy when there is none at all."""

    def __init__(self, entries: Iterable[tuple[str, str]] = (), admin: str | None = None) -> None:
        """`entries` are names and keys; a name may have several keys, so that one can be replaced.

        Raises `ValueError` when one key stands for two callers.
        """
        self._callers: list[tuple[bytes, Caller]] = []
        for name, key in entries:
            self._add(key, Caller(name))
        self.open = not self._callers
        """Whether clients need no key."""
        self.separate_admin = admin is not None
        """Whether operators need a key of their own."""
        if admin is not None:
            self._add(admin, Caller(_ADMIN_NAME, admin=True))

    @classmethod
    def load(
        cls, *, keys: str | None, key: str | None, file: Path | None, admin: str | None
    ) -> Keys:
        """Read the settings of that name. Raises `ValueError` that tells no key."""
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
        """Whose key this is. Takes the same time whichever it is, and how much of it is right."""
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
    # Of equal length whatever the key is, so that comparing tells nothing about length either.
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


def _read(file: Path) -> list[tuple[str, str]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"VOICE_ENGINE_API_KEYS_FILE: {error}") from None
    except UnicodeDecodeError:
        raise ValueError(f"VOICE_ENGINE_API_KEYS_FILE: {file} is not UTF-8") from None
    lines = ["" if line.lstrip().startswith("#") else line for line in lines]
    entries = _parse(lines, "line", str(file), blanks=True)
    if not entries:
        raise ValueError(f"{file} has no key; write name:key, one a line")
    return entries


def _parse(
    entries: list[str], unit: str, source: str, *, blanks: bool = False
) -> list[tuple[str, str]]:
    parsed = []
    for number, entry in enumerate(entries, 1):
        if blanks and not entry.strip():
            continue
        name, _, key = entry.strip().partition(":")
        where = f"{unit} {number} of {source}"
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{where} has no valid name; write name:key, the name of 1 to 64 letters, digits, "
                "'.', '-' or '_'"
            )
        parsed.append((name, _check_key(key, where)))
    return parsed


def _check_key(key: str, where: str) -> str:
    key = key.strip()
    if not key:
        raise ValueError(f"{where} has an empty key, with which anybody could come in; set a key")
    if not _KEY.fullmatch(key):
        raise ValueError(f"{where} has a key that fits no header; use printable ASCII, no spaces")
    return key
