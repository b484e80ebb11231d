"""Join a Ray cluster. Runs in fronts and in `voice-engine cluster`."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import ray

from supervisor.cluster.actors import NAMESPACE
from supervisor.log import logger

AUTO = "auto"
"""The address that means the cluster which this machine is part of."""

_LEAVE_SECONDS = 10.0
_CHECK_SECONDS = 5.0
_JOIN_SECONDS = 60.0


class ConnectionFailed(OSError):  # noqa: N818 - named for what happened
    """The cluster cannot be reached; the message says what to do."""


class Connection:
    """This process as a part of a Ray cluster. `address` is `auto`, or HOST:PORT of the head.

    A machine that is no node of the cluster becomes one, without a core: replicas do not come here.
    It leaves with this process. Raises `ConnectionFailed`.
    """

    def __init__(self, address: str) -> None:
        self._node: subprocess.Popen[bytes] | None = None
        if address != AUTO:
            _check(address)
        # Ray would end the process on SIGTERM at once; the front drains first.
        with _kept(signal.SIGTERM, signal.SIGINT):
            try:
                _init(address)
            except ConnectionError as error:
                if address == AUTO:
                    raise ConnectionFailed(
                        "this machine is part of no Ray cluster; start one with `ray start "
                        "--head`, or give the address of its head: --cluster HOST:6379"
                    ) from error
                self._join(address)

    def _join(self, address: str) -> None:
        """Make this machine a node of the cluster."""
        node = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={address}"),
                *("--num-cpus=0", "--num-gpus=0", "--block", "--disable-usage-stats"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._node = node
        end = time.monotonic() + _JOIN_SECONDS
        while True:
            try:
                _init(address)
            except ConnectionError as error:
                if node.poll() is not None or time.monotonic() > end:
                    self.close()
                    raise ConnectionFailed(
                        f"no Ray cluster answers at {address}; is its head there, and does it run "
                        f"Ray {ray.__version__}?"
                    ) from error
                time.sleep(0.5)
            else:
                logger.info("cluster_joined", address=address)
                return

    def close(self) -> None:
        """Leave the cluster. It blocks."""
        ray.shutdown()
        if self._node is not None and self._node.poll() is None:
            self._node.terminate()
            try:
                self._node.wait(_LEAVE_SECONDS)
            except subprocess.TimeoutExpired:
                self._node.kill()
                self._node.wait()


def _check(address: str) -> None:
    """Raise `ConnectionFailed` unless something listens there: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        if not (host and port.isdigit()):
            raise ValueError("it is not HOST:PORT")
        socket.create_connection((host.strip("[]"), int(port)), _CHECK_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ConnectionFailed(
            f"no Ray cluster answers at {address}: {error}; give the address of its head, "
            "HOST:6379, or auto on one of its nodes"
        ) from None


def _init(address: str) -> None:
    ray.init(
        address=address,
        namespace=NAMESPACE,
        log_to_driver=False,
        logging_level=logging.WARNING,
        configure_logging=False,
        ignore_reinit_error=True,
    )


@contextlib.contextmanager
def _kept(*numbers: signal.Signals) -> Iterator[None]:
    """Keep the handlers of signals that Ray replaces."""
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
