"""Speech in every output format: the encoder by itself, and through the service."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from typing import Any, get_args

import aiohttp
import av
import jiwer
import numpy as np
import pytest
import soundfile
import soxr

from ipc.errors import ErrorCode, ServiceError
from ipc.formats import FORMATS, FormatName, content_type
from ipc.wav_header import wav_header
from model_procs.audio.pcm import Samples
from model_procs.audio.pitch import median_pitch
from model_procs.speech.encode import Encoder
from tests.support.recordings import spoken
from tests.support.service import MINIMAL, RunningService, running

RATE = 24_000
NAMES: tuple[FormatName, ...] = get_args(FormatName)
CODECS = {
    "wav": ("wav", "pcm_s16le"),
    "pcm": ("wav", "pcm_s16le"),
    "mp3": ("mp3", "mp3float"),
    "opus": ("ogg", "opus"),
    "flac": ("flac", "flac"),
    "aac": ("aac", "aac"),
}
CODEC_SAMPLES = {"mp3": 3 * 1152, "aac": 3 * 1024}
"""What a stream's decoder may give in addition, where nothing in the stream says what to drop."""

SENTENCE = "The train to the city leaves every fifteen minutes."


@pytest.fixture(scope="module")
def recording() -> bytes:
    """Somebody's voice, as a WAV."""
    return spoken(SENTENCE)


@pytest.fixture(scope="module")
def speech(recording: bytes) -> Samples:
    samples, rate = soundfile.read(io.BytesIO(recording), dtype="float32")
    return np.asarray(soxr.resample(samples, rate, RATE), np.float32)


def pieces(samples: Samples, size: int) -> Iterator[Samples]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def encode(encoder: Encoder, samples: Samples, size: int = 1920) -> list[bytes]:
    """What comes out for each piece, and at the end."""
    return [*(encoder.feed(piece) for piece in pieces(samples, size)), encoder.finish()]


def decode(data: bytes, name: FormatName, rate: int = RATE) -> tuple[tuple[str, str], int, Samples]:
    """Container and codec, sampling rate, samples; raw PCM gets the header that it lacks."""
    if name == "pcm":
        data = wav_header(rate, len(data) // 2) + data
    blocks = []
    with av.open(io.BytesIO(data), "r") as container:
        (stream,) = container.streams.audio
        context: Any = stream.codec_context
        for frame in container.decode(stream):
            block = frame.to_ndarray()
            assert block.shape[0] == 1  # mono
            scale = 32768.0 if block.dtype == np.int16 else 1.0
            blocks.append(block[0].astype(np.float32) / scale)
        kinds = (container.format.name, context.name)
        return kinds, context.sample_rate, np.concatenate(blocks)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("wanted", [None, 8_000, 22_000, 44_100])
@pytest.mark.parametrize("name", NAMES)
def test_every_format_decodes_to_what_was_said(
    speech: Samples, name: FormatName, wanted: int | None, streamed: bool
) -> None:
    encoder = Encoder(name, RATE, wanted, streamed=streamed)
    data = b"".join(encode(encoder, speech))
    rate = encoder.sample_rate
    assert rate == FORMATS[name].rate(wanted or RATE)
    kinds, decoded_rate, decoded = decode(data, name, rate)
    assert kinds == CODECS[name]
    assert decoded_rate == (48_000 if name == "opus" else rate)
    seconds = len(speech) / RATE
    assert encoder.samples == pytest.approx(seconds * rate, abs=1)
    padding = CODEC_SAMPLES.get(name, 1) / rate if streamed or name == "aac" else 2 / rate
    assert seconds - 2 / rate <= len(decoded) / decoded_rate <= seconds + padding
    # Loudness tells speech from silence and from noise.
    assert np.sqrt(np.mean(decoded**2)) == pytest.approx(np.sqrt(np.mean(speech**2)), rel=0.15)


@pytest.mark.parametrize("name", NAMES)
def test_sound_comes_out_while_it_is_made(speech: Samples, name: FormatName) -> None:
    encoder = Encoder(name, RATE)
    received = b"".join(encoder.feed(piece) for piece in pieces(speech[:RATE], 1920))
    _, rate, decoded = decode(received, name)
    assert len(decoded) / rate > 0.8


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_answer_comes_at_its_end(speech: Samples, name: FormatName) -> None:
    *parts, last = encode(Encoder(name, RATE, streamed=False), speech)
    assert b"".join(parts) == b""
    assert len(last) > 1_000


@pytest.mark.parametrize("options", [(None, 1.0), (44_100, 1.0), (None, 1.3), (16_000, 0.4)])
@pytest.mark.parametrize("name", NAMES)
def test_the_same_samples_in_other_cuts_give_the_same_bytes(
    speech: Samples, name: FormatName, options: tuple[int | None, float]
) -> None:
    first, second, third = (
        b"".join(encode(Encoder(name, RATE, *options), speech, size)) for size in (1920, 777, 9999)
    )
    assert first == second == third


@pytest.mark.parametrize("name", ["wav", "pcm", "mp3", "opus"])
def test_almost_the_same_samples_give_as_many_bytes(speech: Samples, name: FormatName) -> None:
    # What another worker makes of the same request may differ in the last bits.
    noise = np.random.default_rng(1).uniform(-2, 2, len(speech)).astype(np.float32) / 32768
    first = encode(Encoder(name, RATE), speech)
    second = encode(Encoder(name, RATE), np.asarray(speech + noise, np.float32))
    assert first != second
    assert [len(part) for part in first] == [len(part) for part in second]
    # A client that has the beginning of the one and the end of the other hears no gap.
    kinds, rate, spliced = decode(b"".join(first[:9] + second[9:]), name)
    assert kinds == CODECS[name]
    assert len(spliced) / rate >= len(speech) / RATE - 0.001


@pytest.mark.parametrize("speed", [0.25, 0.5, 0.9, 2.0, 4.0])
def test_speed_changes_the_length_and_keeps_the_pitch(speech: Samples, speed: float) -> None:
    encoder = Encoder("flac", RATE, speed=speed)
    _, rate, decoded = decode(b"".join(encode(encoder, speech)), "flac")
    assert rate == RATE
    assert len(decoded) == pytest.approx(len(speech) / speed, abs=1)
    expected = median_pitch(speech, RATE)
    assert expected is not None
    assert median_pitch(decoded, RATE) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [1, 50])
def test_the_shortest_sound_is_kept(name: FormatName, length: int) -> None:
    encoder = Encoder(name, RATE, speed=0.5)
    data = b"".join(encode(encoder, np.full(length, 0.1, np.float32)))
    assert encoder.samples == 2 * length
    _, _, decoded = decode(data, name)
    assert len(decoded) >= 2 * length


@pytest.mark.parametrize(
    ("name", "rate", "wanted", "given"),
    [
        ("mp3", 44_100, 128_000, 128_000),
        ("mp3", 44_100, 192_000, 192_000),
        ("mp3", 44_100, 150_000, 160_000),
        ("mp3", 22_050, 32_000, 32_000),
        ("mp3", 22_050, 320_000, 160_000),
        ("mp3", 44_100, 8_000, 32_000),
        ("mp3", 8_000, 128_000, 64_000),
        ("opus", 48_000, 32_000, 32_000),
        ("opus", 48_000, 192_000, 192_000),
        ("aac", 24_000, 64_000, 64_000),
        ("aac", 16_000, 256_000, 96_000),
    ],
)
def test_a_bit_rate_is_kept_or_the_nearest_that_there_is(
    speech: Samples, name: FormatName, rate: int, wanted: int, given: int
) -> None:
    encoder = Encoder(name, RATE, rate, bit_rate=wanted)
    data = b"".join(encode(encoder, np.tile(speech, 3)))
    assert encoder.bit_rate == given
    measured = 8 * len(data) / (encoder.samples / rate)
    pages = 6_000 if name == "opus" else 0
    # AAC takes what the sound needs of it.
    assert (0.7 if name == "aac" else 0.97) * given < measured < 1.03 * given + pages


@pytest.mark.parametrize(
    ("name", "bit_rate"), [("mp3", 400_000), ("opus", 5_000), ("wav", 64_000), ("flac", 64_000)]
)
def test_a_bit_rate_that_a_format_never_has_is_refused(name: FormatName, bit_rate: int) -> None:
    with pytest.raises(ServiceError, match=f"the format {name} has") as caught:
        Encoder(name, RATE, bit_rate=bit_rate)
    assert caught.value.code is ErrorCode.invalid_option


@pytest.mark.parametrize(("rate", "speed"), [(7_999, 1.0), (48_001, 1.0), (None, 0.2), (None, 4.1)])
def test_what_is_out_of_range_is_refused(rate: int | None, speed: float) -> None:
    with pytest.raises(ValueError, match="cannot be encoded"):
        Encoder("wav", RATE, rate, speed)


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running(MINIMAL) as service:
        service.wait_ready()
        yield service


def clone_form(text: str, reference: bytes, **options: str) -> aiohttp.FormData:
    form = aiohttp.FormData({"text": text, **options})
    form.add_field("reference_audio", io.BytesIO(reference), filename="me.wav")
    return form


async def transcribe(client: aiohttp.ClientSession, data: bytes) -> dict[str, Any]:
    form = aiohttp.FormData()
    form.add_field("file", io.BytesIO(data), filename="recording")
    async with client.post("/v1/transcribe", data=form) as response:
        assert response.status == 200
        transcript: dict[str, Any] = await response.json()
        return transcript


@pytest.mark.parametrize("stream", ["true", "false"])
@pytest.mark.parametrize("name", NAMES)
async def test_the_service_is_understood_in_every_format(
    service: RunningService, recording: bytes, name: FormatName, stream: str
) -> None:
    form = clone_form(SENTENCE, recording, response_format=name, stream=stream)
    async with aiohttp.ClientSession(service.url) as client:
        async with client.post("/v1/clone", data=form) as response:
            assert response.status == 200
            data = await response.read()
        headers = response.headers
        kinds, _, _ = decode(data, name, 16_000)
        assert kinds == CODECS[name]
        if name == "pcm":
            data = wav_header(16_000, len(data) // 2) + data
        transcript = await transcribe(client, data)
    assert headers["Content-Type"] == content_type(name, 16_000)
    assert headers["X-Sample-Rate"] == "16000"
    if stream == "false":
        assert transcript["duration"] == pytest.approx(float(headers["X-Audio-Duration"]), abs=0.15)
    assert jiwer.wer(SENTENCE.lower().strip("."), transcript["text"].lower().strip(".")) < 0.35


async def test_rate_and_speed_reach_the_encoder(service: RunningService, recording: bytes) -> None:
    async with aiohttp.ClientSession(service.url) as client:
        seconds = []
        for speed in ("1", "2"):
            form = clone_form(
                SENTENCE, recording, response_format="pcm", sample_rate="22050", speed=speed
            )
            async with client.post("/v1/clone", data=form) as response:
                assert response.content_type == "audio/pcm"
                assert response.headers["Content-Type"] == "audio/pcm;rate=22050;channels=1"
                assert response.headers["X-Sample-Rate"] == "22050"
                seconds.append(len(await response.read()) / 2 / 22_050)
        assert seconds[1] == pytest.approx(seconds[0] / 2, abs=0.001)
        # mp3 has no 10 kHz: the next higher rate that it has.
        form = clone_form("Hello.", recording, response_format="mp3", sample_rate="10000")
        async with client.post("/v1/clone", data=form) as response:
            assert response.headers["X-Sample-Rate"] == "11025"
            _, rate, _ = decode(await response.read(), "mp3")
        assert rate == 11_025


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("response_format", "wma", "'wav', 'mp3', 'opus', 'flac', 'aac' or 'pcm'"),
        ("sample_rate", "96000", "48000"),
        ("speed", "0.1", "0.25"),
        ("speed", "nan", "4"),
    ],
)
async def test_an_unknown_value_is_refused_with_the_known_ones(
    service: RunningService, recording: bytes, option: str, value: str, told: str
) -> None:
    form = clone_form("Hello.", recording, **{option: value})
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post("/v1/clone", data=form) as response,
    ):
        assert response.status == 400
        error = await response.json()
    assert error["error"]["code"] == "invalid_option"
    assert f"'{option}'" in error["detail"]
    assert told in error["detail"]


@pytest.mark.parametrize("name", ["mp3", "opus"])
async def test_a_compressed_stream_survives_the_death_of_its_worker(
    service: RunningService, recording: bytes, name: FormatName
) -> None:
    text = "This is a long text. " * 40
    options = {"response_format": name, "stream": "true", "seed": "3"}
    deaths = sum(event["event"] == "request_lost_worker" for event in service.events)
    async with aiohttp.ClientSession(service.url) as client:
        async with client.post("/v1/clone", data=clone_form(text, recording, **options)) as whole:
            undisturbed = await whole.read()
        form = clone_form(text, recording, **options)
        async with client.post("/v1/clone", data=form) as response:
            streamed = await response.content.readexactly(1_000)
            (worker,) = service.children(model="tts")
            os.kill(worker["pid"], signal.SIGKILL)
            streamed += await response.read()
    service.wait_for("request_lost_worker", count=deaths + 1)
    assert streamed == undisturbed
    _, rate, decoded = decode(streamed, name)
    assert len(decoded) / rate > 40  # a second and more for each of 40 sentences
