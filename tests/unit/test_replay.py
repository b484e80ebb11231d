"""What a worker leaves out of an answer that is made again."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from ipc.channel import BlockingChannel
from ipc.engines import Json
from ipc.errors import ErrorCode, ServiceError
from ipc.messages import Chunk, Request
from model_procs.worker import _send_chunks


def answer() -> Generator[bytes, None, Json]:
    yield b"abc"
    yield b"def"
    return {"duration": 1.0}


def sent(skip: int) -> tuple[Json, bytes]:
    """What the worker says, and sends, of an answer of which there are `skip` bytes already."""
    read_fd, write_fd = os.pipe()
    try:
        ours, theirs = BlockingChannel(read_fd, write_fd), BlockingChannel(read_fd, write_fd)
        request = Request(1, "speak", {"seed": 1}, skip=skip)
        result = _send_chunks(answer(), theirs, request)
        theirs.send(Chunk(2, b""))
        data = b""
        while (chunk := ours.receive()) != Chunk(2, b""):
            assert isinstance(chunk, Chunk)
            data += chunk.data
        return result, data
    finally:
        os.close(read_fd)
        os.close(write_fd)


@pytest.mark.parametrize("skip", range(7))
def test_the_bytes_that_are_there_are_left_out(skip: int) -> None:
    assert sent(skip) == ({"duration": 1.0}, b"abcdef"[skip:])


def test_an_answer_that_is_shorter_than_its_beginning_is_another_one() -> None:
    with pytest.raises(ServiceError) as raised:
        sent(7)
    assert raised.value.code is ErrorCode.engine_error
