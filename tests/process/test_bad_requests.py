"""What the front itself refuses: with a JSON error that says what to do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from tests.support.service import RunningService, recording_form, running, script_form

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    settings = {"VOICE_ENGINE_MAX_REFERENCE_MB": "1", "VOICE_ENGINE_MAX_AUDIO_MB": "2"}
    with running(settings) as service:
        service.wait_ready()
        before = {child["name"]: child["requests"] for child in service.children()}
        yield service
        # None of it ended a worker, or was even seen by one.
        assert {c["name"]: c["requests"] for c in service.children()} == before


def refusal(status: int, body: bytes) -> tuple[int, str, str]:
    """Status, code and message of an error, whose shape is checked."""
    answer = json.loads(body)
    assert set(answer) == {"detail", "error"}
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["detail"] == answer["error"]["message"]
    assert answer["error"]["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    return status, answer["error"]["code"], answer["detail"]


async def post(service: RunningService, path: str, **kwargs: Any) -> tuple[int, str, str]:
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.post(path, **kwargs) as response,
    ):
        return refusal(response.status, await response.read())


def form(**fields: str | bytes | list[str] | list[bytes]) -> aiohttp.FormData:
    """A form with text fields (a list: the field several times) and files (bytes)."""
    data = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, bytes):
                data.add_field(name, item, filename="a.wav")
            else:
                data.add_field(name, item)
    return data


@pytest.mark.parametrize(
    ("data", "code", "told"),
    [
        (form(reference_audio=b"x"), "missing_field", "'text'"),
        (form(text="", reference_audio=b"x"), "empty_text", "send a text to speak"),
        (form(text=" \n\t ", reference_audio=b"x"), "empty_text", "blank"),
        (form(text="a" * 5001, reference_audio=b"x"), "text_too_long", "5000"),
        (form(text="hi", other="1"), "unknown_option", "other"),
        (form(text="hi", reference_audio=b""), "empty_audio", "empty"),
        (form(text="hi", clip=b"x"), "missing_field", "'reference_audio' is missing; send the rec"),
        (form(text="hi", audio=b"x", file=b"x"), "unknown_option", "file"),
        (form(text="hi", audio=[b"x", b"x"]), "invalid_request", "twice"),
        (form(text="hi", audio=b"x", reference_audio=b"x"), "invalid_request", "'audio'"),
        (form(text="hi", audio="x"), "unknown_option", "audio"),
        (form(text="hi", reference_audio=b"x", voice="amy"), "unknown_option", "voice"),
        (form(text="hi", reference_audio=b"x", stream="perhaps"), "invalid_option", "stream"),
        (form(text="hi", reference_audio=b"x", seed="-1"), "invalid_option", "seed"),
        (form(text="hi", reference_audio=b"x", seed="1.5"), "invalid_option", "seed"),
        (form(text="hi", reference_audio=b"x", temperature="hot"), "invalid_option", "temperature"),
        (form(text="hi", reference_audio=b"x", temperature="nan"), "invalid_option", "temperature"),
        (form(text="hi", reference_audio=b"x", decode_steps="0"), "invalid_option", "decode_steps"),
        (form(text="hi", reference_audio=["no", "file"]), "invalid_request", "twice"),
    ],
)
async def test_clone_says_what_is_wrong(
    service: RunningService, data: aiohttp.FormData, code: str, told: str
) -> None:
    status, found, detail = await post(service, "/v1/clone", data=data)
    assert (status, found) == (400, code)
    assert told in detail


async def test_clone_without_a_file(service: RunningService) -> None:
    status, code, detail = await post(service, "/v1/clone", data=form(text="hi"))
    assert (status, code) == (400, "missing_field")
    assert "reference_audio" in detail


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (form(file=b""), "empty_audio"),
        (form(file=b"x", itn="maybe"), "invalid_option"),
        (form(file=b"x", language="x" * 33), "invalid_option"),
        (form(file=b"x", loudness="hi"), "unknown_option"),
        (form(file=b"x", task="sing"), "invalid_option"),
        (form(clip=b"x"), "missing_field"),
        (form(audio="x"), "unknown_option"),
    ],
)
async def test_transcribe_says_what_is_wrong(
    service: RunningService, data: aiohttp.FormData, code: str
) -> None:
    status, found, _ = await post(service, "/v1/transcribe", data=data)
    assert (status, found) == (400, code)


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{}", "application/json", 415),
        (b"text=hi", "application/x-www-form-urlencoded", 415),
        (b"", "text/plain", 415),
        (b"hi", "multipart/form-data", 400),
        (b"hi", "multipart/form-data; boundary=", 400),
        (b"hi", "multipart/form-data; boundary=x", 400),
        (b"--x\r\n\r\nhi", "multipart/form-data; boundary=x", 400),
        (
            b"--x\r\nContent-Disposition: form-data\r\n\r\nhi\r\n--x--",
            "multipart/form-data; boundary=x",
            400,
        ),
        (b"--x\r\nnonsense\r\n\r\nhi\r\n--x--\r\n", "multipart/form-data; boundary=x", 400),
        (b"--x\r\n" + b"A: b\r\n" * 5000 + b"\r\n--x--", "multipart/form-data; boundary=x", 400),
        (b"--x\r\n" + b"A" * 100_000, "multipart/form-data; boundary=x", 400),
        (
            b'--x\r\nContent-Disposition: form-data; name="text"\r\n\r\n\xff\xfe\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            400,
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="text"\r\n'
            b"Content-Type: multipart/mixed; boundary=y\r\n\r\n--y--\r\n--x--\r\n",
            "multipart/form-data; boundary=x",
            400,
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="reference_audio"\r\n'
            b"Content-Transfer-Encoding: base64\r\n\r\n!!!\r\n--x--\r\n",
            "multipart/form-data; boundary=x",
            400,
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="text"\r\n\r\nno end of the body',
            "multipart/form-data; boundary=x",
            400,
        ),
    ],
)
async def test_a_body_that_is_no_form(
    service: RunningService, body: bytes, content_type: str, status: int
) -> None:
    headers = {"Content-Type": content_type}
    found, _, detail = await post(service, "/v1/clone", data=body, headers=headers)
    assert found == status
    assert detail


@pytest.mark.parametrize(
    ("path", "body", "content_type", "told"),
    [
        ("/v1/transcribe", b"hi", "multipart/form-data", "do not set a Content-Type yourself"),
        ("/v1/tts", b"{}", "application/json", "the field 'text' is missing; send it"),
        ("/v1/tts", b"text=hi", "text/plain", "send application/json or multipart/form-data"),
        ("/v1/clone", b"{}", "application/json", "the file in the field 'reference_audio'"),
        ("/nowhere", b"", "text/plain", "/docs lists all endpoints"),
        (
            "/v1/audio/speech",
            b'{"model": "tts-1", "input": "hi", "voice": 7}',
            "application/json",
            "the field 'voice' is not valid",
        ),
        (
            "/v1/text-to-speech/anna",
            b'{"text": "hi", "voice_settings": {"speed": 9}}',
            "application/json",
            "the field 'voice_settings.speed' is not valid",
        ),
    ],
)
async def test_an_error_says_what_to_do(
    service: RunningService, path: str, body: bytes, content_type: str, told: str
) -> None:
    headers = {"Content-Type": content_type}
    _, _, detail = await post(service, path, data=body, headers=headers)
    assert told in detail


async def test_nothing_of_a_file_is_wanted_where_none_can_be_sent(service: RunningService) -> None:
    headers = {"Content-Type": "text/plain"}
    _, _, detail = await post(service, "/v1/tts", data=b"text=hi", headers=headers)
    assert "reference_audio" not in detail


async def test_a_file_input_that_was_left_alone_is_no_file(service: RunningService) -> None:
    # As browsers send it: a file without a name and without a byte.
    def empty(field: str) -> aiohttp.FormData:
        data = aiohttp.FormData({"text": " "})
        data.add_field(field, b"", filename="", content_type="application/octet-stream")
        return data

    status, code, _ = await post(service, "/v1/tts", data=empty("reference_audio"))
    assert (status, code) == (400, "empty_text")
    status, code, _ = await post(service, "/v1/clone", data=empty("reference_audio"))
    assert (status, code) == (400, "empty_audio")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/clone", 405, "method_not_allowed"),
        ("DELETE", "/v1/transcribe", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1/%00", 404, "not_found"),
        ("POST", "/v1/clone/../../etc/passwd", 404, "not_found"),
    ],
)
async def test_a_wrong_address_or_method(
    service: RunningService, method: str, path: str, status: int, code: str
) -> None:
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.request(method, path) as response,
    ):
        assert refusal(response.status, await response.read())[:2] == (status, code)
        if status == 405:
            assert response.headers["Allow"]


async def raw(service: RunningService, request: bytes) -> bytes:
    """What the service answers to these bytes until it closes; the request is never completed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


def head(path: str, *headers: str) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        "Content-Type: multipart/form-data; boundary=x",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


PART = b'--x\r\nContent-Disposition: form-data; name="reference_audio"; filename="a"\r\n\r\n'


async def test_an_over_large_upload_is_refused_by_its_length(service: RunningService) -> None:
    # Only the head is sent: the answer cannot have waited for the body.
    answer = await raw(service, head("/v1/clone", "Content-Length: 60000000"))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"over the limit of 1 MB" in answer


async def test_it_is_not_even_invited(service: RunningService) -> None:
    answer = await raw(
        service, head("/v1/transcribe", "Content-Length: 60000000", "Expect: 100-continue")
    )
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_one_that_does_not_tell_its_length_is_cut_off(service: RunningService) -> None:
    block = b"10000\r\n" + b"\0" * 0x10000 + b"\r\n"
    body = b"%x\r\n%s\r\n" % (len(PART), PART) + block * 20
    answer = await raw(service, head("/v1/clone", "Transfer-Encoding: chunked") + body)
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_huge_text_field_is_cut_off(service: RunningService) -> None:
    status, code, _ = await post(
        service, "/v1/clone", data=form(text="a" * 300_000, reference_audio=b"x")
    )
    assert (status, code) == (413, "payload_too_large")


async def test_a_client_that_breaks_off_its_upload_leaves_nothing(service: RunningService) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(head("/v1/transcribe", "Content-Length: 1000000") + PART + b"\0" * 500_000)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert await reader.read() == b""


async def test_a_slow_upload_has_an_end() -> None:
    with running({"VOICE_ENGINE_REQUEST_TIMEOUT": "0.5"}) as service:
        service.wait_ready()
        answer = await raw(service, head("/v1/clone", "Content-Length: 1000") + PART)
        assert answer.startswith(b"HTTP/1.1 408 ")


async def test_after_all_that_it_still_serves() -> None:
    with running() as service:
        service.wait_ready()
        async with aiohttp.ClientSession(service.url) as client:
            async with client.post("/v1/clone", data=script_form("say 1")) as response:
                assert response.status == 200
            async with client.post("/v1/transcribe", data=recording_form("pid")) as response:
                assert response.status == 200
