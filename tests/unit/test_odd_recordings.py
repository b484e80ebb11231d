"""Recordings that readers find hard are heard to their end, and every sound at its time."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipc.errors import ErrorCode, ServiceError
from ipc.recordings import detect
from ipc.wav_header import wav_header
from model_procs.audio import decode as decode_module
from model_procs.audio.channels import Mixer
from model_procs.audio.pcm import pcm16
from model_procs.audio.wav import ABSURD_SIZE
from tests.support.odd_recordings import (
    ID3_TAG,
    Sound,
    box_first,
    encoded,
    muxed,
    remuxed,
    with_edits,
    with_size,
    without_ftyp,
)

RATE = 16_000
Spans = list[tuple[float, float]]


def tone(seconds: float, rate: int = RATE, hz: float = 440) -> Sound:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype("f4")


def silence(seconds: float, rate: int = RATE) -> Sound:
    return np.zeros(int(seconds * rate), np.float32)


def first(rate: int = RATE) -> Sound:
    """A second of sound, and a short pause."""
    return np.concatenate([tone(1.0, rate), silence(0.15, rate)])


def second(rate: int = RATE) -> Sound:
    """A short pause, and a little less sound."""
    return np.concatenate([silence(0.15, rate), tone(0.8, rate, 660)])


def both() -> Sound:
    return np.concatenate([first(), second()])


def stereo(samples: Sound) -> Sound:
    return np.stack([samples, samples], axis=1)


BETWEEN = 1.15
"""Where the second part begins, in seconds."""


def heard(gap: float = 0.0, late: float = 0.0) -> Spans:
    """When both parts sound, with a gap between them and one before them."""
    return [(late, late + 1.0), (late + gap + 1.3, late + gap + 2.1)]


def decode(source: bytes, *, max_seconds: float = 60.0, truncate: bool = False) -> Sound:
    return decode_module.decode(source, rate=RATE, max_seconds=max_seconds, truncate=truncate)


def refusal(source: bytes, **options: float) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        decode(source, **options)  # type: ignore[arg-type]
    return caught.value


def spans(samples: Sound) -> Spans:
    """From when to when there is sound; pauses of less than 0.1 s do not count."""
    frame = RATE // 100
    loud = np.abs(samples[: len(samples) // frame * frame]).reshape(-1, frame).max(axis=1) > 0.05
    found: list[list[float]] = []
    for index in np.flatnonzero(loud):
        start, end = index / 100, (index + 1) / 100
        if found and start - found[-1][1] < 0.1:
            found[-1][1] = end
        else:
            found.append([start, end])
    return [(start, end) for start, end in found]


def assert_heard(samples: Sound, expected: Spans, tolerance: float = 0.06) -> None:
    found = spans(samples)
    assert len(found) == len(expected), found
    assert np.abs(np.array(found) - np.array(expected)).max() < tolerance, found
    assert abs(len(samples) / RATE - expected[-1][1]) < tolerance


# Several recordings in one file

LIST = b"LIST" + struct.pack("<I", 4) + b"INFO"


def twice(name: str) -> Callable[[], bytes]:
    """One part after the other, in the same format."""
    return lambda: encoded(first(), RATE, name) + encoded(second(), RATE, name)


def paused(container: str, **options: str) -> Callable[[float], bytes]:
    """With a gap in the timestamps between the two parts."""
    return lambda gap: muxed(both(), RATE, container, gap=gap, at=BETWEEN, options=options)


CHAINS: dict[str, Callable[[], bytes]] = {
    **{name: twice(name) for name in ("vorbis", "opus", "flac", "wav", "mp3", "rf64")},
    "vorbis, then stereo at another rate": lambda: (
        encoded(first(), RATE, "vorbis") + encoded(stereo(second(44_100)), 44_100, "vorbis")
    ),
    "opus, then stereo": lambda: (
        encoded(first(), RATE, "opus") + encoded(stereo(second()), RATE, "opus")
    ),
    "vorbis, then opus": lambda: encoded(first(), RATE, "vorbis") + encoded(second(), RATE, "opus"),
    "flac, then stereo of 24 bits at another rate": lambda: (
        encoded(first(), RATE, "flac") + encoded(stereo(second(44_100)), 44_100, "flac24")
    ),
    "flac with tags": lambda: (
        ID3_TAG + encoded(first(), RATE, "flac") + ID3_TAG + encoded(second(), RATE, "flac")
    ),
    "wav, then stereo at another rate": lambda: (
        encoded(first(), RATE, "wav") + encoded(stereo(second(44_100)), 44_100, "wav")
    ),
    "wav with a list, then rf64": lambda: (
        encoded(first(), RATE, "wav") + LIST + encoded(second(), RATE, "rf64")
    ),
    "streamed wav": lambda: (
        with_size(encoded(first(), RATE, "wav"), 0xFFFFFFFF)
        + with_size(encoded(second(), RATE, "wav"), 0xFFFFFFFF)
    ),
    "wav with a size that is a little too large": lambda: (
        with_size(encoded(first(), RATE, "wav"), 2 * len(first()) + 44)
        + encoded(second(), RATE, "wav")
    ),
    "wav with two chunks of samples": lambda: (
        encoded(first(), RATE, "wav")
        + struct.pack("<4sI", b"data", 2 * len(second()))
        + pcm16(second())
    ),
    "mp3, then stereo at another rate": lambda: (
        encoded(first(), RATE, "mp3") + encoded(stereo(second(44_100)), 44_100, "mp3")
    ),
    "webm": lambda: muxed(first(), RATE, "webm") + muxed(second(), RATE, "webm"),
}


@pytest.mark.parametrize("name", CHAINS)
def test_recordings_that_follow_each_other_are_all_heard(name: str) -> None:
    # Encoders of MP3 add silence at each end.
    assert_heard(decode(CHAINS[name]()), heard(), 0.2 if "mp3" in name else 0.06)


def test_a_part_that_is_cut_short_is_not_taken_for_whole() -> None:
    flac, wav = (encoded(both(), RATE, name) for name in ("flac", "wav"))
    assert "cut short" in refusal(wav + wav[: len(wav) // 2]).message
    assert refusal(flac + flac[: len(flac) // 2]).code is ErrorCode.invalid_audio
    assert refusal(flac[: len(flac) // 2] + flac).code is ErrorCode.invalid_audio


@pytest.mark.parametrize("kind", ["wav", "flac", "opus"])
def test_nobody_sends_so_many_parts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("decode", "ogg", "wav"):
        monkeypatch.setattr(f"model_procs.audio.{module}.MAX_PARTS", 20)
    part = encoded(tone(0.1), RATE, kind)
    assert abs(len(decode(part * 8)) - 8 * RATE // 10) < 10
    assert "recordings" in refusal(part * 100).message


# Gaps

GAP = 5.0
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "300000"}

PAUSED: dict[str, Callable[[float], bytes]] = {
    **{name: paused(name) for name in ("mp4", "mov", "webm", "matroska", "ogg")},
    "fragments": paused("mp4", **FRAGMENTS),
    "live webm": paused("webm", live="1"),
    "vorbis": lambda gap: remuxed(encoded(both(), RATE, "vorbis"), gap=gap, at=BETWEEN),
    "edit list": lambda gap: with_edits(
        muxed(both(), RATE, "mp4"), [(BETWEEN, 0.0), (gap, None), (0.95, BETWEEN)]
    ),
}


@pytest.mark.parametrize("name", PAUSED)
def test_a_gap_is_kept_as_silence(name: str) -> None:
    assert_heard(decode(PAUSED[name](GAP)), heard(gap=GAP))


@pytest.mark.parametrize("container", ["mp4", "webm", "matroska"])
def test_the_time_before_the_sound_is_kept(container: str) -> None:
    assert_heard(decode(muxed(both(), RATE, container, gap=3.0)), heard(late=3.0))


def test_edit_lists_say_when_the_sound_begins_and_pauses_and_ends() -> None:
    mp4 = muxed(both(), RATE, "mp4")
    late: list[tuple[float, float | None]] = [(3.0, None), (2.1, 0.0)]
    assert_heard(decode(with_edits(mp4, late)), heard(late=3.0))
    parts: list[tuple[float, float | None]] = [(BETWEEN, 0.0), (2.0, None), (0.95, BETWEEN)]
    assert_heard(decode(with_edits(mp4, [(3.0, None), *parts])), heard(late=3.0, gap=2.0))
    assert_heard(decode(with_edits(mp4, [(2.1, 0.0), (9.0, None)])), heard())
    assert_heard(decode(with_edits(mp4, [(BETWEEN, 0.0)])), [(0.0, 1.0)], 0.2)
    assert_heard(
        decode(with_edits(mp4, [(0.5, 0.0), (2.0, None), (0.95, BETWEEN)])),
        [(0, 0.5), (2.65, 3.45)],
    )


def test_a_broadcast_in_ogg_may_begin_at_any_time() -> None:
    assert_heard(decode(muxed(both(), RATE, "ogg", gap=1000.0)), heard())


def test_a_page_that_is_lost_leaves_silence() -> None:
    ogg = muxed(np.concatenate([tone(1.0), tone(3.0)]), RATE, "ogg")
    pages = [at for at in range(len(ogg)) if ogg.startswith(b"OggS", at)]
    assert len(pages) >= 6
    hole = bytearray(ogg)
    hole[pages[3] + 100] ^= 0xFF  # its checksum is wrong now
    for broken in (bytes(hole), ogg[: pages[3]] + ogg[pages[4] :]):
        assert_heard(decode(broken), [(0.0, 1.0), (2.0, 4.0)])


@pytest.mark.parametrize("name", PAUSED)
def test_a_gap_without_end_is_a_pause_and_no_reason_to_refuse(name: str) -> None:
    assert_heard(decode(PAUSED[name](20_000.0)), heard(gap=1.0))
    assert_heard(decode(PAUSED[name](20.0), max_seconds=10.0), heard(gap=1.0))
    assert_heard(decode(PAUSED[name](7.0), max_seconds=10.0), heard(gap=7.0))


def test_the_sound_fits_even_when_the_gap_does_not() -> None:
    samples = decode(muxed(both(), RATE, "webm", gap=GAP, at=BETWEEN), max_seconds=2.0)
    assert_heard(samples, heard())
    too_long = refusal(muxed(both(), RATE, "webm", gap=GAP, at=BETWEEN), max_seconds=1.0)
    assert too_long.code is ErrorCode.audio_too_long


def test_a_reference_has_no_gaps() -> None:
    source = muxed(both(), RATE, "webm", gap=GAP, at=BETWEEN)
    assert_heard(decode(source, truncate=True), heard())
    assert_heard(decode(muxed(both(), RATE, "mp4", gap=60.0), truncate=True), heard())


@given(
    st.lists(
        st.tuples(st.integers(1, 3_000), st.sampled_from([0.0, 0.3, 1.0, 2.5, 9.0, 1e9])),
        min_size=1,
        max_size=12,
    )
)
@settings(deadline=None)
def test_all_sound_is_kept_in_order_whatever_the_gaps(parts: list[tuple[int, float]]) -> None:
    track = decode_module._Track(1_000, 10.0, False)
    expected = np.arange(1, 1 + sum(count for count, _ in parts)) / 100_000
    start = 0
    try:
        for count, gap in parts:
            track.add(expected[start : start + count].astype("f4"), 1_000, gap)
            start += count
    except ServiceError:
        assert len(expected) > 10_000
        return
    samples = track.finish()
    assert np.array_equal(samples[samples > 0], expected.astype("f4"))
    assert len(expected) <= len(samples) <= max(10_000, len(expected))


def test_an_mp4_that_is_cut_short_is_refused_with_a_gap_and_without() -> None:
    for gap in (0.0, GAP):
        whole = without_ftyp(muxed(both(), RATE, "mov", gap=gap, at=0.3))
        assert decode(whole) is not None
        error = refusal(whole[: len(whole) - 8_000])
        assert error.code is ErrorCode.invalid_audio
        assert "cut short" in error.message


# WAV and its relatives: sizes

WAV = encoded(both(), RATE, "wav")
BYTES = 2 * len(both())

SIZES = {
    "as pocket-tts": 2_000_000_000,
    **{hex(size): size for size in (0x7FFFFFDB, 0x7FFFFFFF, 0xFFFFFFD3, 0xFFFFFFDB, 0xFFFFFFFE)},
    "4 GB": 4_000_000_000,
    "just absurd": ABSURD_SIZE + 1,
    **{f"off by {off}": BYTES + off for off in (-44, -8, -1, 1, 2, 8, 36, 44, 1_000)},
}


@pytest.mark.parametrize("claim", SIZES.values(), ids=SIZES)
def test_a_wav_is_read_as_far_as_it_goes(claim: int) -> None:
    assert_heard(decode(with_size(WAV, claim)), heard())


@pytest.mark.parametrize("tail", [b"\0garbage" * 40, b"\r\n--boundary--\r\n" * 2, LIST + b"x" * 9])
def test_what_is_behind_a_wav_is_not_heard(tail: bytes) -> None:
    assert len(decode(WAV + tail)) == len(both())


def test_a_wav_is_cut_short_when_a_word_is_missing() -> None:
    for missing in (BYTES // 2, BYTES // 5, RATE):
        assert "cut short" in refusal(WAV[:-missing]).message
    for missing in (1, 100, BYTES // 50):
        assert len(decode(WAV[:-missing])) == len(both()) - -(-missing // 2)


def test_the_length_of_a_long_wav_may_be_wrong_by_half_a_second() -> None:
    long = encoded(np.concatenate([both()] * 20), RATE, "wav")
    assert len(decode(long[: -RATE + 100])) == 20 * len(both()) - RATE // 2 + 50
    assert "cut short" in refusal(long[: -RATE - 100]).message


def rf64(data: int, long: int, name: bytes = b"RF64") -> bytes:
    """An RF64 whose header says both sizes."""
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, 36 + long & 0xFFFFFFFF, long, 0, 0)
    return name + b"\xff" * 4 + b"WAVE" + sizes + with_size(WAV, data)[12:]


@pytest.mark.parametrize("long", [BYTES, BYTES + 44, 0, 0xFFFFFFFF, 1 << 62, (1 << 64) - 1])
@pytest.mark.parametrize("name", [b"RF64", b"BW64"])
def test_a_long_wav_may_not_know_its_size(name: bytes, long: int) -> None:
    assert len(decode(rf64(0xFFFFFFFF, long, name))) == len(both())
    assert len(decode(rf64(0xFFFFFFFF, long, name) + LIST)) - len(both()) in (0, len(LIST) // 2)


def test_a_long_wav_may_be_cut_short() -> None:
    assert "cut short" in refusal(rf64(0xFFFFFFFF, 10 * BYTES)).message


@pytest.mark.parametrize("size", [None, 0, 24, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])
def test_a_wave64_may_not_know_its_size(size: int | None) -> None:
    wave64 = bytearray(encoded(both(), RATE, "w64"))
    assert detect(bytes(wave64[:64])) is detect(WAV)
    if size is not None:
        struct.pack_into("<Q", wave64, wave64.index(b"data") + 16, size)
    assert_heard(decode(bytes(wave64)), heard())


@pytest.mark.parametrize("claim", [0, BYTES - 8, BYTES + 44, BYTES + 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_an_aiff_may_not_know_its_size(claim: int) -> None:
    aiff = with_size(encoded(both(), RATE, "aiff"), claim, name=b"SSND", order=">")
    assert_heard(decode(aiff), heard())


def test_a_wav_with_a_codec_is_read_as_far_as_it_goes() -> None:
    adpcm = encoded(both(), RATE, "adpcm")
    assert_heard(decode(adpcm), heard(), 0.1)
    assert_heard(decode(with_size(adpcm, 2_000_000_000)), heard(), 0.1)


def test_a_search_for_the_next_wav_sees_what_lies_across_its_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("model_procs.audio.slices._SCAN_BYTES", 64)
    assert_heard(decode(CHAINS["streamed wav"]()), heard())
    assert_heard(decode(CHAINS["flac"]()), heard())


# What stands in front

MOV = muxed(both(), RATE, "mov")


@pytest.mark.parametrize("name", [b"wide", b"free", b"skip", b"pnot", b"moov", b"mdat"])
def test_quicktime_may_begin_with_any_box(name: bytes) -> None:
    size = struct.unpack_from(">I", MOV, 0)[0]
    source = {
        b"moov": without_ftyp(MOV),
        # A box in front of the sound stays, so that nothing moves to which `moov` points.
        b"mdat": struct.pack(">I4s", size, b"mdat") + bytes(size - 8) + MOV[size:],
    }.get(name, box_first(MOV, name))
    assert source[4:8] == name
    known = detect(source[:16])
    assert known is not None
    assert known.media_type == "audio/mp4"
    assert_heard(decode(source), heard())


FRONTS = {
    "nothing": b"",
    "zeros": bytes(417),
    "many zeros": bytes(20_000),
    "a line": b"\r\n",
    "a tag": ID3_TAG,
    "two tags": ID3_TAG * 2,
    "tags and zeros": ID3_TAG * 3 + bytes(1_000) + ID3_TAG,
    "a tag with a footer": b"ID3\4\0\x10\0\0\0\x0a" + bytes(10) + b"3DI\4\0\x10\0\0\0\x0a",
    "sync codes": b"\xff\xfb\x90\x64" * 9 + b"\xff" * 50,
    "text": b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\n\r\n",
}


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("kind", ["mp3", "adts"])
def test_anything_may_stand_in_front_of_frames(kind: str, front: str) -> None:
    source = FRONTS[front] + muxed(both(), RATE, kind)
    assert detect(source) is detect(muxed(both(), RATE, kind))
    assert_heard(decode(source), heard(), 0.1)


@pytest.mark.parametrize("cut", [1, 2, 3, 50, 150, 500, 777, 1_000, 1_500])
@pytest.mark.parametrize("kind", ["mp3", "adts"])
def test_frames_may_begin_in_the_middle_of_one(kind: str, cut: int) -> None:
    whole = muxed(both(), RATE, kind)
    assert detect(whole[cut:]) is detect(whole)
    samples = decode(whole[cut:])
    assert 2.1 - 0.25 < len(samples) / RATE < 2.25
    assert [round(end - start, 1) for start, end in spans(samples)][1] == 0.8


# Channels


def speech(seed: int, seconds: float = 4.0, share: float = 1.0) -> Sound:
    """Sound that comes and goes as speech does, in a `share` of the time."""
    rng = np.random.default_rng(seed)
    words = rng.uniform(0.05, 0.5, int(seconds * 5)) * (rng.random(int(seconds * 5)) < 0.7)
    words[int(len(words) * share) :] = 0.0
    return (np.repeat(words, RATE // 5) * rng.standard_normal(RATE // 5 * len(words)) * 0.3).astype(
        "f4"
    )


A, B = speech(1), speech(2)
NOISE = (np.random.default_rng(3).standard_normal(len(A)) * 0.1).astype("f4")
HUM = (0.2 * np.sin(2 * np.pi * 50 * np.arange(len(A)) / RATE)).astype("f4")

ONE_CHANNEL: dict[str, tuple[list[Sound], Sound]] = {
    "left": ([A, 0 * A], A),
    "right": ([0 * A, A], A),
    "left, and a constant": ([A, 0 * A + 0.02], A),
    "left, and a little noise": ([A, NOISE / 100], A),
    "left, and noise": ([A, NOISE], A),
    "right, and hum": ([HUM, A], A),
    "opposite": ([A, -A], A),
    "opposite, and not as loud": ([A / 2, -A], -A),
    "center of six": ([0 * A, 0 * A, A, 0 * A, 0 * A, 0 * A], A),
    "opposite pairs": ([A, -A, A / 2, -A / 2], A),
}

MEAN: dict[str, list[Sound]] = {
    "equal": [A, A],
    "not as loud": [A, A / 5],
    "two speakers": [A, B],
    "two speakers, one of them seldom": [A, speech(4, share=0.3) / 4],
    "two speakers with noise": [A + NOISE / 10, B / 4 + NOISE / 10],
    "noise on both": [A + NOISE, A - NOISE],
    "silence": [0 * A, 0 * A],
    "noise": [NOISE, NOISE[::-1]],
    "six": [A, B, speech(5), speech(6), 0 * A, A],
}


@pytest.mark.parametrize("name", ONE_CHANNEL)
@pytest.mark.parametrize("block", [300, 65_536])
def test_the_better_channel_is_taken(
    name: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_module, "BLOCK_SAMPLES", block)
    channels, expected = ONE_CHANNEL[name]
    samples = decode(encoded(np.stack(channels, axis=1), RATE, "wav"))
    assert np.abs(samples - expected.clip(-1, 1)).max() < 1e-3


@pytest.mark.parametrize("name", MEAN)
def test_channels_that_do_not_hurt_each_other_are_mixed(name: str) -> None:
    samples = decode(encoded(np.stack(MEAN[name], axis=1), RATE, "wav"))
    mean = np.mean([channel.clip(-1, 1) for channel in MEAN[name]], axis=0)
    assert np.abs(samples - mean).max() < 1e-3


@pytest.mark.parametrize("kind", ["vorbis", "opus", "mp3", "flac"])
def test_the_better_channel_is_taken_in_every_format(kind: str) -> None:
    for pair in ([A, -A], [0 * A, A]):
        samples = decode(encoded(np.stack(pair, axis=1), RATE, kind))
        assert abs(np.sqrt(np.mean(samples**2)) / np.sqrt(np.mean(A**2)) - 1) < 0.25


def test_each_part_of_a_chain_has_its_own_better_channel() -> None:
    left, opposite = np.stack([A, 0 * A], axis=1), np.stack([B, 0 * B, -B, 0 * B], axis=1)
    source = encoded(left, RATE, "wav") + encoded(A, RATE, "wav") + encoded(opposite, RATE, "wav")
    assert np.abs(decode(source) - np.concatenate([A, A, B]).clip(-1, 1)).max() < 1e-3


def test_a_late_speaker_on_the_other_channel_is_heard() -> None:
    """The whole recording decides, not its beginning."""
    late = np.concatenate([0 * A] * 9 + [B])
    samples = decode(encoded(np.stack([np.tile(A, 10), late], axis=1), RATE, "wav"))
    mean = (np.tile(A, 10).clip(-1, 1) + late.clip(-1, 1)) / 2
    assert np.abs(samples - mean).max() < 1e-3


def test_what_is_measured_does_not_pile_up_when_channels_come_and_go() -> None:
    mixer = Mixer()
    one, two = np.zeros((1, 1_000), "f4"), np.zeros((2, 1_000), "f4")
    tracemalloc.start()
    try:
        for _ in range(2_000):
            mixer.mix(one, 48_000)
            mixer.mix(two, 48_000)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
    assert mixer.better() == {}


def test_a_wav_header_of_ours_is_read_in_a_chain() -> None:
    streamed = wav_header(RATE, None) + pcm16(first()) + wav_header(RATE, None) + pcm16(second())
    assert_heard(decode(streamed), heard())
