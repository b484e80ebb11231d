"""The codec, byte by byte and against everything that is not a frame."""

from __future__ import annotations

import dataclasses
import os
import signal
import struct
import types
import typing
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc import codec
from ipc.channel import BlockingChannel
from ipc.codec import (
    HEADER_SIZE,
    MAX_FRAME,
    VERSION,
    Decoder,
    FrameError,
    content,
    encode,
    encode_parts,
)
from ipc.engines import BuiltinVoice, EngineInfo
from ipc.messages import (
    Cancel,
    Chunk,
    Done,
    Message,
    Ping,
    Ready,
    Recognized,
    Request,
    Spoken,
)
from ipc.operations import (
    RESULT_OF,
    AnyOperation,
    AnyResult,
    EncodeVoice,
    Listen,
    Operation,
    Paralinguistics,
    Recording,
    Sampling,
    Segment,
    SentenceTime,
    Speak,
    SpeechResult,
    SpokenSentence,
    Transcribe,
    Transcript,
    Voice,
    VoiceResult,
    Word,
    WordTime,
)

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
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    str: st.text(max_size=32),
    bytes: st.binary(max_size=64),
    type(None): st.none(),
    dict: _JSON,
}


def _values(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of an annotation: a plain type, a literal, a tuple, a mapping, a class, a union."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return st.one_of([_values(member) for member in arguments])
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        assert arguments[1:] == (...,)
        return st.lists(_values(arguments[0]), max_size=3).map(tuple)
    if origin is dict and Any not in arguments:
        return st.dictionaries(*map(_values, arguments), max_size=4)
    if dataclasses.is_dataclass(annotation):
        hints = typing.get_type_hints(annotation)
        fields = dataclasses.fields(annotation)
        make: Any = annotation
        return st.builds(make, **{field.name: _values(hints[field.name]) for field in fields})
    return _BY_TYPE[origin or annotation]


any_message: st.SearchStrategy[Message] = _values(Message)
any_operation: st.SearchStrategy[AnyOperation] = _values(AnyOperation)


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


# Fields that are dataclasses themselves

UPLOAD = Recording("key", b"sound")
TOLD = Paralinguistics(
    "en", "HAPPY", ("Speech",), 0.9, None, 0.5, {"en": 0.9, "zh": 1}, None, {"Speech": 1.0}
)
SEGMENT = Segment(1, 0.5, 1.5, "Yes.", TOLD, (Word("Yes.", 0.5, 1.5),))


@pytest.mark.parametrize(
    "message",
    [
        Request(1, Speak("hi", Voice(), Sampling(7))),
        Request(1, Speak("hi", Voice("alba"), Sampling(7, 0.5, 2, -4.0), "mp3", True, 8000)),
        Request(1, Speak("hi", Voice(None, Recording("k", None, "/x"), True), Sampling(7)), skip=3),
        Request(1, EncodeVoice(UPLOAD, registered=False)),
        Request(1, Transcribe(UPLOAD, "en", itn=False, words=True, streamed=True), skip=2),
        Done(1, SpeechResult(8000, 16_000, 0.1, True, (SentenceTime("Hi.", 0, 1.5, 2, 5),)), 9),
        Done(1, SpeechResult(8000, 16_000), 9),
        Done(1, VoiceResult(1.5, cached=True), 9),
        Done(1, Transcript("Yes.", "<|en|>Yes.", 2.0, TOLD, (SEGMENT,)), 9),
        Recognized(1, SEGMENT),
        Recognized(1, dataclasses.replace(SEGMENT, words=None)),
        Recognized(1, dataclasses.replace(SEGMENT, words=())),
        Spoken(1, SpokenSentence(2, SentenceTime("Hi.", 0.5, 1.5, 4, 7), last=True)),
        Spoken(
            1, SpokenSentence(3, SentenceTime("Hi.", 0, 1, 4, 7, (WordTime(0, 0.9, 0, 2, 4, 6),)))
        ),
        Ready(EngineInfo("flite", 16_000), 9),
        Ready(EngineInfo("a", 1, ("note",), voices=(BuiltinVoice("b", "B"),), facts={"x": [1]}), 9),
    ],
)
def test_a_message_comes_back_with_all_that_is_in_it(message: Message) -> None:
    (back,) = Decoder().feed(encode(message) + encode(Ping(2)))[:1]
    assert back == message
    assert repr(back) == repr(message)  # as strict about types within


def test_a_whole_number_is_a_float_too() -> None:
    (back,) = Decoder().feed(encode(Done(1, VoiceResult(2, cached=False), 0)))
    assert back == Done(1, VoiceResult(2.0, cached=False), 0)


def test_every_operation_has_its_result_and_a_place_in_the_messages() -> None:
    operations = typing.get_args(AnyOperation)
    assert set(RESULT_OF) == set(operations)
    # Slots make a class of another of the same name, so that names are what can be compared.
    names = {operation.__name__ for operation in operations}
    assert names == {subclass.__name__ for subclass in Operation.__subclasses__()}
    assert set(RESULT_OF.values()) == set(typing.get_args(AnyResult))
    for operation, result in RESULT_OF.items():
        (base,) = vars(operation)["__orig_bases__"]
        assert typing.get_args(base) == (result,)


def _array(message: Message) -> list[Any]:
    """The array in the frame of `message`."""
    array: list[Any] = msgpack.unpackb(encode(message)[HEADER_SIZE:])
    return array


_SPEAK = Request(1, Speak("hi", Voice(recording=UPLOAD), Sampling(7)))
_TRANSCRIPT = Done(1, Transcript("Yes.", "<|en|>Yes.", 2.0, TOLD, (SEGMENT,)), 9)
_READY = Ready(EngineInfo("a", 1, ("note",), voices=(BuiltinVoice("b", "B"),)), 9)


@pytest.mark.parametrize(
    ("message", "path", "value", "complaint"),
    [
        # Of a request: the operation, behind version, kind and id.
        (_SPEAK, (3,), None, "Request: wrong number or type"),
        (_SPEAK, (3,), "speak", "Request: wrong number or type"),
        (_SPEAK, (3,), {}, "Request: wrong number or type"),
        (_SPEAK, (3,), [], "unknown kind of field None"),
        (_SPEAK, (3, 0), 4, "unknown kind of field 4"),
        (_SPEAK, (3, 0), -1, "unknown kind of field -1"),
        (_SPEAK, (3, 0), False, "unknown kind of field False"),
        (_SPEAK, (3, 0), "0", "unknown kind of field '0'"),
        (_SPEAK, (3, 0), [0], "unknown kind of field"),
        (_SPEAK, (3, 0), 1, "EncodeVoice: wrong number or type"),
        (_SPEAK, (3, 1), b"hi", "Speak: wrong number or type"),
        (_SPEAK, (3, 2), "alba", "Speak: wrong number or type"),
        (_SPEAK, (3, 2), [], "Voice: wrong number or type"),
        (_SPEAK, (3, 2, 1), "key", "Voice: wrong number or type"),
        (_SPEAK, (3, 2, 1), ["key"], "Recording: wrong number or type"),
        (_SPEAK, (3, 2, 1, 1), "sound", "Recording: wrong number or type"),
        (_SPEAK, (3, 2, 2), 0, "Voice: wrong number or type"),
        (_SPEAK, (3, 3, 0), True, "Sampling: wrong number or type"),
        (_SPEAK, (3, 3, 0), 7.0, "Sampling: wrong number or type"),
        (_SPEAK, (3, 3, 1), "0.5", "Sampling: wrong number or type"),
        (_SPEAK, (3, 8), True, "Speak: wrong number or type"),
        # Of a transcript: the segments, behind text, raw, duration and paralinguistics.
        (_TRANSCRIPT, (3, 0), 7, "unknown kind of field 7"),
        (_TRANSCRIPT, (3, 3), "2.0", "Transcript: wrong number or type"),
        (_TRANSCRIPT, (3, 4, 2), "Speech", "Paralinguistics: wrong number or type"),
        (_TRANSCRIPT, (3, 4, 2, 0), 1, "an item of a list has a wrong type"),
        (_TRANSCRIPT, (3, 4, 2, 0), None, "an item of a list has a wrong type"),
        (_TRANSCRIPT, (3, 4, 6), ["en"], "Paralinguistics: wrong number or type"),
        (_TRANSCRIPT, (3, 4, 6), {"en": "0.9"}, "an item of a mapping has a wrong type"),
        (_TRANSCRIPT, (3, 4, 6), {b"en": 0.9}, "an item of a mapping has a wrong type"),
        (_TRANSCRIPT, (3, 4, 6), {"en": True}, "an item of a mapping has a wrong type"),
        (_TRANSCRIPT, (3, 4, 8), {"en": None}, "an item of a mapping has a wrong type"),
        (_TRANSCRIPT, (3, 5), None, "Transcript: wrong number or type"),
        (_TRANSCRIPT, (3, 5, 0), "Yes.", "an item of a list has a wrong type"),
        (_TRANSCRIPT, (3, 5, 0), None, "an item of a list has a wrong type"),
        (_TRANSCRIPT, (3, 5, 0), [], "Segment: wrong number or type"),
        (_TRANSCRIPT, (3, 5, 0, 5, 0, 1), "0.5", "Word: wrong number or type"),
        (_TRANSCRIPT, (3, 5, 0, 5, 0), 1, "an item of a list has a wrong type"),
        # Of an engine: notes and voices.
        (_READY, (2, 2, 0), b"note", "an item of a list has a wrong type"),
        (_READY, (2, 4, 0), ["b"], "BuiltinVoice: wrong number or type"),
        (_READY, (2, 9), [], "EngineInfo: wrong number or type"),
    ],
)
def test_nested_garbage_is_refused(
    message: Message, path: tuple[int, ...], value: Any, complaint: str
) -> None:
    array = _array(message)
    *within, last = path
    place = array
    for index in within:
        place = place[index]
    assert place[last] != value or type(place[last]) is not type(value)
    place[last] = value
    with pytest.raises(FrameError, match=complaint):
        Decoder().feed(_frame(msgpack.packb(array)))


def _places(array: list[Any]) -> Iterator[tuple[list[Any], int]]:
    """All elements of `array` and of the arrays in it, as list and index."""
    for index, element in enumerate(array):
        yield array, index
        if isinstance(element, list):
            yield from _places(element)


@given(any_message, st.data())
def test_what_is_wrong_anywhere_inside_never_raises_anything_else(
    message: Message, data: st.DataObject
) -> None:
    array = _array(message)
    place, index = data.draw(st.sampled_from(list(_places(array))))
    if data.draw(st.booleans()):
        place[index] = data.draw(st.sampled_from([None, True, 5, 0.5, "x", b"x", [], [0], {}]))
    else:
        del place[index]
    try:
        (back,) = Decoder().feed(_frame(msgpack.packb(array)))
    except FrameError:
        return
    # The rare array that is a message must be one in every respect.
    assert Decoder().feed(encode(back)) == [back]


@dataclasses.dataclass(frozen=True, slots=True)
class _Choices:
    """Annotations that the codec knows and no message happens to have."""

    mode: typing.Literal["fast", "good"]
    level: typing.Literal[1, 2] | None = None
    modes: tuple[typing.Literal["fast", "good"], ...] = ()
    either: Word | Recording | None = None


@given(_values(_Choices))
def test_literals_and_optional_unions_come_back(choices: _Choices) -> None:
    shape = codec._shape(_Choices)
    assert shape.unpack(msgpack.unpackb(msgpack.packb(shape.pack(choices)))) == choices


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (["best", None, [], None], "'best' is not one of"),
        ([None, None, [], None], "wrong number or type"),
        ([7, None, [], None], "wrong number or type"),
        (["fast", 3, [], None], "3 is not one of"),
        (["fast", True, [], None], "wrong number or type"),
        (["fast", None, ["good", "best"], None], "'best' is not one of"),
        (["fast", None, [1], None], "an item of a list"),
        (["fast", None, [], [2, "x", 0, 1]], "unknown kind of field 2"),
        (["fast", None, [], [1, "x", 0.5, 1.5]], "Recording: wrong number or type"),
        (["fast", None, [], "x"], "wrong number or type"),
    ],
)
def test_what_a_literal_or_a_union_does_not_allow_is_refused(
    values: list[Any], complaint: str
) -> None:
    with pytest.raises(FrameError, match=complaint):
        codec._shape(_Choices).unpack(values)


# The content of an operation


_OPERATIONS: tuple[AnyOperation, ...] = (
    Speak("hi", Voice("alba", UPLOAD), Sampling(7, 0.5, 2, -4.0), sample_rate=1, bit_rate=2),
    EncodeVoice(UPLOAD),
    Transcribe(UPLOAD),
    Listen(b"sound", "pcm16"),
)
"""One of each, no field of which that leads to others is None."""

Change = Callable[[Any], Any]


def _changes(value: Any) -> Iterator[tuple[str, bool, Change]]:
    """For each field of a dataclass, and of those in it: its name, whether it is transient, and
    what makes the same with another value there.
    """
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if dataclasses.is_dataclass(inner):
            for name, transient, change in _changes(inner):
                yield f"{field.name}.{name}", transient, _within(field.name, change)
        else:
            yield field.name, bool(field.metadata.get("transient")), _within(field.name, _other)


def _within(name: str, change: Change) -> Change:
    return lambda value: dataclasses.replace(value, **{name: change(getattr(value, name))})


def _other(value: Any) -> Any:
    """Another value of the same type; for None a text, which is no value of any field here."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case bytes():
            return value + b"x"
        case None:
            return "another"
        case ():
            return (1,)
    raise TypeError(f"no other value for {value!r}")


_CASES = [
    pytest.param(operation, transient, change, id=f"{type(operation).__name__}.{name}")
    for operation in _OPERATIONS
    for name, transient, change in _changes(operation)
]


@pytest.mark.parametrize(("operation", "transient", "change"), _CASES)
def test_content_is_what_is_asked_for(
    operation: AnyOperation, transient: bool, change: Change
) -> None:
    changed = change(operation)
    assert changed != operation
    assert (content(changed) == content(operation)) is transient


def test_transient_are_the_seed_and_where_a_recording_is() -> None:
    names = {
        name for operation in _OPERATIONS for name, transient, _ in _changes(operation) if transient
    }
    assert {type(operation) for operation in _OPERATIONS} == set(typing.get_args(AnyOperation))
    assert names == {
        "sampling.seed",
        "recording.data",
        "recording.path",
        "recording.parts",
        "voice.recording.data",
        "voice.recording.path",
        "voice.recording.parts",
    }


def test_content_tells_operations_and_missing_parts_apart() -> None:
    plain = Speak("hi", Voice(), Sampling(7))
    found: list[AnyOperation] = [
        plain,
        dataclasses.replace(plain, voice=Voice("alba")),
        dataclasses.replace(plain, voice=Voice(recording=UPLOAD)),
        dataclasses.replace(plain, voice=Voice(recording=UPLOAD, registered=True)),
        EncodeVoice(UPLOAD),
        Transcribe(UPLOAD),
    ]
    assert len({content(operation) for operation in found}) == len(found)


@given(any_operation)
def test_any_operation_has_a_content(operation: AnyOperation) -> None:
    assert content(operation) == content(dataclasses.replace(operation))
