"""The table of audio formats that speech is sent in. Used in every process.

The front reads it to check a request and to name the answer's media type, a worker to encode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FormatName = Literal["wav", "mp3", "opus", "flac", "aac", "pcm"]
TelephoneFormat = Literal["ulaw", "alaw"]
"""Eight bits a sample (G.711), without a header, for clients that ask for them by other names."""
AnyFormat = FormatName | TelephoneFormat

MIN_RATE, MAX_RATE = 8_000, 48_000
"""Sampling rates in Hz that a client may ask for; each format has both."""
MIN_SPEED, MAX_SPEED = 0.25, 4.0


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """One format: its media type, and its sampling rates in Hz, ascending; () stands for any.

    `bit_rates` are the lowest and the highest, in bits per second, that may be asked for; None
    where the sound alone decides. Every value between them is taken for the nearest that the format
    has at the sampling rate.
    """

    media_type: str
    rates: tuple[int, ...] = ()
    bit_rates: tuple[int, int] | None = None

    def rate(self, wanted: int) -> int:
        """`wanted` (up to 48000 Hz), or the next higher rate that this format has."""
        return min((rate for rate in self.rates if rate >= wanted), default=wanted)


_MPEG_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)

FORMATS: dict[AnyFormat, AudioFormat] = {
    "wav": AudioFormat("audio/wav"),
    "mp3": AudioFormat("audio/mpeg", _MPEG_RATES, (8_000, 320_000)),
    "opus": AudioFormat("audio/ogg", (8_000, 12_000, 16_000, 24_000, 48_000), (6_000, 256_000)),
    "flac": AudioFormat("audio/flac"),
    "aac": AudioFormat("audio/aac", _MPEG_RATES, (16_000, 256_000)),
    "pcm": AudioFormat("audio/pcm"),
    "ulaw": AudioFormat("audio/PCMU"),
    "alaw": AudioFormat("audio/PCMA"),
}

_WITHOUT_HEADER = ("pcm", "ulaw", "alaw")


def content_type(name: AnyFormat, rate: int) -> str:
    """The Content-Type of an answer; nothing in raw samples themselves says what their rate is."""
    media_type = FORMATS[name].media_type
    return f"{media_type};rate={rate};channels=1" if name in _WITHOUT_HEADER else media_type
