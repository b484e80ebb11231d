"""The header of a page of Ogg, and its checksum. Used in every process."""

from __future__ import annotations

import struct
import zlib

CAPTURE = b"OggS"
"""The first bytes of each page."""

HEADER = struct.Struct("<4sBBqIIIB")
"""Capture pattern, version, flags, position, serial, number, checksum, number of lacings."""

CHECKSUM_AT = 22
"""Where the checksum is: four bytes, which are 0 while it is computed."""

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def page_checksum(data: bytes) -> int:
    """The CRC-32 of a page. It takes the bits of each byte in the other order than zlib does."""
    reversed_crc = zlib.crc32(data.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reversed_crc:032b}"[::-1], 2)
