"""Decode the recordings that clients send. Runs in workers only.

An upload is untrusted. Its first bytes decide the format, never its name. Each format has exactly
one reader: libsndfile for WAV, AIFF and FLAC; `ogg` for OGG; FFmpeg (through PyAV) for M4A, MP4,
MOV, 3GP, WebM, CAF, AAC, AMR and MP3 (libsndfile's MP3 decoder writes to stderr for every broken
frame). Audio is decoded, mixed to mono and resampled block by block, so that memory depends on the
result and not on the upload.
"""

from __future__ import annotations

import ctypes
import io
import os
import re
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr

from ipc.errors import ErrorCode, ServiceError
from model_procs.audio.blocks import Block, check_shape
from model_procs.audio.channels import Mixer
from model_procs.audio.containers import MAX_PARTS, empty, invalid, kind_of, too_many_parts
from model_procs.audio.ffmpeg import KINDS, read_ffmpeg
from model_procs.audio.ogg import read_ogg
from model_procs.audio.pcm import Samples
from model_procs.audio.slices import Slice, find
from model_procs.audio.turns import result_of
from model_procs.audio.wav import wav_parts

BLOCK_SAMPLES = 65_536
"""How many samples, counting all channels, are decoded at a time."""
TOLERANCE_SECONDS = 0.5
"""How far a recording may exceed the limit, because encoders pad to whole frames."""
LOST_GAP_SECONDS = 1.0
"""What remains of a gap that does not fit: a pause, so that the words around it stay apart."""

_FLAC = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
"""The beginning of a FLAC: its name, and the header of its first block."""


def decode(source: bytes | str, *, rate: int, max_seconds: float, truncate: bool) -> Samples:
    """Decode `source` as `decoding` does, in one go."""
    return result_of(decoding(source, rate=rate, max_seconds=max_seconds, truncate=truncate))


def decoding(
    source: bytes | str, *, rate: int, max_seconds: float, truncate: bool
) -> Generator[None, None, Samples]:
    """Decode `source`: the bytes of an upload, or the path of a file with them.

    Yields after each block. Returns mono float32 of shape (n,), n > 0, at `rate` Hz, within
    [-1, 1]. Without `truncate`, sound of more than `max_seconds` is an error, and gaps in
    timestamps become silence. A gap that would make the result longer than `max_seconds` is
    shortened to `LOST_GAP_SECONDS`. With `truncate`, the first `max_seconds` of sound are returned,
    without gaps. For invalid bytes of any kind, raises only `ServiceError` (`empty_audio`,
    `invalid_audio`, `audio_too_long`).
    """
    with _open(source) as file:
        try:
            mixer = Mixer()
            samples = yield from _collect(file, mixer, rate, max_seconds, truncate)
            if better := mixer.better():
                del samples
                samples = yield from _collect(file, Mixer(better), rate, max_seconds, truncate)
            return samples
        except ServiceError:
            raise
        except Exception as error:  # the parsers raise too many kinds to name them all
            reason = (
                getattr(error, "error_string", None) or getattr(error, "strerror", None) or error
            )
            raise invalid(f"the recording cannot be decoded ({reason})") from error


def _open(source: bytes | str) -> BinaryIO:
    """A real file in both cases, unbuffered: several readers read parts of it."""
    if isinstance(source, str):
        return open(source, "rb", buffering=0)
    file = open(os.memfd_create("upload"), "w+b", buffering=0)  # noqa: SIM115 the caller closes it
    file.write(source)
    return file


def _collect(
    file: BinaryIO, mixer: Mixer, rate: int, max_seconds: float, truncate: bool
) -> Generator[None, None, Samples]:
    """Read `file`, mix it, and resample it to `rate` into one array, up to the limit."""
    track = _Track(rate, max_seconds, truncate)
    with closing(_read(file)) as blocks:
        for block in blocks:
            if block.samples.shape[1]:
                track.add(mixer.mix(block.samples, block.rate), block.rate, block.gap)
            if track.full:
                break
            yield
    return track.finish()


class _Track:
    """The result while it grows: samples at one rate, and where the gaps between them are."""

    def __init__(self, rate: int, max_seconds: float, truncate: bool) -> None:
        self._rate = rate
        self._max_seconds = max_seconds
        self._truncate = truncate
        self._limit = int(max_seconds * rate)
        room = self._limit if truncate else self._limit + int(TOLERANCE_SECONDS * rate)
        self._samples = np.empty(room, np.float32)  # pages that stay unused need no memory
        self._filled = 0
        self._gaps: list[tuple[int, int]] = []
        self._silence = 0
        self._source_rate = 0
        self._resampler: Any = None

    @property
    def full(self) -> bool:
        """Whether nothing more is wanted."""
        return self._truncate and self._filled == len(self._samples)

    def add(self, samples: Samples, rate: int, gap: float) -> None:
        """Append `samples` at `rate` Hz, after `gap` seconds. `ServiceError`: it gets too long."""
        silence = 0 if self._truncate else int(min(gap, self._max_seconds + 1.0) * self._rate)
        if silence or rate != self._source_rate:
            self._flush()
            self._source_rate = rate
            if rate != self._rate:
                self._resampler = soxr.ResampleStream(
                    rate, self._rate, 1, dtype="float32", quality="HQ"
                )
        if silence:
            self._remember(silence)
        self._append(self._resampler.resample_chunk(samples) if self._resampler else samples)

    def finish(self) -> Samples:
        """All samples, with the gaps between them."""
        self._flush()
        if self._filled == 0:
            raise empty("the recording holds no sound")
        silence = self._spread()
        return self._samples[: self._filled + silence]

    def _flush(self) -> None:
        if self._resampler:
            self._append(self._resampler.resample_chunk(np.empty(0, np.float32), last=True))
            self._resampler = None

    def _append(self, piece: Samples) -> None:
        room = len(self._samples) - self._filled
        if len(piece) > room and not self._truncate:
            raise ServiceError(
                ErrorCode.audio_too_long,
                f"the recording is longer than {self._max_seconds:g} seconds; send it in shorter "
                "parts",
            )
        piece = piece[:room]
        np.clip(piece, -1.0, 1.0, out=self._samples[self._filled : self._filled + len(piece)])
        self._filled += len(piece)

    def _remember(self, silence: int) -> None:
        """Note a gap here. The room for silence is known only when all sound is there."""
        if self._silence <= self._limit:
            self._gaps.append((self._filled, silence))
            self._silence += min(silence, int(LOST_GAP_SECONDS * self._rate))

    def _spread(self) -> int:
        """Move the samples apart, and return how much silence is between them now."""
        room = max(0, self._limit - self._filled)
        lost = int(LOST_GAP_SECONDS * self._rate)
        fitting = []
        for position, wanted in self._gaps:
            silence = wanted if wanted <= room else min(lost, room)
            room -= silence
            fitting.append((position, silence))
        total = shift = sum(silence for _, silence in fitting)
        end = self._filled
        for position, silence in reversed(fitting):
            self._move(position, end, position + shift)
            self._samples[position + shift - silence : position + shift] = 0.0
            shift -= silence
            end = position
        return total

    def _move(self, start: int, end: int, target: int) -> None:
        """Move samples to `target`. numpy would copy them all first, because the two overlap."""
        item = self._samples.itemsize
        address = self._samples.ctypes.data
        ctypes.memmove(address + target * item, address + start * item, (end - start) * item)


def _read(file: BinaryIO) -> Generator[Block]:
    """Detect the format from the first bytes, and decode with the reader for it."""
    size = file.seek(0, io.SEEK_END)
    if size == 0:
        raise empty("the recording is empty (0 bytes)")
    kind, start = kind_of(file)
    if kind == "ogg":
        yield from read_ogg(file, start, size)
    elif kind in KINDS:
        yield from read_ffmpeg(file, start, size, kind)
    elif kind == "wav":
        for part in wav_parts(file, start, size):
            yield from _read_libsndfile(part, exact=False)
    elif kind == "flac":
        for part in _flac_parts(file, start, size):
            yield from _read_libsndfile(part, exact=True)
    else:
        yield from _read_libsndfile(Slice(file, start, size), exact=False)


def _flac_parts(file: BinaryIO, start: int, size: int) -> Iterator[Slice]:
    """Each FLAC of several that stand one after the other."""
    for _ in range(MAX_PARTS):
        following = find(file, _FLAC, start + 1, size)
        yield Slice(file, start, size if following is None else following)
        if following is None:
            return
        start = following
    raise too_many_parts()


class _ForwardFile(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file that is only read forwards.

    soundfile seeks after each read of a seekable file. This fails for a FLAC that was written to a
    pipe.
    """

    def seekable(self) -> bool:
        return False


def _read_libsndfile(file: Slice, exact: bool) -> Iterator[Block]:
    """Decode with libsndfile. `exact`: the header's number of frames can be trusted."""
    with _ForwardFile(file) as sound:
        check_shape(sound.samplerate, sound.channels)
        frames = 0
        while True:
            # Do not read past the end: for FLAC, a tag after the audio would be an error.
            wanted = min(BLOCK_SAMPLES // sound.channels, sound.frames - frames)
            block = sound.read(wanted, dtype="float32", always_2d=True)
            if len(block) == 0:
                break
            frames += len(block)
            yield Block(sound.samplerate, np.ascontiguousarray(block.T))
        if exact and frames < sound.frames < 1 << 40:  # the header of streamed FLAC says 2**63 - 1
            raise invalid(
                f"the recording is cut short: its header says {sound.frames:,} samples, but only "
                f"{frames:,} can be read",
                "send the whole file",
            )
