"""Joins the sound of several pieces to one stream, and tells how long it is. Runs in the front.

Each piece was encoded by itself, perhaps in another worker. PCM and the telephone formats are
joined as they are, and so is MP3, whose frames are independent. Ogg needs more: players take a
second header for the end.
"""

from __future__ import annotations

import struct
from typing import Literal

from ipc.formats import FORMATS
from ipc.ogg_page import CHECKSUM_AT, HEADER, page_checksum

LiveFormat = Literal["pcm", "mp3", "opus", "ulaw", "alaw"]
"""Formats that are streams of frames. A WAV has its length at its start, so it cannot go on."""

_BYTES_PER_SAMPLE = {"pcm": 2, "ulaw": 1, "alaw": 1}

_HEADERS = 2
"""Pages at the start of each Ogg: OpusHead, OpusTags."""
_PACKET_SECONDS = 0.02
_PACKET_POSITIONS = 960
"""Positions of Opus in Ogg count samples at 48 kHz."""


class JoinedSound:
    """One stream of sound, from pieces that come one after the other.

    `rate` and `bit_rate` are those of the format; the latter None for formats that have none.
    """

    def __init__(self, response_format: str, rate: int, bit_rate: int | None) -> None:
        self._width = _BYTES_PER_SAMPLE.get(response_format)
        self._rate = rate
        self._bit_rate = FORMATS[response_format].bit_rate(rate, bit_rate)
        self._ogg = _JoinedOgg() if response_format == "opus" else None
        self._size = 0
        self._left = b""

    @property
    def seconds(self) -> float:
        """How long the sound is that was given out so far."""
        if self._ogg is not None:
            return self._ogg.packets * _PACKET_SECONDS
        if self._width is not None:
            return self._size / self._width / self._rate
        assert self._bit_rate is not None
        return self._size * 8 / self._bit_rate  # all frames of an MP3 have the same bit rate

    def begin(self) -> None:
        """Another piece begins."""
        self._left = b""
        if self._ogg is not None:
            self._ogg.begin()

    def feed(self, data: bytes) -> bytes:
        """The next bytes of the piece, as bytes of the stream."""
        if self._ogg is not None:
            return self._ogg.feed(data)
        if self._width == 2:  # a sample must not be cut
            data = self._left + data
            whole = len(data) // 2 * 2
            data, self._left = data[:whole], data[whole:]
        self._size += len(data)
        return data


class _JoinedOgg:
    """Opus in one Ogg: the pages of all pieces, numbered through, with the first piece's header.

    What a decoder should leave out at the start and the end of the later pieces, a few milliseconds
    of silence, is heard.
    """

    def __init__(self) -> None:
        self.packets = 0
        """Packets of sound so far; each has 20 ms."""
        self._pages = 0
        self._page_of_piece = 0
        self._left = b""

    def begin(self) -> None:
        self._page_of_piece = 0
        self._left = b""

    def feed(self, data: bytes) -> bytes:
        data = self._left + data
        given, place = [], 0
        while (size := _page_size(data, place)) is not None:
            given.append(self._page(data[place : place + size]))
            place += size
        self._left = data[place:]
        return b"".join(given)

    def _page(self, page: bytes) -> bytes:
        first = self._pages == self._page_of_piece
        self._page_of_piece += 1
        if self._page_of_piece <= _HEADERS:
            if not first:
                return b""
            self._pages += 1
            return page
        pattern, version, flags, _, serial, _, _, lacings = HEADER.unpack_from(page)
        table = page[HEADER.size : HEADER.size + lacings]
        self.packets += sum(length < 255 for length in table)
        position = self.packets * _PACKET_POSITIONS if table and table[-1] < 255 else -1
        flags &= 0b001  # neither the first nor the last page of the stream
        head = HEADER.pack(pattern, version, flags, position, serial, self._pages, 0, lacings)
        self._pages += 1
        made = bytearray(head + page[HEADER.size :])
        struct.pack_into("<I", made, CHECKSUM_AT, page_checksum(bytes(made)))
        return bytes(made)


def _page_size(data: bytes, place: int) -> int | None:
    """The size of the page that begins there; None if it is not complete."""
    if len(data) - place < HEADER.size:
        return None
    lacings = data[place + HEADER.size - 1]
    body = place + HEADER.size + lacings
    if len(data) < body:
        return None
    size = HEADER.size + lacings + sum(data[place + HEADER.size : body])
    return size if len(data) - place >= size else None
