"""Live sound in pieces: the same as in one piece, whatever the cuts and the containers."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from functools import cache
from typing import Any

import av
import msgpack
import numpy as np
import numpy.typing as npt
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from ipc.errors import ErrorCode, ServiceError
from ipc.operations import LIVE_RATE, MAX_LISTEN_STATE, Listen, SoundFormat
from ipc.wav_header import wav_header
from model_procs.audio.live import LiveDecoder
from model_procs.audio.resample import Resampler
from model_procs.engines.silero import listened

SECONDS = 2
Pcm = npt.NDArray[np.int16]


@cache
def tone(rate: int) -> Pcm:
    """A tone that swells, at `rate` Hz."""
    time = np.arange(SECONDS * rate) / rate
    sound = 0.4 * np.sin(2 * np.pi * 300 * time) * (1 + np.sin(2 * np.pi * 3 * time)) / 2
    return np.asarray(np.rint(sound * 32767), np.int16)


@cache
def recorded(container: str, channels: int = 1) -> bytes:
    """The tone as browsers record it: Opus in a container."""
    buffer = io.BytesIO()
    layout = "mono" if channels == 1 else "stereo"
    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream("libopus", rate=48_000, layout=layout)
        sound = np.repeat(tone(48_000), channels).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(sound, format="s16", layout=layout)
        frame.sample_rate = 48_000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def decode(
    data: bytes, format: SoundFormat, rate: int = LIVE_RATE, cuts: Sequence[int] = ()
) -> Pcm:
    """`data` decoded in pieces that end at `cuts`; each state goes through a message."""
    state: dict[str, Any] = {}
    pieces, at = [], 0
    for end in [*sorted(cuts), len(data)]:
        decoder = LiveDecoder(format, rate, msgpack.unpackb(msgpack.packb(state)))
        pieces.append(decoder.feed(data[at:end], last=end == len(data)))
        state, at = decoder.save(), end
        assert len(msgpack.packb(state)) < MAX_LISTEN_STATE
    return np.concatenate(pieces)


def near(found: Pcm, wanted: Pcm, most: int) -> bool:
    """Whether two sounds of about the same length differ by at most so much, but at the ends."""
    assert abs(len(found) - len(wanted)) < 400
    length = min(len(found), len(wanted)) - 800
    gap = found[800:length].astype(int) - wanted[800:length]
    return bool(np.abs(gap).max() <= most)


CUTS = st.lists(st.integers(0, 20_000), max_size=12)


@pytest.mark.parametrize(
    "rate", [8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000]
)
@settings(max_examples=15, deadline=None)
@given(cuts=CUTS)
def test_pcm_of_any_rate_has_the_same_bits_whatever_the_cuts(rate: int, cuts: list[int]) -> None:
    data = tone(rate)[: rate // 4].tobytes()
    whole = decode(data, "pcm16", rate)
    assert np.array_equal(decode(data, "pcm16", rate, [cut % len(data) for cut in cuts]), whole)
    assert abs(len(whole) - LIVE_RATE // 4) <= 1


@pytest.mark.parametrize("rate", [8000, 24_000, 44_100])
def test_a_tone_keeps_its_pitch_and_its_level(rate: int) -> None:
    assert near(decode(tone(rate).tobytes(), "pcm16", rate), tone(LIVE_RATE), 12)


def test_what_is_too_high_is_gone() -> None:
    high = np.sin(2 * np.pi * 11_000 * np.arange(24_000) / 24_000).astype(np.float32)
    made = Resampler(24_000, LIVE_RATE).feed(high, last=True)
    assert np.abs(made[500:-500]).max() < 1e-3


def test_pcm_at_our_rate_stays_as_it_is() -> None:
    assert np.array_equal(decode(tone(16_000).tobytes(), "pcm16", cuts=[3, 8]), tone(16_000))


@pytest.mark.parametrize(("format", "codec"), [("mulaw", "pcm_mulaw"), ("alaw", "pcm_alaw")])
def test_telephone_sound_is_what_ffmpeg_makes_of_it(format: SoundFormat, codec: str) -> None:
    codes = bytes(range(256))
    decoder: Any = av.CodecContext.create(codec, "r")
    decoder.sample_rate = 8000
    decoder.layout = "mono"
    (frame,) = decoder.decode(av.Packet(codes))
    assert np.array_equal(decode(codes, format, LIVE_RATE), frame.to_ndarray().reshape(-1))


@pytest.mark.parametrize("container", ["webm", "ogg", "matroska"])
@pytest.mark.parametrize("channels", [1, 2])
def test_what_browsers_record_is_decoded(container: str, channels: int) -> None:
    assert near(decode(recorded(container, channels), "auto"), tone(LIVE_RATE), 700)


@pytest.mark.parametrize("container", ["webm", "ogg"])
@settings(max_examples=15, deadline=None)
@given(cuts=CUTS)
def test_cuts_of_a_container_change_next_to_nothing(container: str, cuts: list[int]) -> None:
    data = recorded(container)
    parts = decode(data, "auto", cuts=[cut % len(data) for cut in cuts])
    assert near(parts, decode(data, "auto"), 16)


@pytest.mark.parametrize("container", ["webm", "ogg"])
def test_a_container_may_come_byte_by_byte(container: str) -> None:
    data = recorded(container)
    parts = decode(data, "auto", cuts=range(1, 3000))
    assert near(parts, decode(data, "auto"), 16)


def test_a_webm_whose_sizes_are_not_known_is_decoded() -> None:
    data = recorded("webm")
    segment = data.index(b"\x18\x53\x80\x67")
    cluster = data.index(b"\x1f\x43\xb6\x75")
    live = bytearray(data)
    for at in (segment, cluster):
        length = 9 - live[at + 4].bit_length()
        live[at + 4 : at + 4 + length] = (
            0x1FF << 7 * length & (1 << 8 * length) - 1 | (1 << 7 * length) - 1
        ).to_bytes(length, "big")
        marker = 1 << (8 - length)
        live[at + 4] = marker | (marker - 1)
    assert near(decode(bytes(live), "webm"), tone(LIVE_RATE), 700)


def test_a_lost_page_of_an_ogg_costs_only_its_sound() -> None:
    data = bytearray(recorded("ogg"))
    pages = [at for at in range(len(data)) if data.startswith(b"OggS", at)]
    assert len(pages) > 3
    data[pages[2] + 40] ^= 1
    whole = decode(recorded("ogg"), "ogg")
    assert len(whole) // 4 < len(decode(bytes(data), "ogg")) < len(whole)


def test_a_chained_ogg_goes_on() -> None:
    twice = decode(recorded("ogg") * 2, "ogg")
    assert abs(len(twice) - 2 * len(decode(recorded("ogg"), "ogg"))) < 400


@pytest.mark.parametrize("samples", [None, 2 * 16_000])
def test_a_wav_is_read_behind_its_header(samples: int | None) -> None:
    data = wav_header(16_000, samples) + tone(16_000).tobytes()
    assert np.array_equal(decode(data, "auto", cuts=[1, 30, 47]), tone(16_000))


def test_a_wav_of_two_channels_is_mixed_and_ends_where_it_says() -> None:
    stereo = np.stack([tone(8000), -tone(8000)], axis=1).tobytes()
    header = bytearray(wav_header(8000, len(stereo) // 2))
    struct.pack_into("<HIIH", header, 22, 2, 8000, 32_000, 4)
    found = decode(bytes(header) + stereo + b"LIST" + bytes(400), "wav", cuts=[45, 50])
    assert len(found) == SECONDS * LIVE_RATE
    assert np.abs(found).max() <= 1


@pytest.mark.parametrize(
    ("data", "format", "complaint"),
    [
        (b"ID3\x04 something", "auto", "begins like none of WebM, Ogg and WAV"),
        (bytes(100), "webm", "no WebM"),
        (b"\x1a\x45\xdf\xa3\x80\x16\x54\xae\x6b\x80", "webm", "no track with Opus"),
        (b"\x1a\x45\xdf\xa3\x80\xa3\x85\x81\0\0\0x", "webm", "does not begin with its header"),
        (b"\x1a\x45\xdf\xa3\x80\xa3\x08\xff\xff\xff\xff", "webm", "too large for Opus"),
        (
            b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x03\0\1\0\x80>\0\0\0\0\0\0\4\0\x20\0",
            "wav",
            "not PCM16",
        ),
        (b"RIFF\0\0\0\0WAVEdata\4\0\0\0abcd", "wav", "does not say what its samples are"),
    ],
    ids=["mp3", "zeros", "no track", "no header", "huge", "float", "no format"],
)
def test_what_cannot_be_decoded_is_refused(
    data: bytes, format: SoundFormat, complaint: str
) -> None:
    with pytest.raises(ServiceError, match=complaint) as refused:
        decode(data, format)
    assert refused.value.code is ErrorCode.invalid_audio


def test_a_few_bytes_that_claim_to_be_an_hour_are_refused() -> None:
    packet = bytes([0x03 | 3 << 3, 0x02])  # two frames of 60 ms, without any sound
    head = b"OpusHead\1\1" + bytes(9)
    track = b"\xae" + _sized(b"\xd7\x81\1\x86\x86A_OPUS\x63\xa2" + _sized(head))
    block = b"\xa3" + _sized(b"\x81\0\0\0" + packet)
    data = b"\x1a\x45\xdf\xa3\x80\x16\x54\xae\x6b" + _sized(track) + block * 2000
    with pytest.raises(ServiceError, match="claim to be"):
        decode(data, "webm")


def _sized(content: bytes) -> bytes:
    return bytes([0x80 | len(content)]) + content


@settings(max_examples=150, deadline=None)
@given(
    data=st.one_of(
        st.binary(max_size=400),
        st.tuples(
            st.sampled_from(["webm", "ogg"]),
            st.lists(st.tuples(st.integers(0, 9000), st.binary(max_size=6)), max_size=8),
        ).map(lambda drawn: _broken(*drawn)),
    ),
    format=st.sampled_from(["auto", "webm", "ogg", "wav", "pcm16", "mulaw"]),
    cut=st.integers(0, 9000),
)
def test_garbage_is_sound_or_refused(data: bytes, format: SoundFormat, cut: int) -> None:
    refusal = None
    try:
        decode(data, format, cuts=[min(cut, len(data))])
    except ServiceError as error:
        refusal = error.code
    assert refusal in (None, ErrorCode.invalid_audio)


def _broken(container: str, changes: list[tuple[int, bytes]]) -> bytes:
    data = bytearray(recorded(container))
    for at, new in changes:
        data[at : at + len(new)] = new
    return bytes(data)


@settings(max_examples=10, deadline=None)
@given(cuts=CUTS)
def test_steps_hear_the_same_speech_as_one_pass(cuts: list[int]) -> None:
    data = tone(LIVE_RATE).tobytes()
    whole = listened(Listen(data, "pcm16", last=True))
    state, at = b"", 0
    found: list[float] = []
    for end in [*sorted(cuts), len(data)]:
        step = listened(Listen(data[at:end], "pcm16", state=state, last=end == len(data)))
        found += step.probabilities
        state, at = step.state, end
    assert len(found) == len(whole.probabilities) == -(-len(tone(LIVE_RATE)) // 512)
    assert np.abs(np.subtract(found, whole.probabilities)).max() < 0.002


def test_resampling_is_near_what_soxr_does() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(44_100).astype(np.float32) * 0.1
    slow = soxr.resample(noise, 44_100, 8000)
    back = soxr.resample(slow, 8000, 44_100).astype(np.float32)  # nothing above 4 kHz
    ours = Resampler(44_100, LIVE_RATE).feed(back, last=True)
    theirs = soxr.resample(back, 44_100, LIVE_RATE)
    assert np.abs(ours[1000:15_000] - theirs[1000:15_000]).max() < 1e-3
