"""The table of output audio formats. Used in every process.

The front validates requests with it and sets the media type of responses; workers encode with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FormatName = Literal["wav", "mp3", "opus", "flac", "aac", "pcm"]
TelephoneFormat = Literal["ulaw", "alaw"]
"""G.711: eight bits per sample, without a header. Only ElevenLabs' clients can ask for them."""
AnyFormat = FormatName | TelephoneFormat

MIN_RATE, MAX_RATE = 8_000, 48_000
"""The range of sample rates in Hz that a client may ask for; every format has both ends."""
MIN_SPEED, MAX_SPEED = 0.25, 4.0


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """One format: its media type and its sample rates in Hz, ascending; () means every rate.

    `bit_rates` are the lowest and the highest bit rate, in bits per second, that a client may ask
    for; None if the format has no bit rate to choose. A value in between is replaced by the nearest
    one that the format has at the sample rate.
    """

    media_type: str
    rates: tuple[int, ...] = ()
    bit_rates: tuple[int, int] | None = None

    def rate(self, wanted: int) -> int:
        """`wanted` (at most 48000 Hz), or the next higher rate of this format."""
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
    """The Content-Type of a response; for formats without a header it contains the sample rate."""
    media_type = FORMATS[name].media_type
    return f"{media_type};rate={rate};channels=1" if name in _WITHOUT_HEADER else media_type
