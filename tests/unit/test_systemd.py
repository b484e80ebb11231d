"""What the front tells systemd's watchdog."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.systemd import feed_watchdog, watchdog_interval


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket at which systemd would listen; it wants a sign of life every 20 ms."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "20000")
        yield listening


def _received(manager: socket.socket) -> list[bytes]:
    messages = []
    try:
        while True:
            messages.append(manager.recv(4096))
    except BlockingIOError:
        return messages


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [
        ("30000000", None, 15.0),
        ("30000000", os.getpid(), 15.0),
        ("30000000", os.getppid(), None),  # it watches another process, whose environment we have
        ("0", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
    ids=["nobody", "itself", "another", "off", "nonsense", "unset"],
)
def test_the_interval_is_half_of_what_systemd_allows(
    usec: str | None, pid: int | None, interval: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, str(value))
    assert watchdog_interval() == interval


async def test_a_loop_that_hangs_falls_silent(manager: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    feeding = asyncio.create_task(feed_watchdog())
    for _ in range(3):
        assert await loop.sock_recv(manager, 4096) == b"WATCHDOG=1"
    _received(manager)
    time.sleep(0.2)  # noqa: ASYNC251 - this is the hanging loop, for ten times what systemd allows
    assert _received(manager) == []
    assert await loop.sock_recv(manager, 4096) == b"WATCHDOG=1"
    feeding.cancel()


async def test_nothing_is_sent_without_a_watchdog(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WATCHDOG_USEC")
    await feed_watchdog()  # returns
    assert _received(manager) == []
