"""Frames: a 4-byte big-endian length, then a msgpack array. No I/O; used in every process.

The array is `[VERSION, kind, *fields]`, the fields in the order of the message's dataclass.
Whatever is wrong with a frame (its length, version, kind, fields, or that it ends in the middle) is
one error, `FrameError`: the peer cannot be trusted any more, and the connection ends.
"""

from __future__ import annotations

import struct
import types
import typing
from dataclasses import fields
from typing import Any

import msgpack

from ipc import messages
from ipc.messages import Chunk, Message

VERSION = 1
MAX_FRAME = 4 * 1024 * 1024
"""The longest payload in bytes. Longer data travels as several chunks, or by path."""

_HEADER = struct.Struct(">I")
HEADER_SIZE = _HEADER.size

_BIN32 = struct.Struct(">BI")
"""What msgpack writes before bytes: 0xc6 and how many they are."""

_PACK_BUFFER = 16 * 1024
"""What the packer begins with; it grows. Its own default is mapped and unmapped for each frame."""


class FrameError(Exception):
    """The peer sent something that is not a frame of this protocol."""


_KINDS: tuple[type[Message], ...] = typing.get_args(Message)
_KIND_OF = {cls: kind for kind, cls in enumerate(_KINDS)}


def _accepted(annotation: Any) -> tuple[type, ...]:
    """The runtime types of a field, from its annotation: `bytes | None`, `dict[str, Any]`, ..."""
    if isinstance(annotation, types.UnionType):
        return tuple(t for member in typing.get_args(annotation) for t in _accepted(member))
    return (typing.get_origin(annotation) or annotation,)


def _field_types(cls: type[Message]) -> tuple[tuple[type, ...], ...]:
    hints = typing.get_type_hints(cls, vars(messages))
    return tuple(_accepted(hints[field.name]) for field in fields(cls))


_FIELD_NAMES = {cls: tuple(field.name for field in fields(cls)) for cls in _KINDS}
_FIELD_TYPES = {cls: _field_types(cls) for cls in _KINDS}


def encode(message: Message) -> bytes:
    """The frame of `message`, header included.

    Raises `FrameError` when it is longer than `MAX_FRAME`, before any of it is sent.
    """
    head, data = encode_parts(message)
    return head + data


def encode_parts(message: Message) -> tuple[bytes, bytes]:
    """The frame of `message` in two parts, of which the second is a chunk's data as it is.

    Raises `FrameError` as `encode` does.
    """
    cls = type(message)
    packer = msgpack.Packer(autoreset=False, buf_size=_PACK_BUFFER)
    end = data = b""
    if isinstance(message, Chunk):
        data = message.data
        end = _BIN32.pack(0xC6, len(data))
        packer.pack_array_header(4)
        for value in (VERSION, _KIND_OF[cls], message.id):
            packer.pack(value)
    else:
        values = (getattr(message, name) for name in _FIELD_NAMES[cls])
        packer.pack([VERSION, _KIND_OF[cls], *values])
    with packer.getbuffer() as payload:
        size = len(payload) + len(end) + len(data)
        if size > MAX_FRAME:
            raise FrameError(f"{cls.__name__} of {size} bytes is over the limit of {MAX_FRAME}")
        return b"".join((_HEADER.pack(size), payload, end)), data


def _decode_payload(payload: bytes | bytearray | memoryview) -> Message:
    try:
        array = msgpack.unpackb(payload)
    except Exception as error:  # msgpack's and Python's own, a dozen unrelated classes
        raise FrameError(f"not msgpack: {error}") from error
    if not isinstance(array, list) or len(array) < 2:
        raise FrameError("not an array of version, kind and fields")
    version, kind, *values = array
    if version != VERSION:
        raise FrameError(f"version {version!r} of the protocol, expected {VERSION}")
    if type(kind) is not int or not 0 <= kind < len(_KINDS):
        raise FrameError(f"unknown kind of message {kind!r}")
    cls = _KINDS[kind]
    expected = _FIELD_TYPES[cls]
    # `type(...) in`, not isinstance: a bool is an int to Python, but not on this wire.
    if len(values) != len(expected) or not all(
        type(value) in accepted for value, accepted in zip(values, expected, strict=True)
    ):
        raise FrameError(f"fields of {cls.__name__} do not fit")
    return cls(*values)


def _decode_frames(view: memoryview) -> tuple[list[Message], int]:
    """The messages of the whole frames that `view` begins with, and how many bytes those take."""
    decoded: list[Message] = []
    position = 0
    while len(view) - position >= HEADER_SIZE:
        (size,) = _HEADER.unpack_from(view, position)
        if size > MAX_FRAME:
            raise FrameError(f"a frame of {size} bytes is over the limit of {MAX_FRAME}")
        start = position + HEADER_SIZE
        if len(view) < start + size:
            break
        with view[start : start + size] as payload:
            decoded.append(_decode_payload(payload))
        position = start + size
    return decoded, position


class Decoder:
    """Bytes in, messages out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> list[Message]:
        """The messages that `data` completes; nothing of `data` is referred to afterwards.

        Raises `FrameError` as soon as a header claims too much, before its payload is buffered.
        """
        if self._buffer:
            self._buffer += data
            with memoryview(self._buffer) as view:
                decoded, used = _decode_frames(view)
            del self._buffer[:used]
        else:  # most reads bring whole frames: those are decoded where they lie
            with memoryview(data) as view:
                decoded, used = _decode_frames(view)
                self._buffer += view[used:]
        return decoded

    def end(self) -> None:
        """The peer has closed. Raises `FrameError` when it did so in the middle of a frame."""
        if self._buffer:
            raise FrameError(f"the peer closed {len(self._buffer)} bytes into a frame")
