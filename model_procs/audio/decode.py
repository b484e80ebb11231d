"""Decode the recordings that clients send. Runs in workers only.

An upload is untrusted. Its first bytes decide the format, never its name. Each format has exactly
one decoder: libsndfile for WAV, AIFF, FLAC and OGG; FFmpeg (through PyAV) for M4A, MP4, MOV, 3GP,
WebM, CAF, AAC, AMR and MP3 (libsndfile's MP3 decoder writes to stderr for every broken frame).
FFmpeg gets an open file, a fixed container format and a list of codecs, and cannot open anything
else. Audio is decoded, mixed to mono and resampled block by block, so that memory depends on the
result and not on the upload.
"""

from __future__ import annotations

import io
import os
from collections.abc import Generator
from contextlib import closing
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from ipc.errors import ErrorCode, ServiceError
from model_procs.audio.containers import check_wav, empty, invalid, kind_of
from model_procs.audio.pcm import Samples

Blocks = Generator[tuple[int, Samples]]
"""A recording in decoded blocks: the sample rate in Hz and the samples, in mono."""

BLOCK_SAMPLES = 65_536
"""How many samples, counting all channels, are decoded at a time."""
MAX_CHANNELS = 32
MIN_RATE, MAX_RATE = 2_000, 768_000
TOLERANCE_SECONDS = 0.5
"""How far a recording may exceed the limit, because encoders pad to whole frames."""

_CODECS = (
    *("aac", "alac", "flac", "mp3", "mp3float", "opus", "libopus", "vorbis"),
    *("pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"),
    *("pcm_s16be", "pcm_s24be", "pcm_s32be", "pcm_f32be", "pcm_alaw", "pcm_mulaw"),
    *("amrnb", "amrwb"),
)

_FFMPEG = ("mov", "matroska", "caf", "aac", "amr", "mp3")
"""The kinds of recordings that FFmpeg decodes, by FFmpeg's own names."""


def decode(source: bytes | str, *, rate: int, max_seconds: float, truncate: bool) -> Samples:
    """Decode `source`: the bytes of an upload, or the path of a file with them.

    Returns mono float32 of shape (n,), n > 0, at `rate` Hz, within [-1, 1]. Audio after the first
    `max_seconds` is ignored with `truncate`, and is an error without it. For invalid bytes of any
    kind, raises only `ServiceError` (`empty_audio`, `invalid_audio`, `audio_too_long`).
    """
    with _open(source) as file:
        try:
            with closing(_read(file)) as blocks:
                return _collect(blocks, rate, max_seconds, truncate)
        except ServiceError:
            raise
        except Exception as error:  # the parsers raise too many kinds to name them all
            reason = (
                getattr(error, "error_string", None) or getattr(error, "strerror", None) or error
            )
            raise invalid(f"the recording cannot be decoded ({reason})") from error


def _open(source: bytes | str) -> BinaryIO:
    """A real file in both cases: libsndfile reads a descriptor without calling back into Python.

    The file is unbuffered, so that the descriptor's position is the position of our last read.
    """
    if isinstance(source, str):
        return open(source, "rb", buffering=0)
    file = open(os.memfd_create("upload"), "w+b", buffering=0)  # noqa: SIM115 the caller closes it
    file.write(source)
    return file


def _collect(blocks: Blocks, rate: int, max_seconds: float, truncate: bool) -> Samples:
    """Resample `blocks` to `rate` into one array, up to the limit."""
    limit = int(max_seconds * rate)
    room = limit if truncate else limit + int(TOLERANCE_SECONDS * rate)
    samples = np.empty(room, np.float32)  # pages that stay unused need no memory
    filled = 0
    source_rate = 0
    stream: Any = None
    for block_rate, block in _with_end(blocks):
        if stream is None and block_rate != rate:
            stream = soxr.ResampleStream(block_rate, rate, 1, dtype="float32", quality="HQ")
        if source_rate and block_rate != source_rate:
            raise invalid("the sample rate changes within the recording")
        source_rate = block_rate
        piece = stream.resample_chunk(block, last=not len(block)) if stream else block
        if len(piece) > room - filled and not truncate:
            raise ServiceError(
                ErrorCode.audio_too_long,
                f"the recording is longer than {max_seconds:g} seconds; send it in shorter parts",
            )
        piece = piece[: room - filled]
        np.clip(piece, -1.0, 1.0, out=samples[filled : filled + len(piece)])
        filled += len(piece)
        if filled == room:
            break
    if filled == 0:
        raise empty("the recording holds no sound")
    return samples[:filled]


def _with_end(blocks: Blocks) -> Blocks:
    """`blocks` without empty ones, then one empty block, which makes the resampler flush."""
    rate = 0
    for rate, block in blocks:
        if len(block):
            yield rate, block
    if rate:
        yield rate, np.empty(0, np.float32)


def _read(file: BinaryIO) -> Blocks:
    """Detect the format from the first bytes, and decode with the decoder for it."""
    size = file.seek(0, io.SEEK_END)
    if size == 0:
        raise empty("the recording is empty (0 bytes)")
    kind = kind_of(file)
    # Some writers write a size of 0 for "unknown", which libsndfile takes for an empty file.
    open_ended = kind == "wav" and not check_wav(file, size)
    file.seek(0)
    if open_ended or kind in _FFMPEG:
        return _read_ffmpeg(file, kind)
    return _read_libsndfile(file, exact=kind in ("wav", "flac"))


def _check_shape(rate: int, channels: int) -> None:
    if not (MIN_RATE <= rate <= MAX_RATE and 1 <= channels <= MAX_CHANNELS):
        raise invalid(
            f"the recording's header says {channels} channels at {rate} Hz",
            f"send 1 to {MAX_CHANNELS} channels at {MIN_RATE} to {MAX_RATE} Hz",
        )


class _ForwardFile(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file that is only read forwards.

    soundfile seeks after each read of a seekable file. This fails for a FLAC that was written to a
    pipe.
    """

    def seekable(self) -> bool:
        return False


def _mono(block: npt.NDArray[Any], channel_axis: int) -> Samples:
    if not np.isfinite(block).all():
        raise invalid(
            "the recording holds samples that are not numbers", "export it again as 16-bit PCM"
        )
    np.clip(block, -1.0, 1.0, out=block)
    return cast(Samples, block.mean(axis=channel_axis, dtype=np.float32))


def _read_libsndfile(file: BinaryIO, exact: bool) -> Blocks:
    """Decode with libsndfile. `exact`: the header's number of frames can be trusted."""
    with _ForwardFile(file.fileno(), closefd=False) as sound:
        _check_shape(sound.samplerate, sound.channels)
        frames = 0
        while True:
            # Do not read past the end: for FLAC, a tag after the audio would be an error.
            wanted = min(BLOCK_SAMPLES // sound.channels, sound.frames - frames)
            block = sound.read(wanted, dtype="float32", always_2d=True)
            if len(block) == 0:
                break
            frames += len(block)
            yield sound.samplerate, _mono(block, channel_axis=1)
        if exact and frames < sound.frames < 1 << 40:  # the header of streamed FLAC says 2**63 - 1
            raise invalid(
                f"the recording is cut short: its header says {sound.frames:,} samples, but only "
                f"{frames:,} can be read",
                "send the whole file",
            )


def _refuse_to_open(url: str, _flags: int, _options: dict[str, str]) -> BinaryIO:
    raise PermissionError(f"a recording may not refer to {url!r}")


def _read_ffmpeg(file: BinaryIO, container_format: str) -> Blocks:
    """Decode the first audio stream with FFmpeg, which may open nothing but `file`.

    MP4 contains its length, so a truncated MP4 is rejected. The other formats are streams and are
    read to their end.
    """
    import av
    import av.logging

    av.logging.set_level(None)
    av.logging.set_libav_level(av.logging.PANIC)
    with av.open(
        file,
        mode="r",
        format=container_format,
        container_options={"codec_whitelist": ",".join(_CODECS), "protocol_whitelist": "none"},
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
        resampler = av.AudioResampler(format="fltp")
        seconds = 0.0
        good = bad = 0
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
                good += 1
            except av.error.FFmpegError:  # one broken packet loses only milliseconds
                frames = []
                bad += 1
            for frame in frames:
                _check_shape(frame.sample_rate, frame.layout.nb_channels)
                for planar in resampler.resample(frame):
                    block = planar.to_ndarray()
                    seconds += block.shape[1] / planar.sample_rate
                    yield planar.sample_rate, _mono(block, channel_axis=0)
        if bad > good:
            raise invalid("most of the recording is damaged", "send it again from the original")
        claim = float((stream.duration or 0) * (stream.time_base or 0))
        if container_format == "mov" and seconds < claim - 0.5:
            raise invalid(
                f"the recording is cut short: its header says {claim:.1f} seconds, but only "
                f"{seconds:.1f} can be read",
                "send the whole file",
            )
