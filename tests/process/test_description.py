"""The description of the HTTP API: whole, true of the service, and readable at /docs."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import aiohttp
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from ipc.errors import ErrorCode
from supervisor.app import build_app
from supervisor.http.api.operation import ALL_OPERATIONS, JSON
from supervisor.service import VERSION, Service
from tests.support.service import MINIMAL, NET, RunningService, running

KEY = "k-1f0c"
OPERATORS = (
    *("/recycle", "/kill", "/scale", "/reload", "/pause", "/resume", "/unload"),
    *("/v1/log-level", "/v1/events", "/v1/children", "/metrics"),
)
"""How the paths end that need the operators' key, if there is one."""
Json = dict[str, Any]


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    """The minimal engines, behind a key."""
    with running({**MINIMAL, "VOICE_ENGINE_API_KEY": KEY}) as service:
        service.wait_ready()
        yield service


async def get(service: RunningService, path: str) -> tuple[aiohttp.ClientResponse, bytes]:
    """Without a key, as a browser asks."""
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.get(path) as response,
    ):
        return response, await response.read()


@pytest.fixture(scope="module")
def document(service: RunningService) -> Json:
    with urllib.request.urlopen(f"{service.url}/openapi.json", timeout=NET) as response:
        made: Json = json.load(response)
    return made


def operations(document: Json) -> Iterator[tuple[str, Json]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def contents(document: Json) -> Iterator[tuple[str, Json]]:
    """All media types of bodies and answers, with a name for messages."""
    for name, operation in operations(document):
        for media, content in operation.get("requestBody", {}).get("content", {}).items():
            yield f"{name} {media}", content
        for status, answer in operation["responses"].items():
            for media, content in answer.get("content", {}).items():
                yield f"{name} {status} {media}", content
    for status, answer in document["components"]["responses"].items():
        yield status, answer["content"][JSON]


def problems(document: Json, schema: Json, value: Any) -> list[str]:
    """What of `value` is not as `schema`, a part of the document, says."""
    registry = Registry().with_resource(
        "urn:document", Resource.from_contents(document, default_specification=DRAFT202012)
    )
    # References are to the document, whose own place they are looked up in.
    absolute = json.loads(json.dumps(schema).replace('"#/', '"urn:document#/'))
    validator = Draft202012Validator(absolute, registry=registry)
    return [error.message for error in validator.iter_errors(value)]


def test_it_is_openapi(document: Json) -> None:
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["version"] == VERSION
    validate(document)


def test_every_route_is_in_it_and_nothing_else(document: Json) -> None:
    app = build_app(Service.__new__(Service))
    routes = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None
    }
    described = {tuple(name.split(" ")) for name, _ in operations(document)}
    assert len(app[ALL_OPERATIONS]) == len(described)
    # HEAD comes with every GET; the text says so once.
    assert "**HEAD**" in document["info"]["description"]
    assert routes == described | {("HEAD", path) for method, path in described if method == "GET"}


def test_operations_have_names_of_their_own(document: Json) -> None:
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(ids)) == len(ids)
    # Generated clients name their methods after them: these may not change.
    assert {"clone", "tts", "transcribe", "list_voices", "register", "health"} <= set(ids)
    assert all(re.fullmatch("[a-z_]+", each) for each in ids)


def test_everything_is_explained(document: Json) -> None:
    described = {tag["name"] for tag in document["tags"] if tag["description"]}
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        assert set(operation["tags"]) <= described, name


def test_every_json_has_an_example_that_is_true_to_its_schema(document: Json) -> None:
    for name, content in contents(document):
        if "$ref" in content["schema"]:
            assert "example" in content, name
        if "example" in content and "$ref" in content["schema"]:
            assert problems(document, content["schema"], content["example"]) == [], name


def test_errors_are_as_the_service_sends_them(document: Json) -> None:
    answers = document["components"]["responses"]
    codes = {code.status for code in ErrorCode} - {405, 499}  # no operation, no reader
    assert {int(status) for status in answers} == codes
    for status, answer in answers.items():
        error = answer["content"][JSON]["example"]["error"]
        assert ErrorCode[error["code"]].status == int(status)
        assert ErrorCode[error["code"]].type == error["type"]


def test_what_needs_a_key_says_so(document: Json) -> None:
    for name, operation in operations(document):
        path = name.partition(" ")[2]
        is_open = path == "/" or path.startswith(
            ("/health", "/livez", "/readyz", "/docs", "/op", "/page/")
        )
        assert ("security" in operation) is not is_open, name
        assert ("401" in operation["responses"]) is not is_open, name
        some_keys = name in ("DELETE /v1/voices/{voice_id}", "POST /v1/voices/{voice_id}/edit")
        is_session = "101" in operation["responses"]  # pages of strangers may not open one
        for_some = name.endswith(OPERATORS) or some_keys or is_session
        assert ("403" in operation["responses"]) is for_some, name


async def test_health_is_as_described(service: RunningService, document: Json) -> None:
    response, body = await get(service, "/health")
    schema = answer_schema(document, "/health", "get", response)
    assert problems(document, schema, json.loads(body)) == []
    assert problems(document, schema, {"status": "well"}) != []


TEXT = "The quick brown fox jumps over the lazy dog."
TRANSCRIPTIONS: dict[str, dict[str, str]] = {
    "/v1/transcribe": {"timestamps": "true", "words": "true"},
    "/v1/audio/transcriptions": {"model": "whisper-1", "response_format": "verbose_json"},
    "/v1/speech-to-text": {"model_id": "scribe_v1"},
}


@pytest.mark.parametrize("path", TRANSCRIPTIONS)
async def test_transcripts_are_as_described(
    service: RunningService, document: Json, path: str
) -> None:
    async with aiohttp.ClientSession(service.url, headers={"X-API-Key": KEY}) as client:
        async with client.post("/v1/tts", json={"text": TEXT}) as spoken:
            assert spoken.status == 200
            described = document["paths"]["/v1/tts"]["post"]["responses"]["200"]["headers"]
            assert "Server-Timing" in described
            absent = [name for name in described if name not in spoken.headers]
            assert set(absent) <= {"X-Voice-Approximation", "X-Voice-Engine-Warning"}
            form = aiohttp.FormData(TRANSCRIPTIONS[path])
            form.add_field("file", await spoken.read(), filename="speech.wav")
        async with client.post(path, data=form) as response:
            transcript = await response.json()
    assert "fox" in transcript["text"]
    schema = answer_schema(document, path, "post", response)
    assert problems(document, schema, transcript) == []
    assert problems(document, schema, {"text": 1}) != []


def answer_schema(document: Json, path: str, method: str, response: aiohttp.ClientResponse) -> Json:
    answer = document["paths"][path][method]["responses"][str(response.status)]
    schema: Json = answer["content"][response.content_type]["schema"]
    return schema


class Page(HTMLParser):
    """What a page loads, and whether scripts stand in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loads: set[str] = set()
        self.tags: set[str] = set()
        self.inline = ""
        self._in_script = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._in_script = tag == "script"
        for name, value in attrs:
            assert not name.startswith("on"), f"{name} is an inline script"
            if name in ("src", "href", "spec-url") and value:
                self.loads.add(value)

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.inline += data


async def test_the_page_needs_nothing_but_the_service(service: RunningService) -> None:
    response, body = await get(service, "/docs")
    assert (response.status, response.content_type) == (200, "text/html")
    page = Page(body.decode())
    assert "rapi-doc" in page.tags
    assert page.inline.strip() == ""
    assert page.loads == {"docs/rapidoc-min.js", "openapi.json", "data:,"}
    for path in page.loads - {"data:,"}:
        loaded, content = await get(service, f"/{path}")
        assert (loaded.status, len(content) > 10_000) == (200, True)
        assert loaded.headers["X-Request-Id"]


async def test_a_browser_may_load_nothing_else_for_it(service: RunningService) -> None:
    for path in ("/docs", "/docs/rapidoc-min.js"):
        response, _ = await get(service, path)
        policy = dict(
            part.strip().split(" ", 1)
            for part in response.headers["Content-Security-Policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == "'none'"
        assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_file_that_has_not_changed_is_not_sent_again(service: RunningService) -> None:
    response, _ = await get(service, "/docs/rapidoc-min.js")
    async with aiohttp.ClientSession(service.url) as client:
        headers = {"If-None-Match": response.headers["ETag"]}
        async with client.get("/docs/rapidoc-min.js", headers=headers) as again:
            assert (again.status, await again.read()) == (304, b"")


@pytest.mark.parametrize(
    "path", ["/docs/docs.html", "/docs/..%2f..%2fapp.py", "/docs/", "/docs/rapidoc-min.js/x"]
)
async def test_the_page_has_no_other_files(service: RunningService, path: str) -> None:
    async with (
        aiohttp.ClientSession(service.url) as client,
        client.get(path, headers={"X-API-Key": KEY}) as response,
    ):
        assert response.status == 404


async def test_it_costs_the_front_next_to_nothing(service: RunningService) -> None:
    before = service.health()["memory"]["front_rss_mb"]
    for _ in range(20):
        for path in ("/openapi.json", "/docs", "/docs/rapidoc-min.js"):
            await get(service, path)
    assert service.health()["memory"]["front_rss_mb"] < before + 10  # 13 MB if it kept each file
