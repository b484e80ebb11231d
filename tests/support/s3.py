"""An S3 server for tests, and a proxy before it that hurts requests. Runs in tests."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator

import aiohttp
from aiohttp import web

from tests.support.service import NET, ROOT

PYTHON = ROOT / ".venv-clients" / "bin" / "python"
_AUTHORIZATION = (
    "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, "
    "Signature=0"
)

Fault = str
"""What happens to a request: "" nothing, "503", "stall", "cut", "hold", "lost" (done, but 503)."""


def environment_of(port: int) -> dict[str, str]:
    """The variables with which a client reaches the server, or the proxy, on this port."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "a-secret-of-tests",
    }


@contextlib.contextmanager
def s3_server() -> Iterator[int]:
    """The port of a server that has no bucket yet."""
    assert PYTHON.exists(), "run `make setup`"
    server = subprocess.Popen(
        [str(PYTHON), str(ROOT / "tests" / "clients" / "python" / "s3_server.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        yield int(server.stdout.readline())
    finally:
        server.kill()
        server.wait(NET)
        server.stdin.close()
        server.stdout.close()


async def make_bucket(port: int, name: str) -> None:
    """Make an empty bucket."""
    async with aiohttp.ClientSession() as client:
        headers = {"Authorization": _AUTHORIZATION}
        async with client.put(f"http://127.0.0.1:{port}/{name}", headers=headers) as response:
            assert response.status == 200, await response.text()


class HurtingProxy:
    """Hands requests on to the server at `upstream`, unless `fault` says something else."""

    def __init__(self, upstream: int) -> None:
        self.port = 0
        self.fault: Callable[[str, str], Fault] = lambda method, path: ""
        self.seen: list[tuple[str, str]] = []
        """Method and path of each request that has come."""
        self.done: list[tuple[str, str]] = []
        """Method and path of each request that has been answered."""
        self._changed = asyncio.Condition()
        self.held = asyncio.Event()
        """Set when a request is held."""
        self.release = asyncio.Event()
        """A test sets it to let held requests go on."""
        self._upstream = upstream

    async def wait_for(self, method: str, end: str) -> None:
        """Wait until a request has been answered whose path ends so."""

        def is_done() -> bool:
            return any(each == method and path.endswith(end) for each, path in self.done)

        async with asyncio.timeout(NET), self._changed:
            await self._changed.wait_for(is_done)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[HurtingProxy]:
        """It listens on `port` inside the block."""
        async with aiohttp.ClientSession(auto_decompress=False) as self._client:
            runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = runner.addresses[0][1]
            try:
                yield self
            finally:
                self.release.set()
                await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append((request.method, request.path))
        try:
            return await self._answer(request, await request.read())
        finally:
            async with self._changed:
                self.done.append((request.method, request.path))
                self._changed.notify_all()

    async def _answer(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        fault = self.fault(request.method, request.path)
        if fault == "503":
            return web.Response(status=503, text="<Error><AWSAccessKeyId>test</AWSAccessKeyId>")
        if fault in ("hold", "stall"):
            self.held.set()
            await self.release.wait()
        url = f"http://127.0.0.1:{self._upstream}{request.raw_path}"
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in ("content-length", "transfer-encoding")
        }
        async with self._client.request(
            request.method, url, headers=headers, data=body, allow_redirects=False
        ) as answer:
            content = await answer.read()
        if fault == "lost":
            return web.Response(status=503)
        response = web.StreamResponse(status=answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in ("transfer-encoding", "connection"):
                response.headers[name] = value
        await response.prepare(request)
        if fault == "cut":
            await response.write(content[: len(content) // 2])
            assert request.transport is not None
            request.transport.abort()
        elif request.method != "HEAD":
            await response.write(content)
        return response
