"""The examples for nginx and Caddy, run by the real programs in front of the service."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.support.programs import needs_program
from tests.support.proxies import Proxy, proxied
from tests.support.service import (
    NET,
    Gate,
    RunningService,
    recording_form,
    running,
    script_form,
)

MB = 1024 * 1024
PROXIES = [
    pytest.param("nginx", marks=needs_program("nginx")),
    pytest.param("caddy", marks=needs_program("caddy")),
]


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running({"VOICE_ENGINE_QUEUE_SIZE": "1", "VOICE_ENGINE_CLIENT_SHARE": "1"}) as service:
        service.wait_ready()
        yield service


@pytest.fixture(scope="module", params=PROXIES)
def proxy(service: RunningService, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    with proxied(request.param, service.port) as proxy:
        yield proxy


async def test_speech_arrives_while_it_is_made(proxy: Proxy, gate: Gate) -> None:
    form = script_form(f"say 2; wait {gate}; say 2", stream="true")
    async with (
        aiohttp.ClientSession(proxy.url) as client,
        client.post("/v1/clone", data=form) as response,
    ):
        assert response.status == 200
        head = await response.content.readexactly(44 + 2 * 960)
        assert head[:4] == b"RIFF"
        gate.open()  # only now the worker goes on
        assert len(await response.content.read()) == 2 * 960


async def test_a_session_passes_while_it_goes_on(proxy: Proxy) -> None:
    async with (
        aiohttp.ClientSession(proxy.url) as client,
        client.ws_connect("/v1/tts/stream") as session,
    ):
        size = 0
        for text in ("say 2;\n\n", "say 3;\n\n"):
            await session.send_json({"type": "text", "text": text, "flush": True})
            while (message := await session.receive()).type is not aiohttp.WSMsgType.TEXT or (
                message.json()["type"] != "flushed"  # only then the next text is written
            ):
                size += len(message.data) if message.type is aiohttp.WSMsgType.BINARY else 0
        assert size == 2 * 44 + 5 * 960
        await session.send_json({"type": "end"})
        assert (await session.receive_json())["type"] == "done"


async def test_a_client_that_leaves_ends_its_request(proxy: Proxy, service: RunningService) -> None:
    form = script_form("say 2; sleep 600", stream="true")
    async with (
        aiohttp.ClientSession(proxy.url) as client,
        client.post("/v1/clone", data=form) as response,
    ):
        await response.content.readexactly(44 + 2 * 960)
    async with (
        aiohttp.ClientSession(proxy.url) as client,
        client.post("/v1/clone", data=script_form("say 1")) as response,
    ):
        assert response.status == 200


async def test_a_large_upload_passes(proxy: Proxy) -> None:
    async with (
        aiohttp.ClientSession(proxy.url) as client,
        client.post("/v1/transcribe", data=recording_form("pid", 20 * MB)) as response,
    ):
        assert response.status == 200
        assert json.loads((await response.json())["raw"])["bytes"] == 20 * MB


async def test_events_arrive_as_they_happen(proxy: Proxy, service: RunningService) -> None:
    async with (
        aiohttp.ClientSession(proxy.url) as client,
        client.get("/v1/events") as response,
    ):
        assert response.content_type == "text/event-stream"

        async def until(event: str, **fields: str) -> None:
            async for line in response.content:
                if line.startswith(b"data: "):
                    told = json.loads(line[6:])
                    if told["event"] == event and fields.items() <= told.items():
                        return
            raise AssertionError(f"the stream ended without {event}")

        await until("listening")
        (worker,) = service.children(model="stt")
        async with client.post(f"/v1/children/{worker['name']}/recycle") as answer:
            assert answer.status == 202
        await until("recycled", child=worker["name"])


async def test_a_refusal_passes_as_it_is(proxy: Proxy, gate: Gate, service: RunningService) -> None:
    async def speak(client: aiohttp.ClientSession) -> int:
        async with client.post("/v1/clone", data=script_form(f"wait {gate}; say 1")) as response:
            await response.read()
            return response.status

    async with aiohttp.ClientSession(proxy.url) as client:
        # One at a time, so that the second waits in the queue, which has room for one.
        running_one = asyncio.create_task(speak(client))
        await asyncio.to_thread(
            service.wait_until, lambda health: health["models"]["tts"]["in_flight"] == 1
        )
        waiting = asyncio.create_task(speak(client))
        await asyncio.to_thread(
            service.wait_until, lambda health: health["models"]["tts"]["queued"] == 1
        )
        async with client.post("/v1/clone", data=script_form("say 1")) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1
            assert (await response.json())["error"]["code"] == "overloaded"
        gate.open()
        assert [await running_one, await waiting] == [200, 200]


async def test_what_is_too_large_gets_the_services_own_error(proxy: Proxy) -> None:
    """A reference may have 50 MB. The answer comes in the middle of the upload."""

    async def send() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(bytes(64 * 1024))
                await writer.drain()

    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(
        b"POST /v1/clone HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n"
        b"Content-Length: %d\r\n\r\n--x\r\n" % (52 * MB)
    )
    sending = asyncio.create_task(send())
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    assert head.startswith(b"HTTP/1.1 413 ")
    assert length
    error = json.loads(await reader.readexactly(int(length[1])))
    assert error["error"]["code"] == "payload_too_large"
    sending.cancel()
    writer.transport.abort()


@pytest.mark.parametrize("path", ["/health", "/v1/nothing"])
async def test_the_id_of_a_request_passes(proxy: Proxy, path: str) -> None:
    async with aiohttp.ClientSession(proxy.url) as client:
        async with client.get(path, headers={"X-Request-Id": "order-17"}) as response:
            assert response.headers.getall("X-Request-Id") == ["order-17"]
        async with client.get(path) as response:
            assert len(response.headers["X-Request-Id"]) == 32


@pytest.mark.parametrize("name", PROXIES)
def test_operators_endpoints_can_be_closed(name: str, service: RunningService) -> None:
    def answers(url: str, method: str, path: str) -> int:
        request = urllib.request.Request(f"{url}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=NET) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    with proxied(name, service.port, closed=True) as closed:
        for method, path in (
            *(("GET", "/metrics"), ("GET", "/v1/events"), ("GET", "/v1/children")),
            ("PUT", "/v1/log-level"),
            ("POST", "/v1/children/tts-1/recycle"),
            ("POST", "/v1/models/tts/pause"),
        ):
            assert answers(closed.url, method, path) == 404, path
        for path in ("/health", "/v1/models", "/v1/models/tts-1", "/v1/audio/models"):
            assert answers(closed.url, "GET", path) == 200, path


# What the service does not show


class Upstream:
    """A server behind the same configuration, which notes what reaches it."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()  # the first part has been read
        self.connections: set[int] = set()
        self.headers: dict[str, str] = {}
        app = web.Application(client_max_size=10 * MB)
        app.router.add_post("/upload", self._upload)
        app.router.add_get("/stream", self._stream)
        app.router.add_get("/connection", self._connection)
        self.server = TestServer(app)

    async def _upload(self, request: web.Request) -> web.Response:
        size = len(await request.content.readany())
        self.begun.set()
        async for chunk in request.content.iter_any():
            size += len(chunk)
        return web.json_response(size)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(bytes(100))
        await self.begun.wait()
        await response.write(bytes(100))
        return response

    async def _connection(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        self.connections.add(request.transport.get_extra_info("peername")[1])
        self.headers = dict(request.headers)
        return web.Response()


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    made = Upstream()
    await made.server.start_server()
    yield made
    await made.server.close()


@pytest.fixture(params=PROXIES)
def before_upstream(upstream: Upstream, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    assert upstream.server.port is not None
    with proxied(request.param, upstream.server.port) as proxy:
        yield proxy


async def test_a_response_passes_while_it_is_made(
    before_upstream: Proxy, upstream: Upstream
) -> None:
    """Also one that does not ask proxies for that in a header."""
    async with (
        aiohttp.ClientSession(before_upstream.url) as client,
        client.get("/stream") as response,
    ):
        assert len(await response.content.readexactly(100)) == 100
        upstream.begun.set()  # the rest is made once the first part has come
        assert len(await response.content.read()) == 100


async def test_an_upload_is_read_while_it_arrives(
    before_upstream: Proxy, upstream: Upstream
) -> None:
    async def sound() -> AsyncIterator[bytes]:
        yield bytes(1000)
        await upstream.begun.wait()  # the rest is sent once the first part has been read
        yield bytes(1000)

    async with (
        aiohttp.ClientSession(before_upstream.url) as client,
        client.post("/upload", data=sound()) as response,
    ):
        assert await response.json() == 2000


async def test_connections_to_the_service_are_kept(
    before_upstream: Proxy, upstream: Upstream
) -> None:
    for _ in range(10):
        async with (
            aiohttp.ClientSession(before_upstream.url) as client,
            client.get("/connection") as response,
        ):
            assert response.status == 200
    # A response may come before its connection is free again, but not each time.
    assert len(upstream.connections) < 10
    assert upstream.headers["X-Forwarded-For"] == "127.0.0.1"
    assert upstream.headers["X-Forwarded-Proto"] == "http"
    assert upstream.headers.get("Connection", "keep-alive") == "keep-alive"


# Upgrades


@pytest.mark.parametrize("name", PROXIES)
async def test_an_upgrade_costs_no_request(name: str, gate: Gate) -> None:
    """As docs/operations.md tells: start the new one, tell the proxy, stop the old one."""
    statuses: dict[int, list[int]] = {number: [] for number in range(4)}
    stopped = asyncio.Event()
    clients: list[asyncio.Task[None]] = []

    async def use(url: str, mine: list[int]) -> None:
        # A proxy that reads its configuration closes idle connections, maybe just when one is used.
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(url, connector=connector) as client:
            while not stopped.is_set():
                # A new connection may meet a proxy that is just reading its configuration.
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    async with client.post("/v1/clone", data=script_form("say 1")) as response:
                        await response.read()
                        mine.append(response.status)

    async def all_begin_anew() -> None:
        """All requests that have begun by now are finished, and others have followed."""
        before = {number: len(mine) for number, mine in statuses.items()}
        while any(len(statuses[number]) < count + 2 for number, count in before.items()):
            assert not any(client.done() for client in clients), clients
            await asyncio.sleep(0.01)

    two = {"VOICE_ENGINE_TTS_WORKERS": "2"}  # one of them stays busy with the stream
    with running(two) as old, running(two) as new:
        old.wait_ready()
        new.wait_ready()
        with proxied(name, old.port) as proxy:
            clients += [asyncio.create_task(use(proxy.url, mine)) for mine in statuses.values()]
            async with aiohttp.ClientSession(proxy.url) as client:
                form = script_form(f"say 2; wait {gate}; say 2", stream="true")
                async with client.post("/v1/clone", data=form) as stream:
                    await stream.content.readexactly(44 + 2 * 960)
                    proxy.configure(new.port)
                    await asyncio.to_thread(proxy.reload)
                    await all_begin_anew()
                    old.process.send_signal(signal.SIGTERM)
                    await asyncio.to_thread(old.wait_for, "stopping")
                    gate.open()
                    assert len(await stream.content.read()) == 2 * 960
            assert await asyncio.to_thread(old.stop) == 0
            await all_begin_anew()
            stopped.set()
            await asyncio.gather(*clients)
    assert {status for mine in statuses.values() for status in mine} == {200}
