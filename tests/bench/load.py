"""The load generator: one fixed HTTP request, many times, over kept connections.

Runs in a process of its own (`python -m tests.bench.load`, the plan as JSON on stdin), so that it
competes with the server for the machine and not for an interpreter. It formats nothing and parses
little: answers must carry a Content-Length.

Closed loop (`rate` 0): each connection sends when its last answer is complete. Open loop: requests
are due at a fixed rate and the time is counted from when one was due, so that a server that stands
still cannot hide behind a client that waits for it.
"""

from __future__ import annotations

import json
import re
import select
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass

from tests.support.service import ROOT

_BUFFER_SIZE = 256 * 1024
_HEAD = re.compile(rb"HTTP/1\.1 (\d+).*?\r\nContent-Length: (\d+)\r\n", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send: `requests` in all, over `connections`, `rate` a second (0: all it takes).

    With a `body`, which is JSON, they are POST.
    """

    port: int
    path: str
    requests: int
    connections: int = 8
    rate: float = 0.0
    body: str = ""


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of it. Times of an answer in milliseconds; `statuses` counts them as strings."""

    seconds: float
    per_second: float
    p50: float
    p99: float
    longest: float
    statuses: dict[str, int]


def start(plan: Plan) -> subprocess.Popen[str]:
    """Start the load; `finish` waits for it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(plan)))
    process.stdin.close()
    process.stdin = None
    return process


def finish(process: subprocess.Popen[str]) -> Measured:
    """Wait for the end of a load that was started. Raises when it could not be carried out."""
    with process:
        output, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the load generator failed with exit code {process.returncode}")
    return Measured(**json.loads(output))


def measure(plan: Plan) -> Measured:
    """Carry out `plan` and wait for it."""
    return finish(start(plan))


class _Connection:
    """One kept connection with one request in flight."""

    def __init__(self, port: int, request: bytes, buffer: bytearray) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.started = 0.0
        self.status = ""
        self._request = request
        self._buffer = buffer
        self._missing: int | None = None
        """Bytes of the answer's body that have not come; None before its head."""

    def send(self) -> None:
        self._missing = None
        self.socket.sendall(self._request)

    def receive(self) -> bool:
        """Take what has come; True when the answer is complete."""
        size = self.socket.recv_into(self._buffer)
        if size == 0:
            raise ConnectionError("the server closed the connection")
        if self._missing is None:
            # A head comes in one piece: servers write it so, and it is a fraction of a packet.
            end = self._buffer.index(b"\r\n\r\n", 0, size)
            head = _HEAD.match(self._buffer, 0, end + 2)
            if head is None:
                raise ConnectionError("the answer has no Content-Length")
            self.status = head[1].decode()
            self._missing = int(head[2]) + end + 4
        self._missing -= size
        return self._missing == 0


def _closed_loop(plan: Plan, connections: list[_Connection]) -> tuple[list[float], Counter[str]]:
    times: list[float] = []
    statuses: Counter[str] = Counter()
    clock = time.perf_counter
    unsent = plan.requests
    with select.epoll() as poll:
        by_fd = {connection.socket.fileno(): connection for connection in connections}
        for fd, connection in by_fd.items():
            poll.register(fd, select.EPOLLIN)
            connection.started = clock()
            connection.send()
            unsent -= 1
        while len(times) < plan.requests:
            for fd, _ in poll.poll():
                connection = by_fd[fd]
                if connection.receive():
                    now = clock()
                    times.append(now - connection.started)
                    statuses[connection.status] += 1
                    if unsent > 0:
                        unsent -= 1
                        connection.started = now
                        connection.send()
    return times, statuses


def _open_loop(plan: Plan, connection: _Connection) -> tuple[list[float], Counter[str]]:
    times: list[float] = []
    statuses: Counter[str] = Counter()
    start = time.perf_counter()
    for index in range(plan.requests):
        due = start + index / plan.rate
        time.sleep(max(0.0, due - time.perf_counter()))
        connection.send()
        while not connection.receive():
            pass
        times.append(time.perf_counter() - due)
        statuses[connection.status] += 1
    return times, statuses


def run(plan: Plan) -> Measured:
    """Carry out `plan` in this process."""
    body = plan.body.encode()
    about = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    head = f"{'POST' if body else 'GET'} {plan.path} HTTP/1.1\r\nHost: 127.0.0.1:{plan.port}\r\n"
    request = f"{head}{about}\r\n".encode() + body
    buffer = bytearray(_BUFFER_SIZE)
    connections = [
        _Connection(plan.port, request, buffer)
        for _ in range(1 if plan.rate else min(plan.connections, plan.requests))
    ]
    started = time.perf_counter()
    if plan.rate:
        times, statuses = _open_loop(plan, connections[0])
    else:
        times, statuses = _closed_loop(plan, connections)
    seconds = time.perf_counter() - started
    for connection in connections:
        connection.socket.close()
    times.sort()
    return Measured(
        seconds=seconds,
        per_second=len(times) / seconds,
        p50=times[len(times) // 2] * 1000,
        p99=times[len(times) * 99 // 100] * 1000,
        longest=times[-1] * 1000,
        statuses=dict(statuses),
    )


if __name__ == "__main__":
    print(json.dumps(asdict(run(Plan(**json.load(sys.stdin))))))
