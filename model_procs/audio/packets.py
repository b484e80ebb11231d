"""Packets of Opus out of WebM and Ogg, however the bytes are cut. Runs in workers.

Browsers record in these containers. FFmpeg's readers cannot go on in another process; these can:
what they know fits into a short state. Time stamps are ignored: a live stream has no gaps.
"""

from __future__ import annotations

import struct
from typing import Any

from ipc.ogg_page import CAPTURE, page_checksum
from model_procs.audio.containers import invalid

MAX_REST = 96 * 1024
"""The most bytes that are kept for what is not complete yet; a page of Ogg has 64 KB at most."""

_MAX_HEAD = 512
"""OpusHead has 19 bytes, and one more for each of up to 255 channels."""

_USE_OPUS = "record with Opus (MediaRecorder's audio/webm;codecs=opus), or send PCM"


class OggPackets:
    """The packets of the Opus stream in an Ogg; of a chain, one stream after the other."""

    def __init__(self, saved: list[Any] | None = None) -> None:
        self.head: bytes | None = None
        """OpusHead of the stream, once it is known."""
        self._rest, self._serial, self._tags, self._partial = b"", -1, False, b""
        if saved is not None:
            self.head, self._rest, self._serial, self._tags, self._partial = saved

    def save(self) -> list[Any]:
        """The state, for a message."""
        return [self.head, self._rest, self._serial, self._tags, self._partial]

    def feed(self, data: bytes) -> list[bytes]:
        """The packets of sound that end in `data`. Raises `ServiceError` if it is no Opus."""
        buffer, found, at = self._rest + data, [], 0
        while True:
            start = buffer.find(CAPTURE, at)
            if start < 0:
                at = max(at, len(buffer) - 3)
                break
            at = start
            if len(buffer) < at + 27 or len(buffer) < at + 27 + buffer[at + 26]:
                break
            lacing = buffer[at + 27 : at + 27 + buffer[at + 26]]
            body = at + 27 + len(lacing)
            end = body + sum(lacing)
            if len(buffer) < end:
                break
            page = buffer[at:end]
            blank = page[:22] + bytes(4) + page[26:]
            if page[4] or page_checksum(blank) != int.from_bytes(page[22:26], "little"):
                at += 4  # no page, or a damaged one
                continue
            found += self._page(page[5], page[14:18], lacing, buffer[body:end])
            at = end
        self._rest = buffer[at:]
        return found

    def _page(self, flags: int, serial: bytes, lacing: bytes, body: bytes) -> list[bytes]:
        number = int.from_bytes(serial, "little")
        if flags & 2:
            if not body.startswith(b"OpusHead"):
                if self.head is None and not body.startswith(b"fishead"):
                    raise invalid("the sound in the Ogg is not Opus", _USE_OPUS)
                return []
            self.head, self._serial, self._tags, self._partial = (
                body[:_MAX_HEAD],
                number,
                False,
                b"",
            )
            return []
        if number != self._serial:
            return []
        packets, packet, start = [], self._partial if flags & 1 else b"", 0
        skip = bool(flags & 1) and not self._partial  # its beginning is lost
        for length in lacing:
            packet += body[start : start + length]
            start += length
            if length < 255:
                if not skip:
                    packets.append(packet)
                packet, skip = b"", False
        self._partial = packet if lacing and lacing[-1] == 255 else b""
        if len(self._partial) > MAX_REST // 2:
            raise invalid("a packet in the Ogg is far too long for Opus", _USE_OPUS)
        if packets and not self._tags:
            packets, self._tags = packets[1:], True  # OpusTags
        return [each for each in packets if each]


_EBML, _SEGMENT, _CLUSTER, _TRACKS = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0x1654AE6B
_GROUP, _BLOCK, _SIMPLE_BLOCK = 0xA0, 0xA1, 0xA3
_ENTRY, _NUMBER, _CODEC, _PRIVATE = 0xAE, 0xD7, 0x86, 0x63A2
_ENTERED = (_SEGMENT, _CLUSTER, _GROUP)
"""Elements whose content is read like what is around them; their sizes may be unknown."""


class WebmPackets:
    """The packets of the first track with Opus in a WebM, or another Matroska."""

    def __init__(self, saved: list[Any] | None = None) -> None:
        self.head: bytes | None = None
        """OpusHead of the track, once it is known."""
        self._rest, self._skip, self._track = b"", 0, 0
        if saved is not None:
            self.head, self._rest, self._skip, self._track = saved

    def save(self) -> list[Any]:
        """The state, for a message."""
        return [self.head, self._rest, self._skip, self._track]

    def feed(self, data: bytes) -> list[bytes]:
        """The packets that end in `data`. Raises `ServiceError` if it is no WebM with Opus."""
        buffer, found, at = self._rest + data, [], 0
        while at < len(buffer):
            if self._skip:
                passed = min(self._skip, len(buffer) - at)
                self._skip, at = self._skip - passed, at + passed
                continue
            element = _element(buffer, at)
            if element is None:
                break
            name, size, body = element
            if name in _ENTERED:
                at = body
            elif size is None:
                raise invalid("the WebM has an element of unknown size", "record it again")
            elif name in (_TRACKS, _BLOCK, _SIMPLE_BLOCK):
                if size > MAX_REST // 2:
                    raise invalid("an element of the WebM is too large for Opus", _USE_OPUS)
                if len(buffer) < body + size:
                    break
                content = buffer[body : body + size]
                if name == _TRACKS:
                    self._read_tracks(content)
                else:
                    found += self._block(content)
                at = body + size
            else:
                self._skip, at = size, body
        self._rest = buffer[at:]
        return found

    def _read_tracks(self, content: bytes) -> None:
        for name, entry in _children(content):
            if name != _ENTRY:
                continue
            facts = dict(_children(entry))
            private = facts.get(_PRIVATE, b"")
            if facts.get(_CODEC, b"").rstrip(b"\0") == b"A_OPUS" and private[:8] == b"OpusHead":
                self.head = private[:_MAX_HEAD]
                self._track = int.from_bytes(facts.get(_NUMBER, b"\1"), "big")
                return
        raise invalid("the WebM has no track with Opus", _USE_OPUS)

    def _block(self, content: bytes) -> list[bytes]:
        track = _number(content, 0, keep_marker=False)
        if track is None or self.head is None:
            raise invalid(
                "the WebM is damaged, or does not begin with its header", "record it again"
            )
        number, at = track
        if number != self._track or len(content) < at + 4:
            return []
        if content[at + 2] & 0x06:
            raise invalid("the WebM has several frames in a block (lacing)", _USE_OPUS)
        return [content[at + 3 :]]


def _element(buffer: bytes, at: int) -> tuple[int, int | None, int] | None:
    """Name, size (None: unknown) and place of the content of an element; None: not all there."""
    name = _number(buffer, at, keep_marker=True)
    size = None if name is None else _number(buffer, name[1], keep_marker=False)
    if name is None or size is None:
        return None
    unknown = size[0] == (1 << 7 * (size[1] - name[1])) - 1
    return name[0], None if unknown else size[0], size[1]


def _number(buffer: bytes, at: int, *, keep_marker: bool) -> tuple[int, int] | None:
    """A number of EBML and where it ends: the zeros before its first bit are its length."""
    if at >= len(buffer):
        return None
    length = 9 - buffer[at].bit_length()
    if length > (4 if keep_marker else 8):
        raise invalid("the sound is no WebM, or is damaged", "record it again")
    if len(buffer) < at + length:
        return None
    value = int.from_bytes(buffer[at : at + length], "big")
    return value if keep_marker else value ^ (1 << 7 * length), at + length


def _children(content: bytes) -> list[tuple[int, bytes]]:
    """The elements in a complete element; what is cut off is left out."""
    found, at = [], 0
    while at < len(content):
        element = _element(content, at)
        if element is None or element[1] is None:
            break
        name, size, body = element
        assert size is not None
        found.append((name, content[body : body + size]))
        at = body + size
    return found


_SILK = (480, 960, 1920, 2880)
_HYBRID = (480, 960)
_CELT = (120, 240, 480, 960)


def opus_samples(packet: bytes) -> int:
    """How many samples at 48 kHz a packet of Opus has, as its first bytes say."""
    config, code = packet[0] >> 3, packet[0] & 3
    if config < 12:
        frame = _SILK[config & 3]
    elif config < 16:
        frame = _HYBRID[config & 1]
    else:
        frame = _CELT[config & 3]
    count = (1, 2, 2)[code] if code < 3 else (packet[1] & 0x3F if len(packet) > 1 else 0)
    return frame * count


def opus_head(head: bytes) -> tuple[bytes, int]:
    """OpusHead with nothing to skip, and how many samples are to be skipped at the start."""
    if len(head) < 19:
        raise invalid("the header of the Opus is cut short", "record it again")
    (skipped,) = struct.unpack_from("<H", head, 10)
    return head[:10] + bytes(2) + head[12:], skipped
