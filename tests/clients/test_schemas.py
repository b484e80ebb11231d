"""Every answer against the published schemas of both APIs, as typed clients read them.

The SDKs for Python do not validate what they read, those of other languages do. Here the types of
the SDKs validate strictly: a missing field, a null or a text where a number belongs is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pydantic import TypeAdapter

from ipc.wav_header import wav_header
from tests.support.lazy import Lazy
from tests.support.recordings import spoken
from tests.support.service import MINIMAL, NET, RunningService, production, running

if TYPE_CHECKING:
    import elevenlabs
    from elevenlabs import types as theirs
    from openai.types import audio, model, shared
    from openai.types.audio import transcription_stream_event
else:
    elevenlabs = Lazy("elevenlabs")
    theirs = Lazy("elevenlabs.types")
    audio = Lazy("openai.types.audio")
    model = Lazy("openai.types.model")
    shared = Lazy("openai.types.shared")
    transcription_stream_event = Lazy("openai.types.audio.transcription_stream_event")

KEY = "k-7d20"
SILENCE = wav_header(16_000, 8_000) + bytes(16_000)


@pytest.fixture(scope="module", params=["minimal", "production"])
def service(request: pytest.FixtureRequest) -> Iterator[RunningService]:
    """Engines without probabilities, and engines with them."""
    if request.param == "minimal":
        settings = MINIMAL
    else:
        models: Path = request.getfixturevalue("nano_models")
        settings = production(models)
    with running({**settings, "VOICE_ENGINE_API_KEY": KEY}) as service:
        service.wait_ready()
        yield service


@pytest.fixture(scope="module")
def client(service: RunningService) -> Iterator[httpx.Client]:
    headers = {"xi-api-key": KEY}
    with httpx.Client(base_url=service.url, headers=headers, timeout=NET) as client:
        yield client


@pytest.fixture(scope="module")
def recording() -> bytes:
    """A WAV, short because it is recognized often."""
    return spoken("Hello world. I am fine.")


def check(kind: Any, answer: httpx.Response | str, status: int = 200) -> Any:
    """The answer as `kind`, read strictly."""
    if isinstance(answer, httpx.Response):
        assert answer.status_code == status, answer.text
        answer = answer.text
    return TypeAdapter(kind).validate_json(answer, strict=True)


def transcribe(client: httpx.Client, recording: bytes, **fields: Any) -> httpx.Response:
    return client.post(
        "/v1/audio/transcriptions",
        data={"model": "whisper-1"} | fields,
        files={"file": ("a.wav", recording)},
    )


@pytest.mark.parametrize("sound", ["speech", "silence"])
def test_openai_transcripts(client: httpx.Client, recording: bytes, sound: str) -> None:
    sent = recording if sound == "speech" else SILENCE
    check(audio.Transcription, transcribe(client, sent))
    granularities = {"timestamp_granularities[]": ["word", "segment"]}
    answer = transcribe(client, sent, response_format="verbose_json", **granularities)
    verbose = check(audio.TranscriptionVerbose, answer)
    assert verbose.words is not None
    assert verbose.segments is not None
    assert bool(verbose.segments) is bool(verbose.text)
    for segment in verbose.segments:
        assert segment.avg_logprob <= 0 <= segment.no_speech_prob <= 1
    check(audio.TranscriptionDiarized, transcribe(client, sent, response_format="diarized_json"))


@pytest.mark.parametrize("response_format", ["json", "text", "diarized_json"])
def test_openai_streams_of_transcripts(
    client: httpx.Client, recording: bytes, response_format: str
) -> None:
    answer = transcribe(client, recording, stream="true", response_format=response_format)
    assert answer.status_code == 200
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    kind = transcription_stream_event.TranscriptionStreamEvent
    events = [check(kind, line) for line in lines]
    assert events[-1].type == "transcript.text.done"
    kinds = {
        json.loads(line)["type"]: type(event) for line, event in zip(lines, events, strict=True)
    }
    assert kinds["transcript.text.delta"] is audio.TranscriptionTextDeltaEvent
    assert kinds["transcript.text.done"] is audio.TranscriptionTextDoneEvent
    segments = kinds.get("transcript.text.segment")
    wanted = audio.TranscriptionTextSegmentEvent if response_format == "diarized_json" else None
    assert segments is wanted


def test_openai_models(client: httpx.Client) -> None:
    bearer = {"Authorization": f"Bearer {KEY}"}
    listed = client.get("/v1/models", headers=bearer).json()
    assert listed["object"] == "list"
    for entry in check(list[model.Model], json.dumps(listed["data"])):
        check(model.Model, client.get(f"/v1/models/{entry.id}"))


@pytest.mark.parametrize(
    ("method", "path", "sent", "status"),
    [
        ("POST", "/v1/audio/speech", {"json": {"input": ""}}, 400),
        ("POST", "/v1/audio/speech", {"json": {"input": "Hi.", "voice": "nobody"}}, 404),
        ("POST", "/v1/audio/transcriptions", {"data": {"model": "a"}}, 415),
        ("POST", "/v1/audio/translations", {}, 415),
        ("POST", "/v1/audio/translations", {"files": {"file": b"any"}}, 400),
        ("GET", "/v1/models/none", {}, 404),
        ("GET", "/models", {}, 404),
        ("DELETE", "/v1/models", {}, 405),
        ("GET", "/v1/models", {"headers": {"xi-api-key": "wrong"}}, 401),
    ],
)
def test_openai_errors(
    client: httpx.Client, method: str, path: str, sent: dict[str, Any], status: int
) -> None:
    answer = client.request(method, path, **sent)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert {"message", "type", "param", "code"} <= set(error)
    check(shared.ErrorObject, json.dumps(error))


@pytest.mark.parametrize("sound", ["speech", "silence"])
@pytest.mark.parametrize("granularity", ["none", "word", "character"])
@pytest.mark.parametrize("diarize", ["true", "false"])
def test_elevenlabs_transcripts(
    client: httpx.Client, recording: bytes, sound: str, granularity: str, diarize: str
) -> None:
    answer = client.post(
        "/v1/speech-to-text",
        data={
            "model_id": "scribe_v1",
            "timestamps_granularity": granularity,
            "diarize": diarize,
        },
        files={"file": ("a.wav", recording if sound == "speech" else SILENCE)},
    )
    transcript = check(theirs.SpeechToTextChunkResponseModel, answer)
    assert 0 <= transcript.language_probability <= 1
    assert all(word.logprob <= 0 for word in transcript.words)


def test_elevenlabs_voices(client: httpx.Client, recording: bytes) -> None:
    files = [("files", ("a.wav", recording)), ("files", ("b.wav", recording))]
    added = client.post("/v1/voices/add", data={"name": "Anna"}, files=files)
    voice_id = check(theirs.AddVoiceIvcResponseModel, added).voice_id
    check(theirs.GetVoicesResponse, client.get("/v1/voices"))
    check(theirs.GetVoicesV2Response, client.get("/v2/voices?page_size=1"))
    voice = check(theirs.Voice, client.get(f"/v1/voices/{voice_id}"))
    assert len(voice.samples) == 2
    check(theirs.VoiceSettings, client.get(f"/v1/voices/{voice_id}/settings"))
    check(theirs.VoiceSettings, client.get("/v1/voices/settings/default"))
    edited = client.post(f"/v1/voices/{voice_id}/edit", files={"name": (None, "Ben")})
    check(theirs.EditVoiceResponseModel, edited)
    settings = client.post(f"/v1/voices/{voice_id}/settings/edit", json={"stability": 0.1})
    check(theirs.EditVoiceSettingsResponseModel, settings)
    check(theirs.DeleteVoiceResponseModel, client.delete(f"/v1/voices/{voice_id}"))


def test_elevenlabs_speech_with_times(client: httpx.Client) -> None:
    path = "/v1/text-to-speech/21m00Tcm4TlvDq8ikWAM"
    sent = {"text": "Hello there. How are you?"}
    check(theirs.AudioWithTimestampsResponse, client.post(f"{path}/with-timestamps", json=sent))
    answer = client.post(f"{path}/stream/with-timestamps", json=sent)
    assert answer.status_code == 200
    kind = theirs.StreamingAudioChunkWithTimestampsResponse
    chunks = [check(kind, line) for line in answer.text.splitlines()]
    timed = [chunk for chunk in chunks if chunk.alignment and chunk.normalized_alignment]
    assert len(timed) == 2


def test_elevenlabs_accounts(client: httpx.Client) -> None:
    assert check(list[theirs.Model], client.get("/v1/models"))
    check(theirs.User, client.get("/v1/user"))
    check(theirs.Subscription, client.get("/v1/user/subscription"))


def test_what_open_webui_asks_for(client: httpx.Client, service: RunningService) -> None:
    for path, kind in (("/v1/audio/voices", "voices"), ("/v1/audio/models", "models")):
        entries = client.get(path).json()[kind]
        assert entries
        assert all(set(entry) == {"id", "name"} for entry in entries)
        assert httpx.get(f"{service.url}{path}").status_code == 401  # without a key
