"""What attackers send: broken HTTP, huge and slow requests, paths in every field.

No answer is a failure of the service, /health answers throughout, and nothing is left behind: no
file, no descriptor, no memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import psutil
import pytest

from supervisor.app import build_app
from supervisor.http.api.operation import ALL_OPERATIONS, FORM, JSON, Operation
from supervisor.http.api.read import wire_names
from supervisor.service import Service
from tests.support.mutations import chirp
from tests.support.service import NET, RunningService, running

OPERATIONS = build_app(Service.__new__(Service))[ALL_OPERATIONS]
RECORDING = chirp()
SECRET = "the canary sings at midnight"
ENGINES = {
    "VOICE_ENGINE_TTS_ENGINE": "tests.support.listening_engines:Hum",
    "VOICE_ENGINE_STT_ENGINE": "tests.support.listening_engines:Meter",
}


class Sandbox:
    """A service whose folders lie beside files that are none of its business."""

    def __init__(self, service: RunningService, folder: Path) -> None:
        self.service = service
        self.folder = folder
        self.front = psutil.Process(service.process.pid)

    def strangers(self) -> dict[str, str]:
        """All files but the service's own, with what is in them."""
        own = ("voices", "spool")
        return {
            str(path.relative_to(self.folder)): path.read_text()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and path.relative_to(self.folder).parts[0] not in own
        }


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("sandbox")
    for name in ("secret", "secret.json", "voices.json", "spool.wav"):
        (folder / name).write_text(SECRET)
    (folder / "spool").mkdir()
    settings = {
        **ENGINES,
        "VOICES_DIR": str(folder / "voices"),
        "VOICE_ENGINE_SPOOL_DIR": str(folder / "spool"),
        "VOICE_ENGINE_SPOOL_THRESHOLD_KB": "8",
        "VOICE_ENGINE_MAX_REFERENCE_MB": "2",
        "VOICE_ENGINE_LOG_LEVEL": "debug",
    }
    with running(settings) as service:
        service.wait_ready()
        sandbox = Sandbox(service, folder)
        before = sandbox.strangers()
        pids = [child["pid"] for child in service.children()]
        with watched(service):
            service.health()
            descriptors = sandbox.front.num_fds()
            yield sandbox
            service.wait_until(lambda _: sandbox.front.num_fds() <= descriptors)
        assert [child["pid"] for child in service.children()] == pids
        assert [e for e in service.events if e.get("level") == "error"] == []
        assert [e for e in service.events if e["event"] in ("worker_died", "not_json")] == []
        assert sandbox.strangers() == before
        spooled = [path.name for path in (folder / "spool").rglob("*") if path.is_file()]
        assert spooled == ["lock"]


@contextlib.contextmanager
def watched(service: RunningService) -> Iterator[None]:
    """/health answers throughout, and the front's memory stays small."""
    stop = threading.Event()
    front = psutil.Process(service.process.pid)
    seen: list[tuple[float, float]] = []
    failures: list[Exception] = []

    def computed() -> float:
        times = front.cpu_times()
        return float(times.user + times.system)

    def watch() -> None:
        while not stop.wait(0.05):
            before = computed()
            try:
                health = service.health()
            except Exception as error:
                failures.append(error)
                return
            seen.append((computed() - before, health["memory"]["front_rss_mb"]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join(NET)
    assert failures == []
    # How long it waits depends on what else the machine does, but not what is computed meanwhile.
    assert max(seconds for seconds, _ in seen) < 20
    first, highest = seen[0][1], max(megabytes for _, megabytes in seen)
    assert highest < first + 24


def head(method: str, path: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode("latin-1")


@contextlib.asynccontextmanager
async def connected(
    service: RunningService, *, buffer: int | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection; the kernel keeps at most `buffer` bytes for the reader, if that is given."""
    client = socket.socket()
    client.setblocking(False)
    if buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", service.port))
    reader, writer = await asyncio.open_connection(sock=client)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def raw(service: RunningService, request: bytes) -> bytes:
    """All that comes back until the service closes, which it must do by itself."""
    async with connected(service) as (reader, writer), asyncio.timeout(NET):
        writer.write(request)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while data := await reader.read(65_536):
                answer += data
        return answer


def statuses(answer: bytes) -> list[int]:
    """The status lines in what came back."""
    pieces = answer.split(b"HTTP/1.")[1:]
    return [int(piece[2:5]) for piece in pieces]


def error_code(answer: bytes) -> str:
    """The code of the only answer, an error, whose shape is checked."""
    first, body = answer.split(b"\r\n\r\n", 1)
    assert b"\r\nContent-Type: application/json" in first
    assert b"\r\nX-Request-I" in first
    error = json.loads(body)
    assert error["detail"] == error["error"]["message"]
    code: str = error["error"]["code"]
    return code


# What is no HTTP.

JSON_TYPE = "Content-Type: application/json"
TTS = (JSON_TYPE, "Connection: close")
CHUNKED = "Transfer-Encoding: chunked"
GET_NEXT = head("GET", "/v1/voices")

BROKEN = {
    "garbage": b"GARBAGE\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "http 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "another version": b"GET /livez HTTP/9.9\r\nHost: x\r\n\r\n",
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "bare line feeds": b"GET /livez HTTP/1.1\nHost: x\n\n",
    "a star": b"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
    "a null byte in the path": b"GET /livez\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a null byte in a name": head("GET", "/livez", "X-\0A: b"),
    "a null byte in a value": head("GET", "/livez", "Authorization: Bearer k-secret\0"),
    "a carriage return in a value": head("GET", "/livez", "X-A: b\rX-API-Key: c"),
    "a blank in a name": head("GET", "/livez", "X-A : b"),
    "a folded header": head("GET", "/livez", "X-A: b", " c"),
    "no colon": head("GET", "/livez", "X-A"),
    "no name": head("GET", "/livez", ": b"),
    "a huge path": head("GET", "/" + "a" * 100_000),
    "a huge value": head("GET", "/livez", "X-API-Key: k-secret" + "a" * 100_000),
    "a huge name": head("GET", "/livez", "X" * 100_000 + ": b"),
    "many headers": head("GET", "/livez", *["X-A: b"] * 10_000),
    "a negative length": head("POST", "/v1/tts", *TTS, "Content-Length: -5"),
    "a length with a sign": head("POST", "/v1/tts", *TTS, "Content-Length: +2") + b"{}",
    "a hexadecimal length": head("POST", "/v1/tts", *TTS, "Content-Length: 0x2") + b"{}",
    "a length with an underscore": head("POST", "/v1/tts", *TTS, "Content-Length: 1_0"),
    "a list of lengths": head("POST", "/v1/tts", *TTS, "Content-Length: 2, 2") + b"{}",
    "a length beyond all numbers": head("POST", "/v1/tts", *TTS, "Content-Length: 9" + "9" * 40),
    "two lengths": head("POST", "/v1/tts", *TTS, "Content-Length: 2", "Content-Length: 3") + b"{}",
    "chunks that are none": head("POST", "/v1/tts", *TTS, CHUNKED) + b"ZZ\r\n{}\r\n0\r\n\r\n",
    "a chunk beyond all numbers": head("POST", "/v1/tts", *TTS, CHUNKED) + b"f" * 30 + b"\r\n{}",
    "a negative chunk": head("POST", "/v1/tts", *TTS, CHUNKED) + b"-2\r\n{}\r\n0\r\n\r\n",
    "a chunk longer than it says": head("POST", "/v1/tts", *TTS, CHUNKED) + b"1\r\n{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_is_no_http(sandbox: Sandbox, name: str) -> None:
    answer = await raw(sandbox.service, BROKEN[name])
    assert statuses(answer) == [400]
    assert error_code(answer) == "invalid_request"
    assert b"k-secret" not in answer


def test_none_of_it_is_logged(sandbox: Sandbox) -> None:
    sandbox.service.wait_for("no_http")
    assert "k-secret" not in str(sandbox.service.events)


BODY = b'{"text": "Hm."}'
SMUGGLED = {
    "length, then chunks": (f"Content-Length: {len(BODY)}", CHUNKED),
    "chunks, then length": (CHUNKED, f"Content-Length: {len(BODY)}"),
    "chunks by another name": ("Transfer-Encoding: xchunked", f"Content-Length: {len(BODY)}"),
    "chunks and identity": ("Transfer-Encoding: chunked, identity",),
    "chunks twice": (CHUNKED, CHUNKED),
    "chunks after a tab": ("Transfer-Encoding:\tchunked", f"Content-Length: {len(BODY)}"),
    "chunks after an odd blank": (
        "Transfer-Encoding: \x0bchunked",
        f"Content-Length: {len(BODY)}",
    ),
    "chunks with a blank before the colon": ("Transfer-Encoding : chunked",),
    "chunks in a folded line": ("Transfer-Encoding:", " chunked", f"Content-Length: {len(BODY)}"),
    "chunks in capitals and length": ("TRANSFER-ENCODING: CHUNKED", "content-length: 4"),
    "lengths that differ": (f"Content-Length: {len(BODY)}", "Content-Length: 0"),
    "a length of zero in two ways": ("Content-Length: 00", "Content-Length: 0, 4"),
}


@pytest.mark.parametrize("name", SMUGGLED)
async def test_no_request_hides_in_another(sandbox: Sandbox, name: str) -> None:
    smuggling = head("POST", "/v1/tts", "Content-Type: application/json", *SMUGGLED[name])
    chunk = b"0\r\n\r\n"
    answer = await raw(sandbox.service, smuggling + chunk + GET_NEXT)
    assert statuses(answer) == [400]
    assert b'"voices"' not in answer


async def test_a_request_in_single_bytes(sandbox: Sandbox) -> None:
    request = head("POST", "/v1/tts", *TTS, f"Content-Length: {len(BODY)}") + BODY
    async with connected(sandbox.service) as (reader, writer):
        for byte in request:
            writer.write(bytes([byte]))
            await writer.drain()
        assert statuses(await reader.read()) == [200]


async def test_a_form_in_single_bytes(sandbox: Sandbox) -> None:
    body = b"".join([*part("text", b"Hm."), *part("reference_audio", RECORDING[:2_000]), END])
    request = head("POST", "/v1/clone", FORM_TYPE, f"Content-Length: {len(body)}") + body
    async with connected(sandbox.service) as (reader, writer):
        for byte in request:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        # It has come whole: what is wrong with it is that the recording is cut short.
        answer = await reader.readuntil(b"}}")
    assert error_code(answer) == "invalid_audio"


@pytest.mark.parametrize(
    "break_", [b"ZZ\r\n", b"-1\r\n", b"2\r\n{}XX", b"f" * 40, b"\0\0\r\n", b"0\r\nX-A\0: b\r\n\r\n"]
)
@pytest.mark.parametrize("path", ["/v1/tts", "/v1/audio/speech", "/v1/clone"])
async def test_chunks_that_break_half_way(sandbox: Sandbox, path: str, break_: bytes) -> None:
    media = FORM_TYPE if path == "/v1/clone" else "Content-Type: application/json"
    async with connected(sandbox.service) as (reader, writer), asyncio.timeout(NET):
        writer.write(head("POST", path, media, CHUNKED, "Expect: 100-continue"))
        # The service waits for the body, so that what follows breaks an open request.
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"5\r\n--x\r\n\r\n" + break_)
        answer = await reader.read()
    assert statuses(answer)[0] == 400
    assert max(statuses(answer)) < 500


# Bodies.

FORM_TYPE = "Content-Type: multipart/form-data; boundary=x"
END = b"--x--\r\n"


def part(name: str, data: bytes, more: str = "") -> list[bytes]:
    disposition = f'--x\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return [disposition.encode(), data, b"\r\n"]


async def post(service: RunningService, path: str, body: bytes, *headers: str) -> tuple[int, str]:
    """Status and error code of the answer, which may come before all of the body has gone out."""
    request = head("POST", path, *headers, f"Content-Length: {len(body)}", "Connection: close")
    async with connected(service) as (reader, writer), asyncio.timeout(NET):
        writer.write(request + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        [status] = statuses(answer)
        if status == 200:
            assert await reader.read() != b""
            return 200, ""
        length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return status, error_code(answer + await reader.readexactly(length))


NESTED = 100_000
JSON_BODIES: dict[str, tuple[bytes, set[int]]] = {
    "arrays in arrays": (b"[" * NESTED, {400}),
    "closed arrays in arrays": (b"[" * NESTED + b"]" * NESTED, {400}),
    "objects in objects": (b'{"text":' * 50_000 + b"1" + b"}" * 50_000, {400}),
    "arrays in a field": (b'{"text":' + b"[" * NESTED + b"]" * NESTED + b"}", {400}),
    "arrays in an unknown field": (
        b'{"text":"a","x":' + b"[" * NESTED + b"]" * NESTED + b"}", {400}),
    "10 MB": (b'{"text":"' + b"a" * 10_000_000 + b'"}', {413}),
    "10 MB of blanks": (b" " * 10_000_000 + b'{"text":"a"}', {413}),
    "invalid UTF-8": (b'{"text":"\xff\xfe"}', {400}),
    "UTF-8 that is too long": (b'{"text":"\xc0\xaf"}', {400}),
    "half a surrogate pair": (b'{"text":"\\ud800"}', {400}),
    "half a surrogate pair in a text": (b'{"text":"Hi \\ud800 you"}', {200}),
    "half a surrogate pair in UTF-8": (b'{"text":"\xed\xa0\x80"}', {400}),
    "a byte order mark": (b'\xef\xbb\xbf{"text":"a"}', {400}),
    "UTF-16": ('{"text":"a"}'.encode("utf-16"), {400}),
    "NaN": (b'{"text":"a","speed":NaN}', {400}),
    "Infinity": (b'{"text":"a","speed":Infinity}', {400}),
    "-Infinity": (b'{"text":"a","temperature":-Infinity}', {400}),
    "a number beyond all": (b'{"text":"a","speed":1e999}', {400}),
    "a number of 10,000 digits": (b'{"text":"a","seed":' + b"9" * 10_000 + b"}", {400}),
    "the same key twice": (b'{"text":"a","text":"b"}', {200}),
    "a null byte": (b'{"text":"\\u0000"}', {200, 400}),
    "a bare null byte": (b'{"text":"a\0"}', {400}),
    "nothing": (b"", {400}),
    "null": (b"null", {400}),
    "a list": (b'[{"text":"a"}]', {400}),
    "two objects": (b'{"text":"a"}{"text":"b"}', {400}),
    "100,000 keys": (
        b"{" + b",".join(b'"%d":1' % number for number in range(40_000)) + b"}", {400}),
    "__proto__": (b'{"text":"a","__proto__":{"admin":1},"__class__":1}', {400}),
}  # fmt: skip


@pytest.mark.parametrize("name", JSON_BODIES)
async def test_json_that_hurts(sandbox: Sandbox, name: str) -> None:
    body, expected = JSON_BODIES[name]
    status, _ = await post(sandbox.service, "/v1/tts", body, JSON_TYPE)
    assert status in expected
    # Where unknown fields are ignored, a body may also be what was meant.
    as_openai = body.replace(b'"text"', b'"model":"m","voice":"alloy","input"', 1)
    status, _ = await post(sandbox.service, "/v1/audio/speech", as_openai, JSON_TYPE)
    assert status in expected | {200, 404}


@cache
def bomb() -> bytes:
    """200 MB of zeros in 200 KB."""
    return gzip.compress(bytes(200_000_000), 9)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "x", "\u00fc"])
@pytest.mark.parametrize("path", ["/v1/tts", "/v1/clone"])
async def test_compressed_bodies(sandbox: Sandbox, encoding: str, path: str) -> None:
    media = JSON_TYPE if path == "/v1/tts" else FORM_TYPE
    opening = b"".join(part("reference_audio", b"", '; filename="a"'))[:-2]
    small = gzip.compress(b'{"text"' if path == "/v1/tts" else opening)
    for body in (bomb(), small, small + bomb(), b"no such thing"):
        coding = f"Content-Encoding: {encoding}"
        status, _ = await post(sandbox.service, path, body, media, coding)
        assert status in (400, 413, 415)


FORMS: dict[str, tuple[Sequence[bytes | Callable[[], bytes]], set[int]]] = {
    "10,000 fields": ([*part("text", b"a")] * 10_000 + [END], {400}),
    "10,000 unknown fields": (
        [piece for n in range(10_000) for piece in part(f"f{n}", b"a")] + [END], {400}),
    "10,000 files": ([*part("file", b"a", '; filename="a"')] * 10_000 + [END], {400}),
    "10,000 list fields": ([*part("include[]", b"a")] * 10_000 + [END], {400}),
    "fields of 200 KB": ([*part("include[]", b"a" * 200_000)] * 100 + [END], {400, 413}),
    "ignored fields of 200 KB": ([*part("other", b"a" * 200_000)] * 100 + [END], {400, 413}),
    "a name of 1 MB": ([*part("a" * 1_000_000, b"a"), END], {400}),
    "a name with a null byte": ([*part("te\0xt", b"a"), END], {400}),
    "a name that is none": ([b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n", END], {400}),
    "a null byte in the text": ([*part("text", b"a\0b"), *part("language", b"\0"), END], {400}),
    "no end": ([*part("file", RECORDING, '; filename="a"')], {400}),
    "no line": ([b"a" * 3_000_000], {400, 413}),
    "only boundaries": ([b"--x\r\n"] * 100_000, {400}),
    "forms in forms": (
        [b"--x\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n"] * 1_000 + [END], {400}),
    "a length in a part": (
        [b"--x\r\nContent-Disposition: form-data; name=file\r\nContent-Length: -1\r\n\r\na\r\n",
         END], {400}),
    "a giant length in a part": (
        [b"--x\r\nContent-Disposition: form-data; name=file\r\nContent-Length: 99999999999\r\n\r\n"
         b"a\r\n", END], {400}),
    "an encoding in a part": (
        [b"--x\r\nContent-Disposition: form-data; name=file\r\nContent-Encoding: gzip\r\n\r\n",
         bomb, b"\r\n", END], {400, 413}),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    "path", ["/v1/transcribe", "/v1/audio/transcriptions", "/v1/speech-to-text"]
)
async def test_forms_that_hurt(sandbox: Sandbox, path: str, name: str) -> None:
    pieces, expected = FORMS[name]
    form = b"".join(piece if isinstance(piece, bytes) else piece() for piece in pieces)
    status, _ = await post(sandbox.service, path, form, FORM_TYPE)
    assert status in expected


@pytest.mark.parametrize("boundary", ["", "y" * 70, "y" * 5_000, "\u00fc", '"', "\\", "x;x", "x "])
async def test_boundaries(sandbox: Sandbox, boundary: str) -> None:
    body = b"".join([*part("file", RECORDING, '; filename="a"'), END])
    media = f'Content-Type: {FORM}; boundary="{boundary}"'
    answer = await post(sandbox.service, "/v1/transcribe", body, media)
    assert answer in ((400, "invalid_request"), (400, "missing_field"), (200, ""))


async def test_an_upload_that_never_ends_is_refused(sandbox: Sandbox) -> None:
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    opening = b"".join(part("reference_audio", b"", '; filename="a"'))[:-2]
    async with connected(sandbox.service) as (reader, writer), asyncio.timeout(NET):
        writer.write(head("POST", "/v1/clone", FORM_TYPE, CHUNKED))
        writer.write(b"%x\r\n%s\r\n" % (len(opening), opening))
        answer = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
        sent = 0
        with contextlib.suppress(ConnectionError):  # it is cut off while it sends
            while not answer.done():
                writer.write(chunk)
                await writer.drain()
                sent += len(chunk)
        assert statuses(await answer) == [413]
    assert sent < 50_000_000


# Slow clients.

CROWD = 50


async def test_slow_uploads_hold_no_worker(sandbox: Sandbox) -> None:
    service = sandbox.service
    before = {child["name"]: child["requests"] for child in service.children()}
    async with contextlib.AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(connected(service)) for _ in range(CROWD)]
        for number, (_, writer) in enumerate(crowd):
            path = ("/v1/clone", "/v1/transcribe", "/v1/audio/transcriptions")[number % 3]
            writer.write(head("POST", path, FORM_TYPE, "Content-Length: 100000", WAIT))
        for reader, writer in crowd:
            # It listens to all of them: each gets its byte, and is waited for.
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"-")
        health = service.health()
        assert {
            child["state"] for child in health["children"] if child["requests"] is not None
        } == {"IDLE"}
        assert [model["in_flight"] for model in health["models"].values()] == [0, 0]
        status, _ = await post(sandbox.service, "/v1/tts", BODY, JSON_TYPE)
        assert status == 200
        for reader, _ in crowd:
            assert statuses(await reader.read()) == [408]
    after = {child["name"]: child["requests"] for child in service.children()}
    assert after == {**before, "tts-1": before["tts-1"] + 1}


WAIT = "Expect: 100-continue\r\nX-Request-Timeout: 10"
"""Time enough to send what the others do not wait for."""


@pytest.fixture(scope="module")
def impatient() -> Iterator[RunningService]:
    settings = {
        **ENGINES,
        # Time enough for those that do send their heads.
        "VOICE_ENGINE_IDLE_TIMEOUT": "4",
        "VOICE_ENGINE_REQUEST_TIMEOUT": "1",
    }
    with running(settings) as service:
        service.wait_ready()
        with watched(service):
            yield service


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /livez HTTP/1.1\r\nHost: x\r\nX-A: ", BODY[:1]])
async def test_a_connection_that_sends_no_head_is_ended(
    impatient: RunningService, sent: bytes
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(connected(impatient)) for _ in range(CROWD)]
        for _, writer in crowd:
            writer.write(sent)
        for reader, _ in crowd:
            async with asyncio.timeout(NET):
                with contextlib.suppress(ConnectionResetError):
                    assert (await reader.read())[:12] in (b"", b"HTTP/1.0 400")


async def test_so_is_one_that_sends_no_more(impatient: RunningService) -> None:
    async with connected(impatient) as (reader, writer), asyncio.timeout(NET):
        writer.write(head("GET", "/livez"))
        assert statuses(await reader.read()) == [200]


async def test_a_client_that_does_not_read_is_cut_off(impatient: RunningService) -> None:
    front = psutil.Process(impatient.process.pid)
    impatient.health()
    before = front.num_fds()
    async with connected(impatient, buffer=64 * 1024) as (reader, writer):
        # More than all buffers between the two hold.
        writer.write(head("GET", "/docs/rapidoc-min.js") * 40)
        await writer.drain()
        impatient.wait_until(lambda _: front.num_fds() <= before)
        with contextlib.suppress(ConnectionResetError):
            assert len(await reader.read()) < 20_000_000


async def test_hundreds_of_connections(sandbox: Sandbox) -> None:
    async with contextlib.AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(connected(sandbox.service)) for _ in range(500)]
        for _, writer in crowd:
            writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n")
        status, _ = await post(sandbox.service, "/v1/tts", BODY, JSON_TYPE)
        assert status == 200
        for _, writer in crowd:
            writer.write(b"\r\n")
        for reader, _ in crowd:
            assert await reader.readuntil(b"}") != b""


# Paths.

PATHS = (
    "../secret",
    "../../../../../../../../etc/passwd",
    "/etc/passwd",
    "..%2fsecret",
    "%2e%2e%2fsecret",
    "..%252fsecret",
    "....//secret",
    "..\\secret",
    "..\u2215secret",
    "\uff0e\uff0e\uff0fsecret",
    "..\0secret",
    "secret\0.wav",
    "file:///etc/passwd",
    "~root",
    "/proc/self/environ",
    "|id",
    "$(id)",
    ".",
    "..",
    "-rf",
)
GOOD: dict[str, Any] = {
    "text": "Hm.",
    "input": "Hm.",
    "model": "tts-1",
    "voice": "alloy",
    "voice_id": "anna",
    "name": "Anna",
    "workers": 1,
    "level": "info",
}


def absolute(sandbox: Sandbox) -> tuple[str, ...]:
    return (*PATHS, str(sandbox.folder / "secret"), f"file://{sandbox.folder}/secret")


def requests_with(declared: Operation[Any, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Requests of an operation with `path` in each of its places, one by one."""
    names = wire_names(declared.params)
    in_path = [name for name in names if f"{{{name}}}" in declared.path]
    in_query = [name for name in names if name not in in_path]
    plain = declared.path.format(**dict.fromkeys(in_path, "anna"))
    end = "follow=false" if "follow" in names else ""  # else it would never end
    for name in in_path:
        for spelling in (path, quote(path, safe="")):
            given = declared.path.format(**{**dict.fromkeys(in_path, "anna"), name: spelling})
            yield given, body(declared)
    for name in in_query:
        yield f"{plain}?{end}&{name}={quote(path, safe='')}", body(declared)
    if declared.media:
        for name in wire_names(declared.body):
            yield plain, body(declared, **{name: path})
            if declared.media == (JSON, FORM):
                yield plain, body(declared, media=FORM, **{name: path})
        if declared.file is not None:
            yield plain, body(declared, media=FORM, filename=path)
    for header in ("X-Request-Id", "X-Request-Timeout", "Range", "If-None-Match", "Accept"):
        value = path.replace("\0", "%00").encode("utf-8").decode("latin-1")
        arguments = body(declared)
        yield (
            f"{plain}?{end}",
            arguments | {"headers": {**arguments.get("headers", {}), header: value}},
        )


def body(
    declared: Operation[Any, Any], media: str = "", filename: str = "a.wav", **given: str
) -> dict[str, Any]:
    """A body that would be right but for what is `given`, as an argument of aiohttp."""
    if not declared.media:
        return {}
    wanted = {name for name, field in declared.body.model_fields.items() if field.is_required()}
    fields = {name: GOOD[name] for name in wanted} | given
    if (media or declared.media[0]) == JSON:
        return {"json": fields}
    pieces = [piece for name, value in fields.items() for piece in part(name, value.encode())]
    if declared.file is not None:
        pieces += part(declared.file.name, RECORDING, f'; filename="{filename}"')
    return {
        "data": b"".join([*pieces, END]),
        "headers": {"Content-Type": f"{FORM}; boundary=x"},
    }


@pytest.mark.parametrize("declared", OPERATIONS, ids=[each.handler.__name__ for each in OPERATIONS])
async def test_no_path_leads_out(sandbox: Sandbox, declared: Operation[Any, Any]) -> None:
    async with aiohttp.ClientSession(sandbox.service.url) as client:
        for path in absolute(sandbox):
            for address, arguments in requests_with(declared, path):
                url = sandbox.service.url + address.replace("\0", "%00")
                async with client.request(declared.method, url, **arguments) as response:
                    answer = await response.read()
                    what = f"{address} {arguments}"
                    assert response.status < 500 or response.status == 503, what
                    assert SECRET.encode() not in answer, what
                    assert b"root:x:" not in answer, what


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../../../etc/passwd",
        "//etc/passwd",
        "/docs/../../secret",
        "/docs/..%2f..%2fsecret",
        "/docs/%2e%2e/%2e%2e/secret",
        "/v1/voices/../../secret",
        "/v1/voices/..%2f..%2fsecret/audio",
        "/v1/voices/%2e%2e%2fsecret/audio",
        "/v1/voices/%252e%252e%252fsecret/audio",
        "/v1/voices/..%c0%afsecret/audio",
        "/v1/voices/secret%00/audio",
        "/v1/voices/%ff%fe/audio",
        "/v1/voices//audio",
        "/v1/voices/./audio",
        "/v1/voices/secret;/audio",
    ],
)
async def test_no_address_leads_out(sandbox: Sandbox, path: str) -> None:
    # As it is: clients would tidy it up.
    for method in ("GET", "DELETE", "HEAD"):
        answer = await raw(sandbox.service, head(method, path, "Connection: close"))
        assert statuses(answer)[0] in (400, 404, 405)
        assert SECRET.encode() not in answer
        assert b"root:x:" not in answer
