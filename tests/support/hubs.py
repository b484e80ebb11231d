"""Both hubs on this machine: HTTP as `huggingface_hub` and `modelscope_hub` speak it, with faults.

Bytes lie on another host than the answers about them, as with the real hubs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
_LARGE = 10_000
"""Bytes from which on a file is stored outside of git."""
_NET = 120.0


@dataclass
class Fault:
    """What happens to one request of a file's bytes: the first that matches, once."""

    path: str
    cut_after: int | None = None
    """Bytes after which the connection breaks."""
    reset: bool = False
    """It breaks with a reset, not with an end."""
    spoil: bool = False
    """A byte is another one."""
    status: int | None = None
    retry_after: str | None = None
    hold: threading.Event | None = None
    """Waits for this after the bytes before the cut."""
    reached: threading.Event = field(default_factory=threading.Event)
    """Is set when that point is reached."""


@dataclass
class Asked:
    """A request that came for bytes."""

    path: str
    start: int


class Hubs:
    """What lies on both hubs, and what will go wrong."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        """Contents by repository and path."""
        self.gated: set[str] = set()
        """Repositories that want a token; only "good" has accepted the terms."""
        self.faults: list[Fault] = []
        self.head_faults: list[Fault] = []
        self.asked: list[Asked] = []
        self.heads: list[str] = []
        self.ranges = True
        self.unlisted = False
        """ModelScope has nothing."""
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("0.0.0.0", 0), _handler(self))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.bytes_url = f"http://127.0.0.2:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def publish(self, repository: str, path: str, content: bytes) -> None:
        """Put a file on both hubs."""
        self.files.setdefault(repository, {})[path] = content

    def publish_folder(self, repository: str, folder: Path, below: str = "") -> None:
        """Put all files of a folder on both hubs."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.publish(repository, below + str(path.relative_to(folder)), path.read_bytes())

    def take(self, faults: list[Fault], path: str) -> Fault | None:
        """The fault for a request, which then is no more."""
        with self._lock:
            for fault in faults:
                if path.endswith(fault.path):
                    faults.remove(fault)
                    return fault
        return None

    def environment(self) -> dict[str, str]:
        """Variables with which the real libraries come here."""
        return {"HF_ENDPOINT": self.url, "MODELSCOPE_ENDPOINT": self.url}

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextlib.contextmanager
def running_hubs() -> Iterator[Hubs]:
    """Both, until the end of the block."""
    hubs = Hubs()
    try:
        yield hubs
    finally:
        hubs.close()


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _handler(hubs: Hubs) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            address = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(address.query).items()}
            path = unquote(address.path)
            if found := re.fullmatch(r"/bytes/([^/]+/[^/]+)/(.+)", path):
                self._bytes(found[1], found[2])
            elif found := re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)/repo/files", path):
                self._list(found[1])
            elif found := re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)/repo", path):
                self._to_bytes(found[1], query["FilePath"], {})
            elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self._resolve(*found.groups())
            else:
                self._say(404, {})

        # Hugging Face

        def _resolve(self, repository: str, revision: str, path: str) -> None:
            if self.command == "HEAD":
                hubs.heads.append(path)
                if (fault := hubs.take(hubs.head_faults, path)) is not None:
                    fault.reached.set()
                    if fault.hold is not None:
                        fault.hold.wait(_NET)
                    after = {"Retry-After": fault.retry_after} if fault.retry_after else {}
                    self._say(fault.status or 500, after)
                    return
            if repository in hubs.gated:
                token = self.headers.get("Authorization")
                if token != "Bearer good":
                    refused = {"X-Error-Code": "GatedRepo", "X-Error-Message": "accept the terms"}
                    self._say(403 if token else 401, refused)
                    return
            content = hubs.files.get(repository, {}).get(path)
            if content is None:
                self._say(404, {"X-Error-Code": "EntryNotFound"})
                return
            commit = revision if re.fullmatch("[0-9a-f]{40}", revision) else COMMIT
            if len(content) < _LARGE:
                self._content(content, path, {"X-Repo-Commit": commit, "ETag": _tag(content)})
                return
            about = {
                "X-Repo-Commit": commit,
                "X-Linked-ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Linked-Size": str(len(content)),
                "ETag": '"of the redirect"',
            }
            self._to_bytes(repository, path, about)

        # ModelScope

        def _list(self, repository: str) -> None:
            contents = {} if hubs.unlisted else hubs.files.get(repository, {})
            if not contents:
                self._say(404, {}, b'{"Code": 10010205001, "Message": "not found"}')
                return
            listed = [
                {
                    "Path": path,
                    "Name": path,
                    "Type": "blob",
                    "Size": len(content),
                    "Sha256": hashlib.sha256(content).hexdigest(),
                }
                for path, content in contents.items()
            ]
            body = json.dumps({"Code": 200, "Data": {"Files": listed}}).encode()
            self._say(200, {"Content-Type": "application/json"}, body)

        # Bytes

        def _to_bytes(self, repository: str, path: str, about: dict[str, str]) -> None:
            location = f"{hubs.bytes_url}/bytes/{repository}/{quote(path)}"
            self._say(302, {**about, "Location": location})

        def _bytes(self, repository: str, path: str) -> None:
            self._content(hubs.files[repository][path], path, {"ETag": '"bytes"'})

        def _content(self, content: bytes, path: str, about: dict[str, str]) -> None:
            start = 0
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if asked and hubs.ranges:
                start = int(asked[1])
            status = 206 if asked and hubs.ranges else 200
            if start >= len(content) > 0:
                self._say(416, {"Content-Range": f"bytes */{len(content)}"})
                return
            fault = None
            if self.command == "GET":
                hubs.asked.append(Asked(path, start))
                fault = hubs.take(hubs.faults, path)
            if fault is not None and fault.status is not None:
                after = {"Retry-After": fault.retry_after} if fault.retry_after else {}
                self._say(fault.status, after)
                return
            if status == 206:
                about["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._send(status, about, content[start:], fault)

        def _send(
            self, status: int, about: dict[str, str], body: bytes, fault: Fault | None
        ) -> None:
            self.send_response(status)
            for name, value in about.items():
                self.send_header(name, value)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            with contextlib.suppress(OSError):  # the client may go
                self._write(body, fault)

        def _write(self, body: bytes, fault: Fault | None) -> None:
            if fault is None:
                self.wfile.write(body)
                return
            if fault.spoil:
                body = bytes([body[0] ^ 1]) + body[1:]
            end = len(body) if fault.cut_after is None else fault.cut_after
            self.wfile.write(body[:end])
            self.wfile.flush()
            fault.reached.set()
            if fault.hold is not None:
                fault.hold.wait(_NET)
            if fault.cut_after is not None:
                if fault.reset:
                    linger = struct.pack("ii", 1, 0)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)

        def _say(self, status: int, about: dict[str, str], body: bytes = b"") -> None:
            self._send(status, about, body, None)

    return Handler


def _tag(content: bytes) -> str:
    return f'"{_git_hash(content)}"'
