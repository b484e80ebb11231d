"""Work in parts: a generator that yields after each, and returns the result. Runs in workers."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from typing import Any, Generic, TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")


class Work(Generic[Part, Result]):
    """The parts of a generator, to loop over once; then `result` is what it has returned."""

    result: Result

    def __init__(self, generator: Generator[Part, None, Result]) -> None:
        self._generator = generator

    def __iter__(self) -> Iterator[Part]:
        self.result = yield from self._generator


def result_of(generator: Generator[Any, None, Result]) -> Result:
    """What `generator` returns, after all that it yields."""
    work = Work(generator)
    for _ in work:
        pass
    return work.result


def in_turns(
    generator: Generator[None, None, Result], seconds: float
) -> Generator[None, None, Result]:
    """The result of `generator`; yields once in so many seconds, so that others can go on."""
    work = Work(generator)
    began = time.monotonic()
    for _ in work:
        if time.monotonic() >= began + seconds:
            yield None
            began = time.monotonic()
    return work.result
