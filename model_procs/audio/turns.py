"""Work in parts: a generator that yields after each, and returns the result. Runs in workers."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, TypeVar

Result = TypeVar("Result")


def result_of(work: Generator[Any, None, Result]) -> Result:
    """What `work` returns, after all that it yields."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: Result = end.value
            return result


def in_turns(work: Generator[None, None, Result], seconds: float) -> Generator[None, None, Result]:
    """The result of `work`; yields once in so many seconds, so that others can go on."""
    began = time.monotonic()
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: Result = end.value
            return result
        if time.monotonic() >= began + seconds:
            yield None
            began = time.monotonic()
