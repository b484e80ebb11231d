"""ElevenLabs' own Python client against the running service: only its base URL is another one."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import socket
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import av
import httpx
import numpy as np
import pytest
from elevenlabs.text_to_speech.types import TextToSpeechConvertRequestOutputFormat

from supervisor.http.shared.synthesis import cached_id
from supervisor.http.shared.voice_names import ELEVENLABS_VOICES
from tests.support.lazy import Lazy
from tests.support.recordings import spoken
from tests.support.service import NET, RunningService, read_wav, running

if TYPE_CHECKING:
    import elevenlabs
    from elevenlabs.core import api_error
else:
    elevenlabs = Lazy("elevenlabs")
    api_error = Lazy("elevenlabs.core.api_error")

KEY = "sesame"
MINIMAL = {
    "VOICE_ENGINE_TTS_ENGINE": "flite",
    "VOICE_ENGINE_STT_ENGINE": "sphinx",
    "VOICE_ENGINE_API_KEY": KEY,
}
BUILTIN = "slt"
RECORDED = "Glue the sheet to the dark blue background."
TEXT = f"The birch canoe slid on the smooth planks. {RECORDED}"

ALL_FORMATS: tuple[str, ...] = typing.get_args(
    typing.get_args(TextToSpeechConvertRequestOutputFormat)[0]
)
"""What the client's own type lists."""

TIMES = ("character_start_times_seconds", "character_end_times_seconds")

ONCE: Any = {"max_retries": 0}
"""Its client forgets the fields of a form when it tries again."""


@contextlib.contextmanager
def connected(service: RunningService, key: str | None = KEY) -> Iterator[elevenlabs.ElevenLabs]:
    """Their client, whose connections are closed afterwards; it has no method for that."""
    with httpx.Client(timeout=NET) as connections:
        yield elevenlabs.ElevenLabs(base_url=service.url, api_key=key, httpx_client=connections)


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running(MINIMAL) as service:
        service.wait_ready()
        yield service


@pytest.fixture(scope="module")
def client(service: RunningService) -> Iterator[elevenlabs.ElevenLabs]:
    with connected(service) as client:
        yield client


@pytest.fixture(scope="module")
def recording() -> bytes:
    """Somebody's voice, as a WAV."""
    return spoken(RECORDED)


@pytest.fixture
def voice(client: elevenlabs.ElevenLabs, recording: bytes) -> Iterator[str]:
    """The id of a voice that has been added."""
    voice_id = client.voices.ivc.create(name="Anna", files=[recording]).voice_id
    yield voice_id
    client.voices.delete(voice_id)


@pytest.fixture(scope="module")
def seconds(client: elevenlabs.ElevenLabs) -> float:
    """How long it takes to say the text."""
    wav = b"".join(client.text_to_speech.convert(BUILTIN, text=TEXT, output_format="wav_16000"))
    rate, samples = read_wav(wav)
    assert rate == 16_000
    return len(samples) / 2 / rate


def decoded(sound: bytes) -> tuple[str, int, float]:
    """Codec, rate in Hz and duration in seconds."""
    with av.open(io.BytesIO(sound), "r") as container:
        (stream,) = container.streams.audio
        samples = sum(int(frame.samples) for frame in container.decode(stream))
        context: Any = stream.codec_context
        return context.codec.canonical_name, context.sample_rate, samples / context.sample_rate


@pytest.mark.parametrize("method", ["convert", "stream"])
@pytest.mark.parametrize("name", ALL_FORMATS)
def test_every_output_format(
    client: elevenlabs.ElevenLabs, seconds: float, name: str, method: str
) -> None:
    speech: Callable[..., Iterator[bytes]] = getattr(client.text_to_speech, method)
    sound = b"".join(speech(BUILTIN, text=TEXT, output_format=name))
    codec, rate, *kbits = name.split("_")
    match codec:
        case "pcm":
            assert len(sound) / 2 / int(rate) == pytest.approx(seconds, abs=0.001)
        case "ulaw" | "alaw":
            assert len(sound) / int(rate) == pytest.approx(seconds, abs=0.001)
        case _:
            found, found_rate, duration = decoded(sound)
            assert found == {"mp3": "mp3", "wav": "pcm_s16le", "opus": "opus"}[codec]
            assert found_rate == int(rate)
            assert duration == pytest.approx(seconds, abs=0.12)
    if kbits:
        assert len(sound) * 8 / seconds / 1000 == pytest.approx(int(kbits[0]), rel=0.1, abs=7)


@pytest.mark.parametrize(("name", "law"), [("ulaw_8000", "mulaw"), ("alaw_8000", "alaw")])
def test_the_telephone_hears_the_same(client: elevenlabs.ElevenLabs, name: str, law: str) -> None:
    telephone, pcm = (
        b"".join(client.text_to_speech.convert(BUILTIN, text=TEXT, output_format=form, seed=1))
        for form in (name, "pcm_8000")
    )
    with av.open(io.BytesIO(telephone), "r", law, options={"sample_rate": "8000"}) as container:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    said = np.frombuffer(pcm, "<i2")
    assert len(heard) == len(said)
    # Eight bits on a logarithmic scale: a sample is off by some percent of itself.
    assert np.all(np.abs(heard.astype(int) - said) <= 20 + 0.04 * np.abs(said.astype(int)))


def test_the_usual_format_is_theirs(client: elevenlabs.ElevenLabs, seconds: float) -> None:
    sound = b"".join(client.text_to_speech.convert(BUILTIN, text=TEXT))
    codec, rate, duration = decoded(sound)
    assert (codec, rate) == ("mp3", 44_100)
    assert duration == pytest.approx(seconds, abs=0.12)
    assert len(sound) * 8 / seconds == pytest.approx(128_000, rel=0.1)


def test_all_that_their_client_can_send_is_accepted(
    client: elevenlabs.ElevenLabs, seconds: float
) -> None:
    sound = client.text_to_speech.convert(
        BUILTIN,
        text=TEXT,
        model_id="eleven_multilingual_v2",
        language_code="en",
        output_format="pcm_16000",
        optimize_streaming_latency=3,
        enable_logging=False,
        voice_settings=elevenlabs.VoiceSettings(
            stability=0.3, similarity_boost=0.9, style=0.1, use_speaker_boost=True, speed=1.25
        ),
        seed=4_294_967_295,
        previous_text="Before.",
        next_text="After.",
        previous_request_ids=["a"],
        apply_text_normalization="auto",
    )
    assert len(b"".join(sound)) / 2 / 16_000 == pytest.approx(seconds / 1.25, abs=0.01)


def test_a_stream_arrives_while_it_is_made() -> None:
    # The script hangs after its pieces: what arrives was sent before the answer was complete.
    with running() as service, connected(service) as client:
        service.wait_ready()
        for speech in (client.text_to_speech.convert, client.text_to_speech.stream):
            pieces = speech(cached_id("0" * 64), text="say 3; sleep 600", output_format="pcm_24000")
            assert len(next(iter(pieces))) == 1024
            typing.cast(Any, pieces).close()


def test_times_of_characters(client: elevenlabs.ElevenLabs, voice: str) -> None:
    text = " Hello [laugh] there.  How are you?\nFine! "
    answer = client.text_to_speech.convert_with_timestamps(
        voice, text=text, output_format="pcm_16000"
    )
    duration = len(base64.b64decode(answer.audio_base_64)) / 2 / 16_000
    assert answer.alignment is not None
    assert answer.normalized_alignment is not None
    assert answer.alignment.characters == list(text)
    spoken = "".join(answer.normalized_alignment.characters)
    assert spoken == "Hello there. How are you? Fine!"
    extra = answer.model_dump()
    assert (extra["alignment_exact"], extra["alignment_granularity"]) == (False, "sentence")
    for alignment in (answer.alignment, answer.normalized_alignment):
        starts = alignment.character_start_times_seconds
        ends = alignment.character_end_times_seconds
        assert len(starts) == len(ends) == len(alignment.characters)
        assert starts[0] == 0.0
        assert starts == sorted(starts)
        assert ends == sorted(ends)
        assert all(start <= end for start, end in zip(starts, ends, strict=True))
        assert ends[-1] == pytest.approx(duration, abs=0.002)
    # A sentence's first character begins when the sentence does, in both.
    for word in ("How", "Fine"):
        own = answer.alignment.character_start_times_seconds[text.index(word)]
        normalized = answer.normalized_alignment.character_start_times_seconds
        assert own == normalized[spoken.index(word)]
        assert 0 < own < duration


@pytest.mark.parametrize("name", ALL_FORMATS)
def test_sentences_are_streamed_with_their_times(client: elevenlabs.ElevenLabs, name: str) -> None:
    """All lines together are what /with-timestamps and /stream return."""
    stream = client.text_to_speech.stream_with_timestamps
    lines = list(stream(BUILTIN, text=TEXT, output_format=cast(Any, name), seed=1))
    assert len([line for line in lines if line.alignment is not None]) == 2
    assert all((line.alignment is None) is (line.normalized_alignment is None) for line in lines)
    sound = b"".join(base64.b64decode(line.audio_base_64) for line in lines)
    options: Any = {"text": TEXT, "output_format": name, "seed": 1}
    assert sound == b"".join(client.text_to_speech.stream(BUILTIN, **options))
    whole = client.text_to_speech.convert_with_timestamps(BUILTIN, **options)
    for part in ("alignment", "normalized_alignment"):
        expected = getattr(whole, part).model_dump()
        for field in ("characters", *TIMES):
            told = [value for line in lines for value in getattr(getattr(line, part), field, [])]
            wanted = expected[field]
            assert told == (wanted if field == "characters" else pytest.approx(wanted, abs=0.002))


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (
            " Hello [laugh] there.  How are you?\nFine! ",
            ["Hello there.", " How are you?", " Fine!"],
        ),
        ("One.", ["One."]),
        ("One!\n\nTwo (three). ", ["One!", " Two (three)."]),
    ],
)
def test_the_lines_are_the_text(
    client: elevenlabs.ElevenLabs, text: str, sentences: list[str]
) -> None:
    stream = client.text_to_speech.stream_with_timestamps
    lines = list(stream(BUILTIN, text=text, output_format="pcm_16000"))
    alignments = [line.alignment for line in lines if line.alignment is not None]
    assert "".join("".join(each.characters) for each in alignments) == text
    normalized = [line.normalized_alignment for line in lines if line.normalized_alignment]
    assert ["".join(each.characters) for each in normalized] == sentences
    starts = [start for each in alignments for start in each.character_start_times_seconds]
    ends = [end for each in alignments for end in each.character_end_times_seconds]
    assert starts == sorted(starts)
    assert ends == sorted(ends)
    # Each line has the sound of its times, but for the 5 ms that fade into the next sentence.
    clock = 0.0
    for line in lines:
        clock += len(base64.b64decode(line.audio_base_64)) / 2 / 16_000
        if line.alignment is not None:
            end = line.alignment.character_end_times_seconds[-1]
            assert clock - 0.002 <= end <= clock + 0.007
    assert ends[-1] == pytest.approx(clock, abs=0.002)


async def test_no_line_is_too_long_for_their_clients(service: RunningService) -> None:
    """aiohttp, with which pipecat reads the lines, refuses those over 128 KB."""
    text = "and so it goes on and on without an end in sight " * 20
    path = f"/v1/text-to-speech/{BUILTIN}/stream/with-timestamps?output_format=pcm_48000"
    async with (
        aiohttp.ClientSession(service.url, headers={"xi-api-key": KEY}) as session,
        session.post(path, json={"text": text}) as response,
    ):
        lines = [json.loads(line) async for line in response.content]
    assert len(lines) > 20
    assert [line["alignment"] is None for line in lines].count(False) == 1
    sizes = [len(base64.b64decode(line["audio_base64"])) for line in lines]
    assert all(size > 0 and size % 2 == 0 for size in sizes)
    assert "".join(lines[-1]["alignment"]["characters"]) == text


def test_an_answer_with_times_has_the_headers_of_sound(
    client: elevenlabs.ElevenLabs, voice: str
) -> None:
    raw = client.text_to_speech.with_raw_response
    with raw.convert(voice, text="Hello.", output_format="wav_16000") as sound:
        wanted = {name for name in sound.headers if name.startswith(("x-", "server-timing"))}
    timed = raw.convert_with_timestamps(voice, text="Hello.", output_format="wav_16000")
    assert wanted == {name for name in timed.headers if name.startswith(("x-", "server-timing"))}
    assert "approximate" in timed.headers["x-voice-approximation"]
    assert timed.headers["x-sample-rate"] == "16000"
    assert float(timed.headers["x-audio-duration"]) > 0.3


def test_times_follow_the_speed(client: elevenlabs.ElevenLabs) -> None:
    def second_sentence(speed: float) -> float:
        alignment = client.text_to_speech.convert_with_timestamps(
            BUILTIN, text=TEXT, voice_settings=elevenlabs.VoiceSettings(speed=speed)
        ).alignment
        assert alignment is not None
        return alignment.character_start_times_seconds[TEXT.index("Glue")]

    assert second_sentence(2.0) == pytest.approx(second_sentence(1.0) / 2, abs=0.05)


def test_a_voice_from_its_recording_to_its_end(
    client: elevenlabs.ElevenLabs, recording: bytes
) -> None:
    added = client.voices.ivc.create(
        name="Änne",
        files=[io.BytesIO(recording)],
        description="not kept",
        labels={"accent": "none"},
        remove_background_noise=False,
    )
    assert re.fullmatch("[A-Za-z0-9]{20}", added.voice_id)
    assert added.requires_verification is False
    listed = {entry.voice_id: entry for entry in client.voices.get_all().voices}
    assert {BUILTIN, added.voice_id} <= set(listed)
    assert listed[BUILTIN].category == "premade"
    assert listed[BUILTIN].labels == {"language": "en"}
    found = client.voices.get(added.voice_id)
    assert found == listed[added.voice_id]
    assert (found.name, found.category, found.preview_url) == ("Änne", "cloned", None)
    assert isinstance(found.created_at_unix, int)
    assert client.voices.settings.get(added.voice_id).speed == 1.0
    spoken = b"".join(client.text_to_speech.convert(added.voice_id, text="Hello there."))
    assert decoded(spoken)[0] == "mp3"
    assert client.voices.delete(added.voice_id).status == "ok"
    for call in (
        lambda: client.voices.get(added.voice_id),
        lambda: client.voices.settings.get(added.voice_id),
        lambda: client.voices.delete(added.voice_id),
        lambda: list(client.text_to_speech.convert(added.voice_id, text="Hello.")),
    ):
        with pytest.raises(api_error.ApiError) as error:
            call()
        assert error.value.status_code == 404


def test_making_a_voice_says_how_long_it_took(
    client: elevenlabs.ElevenLabs, recording: bytes
) -> None:
    made = client.voices.ivc.with_raw_response.create(name="Timed", files=[recording])
    assert made.headers["server-timing"].startswith("queue;dur=")
    client.voices.delete(made.data.voice_id)


def test_several_recordings_make_a_voice(client: elevenlabs.ElevenLabs, recording: bytes) -> None:
    """Both are used: the voice has the seconds of both, and each is sent back as it came."""
    other = b"".join(client.text_to_speech.convert("rms", text=TEXT, output_format="mp3_44100_128"))
    alone = client.voices.ivc.create(name="One", files=[recording]).voice_id
    both = client.voices.ivc.create(name="Two", files=[recording, other]).voice_id
    seconds = {
        voice_id: (client.voices.get(voice_id).model_extra or {})["seconds"]
        for voice_id in (alone, both)
    }
    assert seconds[both] == pytest.approx(seconds[alone] + decoded(other)[2], abs=0.1)
    assert b"".join(client.text_to_speech.convert(both, text="Hello there.", seed=1))
    for voice_id in (alone, both):
        client.voices.delete(voice_id)


def test_of_several_recordings_none_may_be_empty(
    client: elevenlabs.ElevenLabs, recording: bytes
) -> None:
    with pytest.raises(api_error.ApiError) as error:
        client.voices.ivc.create(name="Half", files=[recording, b""])
    assert error.value.body["error"]["code"] == "empty_audio"
    assert client.voices.search(search="Half").total_count == 0


def test_noise_is_no_voice(client: elevenlabs.ElevenLabs) -> None:
    with pytest.raises(api_error.ApiError) as error:
        client.voices.ivc.create(name="Noise", files=[b"not a recording at all"])
    assert error.value.status_code == 400
    assert error.value.body["error"]["code"] == "invalid_audio"
    assert client.voices.search(search="Noise").total_count == 0


PREMADE = ("21m00Tcm4TlvDq8ikWAM", "hpp4J3VqNfWAUOO0d1Us", "JBFqnCBsd6RMkjVDRZzb")


def test_their_voices_are_names_of_ours(client: elevenlabs.ElevenLabs, recording: bytes) -> None:
    builtin = {each.voice_id for each in client.voices.search(category="premade").voices}
    for voice_id in PREMADE:
        said = b"".join(client.text_to_speech.convert(voice_id, text="Hi.", seed=1))
        assert client.voices.get(voice_id).voice_id in builtin
        assert client.voices.settings.get(voice_id).speed == 1.0
        own = client.voices.get(voice_id).voice_id
        assert said == b"".join(client.text_to_speech.convert(own, text="Hi.", seed=1))
    assert len(ELEVENLABS_VOICES) > 50
    assert all(re.fullmatch("[A-Za-z0-9]{20}", voice_id) for voice_id in ELEVENLABS_VOICES)
    assert set(PREMADE) <= set(ELEVENLABS_VOICES)


def test_a_voice_is_renamed(client: elevenlabs.ElevenLabs, voice: str, recording: bytes) -> None:
    before = client.voices.get(voice)
    assert client.voices.update(voice, name="Änne", labels={"accent": "none"}).status == "ok"
    after = client.voices.get(voice)
    assert (before.name, after.name) == ("Anna", "Änne")
    assert after.model_copy(update={"name": "Anna"}) == before
    assert b"".join(client.text_to_speech.convert(voice, text="Hi."))
    wrong: list[dict[str, Any]] = [{"name": "Eve", "files": [recording]}, {"name": ""}]
    for fields in wrong:
        with pytest.raises(api_error.ApiError) as error:
            client.voices.update(voice, **fields)
        assert error.value.status_code == 400
    with pytest.raises(api_error.ApiError) as error:
        client.voices.update(BUILTIN, name="Eve")
    assert error.value.status_code == 404
    assert client.voices.get(voice).name == "Änne"


def test_settings_that_change_nothing_are_taken(client: elevenlabs.ElevenLabs, voice: str) -> None:
    edit = client.voices.settings.update
    usual = elevenlabs.VoiceSettings(stability=0.1, style=0.3, speed=1.0)
    assert edit(voice, request=usual).status == "ok"
    with pytest.raises(api_error.ApiError) as error:
        edit(voice, request=elevenlabs.VoiceSettings(speed=1.2))
    assert error.value.status_code == 400
    assert "send voice_settings.speed with each text" in error.value.body["detail"]


def test_samples_come_back_as_they_were_sent(
    client: elevenlabs.ElevenLabs, recording: bytes
) -> None:
    other = b"".join(client.text_to_speech.convert("rms", text=TEXT, output_format="mp3_44100_128"))
    for files in ([recording], [recording, other]):
        voice = client.voices.ivc.create(name="Two", files=files).voice_id
        samples = client.voices.get(voice).samples or []
        assert [sample.size_bytes for sample in samples] == [len(file) for file in files]
        for sample, file in zip(samples, files, strict=True):
            audio = client.voices.samples.audio.get(voice, str(sample.sample_id))
            assert b"".join(audio) == file
        with pytest.raises(api_error.ApiError) as error:
            b"".join(client.voices.samples.audio.get(voice, "sample-9"))
        assert error.value.status_code == 404
        with pytest.raises(api_error.ApiError) as error:
            client.samples.delete(voice, "sample-1")
        assert error.value.status_code == 400
        client.voices.delete(voice)


def test_a_key_is_checked(client: elevenlabs.ElevenLabs) -> None:
    user = client.user.get()
    assert user.user_id
    assert user.subscription.status == "active"
    assert user.subscription.character_count < user.subscription.character_limit
    assert client.user.subscription.get().can_use_instant_voice_cloning is True


def test_models_are_a_bare_list(client: elevenlabs.ElevenLabs) -> None:
    models = client.models.list()
    assert models[0].model_id == "flite"
    assert {"eleven_multilingual_v2", "eleven_flash_v2_5"} <= {each.model_id for each in models}
    assert all(each.can_do_text_to_speech for each in models)
    assert [(each.language_id, each.name) for each in models[0].languages or []] == [
        ("en", "english")
    ]


def test_voices_are_searched_page_by_page(client: elevenlabs.ElevenLabs, voice: str) -> None:
    everything = [entry.voice_id for entry in client.voices.get_all().voices]
    assert len(everything) > 3
    pages = [client.voices.search(page_size=2)]
    while (token := pages[-1].next_page_token) is not None:
        assert pages[-1].has_more
        pages.append(client.voices.search(page_size=2, next_page_token=token))
    assert not pages[-1].has_more
    assert [entry.voice_id for page in pages for entry in page.voices] == everything
    assert {page.total_count for page in pages} == {len(everything)}

    def ids(**search: Any) -> list[str]:
        return [entry.voice_id for entry in client.voices.search(**search).voices]

    assert ids(search="aNNa") == [voice]
    assert ids(voice_ids=[voice, BUILTIN, "nobody"]) == [BUILTIN, voice]
    assert BUILTIN in ids(category="premade")
    assert voice not in ids(category="premade")
    assert voice in ids(voice_type="personal")
    assert BUILTIN not in ids(voice_type="non-default")
    assert BUILTIN in ids(voice_type="default")
    assert ids(voice_type="community") == []
    names = [entry.name for entry in client.voices.search(sort="name").voices]
    assert names == sorted(names, key=lambda name: str(name).lower())
    assert ids(sort="created_at_unix", sort_direction="desc")[0] == voice


def test_a_transcript_with_its_words(client: elevenlabs.ElevenLabs, recording: bytes) -> None:
    transcript: Any = client.speech_to_text.convert(model_id="scribe_v1", file=recording)
    assert (transcript.language_code, transcript.language_probability) == ("eng", 0)
    assert "blue background" in transcript.text
    assert "".join(word.text for word in transcript.words) == transcript.text
    assert [word.type for word in transcript.words[:3]] == ["word", "spacing", "word"]
    assert all(word.start <= word.end and word.logprob == 0 for word in transcript.words)
    starts = [word.start for word in transcript.words]
    assert starts == sorted(starts)
    assert 0 < transcript.words[-1].end <= transcript.audio_duration_secs
    assert (transcript.emotion, transcript.emotion_probability) == ("EMO_UNKNOWN", None)
    assert transcript.events == ["Speech"]
    assert transcript.language_probabilities is transcript.emotions is None
    assert transcript.event_probabilities is None


def test_the_granularity_of_times(client: elevenlabs.ElevenLabs, recording: bytes) -> None:
    def words(granularity: str) -> list[Any]:
        transcript: Any = client.speech_to_text.convert(
            model_id="scribe_v1", file=recording, timestamps_granularity=granularity
        )
        assert "background" in transcript.text
        return list(transcript.words)

    assert words("none") == []
    assert all(word.characters is None for word in words("word"))
    spoken = [word for word in words("character") if word.type == "word"]
    for word in spoken:
        assert "".join(character.text for character in word.characters) == word.text
        assert word.characters[0].start == word.start
        assert word.characters[-1].end == word.end


@pytest.mark.parametrize("code", ["en", "eng", "EN"])
def test_a_language_by_any_of_its_codes(
    client: elevenlabs.ElevenLabs, recording: bytes, code: str
) -> None:
    transcript: Any = client.speech_to_text.convert(
        model_id="scribe_v1", file=recording, language_code=code
    )
    assert transcript.language_code == "eng"


def test_a_language_that_the_engine_lacks(client: elevenlabs.ElevenLabs, recording: bytes) -> None:
    with pytest.raises(api_error.ApiError) as error:
        client.speech_to_text.convert(model_id="scribe_v1", file=recording, language_code="zho")
    assert error.value.status_code == 400
    assert error.value.body["error"]["code"] == "invalid_option"


@pytest.mark.parametrize("field", ["cloud_storage_url", "source_url"])
def test_no_url_is_fetched(client: elevenlabs.ElevenLabs, recording: bytes, field: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/speech.wav"
        for sent in ({field: url}, {field: url, "file": recording}):
            with pytest.raises(api_error.ApiError) as error:
                client.speech_to_text.convert(model_id="scribe_v1", **typing.cast(Any, sent))
            assert error.value.status_code == 400
            assert "fetches no URL" in error.value.body["detail"]
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize(
    "asked",
    [
        {"use_multi_channel": True},
        {"webhook": True},
        {"entity_detection": "all"},
        {"entity_redaction": ["pii"]},
        {"file_format": "pcm_s16le_16"},
        {"additional_formats": [{"format": "srt"}]},
        {"transcript_edit": "as a poem"},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_what_is_not_done_is_refused(
    client: elevenlabs.ElevenLabs, recording: bytes, asked: dict[str, Any]
) -> None:
    with pytest.raises(api_error.ApiError) as error:
        client.speech_to_text.convert(model_id="scribe_v1", file=recording, **asked)
    assert error.value.status_code == 400
    assert "; " in error.value.body["detail"]  # what is wrong; what to do


def test_what_changes_nothing_is_accepted(client: elevenlabs.ElevenLabs, recording: bytes) -> None:
    transcript: Any = client.speech_to_text.convert(
        model_id="scribe_v2",
        file=recording,
        diarize=False,
        num_speakers=1,
        tag_audio_events=False,
        webhook=False,
        file_format="other",
        temperature=0.0,
        seed=1,
        keyterms=["canoe", "planks"],
        enable_logging=False,
    )
    assert "background" in transcript.text


def test_speakers_are_one(client: elevenlabs.ElevenLabs, recording: bytes) -> None:
    raw = client.speech_to_text.with_raw_response.convert(
        model_id="scribe_v1", file=recording, diarize=True, num_speakers=2
    )
    assert "speakers" in raw.headers["x-voice-engine-warning"]
    transcript: Any = raw.data
    assert {word.speaker_id for word in transcript.words} == {"speaker_0"}
    plain: Any = client.speech_to_text.convert(model_id="scribe_v1", file=recording, diarize=False)
    assert {word.speaker_id for word in plain.words} == {None}


def test_no_recording_is_no_transcript(client: elevenlabs.ElevenLabs) -> None:
    with pytest.raises(api_error.ApiError) as error:
        client.speech_to_text.convert(model_id="scribe_v1")
    assert error.value.status_code == 400
    assert error.value.body["error"]["code"] == "missing_field"


ERRORS: dict[str, tuple[dict[str, Any], int, str]] = {
    "unknown voice": ({"voice_id": "nobody"}, 404, "not_found"),
    "a path for a voice": ({"voice_id": "..%2F..%2Fetc"}, 404, "not_found"),
    "no text": ({"text": ""}, 400, "empty_text"),
    "long text": ({"text": "word " * 1001}, 400, "text_too_long"),
    "format": ({"output_format": "mp3_44100_1000"}, 400, "invalid_option"),
    "speed": ({"voice_settings": {"speed": 9}}, 400, "invalid_option"),
    "seed": ({"seed": -1}, 400, "invalid_option"),
}


@pytest.mark.parametrize("method", ["convert", "stream", "convert_with_timestamps"])
@pytest.mark.parametrize("name", ERRORS)
def test_errors(client: elevenlabs.ElevenLabs, name: str, method: str) -> None:
    wrong, status, code = ERRORS[name]
    with pytest.raises(api_error.ApiError) as error:
        list(getattr(client.text_to_speech, method)(**{"voice_id": BUILTIN, "text": "Hi."} | wrong))
    assert error.value.status_code == status
    assert error.value.body["error"]["code"] == code
    assert error.value.body["detail"] == error.value.body["error"]["message"]


@pytest.mark.parametrize("key", ["wrong", None])
def test_a_key_that_is_none(service: RunningService, recording: bytes, key: str | None) -> None:
    with connected(service, key) as stranger:
        for call in (
            stranger.voices.get_all,
            stranger.voices.search,
            stranger.voices.settings.get_default,
            lambda: list(stranger.text_to_speech.convert(BUILTIN, text="Hello.")),
            lambda: stranger.voices.ivc.create(name="Eve", files=[recording]),
            lambda: stranger.speech_to_text.convert(model_id="scribe_v1", file=recording),
        ):
            with pytest.raises(api_error.ApiError) as error:
                call()
            assert error.value.status_code == 401


def test_a_request_that_kills_has_their_class_of_error() -> None:
    with running({"VOICE_ENGINE_BACKOFF_BASE": "0.01"}) as service, connected(service) as client:
        service.wait_ready()

        def kill() -> None:
            client.text_to_speech.convert_with_timestamps(
                cached_id("0" * 64), text="crash", seed=1, request_options=ONCE
            )

        with pytest.raises(api_error.ApiError) as first:
            kill()
        assert first.value.status_code == 500
        with pytest.raises(elevenlabs.UnprocessableEntityError) as second:
            kill()
        assert second.value.body["error"]["code"] == "quarantined"


async def test_their_asynchronous_client(service: RunningService, recording: bytes) -> None:
    async with httpx.AsyncClient(timeout=NET) as connections:
        client = elevenlabs.AsyncElevenLabs(
            base_url=service.url, api_key=KEY, httpx_client=connections
        )
        voice = (await client.voices.ivc.create(name="Ben", files=[recording])).voice_id
        whole, streamed = b"", b""
        options: dict[str, Any] = {"text": TEXT, "output_format": "pcm_16000", "seed": 1}
        async for data in client.text_to_speech.convert(voice, **options):
            whole += data
        async for data in client.text_to_speech.stream(voice, **options):
            streamed += data
        timed = await client.text_to_speech.convert_with_timestamps(voice, **options)
        assert whole == streamed == base64.b64decode(timed.audio_base_64)
        assert timed.alignment is not None
        assert timed.alignment.characters == list(TEXT)
        transcript: Any = await client.speech_to_text.convert(model_id="scribe_v1", file=recording)
        assert "background" in transcript.text
        assert voice in [entry.voice_id for entry in (await client.voices.get_all()).voices]
        assert (await client.voices.delete(voice)).status == "ok"
        with pytest.raises(api_error.ApiError) as error:
            await client.voices.get(voice)
        assert error.value.status_code == 404
        with pytest.raises(api_error.ApiError) as error:
            async for _ in client.text_to_speech.convert(BUILTIN, text=""):
                pass
        assert error.value.status_code == 400


def test_a_recording_of_their_kind_of_file(client: elevenlabs.ElevenLabs, tmp_path: Path) -> None:
    # What their client makes can be heard again by it.
    spoken = b"".join(client.text_to_speech.convert(BUILTIN, text=RECORDED))
    path = tmp_path / "speech.mp3"
    path.write_bytes(spoken)
    with path.open("rb") as file:
        transcript: Any = client.speech_to_text.convert(model_id="scribe_v1", file=file)
    assert "background" in transcript.text
