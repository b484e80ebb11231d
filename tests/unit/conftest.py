"""Unit tests start no child process: one that tries fails."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

STARTS = frozenset(
    {
        "subprocess.Popen",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.spawn",
        "os.system",
        "pty.spawn",
    }
)
"""The audit events of Python with which a child process begins."""


class Guard:
    """An audit hook, which Python never removes; it does nothing while it is not `active`."""

    def __init__(self) -> None:
        self.active = False
        self.started: list[str] = []

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.active and event in STARTS:
            self.started.append(f"{event}{arguments[:2]}")
            raise RuntimeError(f"a unit test starts no child process, but here is {event}")


_guard = Guard()
sys.addaudithook(_guard)


@pytest.fixture(scope="package", autouse=True)
def no_children_in_fixtures() -> Iterator[None]:
    """Guards what is set up for more than one test."""
    _guard.active = True
    yield
    _guard.active = False


@pytest.fixture(autouse=True)
def child_processes() -> Iterator[list[str]]:
    """What the test tried to start; it fails even where the code catches the error."""
    _guard.started.clear()
    yield _guard.started
    assert _guard.started == []
