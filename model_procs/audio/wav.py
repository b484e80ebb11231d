"""Find the samples in a WAV, whatever its header says about their size. Runs in workers.

Many headers are wrong. Programs that write to a pipe cannot go back to fill in the size, and put
something large there. Others count a few bytes too many or too few. Some files are several WAVs one
after the other. So each stretch of samples is found here, and the decoder gets it behind a header
that is true.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from model_procs.audio.containers import MAX_PARTS, empty, invalid, too_many_parts
from model_procs.audio.slices import Slice, find

UNKNOWN_SIZES = frozenset({0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFDB, 0xFFFFFFFF})
"""Sizes of a data chunk that mean "unknown", from writers that cannot seek (FFmpeg, SoX, us)."""

ABSURD_SIZE = 1 << 30
"""A larger size that the file does not have is taken for "unknown" too.

It is more than three times the largest upload, so it is no upload that was cut short. Pocket TTS
writes 2,000,000,000, others the largest number that fits, less the size of a header.
"""

_MISCOUNT_BYTES = 1_024
_MISCOUNT_PART = 0.1
_MISCOUNT_SECONDS = 0.5
"""A size may be wrong by 1 KB (a header or a tag was counted in), or by a tenth, but not by more
than half a second of sound: a word fits into more, and the client should learn that it is lost."""

_RIFF = (b"RIFF", b"RF64", b"BW64")
_WAV = re.compile(rb"(?:RIFF|RF64|BW64)....WAVE", re.DOTALL)
_MAX_CHUNKS = 1_000
_MAX_DATA = 0xF000_0000
_MAX_FORMAT = 1_024


@dataclass(slots=True)
class _Format:
    """What a chunk `fmt ` says."""

    chunk: bytes
    bytes_per_second: int = 0
    frame: int = 1

    def __post_init__(self) -> None:
        if len(self.chunk) >= 14:
            _, _, _, self.bytes_per_second, frame = struct.unpack_from("<HHIIH", self.chunk)
            self.frame = max(1, frame)

    def far(self, difference: int, claim: int) -> bool:
        """Whether a size of `claim` bytes that is wrong by `difference` is more than a miscount."""
        part = min(_MISCOUNT_SECONDS * self.bytes_per_second, _MISCOUNT_PART * claim)
        return difference > max(_MISCOUNT_BYTES, part)

    def file(self, file: BinaryIO, start: int, end: int) -> Slice:
        """A WAV with this format and the samples from `start` to `end` of `file`."""
        size = min(end - start, _MAX_DATA)
        size -= size % self.frame
        chunk = struct.pack("<4sI", b"fmt ", len(self.chunk)) + self.chunk
        chunk += bytes(len(chunk) % 2)
        riff = struct.pack("<4sI4s", b"RIFF", 12 + len(chunk) + size, b"WAVE")
        return Slice(file, start, start + size, riff + chunk + struct.pack("<4sI", b"data", size))


@dataclass(slots=True)
class _Wav:
    """What the chunks before the samples say."""

    format: _Format | None = None
    long_size: int = 0

    def note(self, file: BinaryIO, name: bytes, body: int, claim: int) -> None:
        """Read the chunk `name` whose `claim` bytes are at `body`, if it says something."""
        if name == b"fmt ":
            self.format = _Format(_read(file, body, min(claim, _MAX_FORMAT)))
        elif name == b"ds64":
            self.long_size = int.from_bytes(_read(file, body + 8, 8), "little")


def wav_parts(file: BinaryIO, start: int, size: int) -> Iterator[Slice]:
    """Every stretch of samples in the WAVs of `file` from `start` on, each as a WAV.

    `size` is the size of `file`. Raises `ServiceError` when there are no samples, and when there
    are far fewer or far more than the header says.
    """
    if _read(file, start, 4) == b"riff":
        yield _wave64(file, start, size)
        return
    position: int | None = start
    wav = _Wav()
    seen = heard = False
    for _ in range(3 * MAX_PARTS):
        head = b"" if position is None else _read(file, position, 12)
        if position is None or len(head) < 8 or (seen and not _printable(head[:4])):
            break
        name, claim = struct.unpack_from("<4sI", head)
        body = position + 8
        if _WAV.match(head):
            wav = _Wav()
            position += 12
        elif name == b"data":
            if wav.format is None:
                raise invalid("the WAV does not say what its samples are")
            claim = wav.long_size if claim == 0xFFFFFFFF and wav.long_size else claim
            end, position = _extent(file, body, size, claim, wav.format)
            seen = True
            if end - body >= wav.format.frame:
                heard = True
                yield wav.format.file(file, body, end)
        else:
            wav.note(file, name, body, claim)
            position = body + claim + claim % 2
    else:
        raise too_many_parts()
    if not seen:
        raise invalid("the WAV has no data chunk, or is cut short before it")
    if not heard:
        raise empty("the WAV holds no samples")


def _extent(
    file: BinaryIO, start: int, size: int, claim: int, known: _Format
) -> tuple[int, int | None]:
    """The end of the samples that begin at `start`, and where the next chunk is, if there is one.

    `claim` is the size that the header gives them. Raises `ServiceError` if it is far from true.
    """
    there = size - start
    if there == 0 or (claim == 0 and _is_chunk(file, start, size)):
        return start, start
    unknown = claim in UNKNOWN_SIZES or claim > max(there, ABSURD_SIZE)
    end = start + claim
    if not unknown and claim <= there:
        for following in (end, end + claim % 2):
            if _is_chunk(file, following, size):
                return end, following
    another = find(file, _WAV, start, size)
    if another is not None:
        there = another - start
    if unknown:
        return start + there, another
    if claim > there and known.far(claim - there, claim):
        raise invalid(
            f"the WAV is cut short: its header says {claim:,} bytes of audio, but the file "
            f"has {there:,}",
            "send the whole file",
        )
    if claim < there and known.far(there - claim, claim):
        raise invalid(
            f"the WAV is longer than its header says: {claim:,} bytes of audio, but the "
            f"file has {there:,}",
            "export it again",
        )
    return start + min(claim, there), another


def _wave64(file: BinaryIO, start: int, size: int) -> Slice:
    """Wave64, Sony's WAV for large files: names of 16 bytes, sizes of 8 that count the header."""
    position = start + 40
    wav = _Wav()
    for _ in range(_MAX_CHUNKS):
        head = _read(file, position, 24)
        claim = int.from_bytes(head[16:], "little") - 24
        body = position + 24
        if len(head) < 24:
            break
        if head.startswith(b"data") and wav.format is not None:
            end, _ = _extent(file, body, size, max(0, claim), wav.format)
            if end - body < wav.format.frame:
                raise empty("the WAV holds no samples")
            return wav.format.file(file, body, end)
        if claim < 0:
            break
        wav.note(file, head[:4], body, claim)
        position = body + claim + -claim % 8
    raise invalid("the WAV has no data chunk, or is cut short before it")


def _read(file: BinaryIO, position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(count)


def _printable(name: bytes) -> bool:
    return all(0x20 <= byte < 0x7F for byte in name)


def _is_chunk(file: BinaryIO, position: int, size: int) -> bool:
    """Whether a complete RIFF chunk, a tag, padding or the end of the file is at `position`."""
    tail = _read(file, position, 65_536)
    if len(tail) < 8 or tail[:3] in (b"ID3", b"TAG"):
        return True
    if not any(tail):
        return position + len(tail) == size
    claim = int.from_bytes(tail[4:8], "little")
    if tail[:4] in _RIFF:
        return tail[8:12] == b"WAVE"
    return _printable(tail[:4]) and position + 8 + claim <= size
