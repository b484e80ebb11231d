"""The same answer in two ways: from a bare handler, or through dispatcher, pipe and worker.

Runs as the server process of the part `pipe`: `python -m tests.bench.pipe_server bare|pipe`. `pipe`
has the service's own pool, dispatcher and worker around an engine that does nothing but answer.
Writes one line of JSON with its port and pids when it is ready; ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import sys
import time
from collections.abc import AsyncIterator

from aiohttp import web

from ipc.engines import Kind
from ipc.operations import Sampling, Speak, Voice
from supervisor import log
from supervisor.app import listen
from supervisor.dispatch.cost import Unit, Work
from supervisor.dispatch.job import Job
from supervisor.dispatch.response_buffer import ResponseBuffer
from supervisor.http.routes.health import report
from supervisor.memory.malloc import keep_front_small
from supervisor.service import SERVICE, Service
from supervisor.settings import Settings

_ENGINE = "tests.bench.engine:Answering"


@functools.cache
def _body(size: int) -> bytes:
    return bytes(size)


async def bare(request: web.Request) -> web.Response:
    """GET /SIZE: that many bytes."""
    return web.Response(body=_body(int(request.match_info["size"])))


async def piped(request: web.Request) -> web.Response:
    """GET /SIZE: the same, from a worker."""
    service = request.app[SERVICE]
    buffer = ResponseBuffer(service.spool)
    job = Job(
        Speak(request.match_info["size"], Voice(), Sampling(seed=0)),
        buffer,
        deadline=time.monotonic() + service.settings.request_timeout,
        client=request.remote or "",
        work=Work(Unit.CHARACTERS, 1),
    )
    try:
        await service.models.default(Kind.TTS).backend.run(job)
        pieces = []
        while data := await buffer.read():
            pieces.append(data)
    finally:
        buffer.close()
    return web.Response(body=b"".join(pieces))


async def _with_service(app: web.Application) -> AsyncIterator[None]:
    settings = Settings(tts_engine=_ENGINE, stt_engine=_ENGINE, voice_cache_mb=0)
    service = app[SERVICE] = Service(settings)
    service.start()
    async with asyncio.timeout(60):
        while not report(service).tts_loaded:  # noqa: ASYNC110 - no event is for one model
            await asyncio.sleep(0.05)
    yield
    await service.close()


async def main(way: str) -> None:
    """Serve until stdin ends."""
    app = web.Application()
    if way == "pipe":
        log.configure("warning")
        keep_front_small()
        app.cleanup_ctx.append(_with_service)
    app.router.add_get("/{size}", piped if way == "pipe" else bare)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    sock = listen("127.0.0.1", 0)
    await web.SockSite(runner, sock).start()
    children = report(app[SERVICE]).children if way == "pipe" else []
    ready = {
        "port": sock.getsockname()[1],
        "pid": os.getpid(),
        "workers": [c.pid for c in children if (c.role, c.kind) == ("worker", Kind.TTS)],
    }
    print(json.dumps(ready), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
