"""Join a Ray cluster. Runs in fronts and in `voice-engine cluster`."""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]

from supervisor.cluster.actors import NAMESPACE
from supervisor.log import logger

AUTO = "auto"
"""The address that means the cluster which this machine is part of."""

_LEAVE_SECONDS = 10.0
_CHECK_SECONDS = 5.0
_JOIN_SECONDS = 60.0
_ALIVE = 0
"""The state of a node in Ray's protocol."""

_STORE = 128 * 1024 * 1024
"""Bytes of shared memory for recordings on their way; more of them wait on the disk."""

_SETPRIV = shutil.which("setpriv")
_DYING_WITH_US = [_SETPRIV, "--pdeathsig", "TERM"] if _SETPRIV else []
"""Makes the kernel end the node when this process is killed (setpriv is in util-linux)."""


class ConnectionFailed(OSError):  # noqa: N818 - named for what happened
    """The cluster cannot be reached; the message says what to do."""


class Connection:
    """This process as a part of a Ray cluster. `address` is `auto`, or HOST:PORT of the head.

    A machine that is no node of the cluster becomes one, without a core: replicas do not come here.
    It leaves with this process. Raises `ConnectionFailed`.
    """

    def __init__(self, address: str) -> None:
        self._node: subprocess.Popen[bytes] | None = None
        # Ray would end the process on SIGTERM at once; the front drains first.
        with _kept(signal.SIGTERM, signal.SIGINT):
            if address != AUTO:
                _check(address)
                if not _is_node(address):
                    self._join(address)
            try:
                _init(address)
            except ConnectionError as error:
                self.close()
                raise ConnectionFailed(
                    "this machine is part of no Ray cluster; start one with `ray start --head`, or "
                    "give the address of its head: --cluster HOST:6379"
                ) from error

    def _join(self, address: str) -> None:
        """Make this machine a node of the cluster."""
        node = self._node = subprocess.Popen(
            [
                *_DYING_WITH_US,
                *(sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={address}"),
                *("--num-cpus=0", "--num-gpus=0", f"--object-store-memory={_STORE}", "--block"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        end = time.monotonic() + _JOIN_SECONDS
        while not _is_node(address):
            if node.poll() is not None or time.monotonic() > end:
                self.close()
                raise ConnectionFailed(
                    f"this machine cannot become a node of the Ray cluster at {address}; does that "
                    f"run Ray {ray.__version__}, and can its nodes reach this machine?"
                )
            time.sleep(0.2)
        logger.info("cluster_joined", address=address)

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


def _is_node(address: str) -> bool:
    """Whether a raylet of the cluster runs on this machine.

    Without one, Ray would end this process, and not raise.
    """
    nodes = GcsClient(address=address).get_all_node_info(timeout=_CHECK_SECONDS)
    return any(
        node.state == _ALIVE and _listens(node.raylet_socket_name) for node in nodes.values()
    )


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


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
