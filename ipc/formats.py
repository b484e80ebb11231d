"""The table of audio formats that speech is sent in. Used in every process.

The front reads it to validate a request and to set the media type of the response, a worker to
encode. To add a format, change only this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

MIN_RATE, MAX_RATE = 8_000, 48_000
"""The range of sample rates in Hz for clients; each format has both ends."""
MIN_SPEED, MAX_SPEED = 0.25, 4.0


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """One format.

    - `rates`: its sample rates in Hz, ascending; () means any.
    - `bit_rates`: the lowest and the highest bit rate that a request may have, in bits per second;
      None if the format has no bit rate. A value between them becomes the nearest one that the
      format has at the sample rate: one of `bit_rate_steps`, or at most `max_bits_per_sample`.
    - `default_bit_rate`: the bit rate if the request has none; None: it depends on the sample rate.
    - `codec`: FFmpeg's container and codec; None for 16-bit PCM.
    - `codec_options`, `container_options`: FFmpeg's options for both.
    - `header`: whether the bytes themselves contain the sample rate.
    - `everywhere`: whether all APIs have this format. Only ElevenLabs' API has the telephone
      formats.
    - `variants`: ElevenLabs' names for its sample rates and bit rates, as in `mp3_44100_128`.
    """

    media_type: str
    rates: tuple[int, ...] = ()
    bit_rates: tuple[int, int] | None = None
    bit_rate_steps: tuple[int, ...] = ()
    max_bits_per_sample: int | None = None
    default_bit_rate: int | None = None
    codec: tuple[str, str] | None = None
    codec_options: Mapping[str, str] = field(default_factory=dict)
    container_options: Mapping[str, str] = field(default_factory=dict)
    header: bool = True
    everywhere: bool = True
    variants: tuple[str, ...] = ()

    def rate(self, wanted: int) -> int:
        """`wanted` (up to 48000 Hz), or the next higher rate that this format has."""
        return min((rate for rate in self.rates if rate >= wanted), default=wanted)

    def bit_rate(self, rate: int, wanted: int | None) -> int | None:
        """Bits per second at `rate` Hz: near `wanted`, or high enough for speech without loss.

        Raises `ValueError` for a bit rate that the format does not have.
        """
        limits = self.bit_rates
        if wanted is not None and (limits is None or not limits[0] <= wanted <= limits[1]):
            has = "no bit rate" if limits is None else f"bit rates from {limits[0]} to {limits[1]}"
            raise ValueError(has)
        if limits is None:
            return None
        if wanted is None:
            by_rate = 128_000 if rate >= 32_000 else 96_000 if rate >= 16_000 else 48_000
            return self.default_bit_rate or by_rate
        if self.max_bits_per_sample is not None:
            return min(wanted, self.max_bits_per_sample * rate)
        if self.bit_rate_steps:
            return min(_mpeg_steps(self.bit_rate_steps, rate), key=lambda step: abs(step - wanted))
        return wanted


_PCM_VARIANTS = ("8000", "16000", "22050", "24000", "32000", "44100", "48000")
_MPEG_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_MP3_STEPS = tuple(
    1000 * kbits
    for kbits in (
        *(8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
        *(192, 224, 256, 320),
    )
)


def _mpeg_steps(steps: tuple[int, ...], rate: int) -> list[int]:
    """The `steps` that exist at `rate` Hz.

    MPEG-1 has those from 32 to 320 kbit/s except 144, MPEG-2 up to 160, MPEG-2.5 up to 64.
    """
    if rate >= 32_000:
        return [step for step in steps if step >= 32_000 and step != 144_000]
    return [step for step in steps if step <= (160_000 if rate >= 16_000 else 64_000)]


FORMATS: dict[str, AudioFormat] = {
    "wav": AudioFormat("audio/wav", variants=_PCM_VARIANTS),
    "mp3": AudioFormat(
        "audio/mpeg",
        _MPEG_RATES,
        (8_000, 320_000),
        bit_rate_steps=_MP3_STEPS,
        codec=("mp3", "libmp3lame"),
        # Without a bit reservoir frames are independent, and the bit rate gives their size.
        codec_options={"reservoir": "0"},
        container_options={"id3v2_version": "0"},
        variants=(
            *("22050_32", "24000_48", "44100_32", "44100_64"),
            *("44100_96", "44100_128", "44100_192"),
        ),
    ),
    "opus": AudioFormat(
        "audio/ogg",
        (8_000, 12_000, 16_000, 24_000, 48_000),
        (6_000, 256_000),
        default_bit_rate=64_000,
        codec=("ogg", "libopus"),
        codec_options={"vbr": "off", "frame_duration": "20"},
        # FFmpeg holds back one page, so with 40 ms sound comes 80 ms late. Pages cost 6 kbit/s.
        container_options={"page_duration": "40000"},
        variants=("48000_32", "48000_64", "48000_96", "48000_128", "48000_192"),
    ),
    "flac": AudioFormat(
        "audio/flac",
        codec=("flac", "flac"),
        container_options={"metadata_header_padding": "0"},
    ),
    "aac": AudioFormat(
        "audio/aac",
        _MPEG_RATES,
        (16_000, 256_000),
        max_bits_per_sample=6,  # the longest frame: 6144 bits for 1024 samples
        codec=("adts", "aac"),
    ),
    "pcm": AudioFormat("audio/pcm", header=False, variants=_PCM_VARIANTS),
    "ulaw": AudioFormat(
        "audio/PCMU",
        codec=("mulaw", "pcm_mulaw"),
        header=False,
        everywhere=False,
        variants=("8000",),
    ),
    "alaw": AudioFormat(
        "audio/PCMA",
        codec=("alaw", "pcm_alaw"),
        header=False,
        everywhere=False,
        variants=("8000",),
    ),
}

if TYPE_CHECKING:
    FormatName = str
    OutputFormat = str
else:
    # Types for pydantic models of requests, made from the table.
    FormatName = Literal[tuple(name for name, each in FORMATS.items() if each.everywhere)]
    OutputFormat = Literal[
        tuple(f"{name}_{variant}" for name, each in FORMATS.items() for variant in each.variants)
    ]


def content_type(name: str, rate: int) -> str:
    """The Content-Type of a response, with the sample rate for formats without a header."""
    audio_format = FORMATS[name]
    if audio_format.header:
        return audio_format.media_type
    return f"{audio_format.media_type};rate={rate};channels=1"
