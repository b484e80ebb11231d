"""Check uploads before decoding: the container format, and the header of a WAV. Runs in workers."""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

from ipc.errors import ErrorCode, ServiceError
from ipc.recordings import HEAD_BYTES, READABLE, detect, id3_size

UNKNOWN_SIZES = frozenset({0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFDB, 0xFFFFFFFF})
"""Sizes of a data chunk that mean "unknown", from writers that cannot seek (FFmpeg, SoX, us)."""


def invalid(problem: str, advice: str = f"send a {READABLE} recording") -> ServiceError:
    """The error for an upload that is damaged or is not a recording."""
    return ServiceError(ErrorCode.invalid_audio, f"{problem}; {advice}")


def empty(problem: str) -> ServiceError:
    """The error for a recording without samples."""
    return ServiceError(
        ErrorCode.empty_audio, f"{problem}; send a recording with at least one second of sound"
    )


def kind_of(file: BinaryIO) -> str:
    """The kind of container, detected from the first bytes, or from those after an ID3 tag."""
    file.seek(0)
    file.seek(id3_size(file.read(HEAD_BYTES)))
    known = detect(file.read(HEAD_BYTES))
    if known is None:
        raise invalid("this is not a recording in a format that the service can read")
    return known.kind


def check_wav(file: BinaryIO, size: int) -> bool:
    """Whether a WAV's header gives the length. Raises `ServiceError` when the length is wrong."""
    position = 12
    for _ in range(1_000):
        file.seek(position)
        chunk = file.read(8)
        if len(chunk) < 8:
            break
        name, claim = struct.unpack("<4sI", chunk)
        position += 8
        if name == b"data":
            there = size - position
            if there == 0 or (claim == 0 and _is_chunk(file, position)):
                raise empty("the WAV holds no samples")
            if claim in UNKNOWN_SIZES:
                return False
            if claim > there:
                raise invalid(
                    f"the WAV is cut short: its header says {claim:,} bytes of audio, but the file "
                    f"has {there:,}",
                    "send the whole file",
                )
            end = position + claim
            if not (_is_chunk(file, end) or _is_chunk(file, end + claim % 2)):
                raise invalid(
                    f"the WAV is longer than its header says: {claim:,} bytes of audio, but the "
                    f"file has {there:,}",
                    "export it again",
                )
            return True
        position += claim + claim % 2
    raise invalid("the WAV has no data chunk, or is cut short before it")


def _is_chunk(file: BinaryIO, position: int) -> bool:
    """Whether a complete RIFF chunk, a tag, padding or the end of the file is at `position`."""
    size = file.seek(0, io.SEEK_END)
    file.seek(position)
    tail = file.read(65_536)
    if len(tail) < 8 or tail[:3] in (b"ID3", b"TAG"):
        return True
    if not any(tail):
        return position + len(tail) == size
    claim = int.from_bytes(tail[4:8], "little")
    printable = all(0x20 <= byte < 0x7F for byte in tail[:4])
    return printable and position + 8 + claim <= size
