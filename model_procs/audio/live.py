"""Decode a live stream of sound a piece at a time, each in whatever process. Runs in workers.

All that one piece leaves for the next is in a state of a few kilobytes. For Opus that is also its
last packets: they are decoded again, so that the decoder has heard what came before.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ipc.operations import LIVE_RATE, LIVE_STEP_SECONDS, SoundFormat
from model_procs.audio.blocks import Channels, Planes, check_damage, check_shape
from model_procs.audio.containers import invalid
from model_procs.audio.packets import (
    MAX_REST,
    OggPackets,
    WebmPackets,
    opus_head,
    opus_samples,
)
from model_procs.audio.pcm import Samples
from model_procs.audio.resample import Resampler

Pcm = npt.NDArray[np.int16]

_OPUS_RATE = 48_000
_BEFORE = _OPUS_RATE * 3 // 10
"""Samples before a piece that the decoder of Opus hears again. It predicts the energy of a frame
from that of the one before: what it did not know is halved with each frame of 20 ms."""

_MAGIC: tuple[tuple[bytes, SoundFormat], ...] = (
    (b"OggS", "ogg"),
    (b"\x1a\x45\xdf\xa3", "webm"),
    (b"RIFF", "wav"),
)

_WAV_CODECS = {1: "pcm16", 6: "alaw", 7: "mulaw"}

State = dict[str, Any]
"""What one piece leaves for the next; msgpack can send it."""


class LiveDecoder:
    """One piece of a stream: what was before it is in `state`, what comes after in `save()`."""

    def __init__(self, format: SoundFormat, sample_rate: int, state: State) -> None:
        self._format: SoundFormat = state.get("format", format)
        self._rate: int = state.get("rate", sample_rate)
        self._channels: int = state.get("channels", 1)
        self._rest: bytes = state.get("rest", b"")
        self._codec: str = state.get("codec", "")
        self._left: int | None = state.get("left")
        """Bytes of sound that are still to come in a WAV that says how many it has."""
        self._packets: OggPackets | WebmPackets | None = None
        saved = state.get("packets")
        if self._format == "ogg":
            self._packets = OggPackets(saved)
        elif self._format == "webm":
            self._packets = WebmPackets(saved)
        self._before: list[bytes] = state.get("before", [])
        self._head: bytes = state.get("head", b"")
        self._skip: int = state.get("skip", 0)
        self._resampling: list[Any] | None = state.get("resampling")

    def save(self) -> State:
        """The state after this piece."""
        return {
            "format": self._format,
            "rate": self._rate,
            "channels": self._channels,
            "rest": self._rest,
            "codec": self._codec,
            "left": self._left,
            "packets": None if self._packets is None else self._packets.save(),
            "before": self._before,
            "head": self._head,
            "skip": self._skip,
            "resampling": self._resampling,
        }

    def feed(self, data: bytes, *, last: bool) -> Pcm:
        """The sound of this piece: mono, 16 kHz. Raises `ServiceError` if it cannot be decoded."""
        if self._format == "auto":
            data, self._rest = self._rest + data, b""
            if len(data) < 4 and not last:
                self._rest = data
                return np.empty(0, np.int16)
            self._find_format(data)
        if self._packets is not None:
            return self._resampled(self._opus(self._packets.feed(data)), _OPUS_RATE, last=last)
        return self._plain(data, last=last)

    def _find_format(self, data: bytes) -> None:
        found = [name for magic, name in _MAGIC if data.startswith(magic)]
        if not found and data:
            raise invalid(
                "the sound begins like none of WebM, Ogg and WAV",
                "say which format it has: pcm16 with its sample_rate, mulaw, ...",
            )
        if found:
            (self._format,) = found
            if self._format == "ogg":
                self._packets = OggPackets()
            elif self._format == "webm":
                self._packets = WebmPackets()

    def _plain(self, data: bytes, *, last: bool) -> Pcm:
        """Sound without packets."""
        data = self._rest + data
        if self._format == "wav" and not self._codec:
            start = self._read_wav(data)
            if start is None:
                if len(data) > MAX_REST:
                    raise invalid("the WAV has no samples", "send one that begins with its header")
                self._rest = data
                return np.empty(0, np.int16)
            data = data[start:]
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        codec = self._codec or self._format
        width = self._channels * (2 if codec == "pcm16" else 1)
        whole = len(data) - len(data) % width
        data, self._rest = data[:whole], data[whole:]
        if self._left is not None:
            self._left += len(self._rest)
        _check_length(whole // width / self._rate)
        if codec == "pcm16":
            pcm = np.frombuffer(data, "<i2").astype(np.int16)
        else:
            pcm = _table(codec)[np.frombuffer(data, np.uint8)]
        if self._channels == 1 and self._rate == LIVE_RATE:
            return pcm
        samples = pcm.astype(np.float32).reshape(-1, self._channels) / np.float32(32768)
        return self._resampled(_mixed(samples.T), self._rate, last=last)

    def _read_wav(self, data: bytes) -> int | None:
        """Read the header of a WAV; where its samples begin, None if that is not known yet."""
        at, codec = 12, ""
        while len(data) >= at + 8:
            name, size = struct.unpack_from("<4sI", data, at)
            if name == b"data":
                if not codec:
                    raise invalid("the WAV does not say what its samples are")
                self._left = None if size in (0, 0xFFFFFFFF) or size >= 0x7FFFF000 else size
                self._codec = codec
                return at + 8
            if name == b"fmt " and len(data) >= at + 24:
                tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", data, at + 8)
                if tag == 0xFFFE and len(data) >= at + 34:
                    (tag,) = struct.unpack_from("<H", data, at + 32)
                if bits != (16 if tag == 1 else 8) or tag not in _WAV_CODECS:
                    raise invalid(
                        "the samples of the WAV are not PCM16, mu-law or A-law",
                        "convert it (ffmpeg -i IN -c:a pcm_s16le OUT.wav)",
                    )
                check_shape(rate, channels)
                self._channels, self._rate, codec = channels, rate, _WAV_CODECS[tag]
            at += 8 + size + size % 2
        return None

    def _opus(self, packets: list[bytes]) -> Samples:
        """The sound of `packets`, after those before it."""
        assert self._packets is not None
        packets = [packet for packet in packets if 0 < opus_samples(packet) <= 5760]
        if not packets:
            return np.empty(0, np.float32)
        assert self._packets.head is not None
        head, skipped = opus_head(self._packets.head)
        if self._packets.head != self._head:  # the first piece, or another link of a chain
            self._head, self._skip, self._before = self._packets.head, skipped, []
        _check_length(sum(map(opus_samples, packets)) / _OPUS_RATE)
        again = sum(map(opus_samples, self._before))
        sound = _decoded(head, [*self._before, *packets])[again:]
        dropped = min(self._skip, len(sound))
        self._skip -= dropped
        kept, total = 0, 0
        history = [*self._before, *packets]
        while kept < len(history) and total < _BEFORE:
            kept += 1
            total += opus_samples(history[-kept])
        self._before = history[len(history) - kept :]
        return sound[dropped:]

    def _resampled(self, samples: Samples, rate: int, *, last: bool) -> Pcm:
        tail, phase = None, 0
        if self._resampling is not None:
            tail, phase = np.frombuffer(self._resampling[0], np.float32), self._resampling[1]
        resampler = Resampler(rate, LIVE_RATE, tail=tail, phase=phase)
        made = resampler.feed(samples, last=last)
        self._resampling = [resampler.tail.tobytes(), resampler.phase]
        return np.rint(np.clip(made * 32768, -32768, 32767)).astype(np.int16)


def _decoded(head: bytes, packets: list[bytes]) -> Samples:
    """The sound of packets of Opus; what of them is damaged is silent."""
    import av

    decoder = av.CodecContext.create("libopus", "r")
    decoder.thread_count = 1
    decoder.extradata = head
    planes, pieces, bad = Planes(), [], 0
    for packet in packets:
        length = opus_samples(packet)
        try:
            parts = [planes.of(frame) for frame in decoder.decode(av.Packet(packet))]
            found = _mixed(np.concatenate(parts, axis=1)) if parts else np.empty(0, np.float32)
        except av.error.FFmpegError:
            found, bad = np.empty(0, np.float32), bad + 1
        piece = np.zeros(length, np.float32)
        piece[: len(found)] = found[:length]
        pieces.append(piece)
    if len(packets) >= 10:
        check_damage(len(packets) - bad, bad)
    return np.concatenate(pieces)


def _mixed(channels: Channels) -> Samples:
    """One channel of several."""
    if len(channels) == 1:
        return np.ascontiguousarray(channels[0])
    mixed: Samples = channels.mean(axis=0, dtype=np.float32)
    return mixed


def _check_length(seconds: float) -> None:
    if seconds > LIVE_STEP_SECONDS:
        raise invalid(
            f"a few bytes of the sound claim to be {seconds:.0f} s", "send smaller pieces"
        )


@cache
def _table(codec: str) -> Pcm:
    """The samples of the 256 values of mu-law or A-law (ITU-T G.711)."""
    codes = np.arange(256, dtype=np.int32)
    if codec == "mulaw":
        codes = ~codes & 0xFF
        size = (((codes & 0x0F) << 3) + 0x84 << (codes >> 4 & 7)) - 0x84
        return np.where(codes & 0x80, -size, size).astype(np.int16)
    codes ^= 0x55
    exponent, mantissa = codes >> 4 & 7, (codes & 0x0F) << 4
    size = np.where(exponent, mantissa + 0x108 << np.maximum(exponent - 1, 0), mantissa + 8)
    return np.where(codes & 0x80, size, -size).astype(np.int16)
