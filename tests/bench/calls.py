"""How many of our own functions a clone request calls on its way to the pipe.

Runs the front in this process: `python -m tests.bench.calls`. It prints the number, and with --list
the functions in the order of their calls.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

import aiohttp
from aiohttp import web

from ipc.channel import PipeChannel
from ipc.messages import Request
from supervisor import log
from supervisor.app import build_app
from supervisor.service import Service
from supervisor.settings import Settings
from tests.support.service import ROOT, script_form

_OURS = tuple(f"{ROOT}/{package}/" for package in ("ipc", "supervisor"))


class Counter:
    """Notes the calls of our functions, from the first middleware until a request is written."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._counting = False

    def profile(self, frame: FrameType, event: str, _: Any) -> None:
        """For `sys.setprofile`. A coroutine that goes on is called once."""
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(_OURS):
            return
        if code.co_name == "id_middleware" and frame.f_lasti < 8:
            self._counting = True
        if not self._counting or _resumed(frame):
            return
        name = f"{Path(code.co_filename).relative_to(ROOT)}:{code.co_qualname}"
        self.calls.append(name)
        if code is PipeChannel.send.__code__ and isinstance(frame.f_locals["message"], Request):
            self._counting = False


def _resumed(frame: FrameType) -> bool:
    """Whether a generator or coroutine goes on after an `await` or a `yield`."""
    suspends = frame.f_code.co_flags & (0x20 | 0x80 | 0x200)
    return bool(suspends) and frame.f_lasti > 8


async def count() -> list[str]:
    """The calls of one request, when a worker is READY and all is warm."""
    engine = "tests.support.script_engine:Script"
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            tts_engine=engine,
            stt_engine=engine,
            voices_dir=Path(folder),
            ping_interval=3600,
        )
        service = Service(settings)
        runner = web.AppRunner(build_app(service), access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        service.start()
        await service.serving.wait()
        port = runner.addresses[0][1]
        counter = Counter()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
            for profile in (None, None, counter.profile):
                sys.setprofile(profile)
                async with client.post("/v1/clone", data=script_form("say 1")) as response:
                    response.raise_for_status()
                    await response.read()
                sys.setprofile(None)
        await runner.cleanup()
        await service.close()
        return counter.calls


def main() -> None:
    """Print the number of calls."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="list the functions, too")
    options = parser.parse_args()
    log.configure("error")
    calls = asyncio.run(count())
    if options.list:
        print("\n".join(calls))
    print(f"{len(calls)} calls of our functions from the first middleware to the pipe")


if __name__ == "__main__":
    main()
