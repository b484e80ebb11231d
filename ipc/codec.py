"""Frames: a 4-byte big-endian length, then a msgpack array. No I/O; used in every process.

The array is `[VERSION, kind, *fields]`, with the fields in the order of the message's dataclass. A
field that is a dataclass is an array of its own fields. If it may be one of several classes, the
number of the class comes first. Every error in a frame (length, version, kind, fields, or an end in
the middle) raises `FrameError`: the peer cannot be trusted any more, and the connection ends.
"""

from __future__ import annotations

import dataclasses
import struct
import types
import typing
from collections.abc import Callable
from operator import attrgetter, contains
from typing import Any

import msgpack

from ipc.messages import Chunk, Message
from ipc.operations import AnyOperation

VERSION = 6
MAX_FRAME = 4 * 1024 * 1024
"""The longest payload in bytes. Longer data is sent as several chunks, or as the path of a file."""

_HEADER = struct.Struct(">I")
HEADER_SIZE = _HEADER.size

_BIN32 = struct.Struct(">BI")
"""msgpack's header before bytes: 0xc6 and the number of bytes."""

_PACK_BUFFER = 16 * 1024
"""First size of the packer's buffer in bytes; it grows. msgpack's default costs a new mapping."""


class FrameError(Exception):
    """The peer sent something that is not a frame of this protocol."""


class IncompleteFrameError(FrameError):
    """The peer closed in the middle of a frame."""


def encode(message: Message) -> bytes:
    """The frame of `message`, header included.

    Raises `FrameError` when its payload is longer than `MAX_FRAME`.
    """
    head, data = encode_parts(message)
    return head + data


def encode_parts(message: Message) -> tuple[bytes, bytes]:
    """The frame of `message` in two parts; the second is the data of a chunk, not copied.

    Raises `FrameError` as `encode` does.
    """
    cls = type(message)
    packer = msgpack.Packer(autoreset=False, buf_size=_PACK_BUFFER)
    end = data = b""
    if isinstance(message, Chunk):
        data = message.data
        end = _BIN32.pack(0xC6, len(data))
        packer.pack_array_header(4)
        for value in (VERSION, _NUMBER_OF[cls], message.id):
            packer.pack(value)
    else:
        packer.pack([VERSION, _NUMBER_OF[cls], *_SHAPES[cls].pack(message)])
    with packer.getbuffer() as payload:
        size = len(payload) + len(end) + len(data)
        if size > MAX_FRAME:
            raise FrameError(f"{cls.__name__} of {size} bytes is over the limit of {MAX_FRAME}")
        return b"".join((_HEADER.pack(size), payload, end)), data


def content(operation: AnyOperation) -> bytes:
    """The content of `operation` as bytes: equal for requests that would fail in the same way.

    Transient fields are left out: the seed, and the place of a recording's bytes.
    """
    cls = type(operation)
    packed: bytes = msgpack.packb([cls.__name__, *_shape(cls).content(operation)])
    return packed


class Decoder:
    """Decodes bytes to messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> list[Message]:
        """The messages that `data` completes; it keeps no reference to `data`.

        Raises `FrameError` as soon as a header has too large a size, before it buffers the payload.
        """
        if self._buffer:
            self._buffer += data
            with memoryview(self._buffer) as view:
                decoded, used = _decode_frames(view)
            del self._buffer[:used]
        else:  # most reads bring whole frames, which are decoded without a copy
            with memoryview(data) as view:
                decoded, used = _decode_frames(view)
                self._buffer += view[used:]
        return decoded

    def end(self) -> None:
        """The peer has closed. Raises `IncompleteFrameError` if it did so within a frame."""
        if self._buffer:
            raise IncompleteFrameError(f"the peer closed {len(self._buffer)} bytes into a frame")


def _decode_frames(view: memoryview) -> tuple[list[Message], int]:
    """The messages of all complete frames at the start of `view`, and the bytes they take."""
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


def _decode_payload(payload: bytes | bytearray | memoryview) -> Message:
    try:
        array = msgpack.unpackb(payload)
    except Exception as error:  # msgpack raises a dozen unrelated classes
        raise FrameError(f"not msgpack: {error}") from error
    if not isinstance(array, list) or len(array) < 2:
        raise FrameError("not an array of version, kind and fields")
    version, number, *values = array
    if version != VERSION:
        raise FrameError(f"version {version!r} of the protocol, expected {VERSION}")
    if type(number) is not int or not 0 <= number < len(_MESSAGES):
        raise FrameError(f"unknown kind of message {number!r}")
    message: Message = _SHAPES[_MESSAGES[number]].unpack(values)
    return message


# The wire format of each dataclass, made once from its annotations.

_Convert = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True, slots=True)
class _Form:
    """The wire format of one annotation: the types of values there, and the conversions.

    None instead of a function means that values need no conversion. `content` is `pack` without
    transient fields.
    """

    types: tuple[type, ...]
    pack: _Convert | None = None
    unpack: _Convert | None = None
    content: _Convert | None = None


class _Shape:
    """The wire format of one dataclass: an array of its fields."""

    def __init__(self, cls: type[Any]) -> None:
        hints = typing.get_type_hints(cls)
        fields = dataclasses.fields(cls)
        forms = [_form(hints[field.name]) for field in fields]
        lasting = [
            index for index, field in enumerate(fields) if not field.metadata.get("transient")
        ]
        self._cls = cls
        self._values = _getter([field.name for field in fields])
        self._lasting = _getter([fields[index].name for index in lasting])
        self._types = [form.types for form in forms]
        self._packers = _converters(form.pack for form in forms)
        self._unpackers = _converters(form.unpack for form in forms)
        self._contents = _converters(forms[index].content for index in lasting)

    def pack(self, value: Any) -> list[Any]:
        """The fields of `value`."""
        return _converted([*self._values(value)], self._packers)

    def content(self, value: Any) -> list[Any]:
        """The fields of `value` that are not transient."""
        return _converted([*self._lasting(value)], self._contents)

    def unpack(self, values: list[Any]) -> Any:
        """The dataclass with these fields. Raises `FrameError` if they do not fit."""
        # By `type`, not isinstance: a bool is an int to Python, but not on this wire.
        if len(values) != len(self._types) or not all(
            map(contains, self._types, map(type, values))
        ):
            raise FrameError(f"fields of {self._cls.__name__}: wrong number or type")
        return self._cls(*_converted(values, self._unpackers))


def _getter(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    """A function that reads these attributes."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda value: tuple(getattr(value, name) for name in names)


def _converters(functions: typing.Iterable[_Convert | None]) -> list[tuple[int, _Convert]]:
    return [(index, convert) for index, convert in enumerate(functions) if convert is not None]


def _converted(values: list[Any], converters: list[tuple[int, _Convert]]) -> list[Any]:
    for index, convert in converters:
        if values[index] is not None:
            values[index] = convert(values[index])
    return values


def _form(annotation: Any) -> _Form:
    """The form of an annotation: a plain type, a literal, a tuple, a mapping, a class, a union."""
    origin = typing.get_origin(annotation)
    if origin in (types.UnionType, typing.Union):
        return _union(typing.get_args(annotation))
    if origin is typing.Literal:
        return _literal(typing.get_args(annotation))
    if origin is tuple:
        return _tuple(_form(typing.get_args(annotation)[0]))
    if origin is dict and Any not in typing.get_args(annotation):
        return _mapping(*map(_form, typing.get_args(annotation)))
    if dataclasses.is_dataclass(annotation):
        shape = _shape(annotation)
        return _Form((list,), shape.pack, shape.unpack, shape.content)
    # To mypy an int is also a float; it is sent as an int.
    return _Form((float, int) if annotation is float else (origin or annotation,))


def _literal(allowed: tuple[Any, ...]) -> _Form:
    def check(value: Any) -> Any:
        if value not in allowed:
            raise FrameError(f"{value!r} is not one of {allowed}")
        return value

    return _Form((*{type(value) for value in allowed},), unpack=check)


def _tuple(item: _Form) -> _Form:
    def packed(convert: _Convert | None) -> _Convert | None:
        return convert and (lambda values: [convert(value) for value in values])

    def unpack(values: list[Any]) -> tuple[Any, ...]:
        if not all(type(value) in item.types for value in values):
            raise FrameError("an item of a list has a wrong type")
        return tuple(map(item.unpack, values) if item.unpack else values)

    return _Form((list,), packed(item.pack), unpack, packed(item.content))


def _mapping(key: _Form, value: _Form) -> _Form:
    """A dictionary of plain values."""

    def unpack(values: dict[Any, Any]) -> dict[Any, Any]:
        if not all(type(each) in key.types for each in values) or not all(
            type(each) in value.types for each in values.values()
        ):
            raise FrameError("an item of a mapping has a wrong type")
        return values

    return _Form((dict,), unpack=unpack)


def _union(members: tuple[Any, ...]) -> _Form:
    """Several plain types, or dataclasses with a number for the class; None may be a member."""
    literals = [member for member in members if typing.get_origin(member) is typing.Literal]
    classes = [member for member in members if dataclasses.is_dataclass(member)]
    forms = [_form(member) for member in members if member not in literals]
    if literals:
        forms.append(_literal(tuple(arg for each in literals for arg in typing.get_args(each))))
    if len(classes) <= 1:
        only = next((form for form in forms if form.unpack is not None), _Form(()))
        accepted = tuple(kind for form in forms for kind in form.types)
        return _Form(accepted, only.pack, only.unpack, only.content)
    shapes = [_shape(cls) for cls in classes]
    numbers = {cls: number for number, cls in enumerate(classes)}

    def numbered(fields: Callable[[_Shape, Any], list[Any]]) -> _Convert:
        def convert(value: Any) -> list[Any]:
            number = numbers[type(value)]
            return [number, *fields(shapes[number], value)]

        return convert

    def unpack(values: list[Any]) -> Any:
        number, *fields = values or [None]
        if type(number) is not int or not 0 <= number < len(shapes):
            raise FrameError(f"unknown kind of field {number!r}")
        return shapes[number].unpack(fields)

    plain = [member for member in members if member is type(None)]
    return _Form((list, *plain), numbered(_Shape.pack), unpack, numbered(_Shape.content))


_made: dict[type[Any], _Shape] = {}


def _shape(cls: Any) -> _Shape:
    if cls not in _made:
        _made[cls] = _Shape(cls)
    return _made[cls]


_MESSAGES: tuple[type[Message], ...] = typing.get_args(Message)
_NUMBER_OF = {cls: number for number, cls in enumerate(_MESSAGES)}
_SHAPES = {cls: _shape(cls) for cls in _MESSAGES}
