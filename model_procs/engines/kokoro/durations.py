"""The lengths of phonemes, from models that compute them but do not return them. In templates.

Most published exports of Kokoro have only the sound for output. Inside, the duration predictor's
numbers are rounded and clipped to whole frames (Round, then Clip, then perhaps Cast): there is one
such place. ONNX files are protobuf messages, and of two that are joined end to end the lists are
joined too. So a few bytes behind the file declare that tensor an output.
"""

from __future__ import annotations

from collections.abc import Iterator

_GRAPH = 7
"""The field of ModelProto with the graph; the others are those of GraphProto and NodeProto."""
_NODE, _OUTPUT = 1, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_TYPE = 1, 2, 4
_VALUE_NAME = 1


DURATIONS = "duration"
"""The name of this output in exports that have it."""


def with_durations(model: bytes) -> tuple[bytes, str | None]:
    """The ONNX file `model` with an output for the frames of each token, and the output's name.

    None: it cannot be found, and the model is as it was.
    """
    outputs: list[bytes] = []
    rounded: set[bytes] = set()
    clipped: set[bytes] = set()
    found: list[bytes] = []
    for number, graph in _fields(memoryview(model)):
        for kind, part in _fields(graph) if number == _GRAPH else ():
            if kind == _OUTPUT:
                outputs += _values(part, _VALUE_NAME)
            elif kind == _NODE:
                (operator,), made = _values(part, _NODE_TYPE), _values(part, _NODE_OUTPUT)
                given = _values(part, _NODE_INPUT)[:1]
                if operator == b"Round":
                    rounded.update(made)
                elif operator == b"Clip" and rounded.issuperset(given):
                    clipped.update(made)
                    found += made
                elif operator == b"Cast" and given[0] in clipped:
                    found = [made[0] if name == given[0] else name for name in found]
    if DURATIONS.encode() in outputs:
        return model, DURATIONS
    if len(found) != 1:
        return model, None
    value = _field(_GRAPH, _field(_OUTPUT, _field(_VALUE_NAME, found[0])))
    return model + value, found[0].decode()


def _values(message: memoryview, number: int) -> list[bytes]:
    """The values of one field of a message."""
    return [bytes(value) for kind, value in _fields(message) if kind == number]


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and bytes of the fields of a protobuf message that have a length."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        match tag & 7:
            case 0:
                _, place = _varint(message, place)
            case 1:
                place += 8
            case 2:
                size, place = _varint(message, place)
                yield tag >> 3, message[place : place + size]
                place += size
            case 5:
                place += 4
            case other:
                raise ValueError(f"no ONNX file: type {other} of a field")


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """A number of seven bits in each byte, and the place after it."""
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, place


def _field(number: int, data: bytes) -> bytes:
    return _as_varint(number << 3 | 2) + _as_varint(len(data)) + data


def _as_varint(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    return bytes(written) + bytes([value])
