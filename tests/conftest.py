"""What all tests have in common: their surroundings, their tiers, and fixtures of several files."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from supervisor.workers.launch import CHILD_ENVIRONMENT
from tests.support.service import ROOT, Gate

# The same cases every time, however slow the machine is.
settings.register_profile(
    "steady",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("steady")

_ALIASES = ("PORT", "VOICES_DIR", "NOTIFY_SOCKET")

# Nothing from outside: no setting of a service, and no proxy between it and its clients.
for name in list(os.environ):
    if name.startswith(("VOICE_ENGINE_", "WATCHDOG_", "OTEL_")) or name in _ALIASES:
        del os.environ[name]
for name in ("no_proxy", "NO_PROXY"):
    os.environ[name] = "localhost,127.0.0.1"

# Nobody speaks TLS here, but every process with an HTTP library reads the certificates that it
# would trust, and the SDKs do for each client: a tenth of a second for the system's 140, so here is
# one, whose key nobody has.
os.environ["SSL_CERT_FILE"] = str(ROOT / "tests" / "support" / "authority.pem")

# Test processes that compute do so as the service's children: with one thread each, unless a test
# says how many, and without spinning, because they share the cores with other tests.
for name in (
    *("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    "ORT_DISABLE_TELEMETRY",
):
    os.environ[name] = CHILD_ENVIRONMENT[name]
os.environ["ORT_DISABLE_TELEMETRY"] = CHILD_ENVIRONMENT["ORT_DISABLE_TELEMETRY"]


# Tiers

TIERS = {"unit": "unit", "process": "process", "engines": "process", "clients": "process"}
"""The tier of the tests in each folder, where a file does not say that it is slow."""


def tier_of(file: Path) -> str:
    """The tier of the tests in `file`."""
    return TIERS.get(file.relative_to(ROOT / "tests").parts[0], "slow")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its tier; those that run alone come last.

    pytest-xdist hands out tests from both ends of their order, so that at the end both workers come
    to the tests that run alone, and none of them holds up another test.
    """
    for item in items:
        if item.get_closest_marker("slow") is None:
            item.add_marker(tier_of(item.path))
    items.sort(key=lambda item: item.get_closest_marker("alone") is not None)


# Tests that run at the same time


SHARED = "VOICE_TESTS_SHARED"
"""The variable that names the folder which the workers of one run have in common."""


def pytest_configure(config: pytest.Config) -> None:
    """Make that folder, in the process that starts the workers."""
    if not hasattr(config, "workerinput"):
        folder = tempfile.TemporaryDirectory(prefix="voice-engine-tests-")
        config.add_cleanup(folder.cleanup)
        os.environ[SHARED] = folder.name


@contextmanager
def held(name: str, how: int) -> Iterator[Path]:
    """Hold a lock that the workers share, as flock does; the path of its file."""
    path = Path(os.environ[SHARED]) / name
    with path.open("w") as file:
        fcntl.flock(file, how)
        yield path


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let a test that is marked `alone` run while no other does.

    All others share the room. Who waits for it to be empty closes the door, so that it does become
    empty. The wait does not count for the test's timeout.
    """
    if item.get_closest_marker("alone") is None:
        with ExitStack() as room:
            with held("door", fcntl.LOCK_EX):
                room.enter_context(held("room", fcntl.LOCK_SH))
            return (yield)
    with held("door", fcntl.LOCK_EX), held("room", fcntl.LOCK_EX):
        return (yield)


# Fixtures


@pytest.fixture(scope="session")
def nano_models() -> Path:
    """A models folder with tiny random weights of both production engines; do not write to it.

    One for all workers: the first that needs it makes it.
    """
    from model_procs.weights.fetch import synth

    with held("models.lock", fcntl.LOCK_EX) as lock:
        folder = lock.with_name("models")
        if not folder.exists():
            made = folder.with_name("models-unfinished")
            synth(made, "nano")
            made.rename(folder)
    return folder


@pytest.fixture(scope="session")
def packaged_weights() -> Path:
    """The folder in which weights of packages are put together; one for all workers."""
    return Path(os.environ[SHARED]) / "cache"


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """A closed one."""
    return Gate(tmp_path / "gate")
