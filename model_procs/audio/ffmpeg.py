"""Read containers with FFmpeg, through PyAV. Runs in workers.

FFmpeg gets an open file, a fixed container format and a list of codecs, and cannot open anything
else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO

from model_procs.audio.blocks import SHORTEST_GAP_SECONDS, Block, Channels, Planes, check_damage
from model_procs.audio.containers import invalid
from model_procs.audio.edits import pauses, place
from model_procs.audio.slices import Slice

KINDS = ("mov", "matroska", "caf", "aac", "amr", "mp3")
"""The kinds of recordings that FFmpeg reads, by its own names."""

_CODECS = (
    *("aac", "alac", "flac", "mp3", "mp3float", "opus", "libopus", "vorbis"),
    *("pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"),
    *("pcm_s16be", "pcm_s24be", "pcm_s32be", "pcm_f32be", "pcm_alaw", "pcm_mulaw"),
    *("amrnb", "amrwb"),
)

_TIMED = ("mov", "matroska")
"""The kinds with timestamps of their own. For the others FFmpeg adds up the samples."""

_MISSING_SECONDS = 0.5
"""How much of an MP4 may be missing at its end, because headers count padding."""


def read_ffmpeg(file: BinaryIO, start: int, size: int, kind: str) -> Iterator[Block]:
    """Decode the first audio stream of the container in `file` from `start` on.

    The time before the first sound of an MP4 or WebM is a gap too. MP4 contains its length, so a
    truncated MP4 is rejected. The other formats are streams and are read to their end.
    """
    import av
    import av.logging

    av.logging.set_level(None)
    av.logging.set_libav_level(av.logging.PANIC)
    options = {"codec_whitelist": ",".join(_CODECS), "protocol_whitelist": "none"}
    edits = pauses(file, start, size) if kind == "mov" else []
    if edits:
        options["ignore_editlist"] = "1"
    with av.open(
        Slice(file, start, size),
        mode="r",
        format=kind,
        container_options=options,
        metadata_errors="replace",
        io_open=_refuse_to_open,
    ) as container:
        if not container.streams.audio:
            raise invalid("the file holds no audio stream")
        stream = container.streams.audio[0]
        # The whitelist above applies while FFmpeg probes, not to the decoder that PyAV opens.
        if stream.codec_context is None or stream.codec_context.name not in _CODECS:
            raise invalid("the audio in this file has a codec that the service cannot read")
        stream.codec_context.thread_count = 1
        base = float(stream.time_base or 0)
        planes = Planes()
        clock = Clock()
        read_to = 0.0
        good = bad = 0
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
                good += 1
            except av.error.FFmpegError:  # one broken packet loses only milliseconds
                frames = []
                bad += 1
            if packet.pts is not None and not packet.is_corrupt:
                read_to = max(read_to, (packet.pts + (packet.duration or 0)) * base)
            for frame in frames:
                rate = frame.sample_rate
                time = frame.time if kind in _TIMED else None
                samples = planes.of(frame)
                placed: Iterable[tuple[float | None, Channels]] = [(time, samples)]
                if edits and time is not None:
                    placed = place(edits, time, samples, rate)
                for begin, part in placed:
                    yield Block(rate, part, clock.gap(begin, part.shape[1] / rate))
        check_damage(good, bad)
        claim = ((stream.start_time or 0) + (stream.duration or 0)) * base
        if kind == "mov" and read_to < claim - _MISSING_SECONDS:
            raise invalid(
                f"the recording is cut short: its header says {claim:.1f} seconds, but only "
                f"{read_to:.1f} can be read",
                "send the whole file",
            )


def _refuse_to_open(url: str, _flags: int, _options: dict[str, str]) -> BinaryIO:
    raise PermissionError(f"a recording may not refer to {url!r}")


class Clock:
    """Finds the gaps between sounds that have timestamps, in seconds.

    A timestamp that lies far back starts the time again: it belongs to another recording behind the
    first one.
    """

    def __init__(self) -> None:
        self._end = 0.0
        self._offset = 0.0

    def gap(self, start: float | None, seconds: float) -> float:
        """The gap before a sound of `seconds` with the timestamp `start`, if it has one."""
        gap = 0.0 if start is None else start + self._offset - self._end
        if gap < -SHORTEST_GAP_SECONDS:
            self._offset -= gap
        if gap < SHORTEST_GAP_SECONDS:
            gap = 0.0
        self._end += gap + seconds
        return gap
