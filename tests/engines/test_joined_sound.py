"""Sound that was encoded in pieces, joined to one stream, as real decoders hear it."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from ipc.ogg_page import page_checksum
from model_procs.audio.pcm import Samples
from model_procs.speech.encode import Encoder
from supervisor.http.shared.joined_sound import JoinedSound

RATE = 24_000
LENGTHS = (1.0, 0.53, 2.01)


def tone(seconds: float) -> Samples:
    """A tone that begins and ends in silence, as speech does."""
    time = np.arange(int(seconds * RATE)) / RATE
    loudness = np.clip(np.minimum(time, seconds - time) / 0.1 - 0.5, 0, 0.4)
    return (loudness * np.sin(2 * np.pi * 440 * time)).astype(np.float32)


def encoded(name: str, seconds: float, rate: int, bit_rate: int | None) -> bytes:
    encoder = Encoder(name, RATE, rate, bit_rate=bit_rate)
    return encoder.feed(tone(seconds)) + encoder.finish()


@pytest.mark.parametrize("cut", [1, 999, 1_000_000])
@pytest.mark.parametrize(
    ("name", "rate", "bit_rate"),
    [
        ("mp3", 24_000, None),
        ("mp3", 44_100, 128_000),
        ("mp3", 22_050, 32_000),
        ("opus", 24_000, None),
        ("opus", 48_000, 32_000),
    ],
)
def test_decoders_take_the_pieces_for_one_file(
    name: str, rate: int, bit_rate: int | None, cut: int
) -> None:
    joined, stream = JoinedSound(name, rate, bit_rate), b""
    for seconds in LENGTHS:
        data = encoded(name, seconds, rate, bit_rate)
        joined.begin()
        for start in range(0, len(data), cut):
            stream += joined.feed(data[start : start + cut])
    samples, heard_rate = soundfile.read(io.BytesIO(stream))
    container: Any
    with av.open(io.BytesIO(stream), "r") as container:
        by_ffmpeg = sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
    heard = len(samples) / heard_rate
    assert heard == pytest.approx(by_ffmpeg, abs=0.03)
    assert heard == pytest.approx(joined.seconds, abs=0.01)  # the clock is right
    assert sum(LENGTHS) - 0.01 <= heard <= sum(LENGTHS) + 3 * 0.12  # codecs fill their last frame
    assert np.abs(samples).max() < 0.6  # no click


@pytest.mark.parametrize(("name", "width"), [("pcm", 2), ("ulaw", 1), ("alaw", 1)])
def test_plain_sound_is_joined_sample_by_sample(name: str, width: int) -> None:
    joined = JoinedSound(name, 8_000, None)
    joined.begin()
    given = joined.feed(b"abc") + joined.feed(b"de") + joined.feed(b"f")
    assert given == b"abcdef"
    assert joined.seconds == 6 / width / 8_000
    joined.feed(b"x")
    joined.begin()  # the piece was cancelled in the middle of a sample
    assert joined.feed(b"gh") == b"gh"


def test_the_checksum_is_oggs() -> None:
    page = encoded("opus", 0.1, RATE, None)
    size = 27 + page[26] + sum(page[27 : 27 + page[26]])
    blank = page[:22] + bytes(4) + page[26:size]
    assert page_checksum(blank) == int.from_bytes(page[22:26], "little")
