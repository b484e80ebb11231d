"""Report the state of the service to systemd (sd_notify). Runs in the front."""

from __future__ import annotations

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
