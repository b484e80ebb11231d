"""Report the state of the service to systemd (sd_notify). Runs in the front."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time


def notify(*assignments: str) -> None:
    """Send assignments such as "READY=1" to systemd's socket. Does nothing without systemd."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # a name in the abstract namespace
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        sock.send("\n".join(assignments).encode())


def reloading() -> None:
    """Report that the service reloads. systemd requires the time on the monotonic clock."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def watchdog_interval() -> float | None:
    """Half of the time after which systemd takes this process for dead; None without a watchdog."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    process = os.environ.get("WATCHDOG_PID") or str(os.getpid())
    if process != str(os.getpid()) or not microseconds.isdecimal() or not int(microseconds):
        return None
    return int(microseconds) / 2 / 1e6


async def feed_watchdog() -> None:
    """Tell systemd again and again that the event loop runs: one that hangs falls silent."""
    interval = watchdog_interval()
    while interval is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval)
