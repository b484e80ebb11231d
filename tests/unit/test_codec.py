"""The codec, byte by byte and against everything that is not a frame."""

from __future__ import annotations

import dataclasses
import os
import signal
import struct
import typing
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc import messages
from ipc.channel import BlockingChannel
from ipc.codec import HEADER_SIZE, MAX_FRAME, VERSION, Decoder, FrameError, encode, encode_parts
from ipc.messages import Cancel, Chunk, Message, Ping, Request

_INT = st.integers(-(2**63), 2**63 - 1)
_JSON = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.none() | st.booleans() | _INT | st.text(max_size=8) | st.floats(allow_nan=False),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)
_BY_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    int: _INT,
    str: st.text(max_size=32),
    bytes: st.binary(max_size=64),
    type(None): st.none(),
    dict: _JSON,
}


def _field_strategy(annotation: Any) -> st.SearchStrategy[Any]:
    members = typing.get_args(annotation) if typing.get_origin(annotation) is not dict else ()
    if members:
        return st.one_of([_field_strategy(member) for member in members])
    return _BY_TYPE[typing.get_origin(annotation) or annotation]


def _message_strategy(cls: type[Any]) -> st.SearchStrategy[Message]:
    hints = typing.get_type_hints(cls, vars(messages))
    return st.builds(
        cls, **{field.name: _field_strategy(hints[field.name]) for field in dataclasses.fields(cls)}
    )


any_message = st.one_of([_message_strategy(cls) for cls in typing.get_args(Message)])


def _frame(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


@given(st.lists(any_message, max_size=4))
def test_messages_come_back_byte_by_byte(sent: list[Message]) -> None:
    decoder = Decoder()
    received: list[Message] = []
    for byte in b"".join(map(encode, sent)):
        received += decoder.feed(bytes([byte]))
    decoder.end()
    assert received == sent


@given(st.lists(any_message, max_size=4), st.lists(st.integers(1, 200), min_size=1))
def test_messages_come_back_in_any_cut(sent: list[Message], cuts: list[int]) -> None:
    decoder = Decoder()
    received: list[Message] = []
    data = b"".join(map(encode, sent))
    while data:
        for cut in cuts:
            received += decoder.feed(data[:cut])
            data = data[cut:]
    decoder.end()
    assert received == sent


@given(any_message, st.data())
def test_a_truncated_frame_is_an_error_at_the_end(message: Message, data: st.DataObject) -> None:
    frame = encode(message)
    decoder = Decoder()
    assert decoder.feed(frame[: data.draw(st.integers(1, len(frame) - 1))]) == []
    with pytest.raises(FrameError, match="into a frame"):
        decoder.end()


@given(st.binary(min_size=1, max_size=200))
def test_garbage_never_raises_anything_else(garbage: bytes) -> None:
    decoder = Decoder()
    try:
        decoder.feed(_frame(garbage))
    except FrameError:
        return
    # The rare bytes that are a frame must be one in every respect.
    assert encode(Decoder().feed(_frame(garbage))[0])


def test_a_giant_claim_is_refused_before_it_is_buffered() -> None:
    with pytest.raises(FrameError, match="over the limit"):
        Decoder().feed(struct.pack(">I", MAX_FRAME + 1))


def test_the_longest_frame_passes() -> None:
    overhead = len(encode(Chunk(1, b"\0" * 70_000))) - 70_000
    longest = Chunk(1, b"\0" * (MAX_FRAME + HEADER_SIZE - overhead))
    assert Decoder().feed(encode(longest)) == [longest]
    with pytest.raises(FrameError, match="over the limit"):
        encode(Chunk(1, longest.data + b"\0"))


def test_a_chunks_data_is_not_copied() -> None:
    chunk = Chunk(1, b"sound" * 1000)
    head, data = encode_parts(chunk)
    assert data is chunk.data
    assert Decoder().feed(head + data) == [chunk]


def test_a_frame_that_a_signal_cuts_in_two_arrives_whole() -> None:
    read_fd, write_fd = os.pipe()
    sender, receiver = BlockingChannel(-1, write_fd), BlockingChannel(read_fd, -1)
    chunk = Chunk(1, bytes(range(256)) * 2000)
    with ThreadPoolExecutor(1) as pool:
        received: list[Future[Message | None]] = []
        # Nobody reads until the signal has ended the writer's first call with a part of the frame.
        before = signal.signal(
            signal.SIGALRM, lambda *_: received.append(pool.submit(receiver.receive))
        )
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            sender.send(chunk)
        finally:
            signal.signal(signal.SIGALRM, before)
            os.close(write_fd)  # ends the reader in any case
        assert received[0].result(10) == chunk
    os.close(read_fd)


_KIND_OF_CANCEL = typing.get_args(Message).index(Cancel)


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        ([VERSION + 1, _KIND_OF_CANCEL, 1], "version"),
        ([VERSION, 999, 1], "unknown kind"),
        ([VERSION, -1, 1], "unknown kind"),
        ([VERSION, True, 1], "unknown kind"),
        ([VERSION, _KIND_OF_CANCEL], "wrong number or type"),
        ([VERSION, _KIND_OF_CANCEL, 1, 2], "wrong number or type"),
        ([VERSION, _KIND_OF_CANCEL, "1"], "wrong number or type"),
        ([VERSION, _KIND_OF_CANCEL, True], "wrong number or type"),
        ([VERSION], "not an array"),
        ({"version": VERSION}, "not an array"),
        (7, "not an array"),
    ],
)
def test_what_is_not_a_message_is_refused(array: Any, complaint: str) -> None:
    with pytest.raises(FrameError, match=complaint):
        Decoder().feed(_frame(msgpack.packb(array)))


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(FrameError, match="not msgpack"):
        Decoder().feed(_frame(b"\x91" * 100_000))


def test_optional_fields_take_none() -> None:
    request = Request(1, "clone", {"text": "hi"}, audio=None, audio_path="/x", skip=3)
    assert Decoder().feed(encode(request) + encode(Ping(2))) == [request, Ping(2)]
