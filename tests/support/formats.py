"""Recordings in the formats that clients send, made by the libraries that write them."""

from __future__ import annotations

import io

import av
import numpy as np
import numpy.typing as npt
import soundfile
import soxr

_SOUNDFILE = {
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
_AV = {"m4a": ("ipod", "aac"), "webm": ("webm", "libopus")}

_TELEPHONE = {"3gp": ("3gp", "libopencore_amrnb"), "amr": ("amr", "libopencore_amrnb")}
"""At 8 kHz, in which words get lost."""
_APPLE = {"caf": ("caf", "alac"), "aiff": ("aiff", "pcm_s16be"), "mov": ("mov", "pcm_s16be")}

FORMATS = (*_SOUNDFILE, *_AV, "48 kHz stereo wav")
RARE_FORMATS = (*_TELEPHONE, *_APPLE)
"""What else phones and computers record."""


def encode(wav: bytes, name: str) -> bytes:
    """The recording in `wav` in the format called `name`, at 48 or, of telephones, 8 kHz."""
    samples, rate = soundfile.read(io.BytesIO(wav), dtype="float32")
    samples = soxr.resample(samples, rate, 48_000)
    file = io.BytesIO()
    if name in _TELEPHONE:
        samples = soxr.resample(samples, 48_000, 8_000)
        _encode_with_ffmpeg(file, samples, *_TELEPHONE[name], rate=8_000)
    elif name in (codecs := {**_AV, **_APPLE}):
        _encode_with_ffmpeg(file, samples, *codecs[name])
    elif name in _SOUNDFILE:
        container, codec = _SOUNDFILE[name]
        soundfile.write(file, samples, 48_000, format=container, subtype=codec)
    else:
        stereo = np.stack([samples, samples], axis=1)
        soundfile.write(file, stereo, 48_000, format="WAV", subtype="PCM_24")
    return file.getvalue()


def _encode_with_ffmpeg(
    file: io.BytesIO,
    samples: npt.NDArray[np.float32],
    container: str,
    codec: str,
    rate: int = 48_000,
) -> None:
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout="mono")
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(samples[np.newaxis, :], format="fltp", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(
            format=stream.format, layout="mono", rate=rate, frame_size=stream.frame_size or 960
        )
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))
