"""The command line's address, keys, errors and arguments."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from supervisor.cli.app import hoisted
from supervisor.cli.client import Address, DownError, RefusedError, Service, refusal


@pytest.mark.parametrize(
    ("url", "environment", "expected"),
    [
        (None, {}, "http://127.0.0.1:8000"),
        (None, {"PORT": "9000"}, "http://127.0.0.1:9000"),
        (None, {"PORT": ""}, "http://127.0.0.1:8000"),
        (None, {"PORT": "9000", "VOICE_ENGINE_URL": "https://a.example/"}, "https://a.example"),
        ("b.example:1/health", {"VOICE_ENGINE_URL": "https://a.example"}, "http://b.example:1"),
    ],
)
def test_where_the_service_is(url: str | None, environment: dict[str, str], expected: str) -> None:
    assert Address.of(url, None, environment).url == expected


@pytest.mark.parametrize(
    ("key", "environment", "keys"),
    [
        (None, {}, (None, None)),
        ("k", {}, ("k", "k")),
        (None, {"VOICE_ENGINE_API_KEY": "c"}, ("c", "c")),
        (None, {"VOICE_ENGINE_ADMIN_KEY": "a"}, ("a", "a")),
        (None, {"VOICE_ENGINE_API_KEY": "c", "VOICE_ENGINE_ADMIN_KEY": "a"}, ("c", "a")),
        ("k", {"VOICE_ENGINE_API_KEY": "c", "VOICE_ENGINE_ADMIN_KEY": "a"}, ("k", "k")),
    ],
)
def test_which_key_is_sent(
    key: str | None, environment: dict[str, str], keys: tuple[str | None, str | None]
) -> None:
    address = Address.of(None, key, environment)
    assert (address.key, address.admin_key) == keys


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["status", "--url", "u"], ["--url", "u", "status"]),
        (["say", "x", "--key=k", "-o", "f"], ["--key=k", "say", "x", "-o", "f"]),
        (["say", "--", "--url", "u"], ["say", "--", "--url", "u"]),
        (["say", "--urls", "u"], ["say", "--urls", "u"]),
        (["say", "--url"], ["--url", "say"]),
    ],
)
def test_address_and_key_may_stand_anywhere(arguments: list[str], expected: list[str]) -> None:
    assert hoisted(arguments) == expected


def _response(status: int, path: str, body: Any, **headers: str) -> httpx.Response:
    request = httpx.Request("GET", f"http://127.0.0.1:8000{path}")
    return httpx.Response(status, json=body, headers=headers, request=request)


@pytest.mark.parametrize(
    ("status", "path", "detail", "message"),
    [
        (
            404,
            "/v1/voices/x",
            "there is no voice 'x'; GET /v1/voices lists all voices",
            "there is no voice 'x'; `voice-engine voices ls` lists the voices",
        ),
        (
            404,
            "/v1/children/x/recycle",
            "there is no worker called x; see /health",
            "there is no worker called x; `voice-engine status` lists what runs",
        ),
        (401, "/v1/tts", "send a key", "send a key; set VOICE_ENGINE_API_KEY, or add --key"),
        (
            403,
            "/v1/events",
            "no",
            "no; set VOICE_ENGINE_ADMIN_KEY to the operators' key",
        ),
        (400, "/v1/tts", "the text is empty", "the text is empty"),
        (
            503,
            "/v1/tts",
            "full",
            "full; `voice-engine status` and `voice-engine events` say more",
        ),
    ],
)
def test_an_error_is_the_services_words_and_what_to_do(
    status: int, path: str, detail: str, message: str
) -> None:
    error = refusal(_response(status, path, {"detail": detail}, **{"Retry-After": "3"}))
    assert (str(error), error.status, error.retry_after) == (message, status, 3.0)


@pytest.mark.parametrize("body", [{}, [], {"detail": ["x"]}, "nonsense"])
def test_an_error_without_words(body: Any) -> None:
    error = refusal(_response(400, "/v1/tts", body, **{"Retry-After": "soon"}))
    assert str(error) == "http://127.0.0.1:8000/v1/tts answers 400 Bad Request"
    assert error.retry_after is None


def _service(handler: Any) -> Service:
    transport = httpx.MockTransport(handler)
    return Service(httpx.Client(transport=transport, base_url="http://127.0.0.1:8000"))


def test_no_service_is_down() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused", request=request)

    with pytest.raises(DownError, match=r"Connection refused.*voice-engine serve.*--url") as raised:
        _service(refuse).json("GET", "/health")
    assert raised.value.code == 2


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[1]),
        httpx.Response(200, json={"status": "ok"}),
        httpx.Response(200, json={"children": [1], "models": {}}),
    ],
)
def test_another_program_at_the_address_is_down(response: httpx.Response) -> None:
    with pytest.raises(DownError, match="--url"):
        _service(lambda _: response).health()


def test_the_body_of_health_counts_also_when_no_model_serves() -> None:
    body: dict[str, Any] = {"children": [], "models": {}}
    assert _service(lambda _: httpx.Response(503, json=body)).health() == (503, body)


def test_a_redirect_is_no_answer() -> None:
    service = _service(lambda _: httpx.Response(301, headers={"Location": "https://a.example"}))
    with pytest.raises(RefusedError, match="301"), service.stream("POST", "/v1/tts"):
        pass


def test_a_refused_stream_says_why() -> None:
    service = _service(lambda _: httpx.Response(400, json={"detail": "the text is empty"}))
    with pytest.raises(RefusedError, match="the text is empty"), service.stream("POST", "/v1/tts"):
        pass
