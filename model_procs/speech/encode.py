"""Encode speech while it is generated: tempo, sample rate and format. Runs in workers only.

Replays need the same bytes for the same samples, however the samples are divided into pieces. So
nothing here depends on time, randomness or the size of a piece. Samples are rounded to 16 bits
before they reach a codec.
"""

from __future__ import annotations

import io
import math
import time
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
import soxr

from ipc.errors import ErrorCode, ServiceError
from ipc.formats import FORMATS, MAX_RATE, MAX_SPEED, MIN_RATE, MIN_SPEED, AnyFormat
from model_procs.audio.pcm import Samples, pcm16, wav_header

_CODECS = {
    "mp3": ("mp3", "libmp3lame"),
    "opus": ("ogg", "libopus"),
    "flac": ("flac", "flac"),
    "aac": ("adts", "aac"),
    "ulaw": ("mulaw", "pcm_mulaw"),
    "alaw": ("alaw", "pcm_alaw"),
}
"""FFmpeg's names for the container and the codec of each format."""

_CODEC_OPTIONS = {
    # Without a bit reservoir, frames are independent and have a fixed size.
    "mp3": {"reservoir": "0"},
    "opus": {"vbr": "off", "frame_duration": "20"},
}

_CONTAINER_OPTIONS = {
    "mp3": {"id3v2_version": "0"},
    # FFmpeg holds back one page, so 40 ms of audio come 80 ms late. Pages cost 6 kbit/s.
    "opus": {"page_duration": "40000"},
    "flac": {"metadata_header_padding": "0"},
}

_TEMPO_WINDOW_SECONDS = 0.2

_MP3_KBITS = (
    *(8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    *(192, 224, 256, 320),
)
"""MPEG-1 has 32 to 320 except 144, MPEG-2 has 8 to 160, MPEG-2.5 has 8 to 64."""

_AAC_BITS_PER_SAMPLE = 6
"""The largest AAC frame has 6144 bits for 1024 samples."""


class Encoder:
    """Encodes pieces of mono audio into the bytes of one response.

    With `streamed`, `feed` returns bytes as soon as the codec has them, and headers do not contain
    the length. Without it, `finish` returns all bytes and headers contain the length.

    `sample_rate` is the output rate in Hz: the requested one, or the next higher one of the format.
    `samples` counts the output samples so far, without the codec's padding. `bit_rate` is in bits
    per second, None for formats without a choice. `seconds` is the time that encoding has taken.
    """

    def __init__(
        self,
        format_name: AnyFormat,
        source_rate: int,
        sample_rate: int | None = None,
        speed: float = 1.0,
        *,
        bit_rate: int | None = None,
        streamed: bool = True,
    ) -> None:
        """`sample_rate` None means the source's rate. Raises `ValueError` for values out of range.

        With `speed` 2.0 the audio takes half as long, at the same pitch. `bit_rate` None is
        transparent for speech. Another `bit_rate` is replaced by the nearest one of the format at
        the sample rate; one outside of the format's range raises `ServiceError` (invalid_option).
        """
        started = time.perf_counter()
        wanted = source_rate if sample_rate is None else sample_rate
        if not (MIN_RATE <= wanted <= MAX_RATE and MIN_SPEED <= speed <= MAX_SPEED):
            raise ValueError(f"speech cannot be encoded at {wanted} Hz and {speed:g} times")
        self.format = format_name
        self.sample_rate = FORMATS[format_name].rate(wanted)
        self.bit_rate = _bit_rate(format_name, self.sample_rate, bit_rate)
        self.samples = 0
        self._tempo = _Tempo(source_rate, speed) if speed != 1.0 else None
        self._resampler: Any = None
        if self.sample_rate != source_rate:
            self._resampler = soxr.ResampleStream(
                source_rate, self.sample_rate, 1, dtype="float32", quality="HQ"
            )
        self._file = _Pipe() if streamed else io.BytesIO()
        self._writer: _Writer
        if format_name in _CODECS:
            self._writer = _CodecWriter(self._file, format_name, self.sample_rate, self.bit_rate)
        else:
            self._writer = _PcmWriter(self._file, self.sample_rate, header=format_name == "wav")
        self.seconds = time.perf_counter() - started

    def feed(self, samples: Samples) -> bytes:
        """Encode the next samples (float32, shape (n,)). Returns the bytes that are ready."""
        started = time.perf_counter()
        if self._tempo is not None:
            samples = self._tempo.feed(samples)
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(samples)
        data = self._write(samples)
        self.seconds += time.perf_counter() - started
        return data

    def finish(self) -> bytes:
        """The rest of the bytes. `feed` must not be called afterwards."""
        started = time.perf_counter()
        last = np.empty(0, np.float32) if self._tempo is None else self._tempo.finish()
        if self._resampler is not None:
            last = self._resampler.resample_chunk(last, last=True)
        data = self._write(last)
        self._writer.close()
        data = data + self._file.take() if isinstance(self._file, _Pipe) else self._file.getvalue()
        self.seconds += time.perf_counter() - started
        return data

    def _write(self, samples: Samples) -> bytes:
        if len(samples):
            self.samples += len(samples)
            self._writer.write(samples)
        return self._file.take() if isinstance(self._file, _Pipe) else b""


class _Pipe:
    """A file object that cannot seek; `take` removes and returns what has been written."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes) -> int:
        self._data += data
        return len(data)

    def take(self) -> bytes:
        data = bytes(self._data)
        self._data.clear()
        return data


class _Writer(Protocol):
    def write(self, samples: Samples) -> None: ...

    def close(self) -> None: ...


class _PcmWriter:
    """16-bit PCM, with or without a WAV header."""

    def __init__(self, file: _Pipe | io.BytesIO, rate: int, *, header: bool) -> None:
        self._file = file
        self._rate = rate
        self._header = header
        if header:
            file.write(wav_header(rate, None))

    def write(self, samples: Samples) -> None:
        self._file.write(pcm16(samples))

    def close(self) -> None:
        if self._header and isinstance(self._file, io.BytesIO):
            samples = (self._file.tell() - 44) // 2
            self._file.seek(0)
            self._file.write(wav_header(self._rate, samples))


class _CodecWriter:
    """A codec and a container from FFmpeg."""

    def __init__(
        self, file: _Pipe | io.BytesIO, name: str, rate: int, bit_rate: int | None
    ) -> None:
        import av

        container, codec = _CODECS[name]
        self._rate = rate
        self._container: Any = av.open(
            file,
            "w",
            format=container,
            # bitexact: no random serial numbers and no library versions in the output.
            container_options={
                "fflags": "+bitexact",
                "flush_packets": "1",
                **_CONTAINER_OPTIONS.get(name, {}),
            },
        )
        self._stream: Any = self._container.add_stream(
            codec, rate=rate, layout="mono", options=_CODEC_OPTIONS.get(name, {})
        )
        context: Any = self._stream.codec_context
        context.flags |= av.codec.context.Flags.bitexact
        context.thread_count = 1
        if bit_rate is not None:
            context.bit_rate = bit_rate
        self._position = 0

    def write(self, samples: Samples) -> None:
        import av

        data = np.frombuffer(pcm16(samples), "<i2")[np.newaxis, :]
        frame = av.AudioFrame.from_ndarray(data, format="s16", layout="mono")
        frame.sample_rate = self._rate
        frame.pts = self._position
        self._position += len(samples)
        self._container.mux(self._stream.encode(frame))  # PyAV cuts it into the codec's frames

    def close(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()


def _bit_rate(name: AnyFormat, rate: int, wanted: int | None) -> int | None:
    """The codec's bit rate at `rate` Hz: the one nearest to `wanted`, or transparent for speech."""
    limits = FORMATS[name].bit_rates
    if wanted is not None and (limits is None or not limits[0] <= wanted <= limits[1]):
        has = "no bit rate" if limits is None else f"bit rates from {limits[0]} to {limits[1]}"
        raise ServiceError(
            ErrorCode.invalid_option, f"the format {name} has {has}; leave bit_rate out"
        )
    if limits is None:
        return None
    if wanted is None:
        wanted = 128_000 if rate >= 32_000 else 96_000 if rate >= 16_000 else 48_000
        return 64_000 if name == "opus" else wanted
    if name == "aac":
        return min(wanted, _AAC_BITS_PER_SAMPLE * rate)
    if name == "mp3":
        lowest, highest = (32, 320) if rate >= 32_000 else (8, 160 if rate >= 16_000 else 64)
        kbits = (k for k in _MP3_KBITS if lowest <= k <= highest and (k != 144 or rate < 32_000))
        return 1000 * min(kbits, key=lambda k: abs(k * 1000 - wanted))
    return wanted


class _Tempo:
    """FFmpeg's `atempo` filter: faster or slower at the same pitch."""

    def __init__(self, rate: int, speed: float) -> None:
        import av

        self._rate = rate
        self._speed = speed
        self._taken = 0
        self._given = 0
        # Outside of this range one filter would skip samples or refuse: use two.
        steps = 1 if 0.5 <= speed <= 2.0 else 2
        step = math.pow(speed, 1 / steps)
        self._graph: Any = av.filter.Graph()
        self._graph.threads = 1
        nodes = [
            self._graph.add_abuffer(
                format="flt", sample_rate=rate, layout="mono", time_base=Fraction(1, rate)
            ),
            *(self._graph.add("atempo", f"{step:.9f}") for _ in range(steps)),
            self._graph.add("abuffersink"),
        ]
        self._graph.link_nodes(*nodes).configure()

    def feed(self, samples: Samples) -> Samples:
        import av

        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples[np.newaxis, :], np.float32), format="flt", layout="mono"
        )
        frame.sample_rate = self._rate
        frame.pts = self._taken
        self._taken += len(samples)
        self._graph.push(frame)
        return self._pull()

    def finish(self) -> Samples:
        """The rest of the samples. The filter drops its last window, so silence is fed first."""
        left = round(self._taken / self._speed) - self._given
        tail = self.feed(np.zeros(int(_TEMPO_WINDOW_SECONDS * self._rate), np.float32))
        self._graph.push(None)
        return np.concatenate([tail, self._pull()])[:left]

    def _pull(self) -> Samples:
        import av

        pieces: list[Samples] = [np.empty(0, np.float32)]
        try:
            while True:
                pieces.append(self._graph.pull().to_ndarray()[0])
        except (av.error.BlockingIOError, av.error.EOFError):
            samples = np.concatenate(pieces)
        self._given += len(samples)
        return samples
