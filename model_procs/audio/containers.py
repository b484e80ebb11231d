"""Check uploads before decoding: what is in them, and where it begins. Runs in workers."""

from __future__ import annotations

from typing import BinaryIO

from ipc.errors import ErrorCode, ServiceError
from ipc.recordings import HEAD_BYTES, READABLE, id3_size, locate

MAX_PARTS = 10_000
"""How many recordings one file may hold. To open each takes time, even if they are empty."""
_MAX_TAGS = 100


def invalid(problem: str, advice: str = f"send a {READABLE} recording") -> ServiceError:
    """The error for an upload that is damaged or is not a recording."""
    return ServiceError(ErrorCode.invalid_audio, f"{problem}; {advice}")


def empty(problem: str) -> ServiceError:
    """The error for a recording without samples."""
    return ServiceError(
        ErrorCode.empty_audio, f"{problem}; send a recording with at least one second of sound"
    )


def too_many_parts() -> ServiceError:
    """The error for a file with more than `MAX_PARTS` recordings."""
    return invalid(f"the file holds more than {MAX_PARTS:,} recordings", "send it in parts")


def kind_of(file: BinaryIO) -> tuple[str, int]:
    """The kind of container, and where in the file it begins: behind tags and what is no sound."""
    start = 0
    head = _head(file, start)
    for _ in range(_MAX_TAGS):
        tag = id3_size(head)
        behind = _head(file, start + tag) if tag else b""
        if not behind:
            break
        start += tag
        head = behind
    found = locate(head)
    if found is None:
        raise invalid("this is not a recording in a format that the service can read")
    known, offset = found
    return known.kind, start + offset


def _head(file: BinaryIO, start: int) -> bytes:
    file.seek(start)
    return file.read(HEAD_BYTES)
