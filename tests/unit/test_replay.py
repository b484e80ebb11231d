"""What a worker leaves out of a response that is made again."""

from __future__ import annotations

import os
import threading

import pytest

from ipc.channel import BlockingChannel
from ipc.messages import Chunk, Done, Failed, Request
from ipc.operations import Sampling, Speak, SpeechResult, Voice
from model_procs.engine import Output
from model_procs.worker import _Inbox, _Running

RESULT = SpeechResult(8000, 6)


def speech() -> Output:
    yield b"abc"
    yield b"def"
    return RESULT


def sent(skip: int) -> tuple[Done | Failed, bytes]:
    """What the worker says, and sends, of a response of which there are `skip` bytes already."""
    read_fd, write_fd = os.pipe()
    try:
        ours, theirs = BlockingChannel(read_fd, write_fd), BlockingChannel(read_fd, write_fd)
        request = Request(1, Speak("Hi.", Voice(), Sampling(1)), skip)
        stop = threading.Event()
        inbox = _Inbox(theirs, lambda: None)
        inbox._stops[1] = stop
        assert not _Running(request, speech(), stop, theirs, inbox).advance()
        data = b""
        while True:
            message = ours.receive()
            if isinstance(message, Done | Failed):
                return message, data
            assert isinstance(message, Chunk)
            data += message.data
    finally:
        os.close(read_fd)
        os.close(write_fd)


@pytest.mark.parametrize("skip", range(7))
def test_the_bytes_that_are_there_are_left_out(skip: int) -> None:
    report, data = sent(skip)
    assert isinstance(report, Done)
    assert (report.result, data) == (RESULT, b"abcdef"[skip:])


def test_a_response_that_is_shorter_than_its_beginning_is_another_one() -> None:
    report, data = sent(7)
    assert isinstance(report, Failed)
    assert (report.code, data) == ("engine_error", b"")
