"""Read Ogg: every link of a chain, and the gaps between pages. Runs in workers.

libsndfile stops after the first link. FFmpeg's reader refuses a link with other channels than the
first, and notices a gap only a page later. So pages and packets are read here, and FFmpeg's
decoders get the packets.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from ipc.ogg_page import CAPTURE, CHECKSUM_AT, HEADER, page_checksum
from model_procs.audio.blocks import (
    SHORTEST_GAP_SECONDS,
    Block,
    Channels,
    Planes,
    check_damage,
)
from model_procs.audio.containers import MAX_PARTS, invalid, too_many_parts
from model_procs.audio.slices import Slice

_CONTINUED, _FIRST, _LAST = 1, 2, 4
_NO_GRANULE = -1
_HEADERS = {"vorbis": 3, "opus": 2}
_FLAC_INFO = slice(17, 51)
"""Where the first packet of FLAC in Ogg has the block that FLAC's decoders need."""
_MAX_PACKET = 1 << 20
"""What goes beyond is not kept: only comments with pictures are longer, and nobody reads them."""
_MAX_DAMAGED = 1_000
_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class _Page:
    serial: int
    flags: int
    granule: int
    packets: list[bytes]
    """What each packet has on this page; the last one goes on on the next page if `unfinished`."""
    unfinished: bool


def read_ogg(file: BinaryIO, start: int, size: int) -> Iterator[Block]:
    """Decode the first stream with sound of every link of the Ogg in `file` from `start` on.

    Raises `ServiceError` when there is none, or when most of it is damaged.
    """
    link: _Link | None = None
    group = False
    links = good = bad = 0
    for page in _pages(io.BufferedReader(Slice(file, start, size), _READ_BYTES)):
        if page.flags & _FIRST:
            if not group:  # the streams of a link begin together, so this is another link
                link, group = None, True
            if link is None and page.packets and (codec := _codec(page.packets[0])) is not None:
                link = _Link(page, codec)
                links += 1
                if links > MAX_PARTS:
                    raise too_many_parts()
            continue
        group = False
        if link is not None and page.serial == link.serial:
            yield from link.blocks(page)
            good, bad = good + link.good, bad + link.bad
            link.good = link.bad = 0
    if not links:
        raise invalid("the OGG has no sound in Vorbis, Opus or FLAC")
    check_damage(good, bad)


def _codec(packet: bytes) -> str | None:
    """FFmpeg's name of the codec of the stream that begins with `packet`."""
    for magic, codec in ((b"\x01vorbis", "vorbis"), (b"OpusHead", "opus"), (b"\x7fFLAC", "flac")):
        if packet.startswith(magic):
            return codec
    return None


class _Link:
    """One stream of sound in a link, fed with its pages. It counts good and bad packets."""

    def __init__(self, page: _Page, codec: str) -> None:
        self.serial = page.serial
        self.good = self.bad = 0
        self._codec = codec
        self._headers = [page.packets[0]]
        self._decoder: Any = None
        self._planes = Planes()
        self._rate = 0
        self._partial: bytes | None = None
        self._end: int | None = None
        self._before = 0
        self._last_length = 0

    def blocks(self, page: _Page) -> Iterator[Block]:
        """The sound of the packets that end on `page`, with the gap before it."""
        pieces = [piece for packet in self._finished(page) for piece in self._decode(packet)]
        length = sum(piece.shape[1] for piece in pieces)
        if page.granule == _NO_GRANULE or not length:
            gap_at, gap = 0, 0
            self._before += length
        else:
            gap, length = self._timed(page, length)
            # A page ends early behind the first packet after a gap (FFmpeg), or before the gap.
            gap_at = len(pieces) - 1 if length < self._last_length else 0
            self._last_length = length
        for number, piece in enumerate(pieces):
            samples = piece[:, :length]
            length -= samples.shape[1]
            yield Block(self._rate, samples, gap / self._rate if number == gap_at else 0.0)

    def _timed(self, page: _Page, length: int) -> tuple[int, int]:
        """The gap before a page with `length` samples, and how many of these count.

        A page's granule is the time of its end. Where the first page begins is where time begins:
        a recording of a broadcast starts at any number. The last page may have padding.
        """
        last = bool(page.flags & _LAST)
        start = page.granule - self._skip - length
        if self._end is None:
            first = start - self._before
            self._end = max(0, first) if last else first
        self._end += self._before
        self._before = 0
        gap = start - self._end
        if last and 0 < -gap <= length:
            length += gap
        elif gap < -SHORTEST_GAP_SECONDS * self._rate:
            self._end = start
        gap = gap if gap >= SHORTEST_GAP_SECONDS * self._rate else 0
        self._end += gap + length
        return gap, length

    @property
    def _skip(self) -> int:
        """Samples at the start of Opus that only prepare its decoder, which drops them."""
        head = self._headers[0]
        return int.from_bytes(head[10:12], "little") if self._codec == "opus" else 0

    def _finished(self, page: _Page) -> Iterator[bytes]:
        """The packets that end on `page`, whole."""
        packets = page.packets
        if packets and page.flags & _CONTINUED:
            # Without its beginning, which was on a page that is lost, a packet is worth nothing.
            first, packets = packets[0], packets[1:]
            whole = None if self._partial is None else (self._partial + first)[:_MAX_PACKET]
            self._partial = None
            if not packets and page.unfinished:
                self._partial = whole
                return
            if whole is not None:
                yield whole
        self._partial = None
        if packets and page.unfinished:
            *packets, self._partial = packets
        yield from packets

    def _decode(self, packet: bytes) -> Iterator[Channels]:
        import av

        if self._decoder is None:
            if self._codec == "flac" or len(self._headers) == _HEADERS[self._codec]:
                self._decoder = self._opened()
            else:
                self._headers.append(packet)
                return
        if self._codec == "flac" and packet[:1] != b"\xff":
            return  # metadata; a frame begins with its sync code
        try:
            frames = self._decoder.decode(av.Packet(packet)) if packet else []
            self.good += 1
        except av.error.FFmpegError:  # one broken packet loses only milliseconds
            frames = []
            self.bad += 1
        for frame in frames:
            self._rate = frame.sample_rate
            yield self._planes.of(frame)

    def _opened(self) -> Any:
        import av

        decoder = av.CodecContext.create(self._codec, "r")
        decoder.thread_count = 1
        if self._codec == "flac":
            decoder.extradata = self._headers[0][_FLAC_INFO]
        elif self._codec == "opus":
            decoder.extradata = self._headers[0]
        else:  # three headers, behind their number less one and the sizes of the first two
            sizes = b"".join(
                b"\xff" * (len(header) // 255) + bytes([len(header) % 255])
                for header in self._headers[:2]
            )
            decoder.extradata = b"\x02" + sizes + b"".join(self._headers)
        return decoder


def _pages(file: io.BufferedReader) -> Iterator[_Page]:
    """The undamaged pages of `file`, in order."""
    damaged = 0
    while damaged <= _MAX_DAMAGED:
        ahead = file.peek(HEADER.size)
        at = ahead.find(CAPTURE)
        if at < 0:
            if len(file.read(max(1, len(ahead) - len(CAPTURE) + 1))) == 0:
                return
            continue
        file.seek(at, io.SEEK_CUR)
        header = file.read(HEADER.size)
        if len(header) < HEADER.size:
            return
        _, version, flags, granule, serial, _, checksum, count = HEADER.unpack(header)
        lacing = file.read(count)
        body = file.read(sum(lacing))
        if version or len(lacing) < count or len(body) < sum(lacing):
            whole = False
        else:
            blank = header[:CHECKSUM_AT] + bytes(4) + header[CHECKSUM_AT + 4 :]
            whole = page_checksum(blank + lacing + body) == checksum
        if not whole:
            damaged += 1
            file.seek(len(CAPTURE) - len(header) - len(lacing) - len(body), io.SEEK_CUR)
            continue
        packets = []
        start = size = 0
        for part in lacing:
            size += part
            if part < 255:
                packets.append(body[start : start + size])
                start, size = start + size, 0
        unfinished = bool(lacing) and lacing[-1] == 255
        if unfinished:
            packets.append(body[start:])
        yield _Page(serial, flags, granule, packets, unfinished)
