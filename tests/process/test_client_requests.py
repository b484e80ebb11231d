"""Requests as clients send them: repeated, empty and misnamed fields, odd addresses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from ipc.wav_header import wav_header
from tests.support.recordings import spoken
from tests.support.service import MINIMAL, RunningService, running

SILENCE = wav_header(16_000, 8_000) + bytes(16_000)
WARNING = "X-Voice-Engine-Warning"


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running(MINIMAL) as service:
        service.wait_ready()
        yield service


@pytest.fixture(scope="module")
def recording() -> bytes:
    """A sentence as a WAV."""
    return spoken("Glue the sheet to the dark blue background.")


def form(*fields: tuple[str, str | bytes]) -> aiohttp.FormData:
    """A form with these fields in this order; bytes are files."""
    data = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields:
        if isinstance(value, bytes):
            data.add_field(name, value, filename="a.wav", content_type="audio/wav")
        else:
            data.add_field(name, value)
    return data


async def post(
    service: RunningService, path: str, **kwargs: Any
) -> tuple[aiohttp.ClientResponse, bytes]:
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post(path, **kwargs) as response,
    ):
        return response, await response.read()


@pytest.mark.parametrize(("last", "speakers"), [("true", {"speaker_0"}), ("false", {None})])
async def test_of_a_repeated_field_the_last_one_counts(
    service: RunningService, recording: bytes, last: str, speakers: set[str | None]
) -> None:
    first = "false" if last == "true" else "true"
    fields = form(("diarize", first), ("file", recording), ("diarize", last))
    response, body = await post(service, "/v1/speech-to-text", data=fields)
    assert response.status == 200
    assert {word["speaker_id"] for word in json.loads(body)["words"]} == speakers
    native = form(("response_format", "srt"), ("file", SILENCE), ("response_format", "json"))
    response, body = await post(service, "/v1/transcribe", data=native)
    assert (response.status, response.content_type) == (200, "application/json")


async def test_of_a_repeated_parameter_the_last_one_counts(service: RunningService) -> None:
    path = "/v1/text-to-speech/slt?output_format=&output_format=mp3_44100_128"
    path += "&output_format=pcm_8000&output_format="
    response, body = await post(service, path, json={"text": "Hi."})
    assert (response.status, response.headers["X-Sample-Rate"]) == (200, "8000")
    assert body


@pytest.mark.parametrize(
    ("path", "empty"),
    [
        (
            "/v1/audio/transcriptions",
            ("model", "language", "prompt", "response_format", "temperature", "stream"),
        ),
        ("/v1/audio/transcriptions", ("timestamp_granularities[]", "languages[]", "include[]")),
        ("/v1/transcribe", ("language", "itn", "timestamps", "words", "response_format")),
        (
            "/v1/speech-to-text",
            ("model_id", "language_code", "diarize", "tag_audio_events", "webhook"),
        ),
    ],
)
async def test_an_empty_field_is_as_if_absent(
    service: RunningService, recording: bytes, path: str, empty: tuple[str, ...]
) -> None:
    fields = [(name, "") for name in empty]
    response, body = await post(service, path, data=form(*fields, ("file", recording)))
    _, without = await post(service, path, data=form(("file", recording)))
    assert response.status == 200
    assert json.loads(body) == json.loads(without)
    assert WARNING not in response.headers


async def test_an_empty_voice_in_a_form_is_the_usual_one(service: RunningService) -> None:
    fields = form(("text", "Hi."), ("voice_id", ""), ("speed", ""), ("seed", ""))
    response, _ = await post(service, "/v1/tts", data=fields)
    assert response.status == 200
    response, body = await post(service, "/v1/tts", data=form(("text", "")))
    assert json.loads(body)["error"]["code"] == "empty_text"


async def test_undefined_is_no_number(service: RunningService) -> None:
    fields = form(("temperature", "undefined"), ("stream", "null"), ("file", SILENCE))
    response, _ = await post(service, "/v1/audio/transcriptions", data=fields)
    assert response.status == 200
    assert "temperature is undefined" in response.headers[WARNING]
    assert "stream is null" in response.headers[WARNING]
    fields = form(("temperature", "hot"), ("file", SILENCE))
    response, _ = await post(service, "/v1/audio/transcriptions", data=fields)
    assert response.status == 400


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/transcribe", "language"),
        ("/v1/audio/transcriptions", "language"),
        ("/v1/audio/transcriptions", "languages[]"),
        ("/v1/speech-to-text", "language_code"),
    ],
)
@pytest.mark.parametrize(
    ("given", "taken_for"),
    [("undefined", "auto"), ("null", "auto"), ("jp", "ja"), ("us", "en"), ("en-US", None)],
)
async def test_what_is_no_language_is_told(
    service: RunningService, path: str, field: str, given: str, taken_for: str | None
) -> None:
    response, _ = await post(service, path, data=form((field, given), ("file", SILENCE)))
    assert response.status == (400 if taken_for == "ja" else 200)  # the engine knows English only
    warning = f"the language {given} was taken for {taken_for}" if taken_for else None
    assert response.headers.get(WARNING) == warning


@pytest.mark.parametrize(
    ("path", "name", "others"),
    [
        ("/v1/transcribe", "audio", ()),
        ("/v1/transcribe", "audio_file", (("words", "true"),)),
        ("/v1/audio/transcriptions", "audio", (("model", "whisper-1"),)),
        ("/v1/speech-to-text", "audio", (("model_id", "scribe_v1"),)),
        ("/v1/clone", "audio", (("text", "Hi."),)),
        ("/v1/clone", "speaker_wav", (("text", "Hi."),)),
        ("/v1/tts", "file", (("text", "Hi."),)),
        ("/v1/voices/register", "file", (("voice_id", "misnamed"),)),
        ("/v1/voices/add", "audio", (("name", "misnamed"),)),
        ("/v1/voices/add", "files[]", (("name", "misnamed"),)),
    ],
)
async def test_a_recording_by_another_name(
    service: RunningService,
    recording: bytes,
    path: str,
    name: str,
    others: tuple[tuple[str, str], ...],
) -> None:
    response, _ = await post(service, path, data=form(*others, (name, recording)))
    assert response.status == 200
    if path == "/v1/tts":  # the voice of the recording, not the usual one
        assert response.headers["X-Voice-Cache"] in ("hit", "miss")
        assert "X-Voice-Approximation" in response.headers


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("/v1/transcribe", "file"),
        ("/v1/audio/transcriptions", "file"),
        ("/v1/speech-to-text", "file"),
        ("/v1/clone", "reference_audio"),
        ("/v1/tts", "reference_audio"),
        ("/v1/voices/register", "audio"),
        ("/v1/voices/add", "files"),
    ],
)
async def test_a_file_that_means_nothing(service: RunningService, path: str, right: str) -> None:
    # Larger than any text field may be.
    fields = form(("name", "x"), ("clip", SILENCE * 20))
    if path in ("/v1/clone", "/v1/tts"):
        fields = form(("text", "Hi."), ("clip", SILENCE * 20))
    elif path != "/v1/voices/add":
        fields = form(("clip", SILENCE * 20))
    response, body = await post(service, path, data=fields)
    error = json.loads(body)["error"]
    assert (response.status, error["code"]) == (400, "missing_field")
    expected = f"the field '{right}' is missing; send the recording in it, not in 'clip'"
    assert error["message"] == expected


async def test_two_files_are_not_chosen_from(service: RunningService) -> None:
    response, body = await post(
        service, "/v1/audio/transcriptions", data=form(("audio", SILENCE), ("file", SILENCE))
    )
    assert response.status == 400
    assert "in 'file' and in 'audio'" in json.loads(body)["detail"]


@pytest.mark.parametrize("path", ["//v1//audio/speech", "/v1//audio/speech", "/v1/audio//speech"])
async def test_slashes_in_a_row_count_as_one(service: RunningService, path: str) -> None:
    body = json.dumps({"model": "tts-1", "input": "Hi.", "response_format": "pcm"}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    head = f"POST {path}?a=b//c HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"X-Sample-Rate: 24000" in answer


async def test_slashes_do_not_open_what_is_locked() -> None:
    settings = {"VOICE_ENGINE_API_KEY": "k", "VOICE_ENGINE_ADMIN_KEY": "a"}
    with running(settings) as service:
        for path in ("//v1//voices", "/livez//..//v1/voices", "//v1//children//x//recycle"):
            reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            assert (await reader.read()).startswith(b"HTTP/1.1 401 ")
            writer.close()


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/audio/speech", "the base URL must end with /v1; this request should go to /v1/audio/sp"),
        ("/audio/transcriptions", "the base URL must end with /v1"),
        ("/text-to-speech/21m00Tcm4TlvDq8ikWAM/stream", "the base URL must end with /v1"),
        ("/v1/v1/text-to-speech/slt", "leave /v1 out of the base URL; this request should go to "),
        ("/v1/nothing", "/docs lists all endpoints"),
    ],
)
async def test_a_wrong_base_url_is_told(service: RunningService, path: str, told: str) -> None:
    response, body = await post(service, path, json={})
    assert response.status == 404
    assert told in json.loads(body)["detail"]


@pytest.mark.parametrize(
    ("voice", "speaks"),
    [
        ({}, "slt"),
        ({"voice": None}, "slt"),
        ({"voice": ""}, "slt"),
        ({"voice": "SLT"}, "slt"),
        ({"voice": "Rms"}, "rms"),
        ({"voice": "ASH"}, "rms"),
        ({"voice": {"id": "Nova"}}, "awb"),
        ({"voice": "29vD33N1CtxCmqQRPOHJ"}, "rms"),
    ],
)
async def test_voices_by_their_names(
    service: RunningService, voice: dict[str, Any], speaks: str
) -> None:
    response, _ = await post(service, "/v1/audio/speech", json={"input": "Hi."} | voice)
    assert (response.status, response.headers.get("X-Voice-Id")) == (200, speaks)


async def test_a_registered_voice_ignores_case(service: RunningService, recording: bytes) -> None:
    for voice_id in ("Casey", "casey", "RMS"):
        fields = form(("voice_id", voice_id), ("audio", recording))
        response, _ = await post(service, "/v1/voices/register", data=fields)
        assert response.status == 200
    for asked, speaks in (
        *(("Casey", "Casey"), ("casey", "casey"), ("CASEY", "Casey")),
        *(("RMS", "RMS"), ("rms", "rms"), ("Slt", "slt")),
    ):
        sent = {"input": "Hi.", "voice": asked}
        response, _ = await post(service, "/v1/audio/speech", json=sent)
        assert (response.status, response.headers["X-Voice-Id"]) == (200, speaks)
    for path, body in (
        ("/v1/tts", {"text": "Hi.", "voice_id": "CASEY"}),
        ("/v1/text-to-speech/CASEY", {"text": "Hi."}),
    ):
        response, _ = await post(service, path, json=body)
        assert response.status == 200


async def test_several_recordings_have_no_one_file(
    service: RunningService, recording: bytes
) -> None:
    other = spoken("It is easy to tell the depth of a well.")
    fields = form(("name", "Several"), ("files", recording), ("files", other))
    response, body = await post(service, "/v1/voices/add", data=fields)
    assert response.status == 200
    voice = f"/v1/voices/{json.loads(body)['voice_id']}"
    async with aiohttp.ClientSession(service.url) as client:
        async with client.get(f"{voice}/audio") as whole:
            assert whole.status == 400
            assert f"{voice}/samples/sample-1/audio" in (await whole.json())["detail"]
        async with client.head(f"{voice}/samples/sample-2/audio") as head:
            assert head.status == 200
            assert head.headers["Content-Type"] == "audio/wav"
            assert int(head.headers["Content-Length"]) == len(other)
        async with client.get(f"{voice}/samples/sample-1/audio") as first:
            assert await first.read() == recording


async def test_translations_name_the_model_that_would_be_needed(service: RunningService) -> None:
    fields = form(("model", "whisper-1"), ("file", SILENCE))
    response, body = await post(service, "/v1/audio/translations", data=fields)
    error = json.loads(body)["error"]
    assert (response.status, error["type"]) == (400, "invalid_request_error")
    assert "whisper-1" in error["message"]


async def test_pages_may_read_the_warnings() -> None:
    origin = {"Origin": "https://app.example"}
    with running({"VOICE_ENGINE_CORS_ORIGINS": "*"}) as service:
        async with (
            aiohttp.ClientSession(service.url) as client,
            client.get("/livez", headers=origin) as response,
        ):
            assert WARNING in response.headers["Access-Control-Expose-Headers"]
