"""Recordings that readers find hard: several in one file, with gaps, with wrong sizes.

They are made by the libraries that write them, of samples (mono float32) that the test has.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import soundfile
import soxr

Sound = npt.NDArray[np.floating[Any]]
"""Mono of shape (n,), or (n, channels)."""

MUX_RATE = 48_000
ID3_TAG = b"ID3\4\0\0\0\0\0\x0a" + bytes(10)

_SOUNDFILE = {
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "flac": ("FLAC", "PCM_16"),
    "flac24": ("FLAC", "PCM_24"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "wav": ("WAV", "PCM_16"),
    "adpcm": ("WAV", "IMA_ADPCM"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
}
_CODECS = {"mp4": "aac", "mov": "aac", "adts": "aac", "mp3": "libmp3lame"}
"""The codec in a container; Opus in all others."""


def encoded(samples: Sound, rate: int, name: str) -> bytes:
    """`samples` in the format called `name`, by libsndfile."""
    container, codec = _SOUNDFILE[name]
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container, subtype=codec)
    return file.getvalue()


def muxed(
    samples: Sound,
    rate: int,
    container: str,
    *,
    gap: float = 0.0,
    at: float = -1.0,
    options: Mapping[str, str] | None = None,
) -> bytes:
    """`samples` in `container`, by FFmpeg; packets from `at` seconds on are `gap` seconds later."""
    pcm = (soxr.resample(samples, rate, MUX_RATE) * 32767).astype("<i2")
    file = io.BytesIO()
    with av.open(file, "w", format=container, container_options=dict(options or {})) as output:
        stream = output.add_stream(_CODECS.get(container, "libopus"), rate=MUX_RATE, layout="mono")
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(pcm[np.newaxis], format="s16", layout="mono")
        frame.sample_rate = MUX_RATE
        frame.pts = 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            shift(packet, gap, at)
            output.mux(packet)
    return file.getvalue()


def remuxed(ogg: bytes, *, gap: float, at: float) -> bytes:
    """The packets of an Ogg in another Ogg, those from `at` seconds on `gap` seconds later."""
    file = io.BytesIO()
    with av.open(io.BytesIO(ogg), "r") as source, av.open(file, "w", format="ogg") as output:
        stream = output.add_stream_from_template(source.streams.audio[0])
        packets = [packet for packet in source.demux(source.streams.audio[0]) if packet.size]
        for packet in packets[:-1]:  # FFmpeg makes an absurd granule of the length of the last
            shift(packet, gap, at)
            packet.stream = stream
            output.mux(packet)
    return file.getvalue()


def shift(packet: Any, gap: float, at: float) -> None:
    """Make a packet `gap` seconds later if it begins at `at` seconds or later."""
    if packet.pts * packet.time_base >= at:
        packet.pts += int(gap / packet.time_base)
        packet.dts = packet.pts


def with_edits(mp4: bytes, edits: Sequence[tuple[float, float | None]]) -> bytes:
    """An MP4 with another edit list: seconds, and where in the sound they begin (None: silence).

    FFmpeg writes `moov` behind the sound, so nothing that it points to moves.
    """
    entries = b"".join(
        struct.pack(">Iii", int(length * 1_000), _media_time(start), 1 << 16)
        for length, start in edits
    )
    body = struct.pack(">I4sII", 16 + len(entries), b"elst", 0, len(edits)) + entries
    edts = struct.pack(">I4s", 8 + len(body), b"edts") + body
    at = mp4.index(b"edts") - 4
    old = struct.unpack_from(">I", mp4, at)[0]
    changed = bytearray(mp4[:at] + edts + mp4[at + old :])
    for name in (b"moov", b"trak"):
        size_at = changed.index(name) - 4
        size = struct.unpack_from(">I", changed, size_at)[0]
        struct.pack_into(">I", changed, size_at, size + len(edts) - old)
    return bytes(changed)


def _media_time(start: float | None) -> int:
    """A time in the units of the sound, of which FFmpeg's AAC has 1,024 before the first."""
    return -1 if start is None else 1_024 + int(start * MUX_RATE)


def with_size(wav: bytes, claim: int, *, name: bytes = b"data", order: str = "<") -> bytes:
    """A WAV whose header says that it has `claim` bytes of samples."""
    changed = bytearray(wav)
    struct.pack_into(f"{order}I", changed, 4, (claim + 36) & 0xFFFFFFFF)
    struct.pack_into(f"{order}I", changed, wav.index(name) + 4, claim)
    return bytes(changed)


def box_first(mov: bytes, name: bytes) -> bytes:
    """A QuickTime file that begins with the box `name` instead of `ftyp`."""
    return mov.replace(b"ftyp", name, 1)


def without_ftyp(mov: bytes) -> bytes:
    """A QuickTime file that begins with `moov`, as those of old cameras do; the sound is behind."""
    size = struct.unpack_from(">I", mov, 0)[0]
    moov_at = mov.index(b"moov") - 4
    moov = bytearray(mov[moov_at:])
    offsets = moov.index(b"stco") + 4
    for index in range(struct.unpack_from(">I", moov, offsets + 4)[0]):
        where = offsets + 8 + 4 * index
        offset = struct.unpack_from(">I", moov, where)[0]
        struct.pack_into(">I", moov, where, offset - size + len(moov))
    return bytes(moov) + mov[size:moov_at]
