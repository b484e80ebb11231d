"""Edit lists of MP4: pauses that the recorder wrote as edits without sound. Runs in workers.

FFmpeg honours most edit lists, but takes an empty edit behind the first sound for the beginning of
the recording, and plays that again. Only for such lists the edits are made here.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from model_procs.audio.blocks import Channels

_TRACK = (b"moov", b"trak")
_CONTAINERS = ((b"moov",), _TRACK, (*_TRACK, b"edts"), (*_TRACK, b"mdia"))
_MAX_BOXES = 10_000
_MAX_EDITS = 10_000
_ROUNDING = 0.05
"""Lengths are in the units of the movie, often milliseconds: an edit may reach into the next."""


@dataclass(frozen=True, slots=True)
class Edit:
    """From `time` on, `seconds` of the sound that begins at `media` of the track."""

    time: float
    seconds: float
    media: float

    @property
    def end(self) -> float:
        """Where in the track it ends."""
        return self.media + self.seconds


def place(
    edits: list[Edit], media: float, samples: Channels, rate: int
) -> Iterator[tuple[float, Channels]]:
    """Where the edits put `samples`, which begin at `media` seconds of the track."""
    count = samples.shape[1]
    for edit in edits:
        first = max(0, round((edit.media - media) * rate))
        last = min(float(count), (edit.end - media) * rate)
        if first < last:
            time = edit.time + media + first / rate - edit.media
            yield time, samples[:, first : round(last)]


def pauses(file: BinaryIO, start: int, size: int) -> list[Edit]:
    """The edits of the first track with sound, if an empty one follows another one; else none.

    None too, when they put the sound into another order, which FFmpeg does right.
    """
    track = _Track()
    second = 0
    for path, body, end in _boxes(file, start, size):
        if path == _TRACK:
            if track.sound:
                break
            track = _Track()
        elif path == (b"moov", b"mvhd"):
            second = _timescale(_read(file, body, end, 24))
        elif path[:2] == _TRACK:
            track.note(path, file, body, end)
    return track.edits(second) if track.sound else []


class _Track:
    """What the boxes of a track say."""

    def __init__(self) -> None:
        self.sound = False
        self._second = 0
        self._list = b""

    def note(self, path: tuple[bytes, ...], file: BinaryIO, body: int, end: int) -> None:
        if path[2:] == (b"mdia", b"hdlr"):
            self.sound = _read(file, body, end, 12)[8:] == b"soun"
        elif path[2:] == (b"mdia", b"mdhd"):
            self._second = _timescale(_read(file, body, end, 24))
        elif path[2:] == (b"edts", b"elst"):
            self._list = _read(file, body, end, 8 + 20 * _MAX_EDITS)

    def edits(self, second: int) -> list[Edit]:
        """The edits, as `pauses` returns them; `second` is the unit of their lengths."""
        if not (second and self._second and len(self._list) >= 8):
            return []
        entry = struct.Struct(">Qqi" if self._list[0] == 1 else ">Iii")
        whole = len(self._list[8:]) // entry.size * entry.size
        time = 0.0
        edits: list[Edit] = []
        paused = ordered = False
        for length, media, _ in entry.iter_unpack(self._list[8 : 8 + whole]):
            if media < 0:
                paused = paused or bool(edits)
                time += length / second
                continue
            edit = Edit(time, length / second or math.inf, media / self._second)
            ordered = not edits or (ordered and edits[-1].end <= edit.media + _ROUNDING)
            edits.append(edit)
            time += edit.seconds
        return edits if paused and ordered else []


def _boxes(file: BinaryIO, start: int, size: int) -> Iterator[tuple[tuple[bytes, ...], int, int]]:
    """The boxes of an MP4 down to those of a track: names, and where each begins and ends."""
    inside: list[tuple[tuple[bytes, ...], int]] = [((), size)]
    position = start
    for _ in range(_MAX_BOXES):
        while len(inside) > 1 and position >= inside[-1][1]:
            position = inside.pop()[1]
        path, limit = inside[-1]
        header = _read(file, position, limit, 16)
        if len(header) < 8:
            if len(inside) == 1:
                return
            position = limit
            continue
        length, name = struct.unpack_from(">I4s", header)
        body = position + 8
        if length == 1:
            length = int.from_bytes(header[8:], "big")
            body += 8
        end = limit if length == 0 else min(limit, max(position + length, body))
        path = (*path, name)
        yield path, body, end
        if path in _CONTAINERS:
            inside.append((path, end))
            position = body
        else:
            position = end


def _timescale(header: bytes) -> int:
    """The units of a second in the head of a movie or of a track (`mvhd`, `mdhd`)."""
    offset = 20 if header[:1] == b"\1" else 12
    return int.from_bytes(header[offset : offset + 4], "big")


def _read(file: BinaryIO, position: int, end: int, count: int) -> bytes:
    file.seek(position)
    return file.read(max(0, min(count, end - position)))
