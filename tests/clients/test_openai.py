"""OpenAI's Python SDK against the running service: only its base URL is another one."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import av
import jiwer
import numpy as np
import pytest

from supervisor.http.shared.voice_names import OPENAI_VOICES as VOICES
from tests.support.lazy import Lazy
from tests.support.node import run
from tests.support.service import MINIMAL, NET, RunningService, production, running

if TYPE_CHECKING:
    import openai
    from openai.types.audio import TranscriptionVerbose
else:
    openai = Lazy("openai")

TEXT = "Hello world. I am fine."
"""Short, because it is recognized often, and that is what takes long."""

CUT = r"incomplete|closed|disconnected"
"""What HTTP libraries say of an answer that has no valid end."""

Format = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]


@pytest.fixture(scope="module")
def minimal() -> Iterator[RunningService]:
    with running(MINIMAL) as service:
        service.wait_ready()
        yield service


@pytest.fixture(scope="module")
def scripted() -> Iterator[RunningService]:
    """Engines that do as they are told, in a service that refuses when it has two requests."""
    settings = {"VOICE_ENGINE_QUEUE_SIZE": "1", "VOICE_ENGINE_CLIENT_SHARE": "1"}
    with running(settings) as service:
        service.wait_ready()
        yield service


_clients: list[openai.OpenAI] = []


@pytest.fixture(autouse=True)
def close_clients() -> Iterator[None]:
    yield
    while _clients:
        _clients.pop().close()


def sdk(
    service: RunningService,
    retries: int = 0,
    key: str = "any",
    on_answer: Callable[[Any], None] | None = None,
) -> openai.OpenAI:
    """An SDK; `on_answer` is told of every answer, those included that make it try again."""
    hooks = [] if on_answer is None else [on_answer]
    _clients.append(
        openai.OpenAI(
            base_url=f"{service.url}/v1",
            api_key=key,
            max_retries=retries,
            http_client=openai.DefaultHttpxClient(event_hooks={"response": hooks}),
        )
    )
    return _clients[-1]


@pytest.fixture
def client(minimal: RunningService) -> openai.OpenAI:
    return sdk(minimal)


@pytest.fixture(scope="module")
def recording(minimal: RunningService) -> bytes:
    """`TEXT` as a WAV."""
    speech = sdk(minimal).audio.speech
    return speech.create(model="tts-1", voice="slt", input=TEXT, response_format="wav").content


def decode(data: bytes, form: str) -> tuple[str, int, float]:
    """Codec, sampling rate in Hz and seconds of a sound, which must decode to its end."""
    with av.open(io.BytesIO(data), "r", format=form) as container:
        (stream,) = container.streams
        assert isinstance(stream, av.AudioStream)
        assert stream.layout.nb_channels == 1
        frames = list(container.decode(stream))
        loudest = max(
            float(np.abs(frame.to_ndarray().astype(np.float64)).max()) for frame in frames
        )
        assert loudest > 0.01
        rate = frames[0].sample_rate
        return stream.codec_context.name, rate, sum(frame.samples for frame in frames) / rate


def plain(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalpha() or c.isspace())


# Speech


CONTAINERS: dict[Format, tuple[str, str, tuple[str, ...], int]] = {
    "mp3": ("audio/mpeg", "mp3", ("mp3", "mp3float"), 16_000),
    "opus": ("audio/ogg", "ogg", ("opus", "libopus"), 48_000),
    "aac": ("audio/aac", "aac", ("aac",), 16_000),
    "flac": ("audio/flac", "flac", ("flac",), 16_000),
    "wav": ("audio/wav", "wav", ("pcm_s16le",), 16_000),
}
"""Media type, FFmpeg's names of container and codec, and the rate in Hz at flite's own or above."""


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_format_decodes(client: openai.OpenAI, recording: bytes, name: Format) -> None:
    media_type, container, codec, rate = CONTAINERS[name]
    answer = client.audio.speech.create(
        model="tts-1", voice="slt", input=TEXT, response_format=name
    )
    assert answer.response.headers["Content-Type"] == media_type
    found, found_rate, seconds = decode(answer.content, container)
    assert found in codec
    assert found_rate == rate
    assert seconds == pytest.approx(len(recording[44:]) / 2 / 16_000, abs=0.15)


def test_pcm_has_the_rate_that_their_clients_take_for_granted(
    client: openai.OpenAI, recording: bytes
) -> None:
    answer = client.audio.speech.create(
        model="gpt-4o-mini-tts", voice="slt", input=TEXT, response_format="pcm"
    )
    assert answer.response.headers["Content-Type"] == "audio/pcm;rate=24000;channels=1"
    samples = np.frombuffer(answer.content, "<i2")
    assert len(samples) / 24_000 == pytest.approx(len(recording[44:]) / 2 / 16_000, abs=0.02)
    # With another byte order it would be noise, which is nearly as loud as sound can be.
    assert 500 < np.abs(samples.astype(float)).mean() < 8_000


def test_mp3_is_what_comes_unasked_and_speed_changes_its_length(client: openai.OpenAI) -> None:
    def seconds(speed: float) -> float:
        answer = client.audio.speech.create(
            model="tts-1-hd", voice="slt", input=TEXT, speed=speed, instructions="Whisper."
        )
        return decode(answer.content, "mp3")[2]

    assert seconds(2.0) == pytest.approx(seconds(1.0) / 2, abs=0.2)
    with pytest.raises(openai.BadRequestError, match="'speed'"):
        seconds(4.5)


def test_sound_comes_while_it_is_made(scripted: RunningService) -> None:
    speech = sdk(scripted).audio.speech.with_streaming_response
    script = "say 5; print said; sleep 600"
    with speech.create(model="tts-1", voice="alloy", input=script) as answer:
        received = b""
        for data in answer.iter_bytes():
            received += data
            if len(received) >= 44 + 5 * 960:
                break
        # The worker is at it and has ten minutes to go.
        scripted.wait_for("child_output", line="said")
    assert len(received) == 44 + 5 * 960


def test_sound_that_ends_too_soon_is_an_error(scripted: RunningService) -> None:
    speech = sdk(scripted).audio.speech.with_streaming_response
    with speech.create(model="tts-1", voice="alloy", input="say 5; raise a bug") as answer:
        assert answer.status_code == 200
        with pytest.raises(Exception, match=CUT):
            answer.read()


def events(lines: Iterator[str]) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def test_sound_as_events(client: openai.OpenAI, recording: bytes) -> None:
    speech = client.audio.speech.with_streaming_response
    with speech.create(
        model="gpt-4o-mini-tts",
        voice="slt",
        input=TEXT,
        response_format="pcm",
        stream_format="sse",
    ) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        *deltas, done = events(answer.iter_lines())
    assert len(deltas) > 1
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    sound = b"".join(base64.b64decode(event["audio"], validate=True) for event in deltas)
    whole = client.audio.speech.create(
        model="tts-1", voice="slt", input=TEXT, response_format="pcm"
    )
    assert sound == whole.content
    pieces = round(len(sound) / 2 / 24_000 * 20)
    assert done == {
        "type": "speech.audio.done",
        "usage": {
            "input_tokens": len(TEXT),
            "output_tokens": pieces,
            "total_tokens": len(TEXT) + pieces,
        },
    }


def test_events_that_end_too_soon_say_why(scripted: RunningService) -> None:
    speech = sdk(scripted).audio.speech.with_streaming_response
    with speech.create(
        model="tts-1", voice="alloy", input="say 5; raise a bug", stream_format="sse"
    ) as answer:
        lines: list[str] = []
        with pytest.raises(Exception, match=CUT):
            lines.extend(answer.iter_lines())
    assert events(iter(lines))[-1]["error"]["code"] == "engine_error"


# Voices


@pytest.mark.parametrize("name", VOICES)
def test_their_voices_are_names_of_ours(client: openai.OpenAI, name: str) -> None:
    chosen = []
    for text in ("One.", "Two."):
        answer = client.audio.speech.create(model="tts-1", voice=name, input=text)
        chosen.append(answer.response.headers["X-Voice-Id"])
    assert chosen[0] == chosen[1]
    assert chosen[0] in ("kal16", "rms", "awb", "slt")
    assert len(VOICES) == 13


def test_their_voices_are_not_all_the_same(client: openai.OpenAI) -> None:
    chosen = {
        client.audio.speech.create(model="tts-1", voice=name, input="Hi.").response.headers[
            "X-Voice-Id"
        ]
        for name in VOICES[:4]
    }
    assert chosen == {"kal16", "rms", "awb", "slt"}


def test_a_registered_voice_comes_first(minimal: RunningService, recording: bytes) -> None:
    client = sdk(minimal)
    speech = client.audio.speech
    before = speech.create(model="tts-1", voice="nova", input="Hi.", response_format="wav")
    for voice_id in ("nova", "anna"):
        client.post(
            "/voices/register",
            body={"voice_id": voice_id},
            files={"audio": ("anna.wav", recording)},
            options={"headers": {"Content-Type": "multipart/form-data"}},
            cast_to=object,
        )
    try:
        after = speech.create(model="tts-1", voice="nova", input="Hi.", response_format="wav")
        assert before.response.headers["X-Voice-Id"] == "awb"
        assert after.response.headers["X-Voice-Id"] == "nova"
        assert before.content != after.content
        by_object = speech.create(
            model="tts-1", voice={"id": "anna"}, input="Hi.", response_format="wav"
        )
        assert by_object.response.headers["X-Voice-Id"] == "anna"
        assert by_object.content == after.content
    finally:
        for voice_id in ("nova", "anna"):
            client.delete(f"/voices/{voice_id}", cast_to=object)
    with pytest.raises(openai.NotFoundError) as caught:
        speech.create(model="tts-1", voice="anna", input="Hi.")
    assert caught.value.code == "not_found"
    assert "anna" in caught.value.message


def test_an_engine_without_voices_speaks_in_its_own(scripted: RunningService) -> None:
    answer = sdk(scripted).audio.speech.create(model="tts-1", voice="cedar", input="say 1")
    assert "X-Voice-Id" not in answer.response.headers
    assert len(answer.content) == 44 + 960


def test_their_voices_wait_for_a_model_that_loads(tmp_path: Path) -> None:
    load = tmp_path / "load"
    load.write_text("print loading; sleep 0.5")
    with running({"VOICE_TEST_LOAD": f"@{load}"}) as service:
        service.wait_for("child_output", line="loading")
        answer = sdk(service).audio.speech.create(model="tts-1", voice="nova", input="say 1")
        assert len(answer.content) == 44 + 960


def test_their_voices_are_refused_while_no_model_can_load(tmp_path: Path) -> None:
    load = tmp_path / "load"
    load.write_text("print loading; sleep 600")
    with running({"VOICE_TEST_LOAD": f"@{load}"}) as service:
        service.wait_for("child_output", line="loading")
        hasty = {"X-Request-Timeout": "2"}
        with pytest.raises(openai.InternalServerError) as caught:
            sdk(service).audio.speech.create(
                model="tts-1", voice="nova", input="say 1", extra_headers=hasty
            )
        assert (caught.value.status_code, caught.value.code) == (503, "model_unavailable")


# Transcription


def heard(text: str) -> float:
    """Word error rate of a transcript of `TEXT`."""
    return float(jiwer.wer(plain(TEXT), plain(text)))


def test_a_transcript(client: openai.OpenAI, recording: bytes) -> None:
    file = ("recording.wav", recording)
    transcript = client.audio.transcriptions.create(
        model="whisper-1", file=file, language="en", prompt="A greeting.", temperature=0.2
    )
    assert heard(transcript.text) < 0.35
    assert transcript.usage is not None
    assert transcript.usage.type == "duration"
    assert transcript.usage.seconds == pytest.approx(len(recording[44:]) / 2 / 16_000, abs=0.01)
    assert [language.code for language in transcript.languages or []] == ["en"]
    assert transcript.model_extra == {
        "language": "en",
        "language_probability": None,
        "emotion": "EMO_UNKNOWN",
        "emotion_probability": None,
        "events": ["Speech"],
        "language_probabilities": None,
        "emotions": None,
        "event_probabilities": None,
    }


def test_silence_has_no_language(client: openai.OpenAI) -> None:
    speech = client.audio.speech.create(
        model="tts-1", voice="slt", input="Hi.", response_format="wav"
    )
    silence = speech.content[:44] + bytes(64_000)
    transcript = client.audio.transcriptions.create(model="whisper-1", file=("a.wav", silence))
    assert (transcript.text, transcript.languages) == ("", [])


def test_text_and_subtitles(client: openai.OpenAI, recording: bytes) -> None:
    file = ("recording.wav", recording)
    create = client.audio.transcriptions.create
    text = create(model="whisper-1", file=file, response_format="text")
    assert text == create(model="whisper-1", file=file).text + "\n"
    srt = create(model="whisper-1", file=file, response_format="srt")
    assert srt.startswith("1\n00:00:0")
    assert " --> " in srt
    assert heard(" ".join(srt.splitlines()[2::4])) < 0.35
    vtt = create(model="whisper-1", file=file, response_format="vtt")
    assert vtt.startswith("WEBVTT\n\n00:00:0")
    assert heard(" ".join(vtt.splitlines()[3::3])) < 0.35


def check_verbose(verbose: TranscriptionVerbose, words: bool) -> None:
    """Times are in order and within the recording; the parts make the whole."""
    assert verbose.segments
    assert " ".join(segment.text for segment in verbose.segments) == verbose.text
    end = 0.0
    for number, segment in enumerate(verbose.segments):
        assert segment.id == number
        assert end <= segment.start <= segment.end <= verbose.duration
        end = segment.end
        data = segment.text.encode()
        ratio = len(data) / len(zlib.compress(data))
        assert segment.compression_ratio == pytest.approx(ratio, abs=0.001)
        assert (segment.seek, segment.tokens, segment.temperature) == (0, [], 0)
        assert set(segment.model_extra or {}) == {
            *("language", "language_probability", "emotion", "emotion_probability", "events"),
            *("language_probabilities", "emotions", "event_probabilities"),
        }
    if words:
        assert verbose.words
        assert plain(" ".join(word.word for word in verbose.words)) == plain(verbose.text)
        end = 0.0
        for word in verbose.words:
            assert end <= word.start <= word.end <= verbose.duration
            end = word.end
    else:
        assert verbose.words is None


def test_verbose_with_segments_and_words(client: openai.OpenAI, recording: bytes) -> None:
    file = ("recording.wav", recording)
    verbose = client.audio.transcriptions.create(
        model="whisper-1",
        file=file,
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    check_verbose(verbose, words=True)
    assert heard(verbose.text) < 0.35
    assert verbose.language == "english"
    assert (verbose.model_extra or {})["task"] == "transcribe"
    assert (verbose.model_extra or {})["language_code"] == "en"
    segments_alone = client.audio.transcriptions.create(
        model="whisper-1", file=file, response_format="verbose_json"
    )
    check_verbose(segments_alone, words=False)
    words_alone = client.audio.transcriptions.create(
        model="whisper-1",
        file=file,
        response_format="verbose_json",
        timestamp_granularities=["word"],
    )
    assert words_alone.words == verbose.words
    assert words_alone.segments is None


def test_a_format_that_there_is_not(client: openai.OpenAI, recording: bytes) -> None:
    create = client.audio.transcriptions.create
    with pytest.raises(openai.BadRequestError, match="'verbose_json'") as caught:
        create(model="whisper-1", file=("a.wav", recording), response_format=cast(Any, "yaml"))
    assert caught.value.code == "invalid_option"
    with pytest.raises(openai.BadRequestError, match="a stream cannot have response_format srt"):
        create(model="whisper-1", file=("a.wav", recording), response_format="srt", stream=True)


def test_speakers_are_one(client: openai.OpenAI, recording: bytes) -> None:
    create = client.audio.transcriptions.with_raw_response.create
    raw = create(
        model="gpt-4o-transcribe-diarize",
        file=("a.wav", recording),
        response_format="diarized_json",
        chunking_strategy="auto",
    )
    assert "speakers" in raw.headers["X-Voice-Engine-Warning"]
    diarized = raw.parse()
    assert diarized.task == "transcribe"
    assert diarized.segments
    assert [segment.id for segment in diarized.segments][:1] == ["seg_0"]
    assert {segment.speaker for segment in diarized.segments} == {"A"}
    assert " ".join(segment.text for segment in diarized.segments) == diarized.text
    *events, done = client.audio.transcriptions.create(
        model="gpt-4o-transcribe-diarize",
        file=("a.wav", recording),
        response_format="diarized_json",
        stream=True,
    )
    segments = [event for event in events if event.type == "transcript.text.segment"]
    deltas = [event for event in events if event.type == "transcript.text.delta"]
    assert [(each.id, each.text) for each in segments] == [
        (each.id, each.text) for each in diarized.segments
    ]
    assert [each.segment_id for each in deltas] == [each.id for each in segments]
    assert done.type == "transcript.text.done"
    assert done.text == diarized.text


@pytest.mark.parametrize("language", ["en", "EN", "en-US", "en_GB", "english"])
def test_a_language_has_many_names(client: openai.OpenAI, recording: bytes, language: str) -> None:
    transcript = client.audio.transcriptions.create(
        model="whisper-1", file=("a.wav", recording), language=language
    )
    assert transcript.text


def test_a_language_that_the_engine_does_not_know(client: openai.OpenAI, recording: bytes) -> None:
    with pytest.raises(openai.BadRequestError, match="'fr'") as caught:
        client.audio.transcriptions.create(
            model="whisper-1", file=("a.wav", recording), language="fr"
        )
    assert caught.value.code == "invalid_option"


def test_a_streamed_transcript(client: openai.OpenAI, recording: bytes) -> None:
    file = ("recording.wav", recording)
    stream = client.audio.transcriptions.create(
        model="gpt-4o-transcribe",
        file=file,
        stream=True,
        include=["logprobs"],
        chunking_strategy={"type": "server_vad", "threshold": 0.5},
    )
    *deltas, done = stream
    assert all(event.type == "transcript.text.delta" for event in deltas)
    assert done.type == "transcript.text.done"
    text = "".join(event.delta for event in deltas if event.type == "transcript.text.delta")
    assert text == done.text == client.audio.transcriptions.create(model="any", file=file).text
    assert [language.code for language in done.languages or []] == ["en"]


def test_a_transcript_comes_while_it_is_made(scripted: RunningService) -> None:
    script = b"segment Hello there.; segment How are you?; print heard; sleep 600"
    with sdk(scripted).audio.transcriptions.create(
        model="gpt-4o-transcribe", file=("a.wav", script), stream=True
    ) as stream:
        first, second = next(stream), next(stream)
        scripted.wait_for("child_output", line="heard")  # and has ten minutes to go
    assert first.type == second.type == "transcript.text.delta"
    assert first.delta + second.delta == "Hello there. How are you?"
    assert (second.model_extra or {})["emotion"] == "NEUTRAL"


def test_a_streamed_transcript_has_words_if_they_are_wanted(
    client: openai.OpenAI, recording: bytes
) -> None:
    file = ("a.wav", recording)
    whole = client.audio.transcriptions.create(
        model="whisper-1",
        file=file,
        response_format="verbose_json",
        timestamp_granularities=["word"],
    )
    with client.audio.transcriptions.with_streaming_response.create(
        model="whisper-1", file=file, stream=True, timestamp_granularities=["word"]
    ) as response:
        events = [json.loads(line[6:]) for line in response.iter_lines() if line[:5] == "data:"]
    words = [word for event in events for word in event.get("words", ())]
    assert words
    assert words == [word.model_dump() for word in whole.words or ()]


def test_a_streamed_transcript_that_fails_says_why(scripted: RunningService) -> None:
    stream = sdk(scripted).audio.transcriptions.create(
        model="any", file=("a.wav", b"segment Hello there.; raise a bug"), stream=True
    )
    assert next(stream).type == "transcript.text.delta"
    with pytest.raises(openai.APIError) as caught:
        next(stream)
    assert caught.value.code == "engine_error"


async def test_the_asynchronous_sdk(minimal: RunningService, recording: bytes) -> None:
    async with openai.AsyncOpenAI(base_url=f"{minimal.url}/v1", api_key="any") as client:
        spoken, transcript = await asyncio.gather(
            client.audio.speech.create(
                model="tts-1", voice="slt", input=TEXT, response_format="wav"
            ),
            client.audio.transcriptions.create(model="whisper-1", file=("a.wav", recording)),
        )
        assert spoken.content == recording
        assert heard(transcript.text) < 0.35
        async with client.audio.speech.with_streaming_response.create(
            model="tts-1", voice="slt", input=TEXT, response_format="wav"
        ) as answer:
            assert b"".join([data async for data in answer.iter_bytes()]) == recording
        stream = await client.audio.transcriptions.create(
            model="whisper-1", file=("a.wav", recording), stream=True
        )
        events = [event async for event in stream]
        assert events[-1].type == "transcript.text.done"
        assert events[-1].text == transcript.text
        assert [model.id async for model in client.models.list()][:2] == ["flite", "sphinx"]


def test_the_production_engines(nano_models: Path, recording: bytes) -> None:
    with running(production(nano_models)) as service:
        service.wait_ready()
        client = sdk(service)
        assert [model.id for model in client.models.list()][:2] == ["pocket", "sensevoice"]
        for language in ("zh-CN", "ja", "ko", "zh-HK", "cantonese"):
            verbose = client.audio.transcriptions.create(
                model="whisper-1",
                file=("a.wav", recording),
                language=language,
                response_format="verbose_json",
                timestamp_granularities=["word", "segment"],
            )
            extra = verbose.model_extra or {}
            assert 0 <= extra["language_probability"] <= 1
            assert 0 <= extra["emotion_probability"] <= 1
            for told in (extra, *(segment.model_extra or {} for segment in verbose.segments or ())):
                assert told["emotions"][told["emotion"]] == told["emotion_probability"]
                assert sum(told["emotions"].values()) == pytest.approx(1, abs=0.01)
                assert max(told["language_probabilities"].values()) == told["language_probability"]
                assert set(told["event_probabilities"]) >= set(told["events"])
        nothing = {"hotwords": ["qqq", "xyzzy"], "hotword_weight": 3}
        biased = client.audio.transcriptions.create(
            model="whisper-1",
            file=("a.wav", recording),
            language="cantonese",
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
            extra_body=nothing,
        )
        assert biased == verbose
        with pytest.raises(openai.BadRequestError, match="'fr'"):
            client.audio.transcriptions.create(
                model="whisper-1", file=("a.wav", recording), language="fr"
            )
        stream = client.audio.transcriptions.create(
            model="whisper-1", file=("a.wav", recording), stream=True
        )
        *deltas, done = stream
        assert done.type == "transcript.text.done"
        text = "".join(event.delta for event in deltas if event.type == "transcript.text.delta")
        assert text == done.text


# Models


def test_models(client: openai.OpenAI) -> None:
    models = list(client.models.list())
    assert [model.id for model in models[:2]] == ["flite", "sphinx"]
    assert {"tts-1", "gpt-4o-mini-tts", "whisper-1"} < {model.id for model in models}
    for model in models:
        assert (model.object, model.owned_by) == ("model", "voice-engine")
        assert client.models.retrieve(model.id) == model
    with pytest.raises(openai.NotFoundError, match="gpt-4o"):
        client.models.retrieve("gpt-4o")


# Errors


def test_keys_and_rates() -> None:
    settings = {
        "VOICE_ENGINE_API_KEY": "k-anna",
        "VOICE_ENGINE_RATE_LIMIT_PER_MINUTE": "2",
    }
    with running(settings) as service:
        with pytest.raises(openai.AuthenticationError) as caught:
            sdk(service, key="k-wrong").models.list()
        assert (caught.value.code, caught.value.type) == ("unauthorized", "authentication_error")
        client = sdk(service, key="k-anna")
        for _ in range(2):
            assert client.models.list().data
        with pytest.raises(openai.RateLimitError) as limited:
            client.models.list()
        assert limited.value.code == "rate_limited"
        assert int(limited.value.response.headers["Retry-After"]) >= 1
        assert limited.value.request_id == limited.value.response.headers["X-Request-Id"]


OMITTED = object()
"""Stands for a field that is not sent."""


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"input": ""}, "empty_text"),
        ({"input": "x" * 100_000}, "text_too_long"),
        ({"response_format": "ogg"}, "invalid_option"),
        ({"speed": 0.1}, "invalid_option"),
        ({"stream_format": "ws"}, "invalid_option"),
        ({"voice": 7}, "invalid_option"),
        ({"input": OMITTED}, "missing_field"),
    ],
)
def test_a_bad_request(client: openai.OpenAI, fields: dict[str, Any], code: str) -> None:
    good: dict[str, Any] = {"model": "tts-1", "voice": "alloy", "input": "Hi."}
    sent: dict[str, Any] = {
        name: openai.omit if value is OMITTED else value for name, value in (good | fields).items()
    }
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.speech.create(**sent)
    assert (caught.value.code, caught.value.type) == (code, "invalid_request_error")


def test_a_bad_recording(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.transcriptions.create(model="whisper-1", file=("a.wav", b"no sound"))
    assert caught.value.code == "invalid_audio"


def test_what_is_not_offered(client: openai.OpenAI, recording: bytes) -> None:
    with (
        pytest.raises(openai.BadRequestError, match=r"such as Whisper .*engine sphinx"),
        pytest.deprecated_call(),
    ):
        client.audio.translations.create(model="whisper-1", file=("a.wav", recording))


@pytest.fixture(scope="module")
def translator() -> Iterator[RunningService]:
    """Two models: the first only transcribes, the other also translates."""
    engines = [
        f"tests.support.script_engine:Scripted{name}" for name in ("Recognizer", "Translator")
    ]
    with running({"VOICE_ENGINE_STT_ENGINE": ",".join(engines)}) as service:
        service.wait_ready()
        yield service


@pytest.mark.parametrize("model", ["whisper-1", "ScriptedTranslator"])
@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_translations(translator: RunningService, model: str) -> None:
    translations = sdk(translator).audio.translations
    file = ("a.wav", b"segment Good day.; segment Bye.")
    asked: dict[str, Any] = {"model": model, "file": file, "prompt": "Nell", "temperature": 0.4}
    assert translations.create(**asked).text == "Good day. Bye."
    assert translations.create(**asked, response_format="text") == "Good day. Bye.\n"
    verbose = translations.create(**asked, response_format="verbose_json")
    assert (verbose.language, verbose.duration) == ("english", 2)
    assert verbose.model_extra is not None
    assert verbose.model_extra["task"] == "translate"
    assert verbose.segments is not None
    assert [segment.text for segment in verbose.segments] == ["Good day.", "Bye."]
    assert "00:00:01,000 --> 00:00:02,000" in translations.create(**asked, response_format="srt")
    assert translations.create(**asked, response_format="vtt").startswith("WEBVTT")


def test_hints_reach_the_engine(translator: RunningService) -> None:
    fields = {"task": "translate", "prompt": "Nell", "temperature": "0.5"}
    with openai.DefaultHttpxClient(base_url=translator.url) as client:
        file = {"file": ("a.wav", b"say 1")}
        answer = client.post("/v1/transcribe", data=fields, files=file).json()
        assert json.loads(answer["raw"]) == {
            "prompt": "Nell",
            "temperature": 0.5,
            "translate": True,
        }
        refused = client.post("/v1/transcribe", data=fields | {"temperature": "2"}, files=file)
        assert refused.status_code == 400


def test_an_overloaded_service_is_asked_again(scripted: RunningService) -> None:
    speech = sdk(scripted).audio.speech
    refusals: list[tuple[float, Any]] = []

    def on_answer(answer: Any) -> None:
        if answer.status_code == 503:
            refusals.append((time.monotonic(), answer))
            blocker.close()

    client = sdk(scripted, retries=20, on_answer=on_answer)
    script = "say 1; print busy; sleep 600"
    with (
        speech.with_streaming_response.create(model="a", voice="alloy", input=script) as blocker,
        ThreadPoolExecutor(1) as pool,
    ):
        scripted.wait_for("child_output", line="busy")
        waiting = pool.submit(speech.create, model="a", voice="alloy", input="say 1")
        scripted.wait_until(lambda health: health["models"]["tts"]["queued"] == 1)
        answer = client.audio.speech.create(model="a", voice="alloy", input="say 2")
        answered = time.monotonic()
        assert len(answer.content) == 44 + 2 * 960
        assert len(waiting.result(NET).content) == 44 + 960
    refused, refusal = refusals[-1]
    assert answered - refused >= int(refusal.headers["Retry-After"]) >= 1


def test_an_overloaded_service_in_the_end(scripted: RunningService) -> None:
    speech = sdk(scripted).audio.speech
    script = "say 1; print full; sleep 600"
    with (
        speech.with_streaming_response.create(model="a", voice="alloy", input=script) as blocker,
        ThreadPoolExecutor(1) as pool,
    ):
        scripted.wait_for("child_output", line="full")
        waiting = pool.submit(speech.create, model="a", voice="alloy", input="say 1")
        scripted.wait_until(lambda health: health["models"]["tts"]["queued"] == 1)
        with pytest.raises(openai.InternalServerError) as caught:
            speech.create(model="a", voice="alloy", input="say 2")
        assert (caught.value.status_code, caught.value.code) == (503, "overloaded")
        assert caught.value.type == "server_error"
        blocker.close()
        assert waiting.result(NET).content


def test_a_deadline_that_passes_is_tried_again(scripted: RunningService) -> None:
    answers: list[Any] = []
    client = sdk(scripted, retries=1, on_answer=answers.append)
    with pytest.raises(openai.InternalServerError) as caught:
        client.audio.transcriptions.create(
            model="whisper-1",
            file=("a.wav", b"sleep 600"),
            extra_headers={"X-Request-Timeout": "2"},
        )
    assert (caught.value.status_code, caught.value.code) == (504, "deadline_exceeded")
    assert [answer.status_code for answer in answers] == [504, 504]


def test_what_costs_workers_their_lives_is_not_tried_again() -> None:
    with running() as service:
        service.wait_ready()
        answers: list[Any] = []
        client = sdk(service, retries=2, on_answer=answers.append)
        create = client.audio.transcriptions.create
        with pytest.raises(openai.InternalServerError) as caught:
            create(model="whisper-1", file=("a.wav", b"crash"))
        assert caught.value.code == "worker_crashed"
        assert [answer.status_code for answer in answers] == [500]
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            create(model="whisper-1", file=("a.wav", b"crash"))
        assert refused.value.code == "quarantined"
        assert len(answers) == 2
        assert create(model="whisper-1", file=("a.wav", b"segment Hi.")).text == "Hi."


def test_the_sdk_for_node(minimal: RunningService, scripted: RunningService) -> None:
    run(
        ["node", "--test", "openai.test.js"],
        {"VOICE_ENGINE_URL": minimal.url, "VOICE_ENGINE_SCRIPTED_URL": scripted.url},
    )
