"""Decoding what clients send: every format, every lie, and nothing that the bytes can do to us."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import tracemalloc
from collections.abc import Callable
from functools import cache
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipc.errors import ErrorCode, ServiceError
from ipc.wav_header import wav_header
from model_procs.audio import decode as decode_module
from model_procs.audio.pcm import pcm16
from model_procs.audio.wav import UNKNOWN_SIZES
from tests.support.formats import RARE_FORMATS, encode

TONE_HZ = 440
CONTAINERS = ("m4a", "aac", "webm", "mp3")
SOUNDFILES = {
    "wav": ("WAV", "PCM_16"),
    "wav24": ("WAV", "PCM_24"),
    "float": ("WAV", "FLOAT"),
    "ulaw": ("WAV", "ULAW"),
    "extensible": ("WAVEX", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
}
KINDS = (*SOUNDFILES, *CONTAINERS)


def tone(rate: int, seconds: float, channels: int = 1) -> npt.NDArray[np.float32]:
    time = np.arange(int(rate * seconds)) / rate
    wave = (0.5 * np.sin(2 * np.pi * TONE_HZ * time)).astype(np.float32)
    return np.repeat(wave[:, None], channels, axis=1)


@cache
def recording(kind: str, rate: int = 48_000, seconds: float = 1.0, channels: int = 1) -> bytes:
    """A tone of TONE_HZ, encoded by the same libraries' encoders."""
    file = io.BytesIO()
    samples = tone(rate, seconds, channels)
    if kind in SOUNDFILES:
        container_format, subtype = SOUNDFILES[kind]
        soundfile.write(file, samples, rate, format=container_format, subtype=subtype)
        return file.getvalue()
    container_format, codec = {
        "m4a": ("mp4", "aac"),
        "aac": ("adts", "aac"),
        "webm": ("webm", "libopus"),
        "mp3": ("mp3", "libmp3lame"),
    }[kind]
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[channels]
    with av.open(file, "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples.T), format="fltp", layout=layout
        )
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return file.getvalue()


def wav(data: bytes, claim: int | None = None, rate: int = 16_000, channels: int = 1) -> bytes:
    """A PCM16 WAV whose header says what the test wants it to say."""
    claim = len(data) if claim is None else claim
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", (36 + claim) & 0xFFFFFFFF, b"WAVE", b"fmt ", 16, 1, channels & 0xFFFF),
        *(rate, 2 * rate & 0xFFFFFFFF, 2 * channels & 0xFFFF, 16, b"data", claim),
    )
    return head + data


def decode(
    source: bytes | str, rate: int = 16_000, max_seconds: float = 30.0, truncate: bool = False
) -> npt.NDArray[np.float32]:
    return decode_module.decode(source, rate=rate, max_seconds=max_seconds, truncate=truncate)


def refusal(source: bytes, **options: float) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        decode(source, **options)  # type: ignore[arg-type]
    return caught.value


def assert_tone(samples: npt.NDArray[np.float32], rate: int, seconds: float) -> None:
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert abs(len(samples) / rate - seconds) < 0.06  # a codec's padding
    middle = samples[len(samples) // 4 : -len(samples) // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert abs(np.argmax(spectrum) * rate / len(middle) - TONE_HZ) < 5
    assert abs(np.sqrt(np.mean(middle**2)) - 0.5 / np.sqrt(2)) < 0.03


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_gives_the_tone(kind: str, channels: int) -> None:
    assert_tone(decode(recording(kind, channels=channels)), 16_000, 1.0)


@pytest.mark.parametrize("name", RARE_FORMATS)
def test_what_else_phones_and_computers_record_gives_the_tone(name: str) -> None:
    samples = decode(encode(recording("wav", rate=48_000), name))
    if name in ("3gp", "amr"):  # made for voices: a tone keeps its pitch and not its loudness
        samples *= 0.5 / np.sqrt(2) / np.sqrt(np.mean(samples[4_000:-4_000] ** 2))
    assert_tone(samples, 16_000, 1.0)


@pytest.mark.parametrize(
    ("kind", "rate", "channels"),
    [("wav", 8_000, 1), ("mp3", 8_000, 1), ("wav", 11_025, 2), ("m4a", 44_100, 2),
     ("flac", 96_000, 6), ("wav", 192_000, 2), ("wav", 16_000, 1), ("wav", 44_100, 32)],
)  # fmt: skip
@pytest.mark.parametrize("wanted", [16_000, 24_000])
def test_any_rate_and_channel_count(kind: str, rate: int, channels: int, wanted: int) -> None:
    samples = decode(recording(kind, rate=rate, channels=channels), rate=wanted)
    assert_tone(samples, wanted, 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_gives_the_same_samples_as_its_bytes(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(recording(kind))
    assert np.array_equal(decode(str(path)), decode(recording(kind)))


@pytest.mark.parametrize("kind", ["wav", "flac", "vorbis", "opus", "mp3"])
def test_decoding_by_blocks_gives_what_decoding_at_once_gives(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = recording(kind, seconds=2.0)
    whole = decode(source, rate=48_000)
    monkeypatch.setattr(decode_module, "BLOCK_SAMPLES", 1_000)
    by_blocks = decode(source, rate=48_000)
    assert len(by_blocks) == len(whole)
    assert np.abs(by_blocks - whole).max() < 1e-6


def test_memory_follows_the_result_and_not_the_upload(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    with soundfile.SoundFile(path, "w", 96_000, 2, "PCM_16", format="WAV") as file:
        for _ in range(60):
            file.write(tone(96_000, 1.0, 2))
    tracemalloc.start()
    try:
        samples = decode(str(path), max_seconds=60)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 20e6
    assert samples.nbytes == 60 * 16_000 * 4
    assert peak < samples.nbytes + 3e6


def test_no_descriptor_is_left_open() -> None:
    decode(recording("wav"))
    before = len(os.listdir("/proc/self/fd"))
    for kind in KINDS:
        decode(recording(kind))
        refusal(recording(kind)[:100])
    assert len(os.listdir("/proc/self/fd")) == before


def test_truncate_keeps_the_beginning() -> None:
    samples = decode(recording("wav", seconds=2.0), max_seconds=0.5, truncate=True)
    assert_tone(samples, 16_000, 0.5)
    assert len(samples) == 8_000


@pytest.mark.parametrize("kind", ["wav", "m4a"])
def test_a_longer_recording_is_refused_without_truncate(kind: str) -> None:
    error = refusal(recording(kind, seconds=2.0), max_seconds=1.0)
    assert error.code is ErrorCode.audio_too_long
    assert "1 seconds" in error.message


def test_padding_of_a_codec_is_not_over_long() -> None:
    assert len(decode(recording("m4a", seconds=2.0), max_seconds=1.99)) > 1.99 * 16_000


PCM = pcm16(tone(16_000, 1.0)[:, 0])


@pytest.mark.parametrize("claim", sorted(UNKNOWN_SIZES))
def test_a_streamed_wav_is_read_as_far_as_it_goes(claim: int) -> None:
    assert_tone(decode(wav(PCM, claim=claim)), 16_000, 1.0)


def test_our_own_streamed_wav_is_read() -> None:
    assert_tone(decode(wav_header(16_000, None) + PCM), 16_000, 1.0)


def test_a_flac_written_to_a_pipe_is_read() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    pipe = Pipe()
    with av.open(pipe, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=48_000, layout="mono", format="s16")
        pcm = (tone(48_000, 1.0).T * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm), format="s16", layout="mono")
        frame.sample_rate = 48_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    written = bytearray(pipe.getvalue())
    written[21] &= 0xF0  # the number of samples, which a pipe's writer cannot know
    written[22:26] = bytes(4)
    assert_tone(decode(bytes(written)), 16_000, 1.0)


def test_what_follows_the_sound_is_ignored_when_it_is_a_chunk_or_a_tag() -> None:
    listing = b"LIST" + struct.pack("<I", 4) + b"INFO"
    for tail in (listing, b"TAG" + b"title".ljust(125), bytes(500), b"\n"):
        assert_tone(decode(wav(PCM) + tail), 16_000, 1.0)
        assert_tone(decode(recording("flac") + tail), 16_000, 1.0)
        assert_tone(decode(recording("mp3") + tail), 16_000, 1.0)


def test_one_broken_frame_costs_only_its_own_sound() -> None:
    whole = recording("aac", seconds=3.0)
    hole = bytearray(whole)
    hole[len(hole) // 2 : len(hole) // 2 + 40] = bytes(40)
    assert 2.5 < len(decode(bytes(hole))) / 16_000 < 3.2


REFUSED: dict[str, tuple[bytes, ErrorCode, str]] = {
    "nothing": (b"", ErrorCode.empty_audio, "0 bytes"),
    "a wav without samples": (wav(b""), ErrorCode.empty_audio, "no samples"),
    "a wav with a list only": (
        wav(b"LIST\x04\0\0\0INFO", claim=0), ErrorCode.empty_audio, "no samples"),
    "a wav of 0 s": (recording("wav24", seconds=0.0), ErrorCode.empty_audio, "no samples"),
    "text": (b"hello, I am not a recording" * 50, ErrorCode.invalid_audio, "send a WAV"),
    "one byte": (b"R", ErrorCode.invalid_audio, "send a WAV"),
    "an image": (b"\x89PNG\r\n\x1a\n" + bytes(200), ErrorCode.invalid_audio, "send a WAV"),
    "half a wav": (wav(PCM)[: len(PCM) // 2], ErrorCode.invalid_audio, "cut short"),
    "a wav's header only": (wav(PCM)[:30], ErrorCode.invalid_audio, "cut short"),
    "a claim of ten times as much": (
        wav(PCM, claim=10 * len(PCM)), ErrorCode.invalid_audio, "cut short"),
    "a claim of too little": (wav(PCM, claim=1_000), ErrorCode.invalid_audio, "longer than"),
    "1,000 channels": (wav(PCM, channels=1_000), ErrorCode.invalid_audio, "channels"),
    "no channels": (wav(PCM, channels=0), ErrorCode.invalid_audio, ";"),
    "a rate of 1 Hz": (wav(PCM, rate=1), ErrorCode.invalid_audio, "1 Hz"),
    "a rate of 2 GHz": (wav(PCM, rate=2**31), ErrorCode.invalid_audio, ";"),
    "half a flac": (recording("flac", seconds=3.0)[:9_000], ErrorCode.invalid_audio, ";"),
    "half an m4a": (recording("m4a", seconds=3.0)[:9_000], ErrorCode.invalid_audio, ";"),
    **{
        f"garbage after the first bytes of {kind}": (
            recording(kind)[:16] + bytes(range(1, 256)) * 20, ErrorCode.invalid_audio, ";")
        for kind in ("flac", "vorbis", "opus", "m4a", "webm")
    },
    "garbage after the first bytes of aac": (
        recording("aac")[:16] + bytes(range(1, 256)) * 20, ErrorCode.empty_audio, "no sound"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_with_advice(name: str) -> None:
    source, code, part = REFUSED[name]
    error = refusal(source)
    assert error.code is code
    assert part in error.message
    assert "; " in error.message
    assert "/" not in error.message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_samples_that_are_not_numbers_are_refused(value: float, subtype: str) -> None:
    samples = tone(16_000, 1.0)[:, 0].copy()
    samples[5_000] = value
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format="WAV", subtype=subtype)
    error = refusal(file.getvalue())
    assert error.code is ErrorCode.invalid_audio
    assert "not numbers" in error.message


def test_samples_beyond_full_scale_are_clipped() -> None:
    file = io.BytesIO()
    soundfile.write(file, tone(16_000, 1.0) * 1e30, 16_000, format="WAV", subtype="FLOAT")
    assert np.abs(decode(file.getvalue())).max() == 1.0


PLAYLISTS: dict[str, Callable[[str], bytes]] = {
    "hls": lambda path: f"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nfile://{path}\n".encode(),
    "concat": lambda path: f"ffconcat version 1.0\nfile '{path}'\n".encode(),
    "sdp": lambda path: b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
    "dash": lambda path: f"<?xml version='1.0'?><MPD><BaseURL>{path}</BaseURL></MPD>".encode(),
}


@pytest.mark.parametrize("playlist", PLAYLISTS)
@pytest.mark.parametrize(
    "prefix", [b"", b"\0\0\0\x18ftypM4A ", b"\x1a\x45\xdf\xa3", b"ID3\4\0" + bytes(5)]
)
def test_an_upload_cannot_name_a_file_to_read(playlist: str, prefix: bytes, tmp_path: Path) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(recording("wav"))
    assert refusal(prefix + PLAYLISTS[playlist](str(secret))).code is ErrorCode.invalid_audio


def test_an_mp4_cannot_refer_to_another_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret.m4a"
    secret.write_bytes(recording("m4a"))
    reference = b"url " + struct.pack(">I", 0) + str(secret).encode() + b"\0"
    reference = struct.pack(">I", 4 + len(reference)) + reference
    source = recording("m4a").replace(struct.pack(">I", 12) + b"url \0\0\0\1", reference)
    assert source != recording("m4a")
    assert refusal(source).code is ErrorCode.invalid_audio


def mutations(kind: str) -> st.SearchStrategy[bytes]:
    """The recording with bytes changed, cut out, put in; mostly in the header, where it hurts."""
    original = recording(kind, rate=16_000, seconds=0.2)
    position = st.integers(0, 200) | st.integers(0, len(original) - 1)
    bytes_ = st.binary(max_size=12) | st.sampled_from([b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f"])
    edit = st.tuples(position, st.integers(0, 40), bytes_)

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        source = bytearray(original)
        for start, cut, new in edits:
            source[start : start + cut] = new
        return bytes(source)

    return st.lists(edit, min_size=1, max_size=5).map(apply)


@pytest.mark.parametrize("kind", ["wav", "float", "flac", "vorbis", "opus", "m4a", "webm", "mp3"])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(data=st.data(), truncate=st.booleans())
def test_no_bytes_raise_anything_but_a_service_error(
    kind: str, data: st.DataObject, truncate: bool
) -> None:
    source = data.draw(mutations(kind))
    try:
        samples = decode(source, max_seconds=0.1, truncate=truncate)
    except ServiceError as error:
        refused_with = error.code.status
    else:
        assert 0 < len(samples) <= 16_000 * 0.7
        assert np.abs(samples).max() <= 1.0
        return
    assert refused_with == 400


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_random_bytes_are_refused(source: bytes) -> None:
    assert refusal(source).code in (ErrorCode.invalid_audio, ErrorCode.empty_audio)


def test_decoding_broken_files_writes_nothing_to_stderr(
    capfd: pytest.CaptureFixture[str],
) -> None:
    for kind in KINDS:
        broken = bytearray(recording(kind))
        broken[len(broken) // 2 :: 7] = bytes(len(broken[len(broken) // 2 :: 7]))
        for source in (bytes(broken), bytes(broken[: len(broken) // 2])):
            with contextlib.suppress(ServiceError):
                decode(source)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("samples", [0, 1, 16_000])
def test_wav_header_describes_what_follows(samples: int) -> None:
    header = wav_header(16_000, samples)
    assert len(header) == 44
    with soundfile.SoundFile(io.BytesIO(header + bytes(2 * samples))) as file:
        assert (file.samplerate, file.channels, file.frames) == (16_000, 1, samples)
        assert file.subtype == "PCM_16"


def test_wav_header_of_unknown_length_claims_the_greatest() -> None:
    header = wav_header(24_000, None)
    assert len(header) == 44
    assert header[4:8] == header[40:44] == b"\xff" * 4


def test_pcm16_rounds_and_clips() -> None:
    samples = np.array([0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -7.0, 1.6 / 32767], np.float32)
    assert np.frombuffer(pcm16(samples), "<i2").tolist() == [
        0, 16384, -16384, 32767, -32767, 32767, -32767, 2,
    ]  # fmt: skip


@given(st.lists(st.integers(-32767, 32767), min_size=1, max_size=50))
@settings(deadline=None)
def test_pcm16_comes_back(values: list[int]) -> None:
    samples = np.array(values, np.float32) / np.float32(32767)
    source = wav_header(16_000, len(values)) + pcm16(samples)
    assert np.abs(decode(source) - samples).max() < 1e-4
