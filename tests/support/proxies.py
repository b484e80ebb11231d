"""The examples for nginx and Caddy as running proxies: their own text, with other addresses."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.support.programs import program
from tests.support.service import NET, NOBODY, ROOT

_NGINX = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/voice-engine.conf;
}}
"""
"""What Debian's nginx.conf has around the example, for a user who owns nothing but a folder."""

_CADDY = "{{\n\tadmin unix/{folder}/admin\n}}\n"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy in its folder, and how to have it read its configuration again."""

    name: str
    folder: Path
    port: int

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"http://127.0.0.1:{self.port}"

    def configure(self, upstream: int, *, closed: bool = False) -> None:
        """Write the example as its configuration, for a service on the port `upstream`.

        With `closed` the lines that close operators' endpoints are no comment.
        """
        if self.name == "nginx":
            (self.folder / "nginx.conf").write_text(_NGINX.format(folder=self.folder))
            example, listen = ROOT / "ops" / "nginx.conf", ("listen 80;", "listen {};")
            file, before = self.folder / "voice-engine.conf", ""
        else:
            example, listen = ROOT / "ops" / "Caddyfile", ("\n:80 {", "\nhttp://{} {{")
            file, before = self.folder / "Caddyfile", _CADDY.format(folder=self.folder)
        text = before + example.read_text()
        here = listen[1].format(f"127.0.0.1:{self.port}")
        for old, new in (listen[0], here), ("127.0.0.1:8000", f"127.0.0.1:{upstream}"):
            assert text.count(old) == 1, f"{example.name} has another {old!r}"
            text = text.replace(old, new)
        if closed:
            text, lines = re.subn(r"# (location ~|@operators|respond @operators)", r"\1", text)
            assert lines in (1, 2)
        file.write_text(text)

    @property
    def command(self) -> list[str]:
        """The command that runs it."""
        if self.name == "nginx":
            return [program("nginx"), "-c", f"{self.folder}/nginx.conf", "-e", "stderr"]
        return [program("caddy"), "run", "--config", f"{self.folder}/Caddyfile"]

    def reload(self) -> None:
        """Have it read its configuration again; afterwards it takes no request by the old one."""
        workers = []
        if self.name == "nginx":
            master = psutil.Process(int((self.folder / "pid").read_text()))
            workers = master.children()
            arguments = [*self.command, "-s", "reload"]
        else:
            arguments = [program("caddy"), "reload", "--config", f"{self.folder}/Caddyfile"]
            arguments += ["--address", f"unix/{self.folder}/admin"]
        subprocess.run(arguments, check=True, capture_output=True, **_as_nobody(self.folder))
        while any(_takes_requests(worker) for worker in workers):
            time.sleep(0.01)


def _takes_requests(worker: psutil.Process) -> bool:
    """Whether a worker of nginx does not yet say that it only finishes what it has."""
    try:
        return "shutting down" not in " ".join(worker.cmdline())
    except psutil.NoSuchProcess:
        return False


def _as_nobody(folder: Path) -> dict[str, Any]:
    """How to start a program that needs no rights, with a home in `folder`."""
    user = NOBODY if os.getuid() == 0 else None
    return {
        "env": {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder)},
        "user": user,
        "group": user,
        "extra_groups": None if user is None else [],
    }


def free_port() -> int:
    """A port on which nobody listens right now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def proxied(name: str, upstream: int, *, closed: bool = False) -> Iterator[Proxy]:
    """`nginx` or `caddy` in front of the port `upstream`; see `Proxy.configure`."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if os.getuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        proxy = Proxy(name, Path(folder), free_port())
        proxy.configure(upstream, closed=closed)
        with (proxy.folder / "log").open("wb") as log:
            process = subprocess.Popen(
                proxy.command, stdout=log, stderr=log, **_as_nobody(proxy.folder)
            )
        try:
            _wait_until_it_listens(proxy, process)
            yield proxy
        finally:
            process.terminate()
            process.wait(NET)


def _wait_until_it_listens(proxy: Proxy, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + NET
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", proxy.port)):
            return
        if process.poll() is not None or time.monotonic() > end:
            raise AssertionError((proxy.folder / "log").read_text())
        time.sleep(0.02)
