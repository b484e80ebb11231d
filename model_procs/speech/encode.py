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
from ipc.formats import FORMATS, MAX_RATE, MAX_SPEED, MIN_RATE, MIN_SPEED, AudioFormat
from ipc.wav_header import wav_header
from model_procs.audio.pcm import Samples, pcm16

_TEMPO_WINDOW_SECONDS = 0.2


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
        format_name: str,
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
        audio_format = FORMATS[format_name]
        self.sample_rate = audio_format.rate(wanted)
        try:
            self.bit_rate = audio_format.bit_rate(self.sample_rate, bit_rate)
        except ValueError as error:
            raise ServiceError(
                ErrorCode.invalid_option,
                f"the format {format_name} has {error}; leave bit_rate out",
            ) from None
        self.samples = 0
        self._tempo = _Tempo(source_rate, speed) if speed != 1.0 else None
        self._resampler: Any = None
        if self.sample_rate != source_rate:
            self._resampler = soxr.ResampleStream(
                source_rate, self.sample_rate, 1, dtype="float32", quality="HQ"
            )
        self._file = _Pipe() if streamed else io.BytesIO()
        self._writer: _Writer
        if audio_format.codec is not None:
            self._writer = _CodecWriter(
                self._file, audio_format, audio_format.codec, self.sample_rate, self.bit_rate
            )
        else:
            self._writer = _PcmWriter(self._file, self.sample_rate, header=audio_format.header)
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
        self,
        file: _Pipe | io.BytesIO,
        audio_format: AudioFormat,
        codec: tuple[str, str],
        rate: int,
        bit_rate: int | None,
    ) -> None:
        import av

        container, name = codec
        self._rate = rate
        self._container: Any = av.open(
            file,
            "w",
            format=container,
            # bitexact: no random serial numbers and no library versions in the output.
            container_options={
                "fflags": "+bitexact",
                "flush_packets": "1",
                **audio_format.container_options,
            },
        )
        self._stream: Any = self._container.add_stream(
            name, rate=rate, layout="mono", options=dict(audio_format.codec_options)
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
