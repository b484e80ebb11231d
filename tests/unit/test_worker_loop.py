"""A worker's loop without a process: what it sends of one request, and of several at once."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from ipc.channel import BlockingChannel
from ipc.engines import EngineInfo
from ipc.errors import ErrorCode, ServiceError
from ipc.messages import (
    Begun,
    Cancel,
    Chunk,
    Done,
    Failed,
    Live,
    Message,
    Ping,
    Pong,
    Ready,
    Recognized,
    Request,
    WorkerOptions,
)
from ipc.operations import (
    AnyOperation,
    Paralinguistics,
    Recording,
    Sampling,
    Segment,
    Speak,
    SpeechResult,
    Transcribe,
    Transcript,
    Voice,
)
from model_procs import worker
from model_procs.engine import BatchEngine, Cancelled, Output

NET = 60.0
"""Seconds until a test that hangs is ended."""

TOLD = Paralinguistics("en", "NEUTRAL")


class End(BaseException):
    """Ends the loop, which otherwise goes on as long as its process."""


class Left(BaseException):
    """The worker would have ended its process."""


class Speaker:
    """Speaks a text letter by letter, one request at a time.

    A text that begins with "!" is an error: of the client ("!client"), of the engine ("!engine"),
    or one that ends the loop ("!end").
    """

    def __init__(self) -> None:
        self.closed: list[str] = []

    def load(self) -> None:
        """There is nothing to load."""

    def warm_up(self) -> None:
        """Nor to warm up."""

    def info(self) -> EngineInfo:
        """A name."""
        return EngineInfo("speaker", 8000)

    def run(self, operation: AnyOperation, stop: threading.Event) -> Output:
        """Letters of a text, or segments of a recording that is a text."""
        try:
            if isinstance(operation, Transcribe):
                assert operation.recording.data is not None
                text = operation.recording.data.decode()
                segments = [Segment(i, i, i + 1, letter, TOLD) for i, letter in enumerate(text)]
                for segment in segments:
                    yield from self.wait(stop)
                    yield segment
                return Transcript(text, text, len(text), TOLD, tuple(segments))
            assert isinstance(operation, Speak)
            yield from self.wait(stop)
            match operation.text:
                case "!client":
                    raise ServiceError(ErrorCode.empty_text, "say something")
                case "!engine":
                    raise ValueError("broken")
                case "!end":
                    raise End
            for letter in operation.text:
                yield letter.encode()
                yield from self.wait(stop)
            return SpeechResult(8000, len(operation.text))
        finally:
            self.closed.append(getattr(operation, "text", ""))

    def wait(self, stop: threading.Event) -> Iterator[None]:
        """Nothing to wait for."""
        yield from ()


class Choir(Speaker):
    """Speaks up to three texts at once, a letter of each at every step.

    `allow` steps are made without being asked for; then each waits for another one.
    """

    capacity = 3
    live = 2

    def __init__(self, allow: int = 1000) -> None:
        super().__init__()
        self.steps = 0
        self.allowed = threading.Semaphore(allow)
        self._begun = threading.Semaphore(0)
        self.error: Exception | None = None

    def wait(self, stop: threading.Event) -> Iterator[None]:
        """A letter is there after a step."""
        before = self.steps
        yield None
        assert self.steps == before + 1

    def wake(self) -> None: ...

    def step(self) -> None:
        """Count."""
        self._begun.release()
        assert self.allowed.acquire(timeout=NET)
        self.steps += 1
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def until_steps(self, count: int) -> None:
        """Wait until so many more steps have begun: what arrives now joins after the last."""
        for _ in range(count):
            assert self._begun.acquire(timeout=NET)


class Front:
    """The other end of the pipes."""

    def __init__(self, channel: BlockingChannel) -> None:
        self._channel = channel
        self.seen: list[Message] = []

    def send(self, message: Message) -> None:
        """To the worker."""
        self._channel.send(message)

    def next(self) -> Message:
        """From the worker."""
        message = self._channel.receive()
        assert message is not None
        self.seen.append(message)
        return message

    def until(self, *ids: int) -> list[Message]:
        """All that comes until each of these requests is over."""
        open_ids, messages = set(ids), []
        while open_ids:
            messages.append(self.next())
            match messages[-1]:
                case Done(id) | Failed(id):
                    open_ids.remove(id)
        return messages


def speak(id: int, text: str, skip: int = 0) -> Request:
    return Request(id, Speak(text, Voice(), Sampling(1), streamed=True), skip)


def listen(id: int, text: str, skip: int = 0) -> Request:
    return Request(id, Transcribe(Recording("key", text.encode()), streamed=True), skip)


def arrive_in_first_step(front: Front, engine: Choir, *others: tuple[int, str]) -> None:
    """Request 1, "abcd", is in the first step, which waits; the `others` have arrived meanwhile."""
    front.send(speak(1, "abcd"))
    assert front.next() == Begun(1)
    engine.until_steps(1)
    for id, text in others:
        front.send(speak(id, text))
    front.send(Ping(1))
    assert front.next() == Pong(1)


def letters(messages: list[Message], id: int) -> str:
    """What request `id` got of its stream."""
    text = ""
    for message in messages:
        match message:
            case Chunk(of, data) if of == id:
                text += data.decode()
            case Recognized(of, segment) if of == id:
                text += segment.text
    return text


def outcome(messages: list[Message], id: int) -> Done | Failed:
    """How request `id` ended: once, and with its last message."""
    own = [message for message in messages if getattr(message, "id", None) == id]
    ends = [message for message in own if isinstance(message, Done | Failed)]
    assert ends == own[-1:]
    return ends[0]


def code(messages: list[Message], id: int) -> str:
    """The error that request `id` ended with."""
    failed = outcome(messages, id)
    assert isinstance(failed, Failed)
    return failed.code


Serve = Callable[[Speaker], contextlib.AbstractContextManager[Front]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Runs the loop in a thread of this process, which it must not end."""

    def leave(status: int) -> NoReturn:
        raise Left(status)

    def read(inbox: worker._Inbox) -> None:
        with contextlib.suppress(Left):
            read_forever(inbox)

    read_forever = worker._Inbox.read_forever
    monkeypatch.setattr(worker._Inbox, "read_forever", read)
    monkeypatch.setattr(worker, "_raise_oom_score", lambda: None)
    monkeypatch.setattr(worker, "os", SimpleNamespace(_exit=leave))

    @contextlib.contextmanager
    def serving(engine: Speaker) -> Iterator[Front]:
        requests, to_worker = os.pipe()
        from_worker, replies = os.pipe()
        front = Front(BlockingChannel(from_worker, to_worker))
        # Its loop waits for a request that never comes unless it is told to end.
        ended = threading.Event()

        def run() -> None:
            with contextlib.suppress(End):
                worker.serve(
                    engine,
                    BlockingChannel(requests, replies),
                    WorkerOptions(trim_growth=2**40),
                )
            ended.set()

        threading.Thread(target=run, daemon=True).start()
        assert isinstance(front.next(), Ready)
        try:
            yield front
        finally:
            if isinstance(engine, Choir):
                engine.allowed.release(1000)
            front.send(speak(999, "!end"))
            assert ended.wait(NET)
            os.close(to_worker)
            join("reader")
            for descriptor in (requests, from_worker, replies):
                os.close(descriptor)

    return serving


def join(name: str) -> None:
    """Wait for a thread."""
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(NET)


# One at a time


def test_a_worker_serves_one_after_the_other(serve: Serve) -> None:
    engine = Speaker()
    assert not isinstance(engine, BatchEngine)
    with serve(engine) as front:
        for id, text in enumerate(("one", "two", "three"), 1):
            front.send(speak(id, text))
        seen = front.until(1, 2, 3)
    ready = front.seen[0]
    assert isinstance(ready, Ready)
    assert (ready.info, ready.capacity, ready.live) == (EngineInfo("speaker", 8000), 1, 1)
    assert ready.rss > 0
    assert [getattr(message, "id", 0) for message in seen] == [1] * 4 + [2] * 4 + [3] * 6
    assert [letters(seen, id) for id in (1, 2, 3)] == ["one", "two", "three"]
    done = outcome(seen, 3)
    assert isinstance(done, Done)
    assert (done.result, done.rss > 0) == (SpeechResult(8000, 5), True)
    assert not any(isinstance(message, Begun) for message in seen)


def test_what_goes_wrong_with_one_request_is_told_and_forgotten(serve: Serve) -> None:
    with serve(Speaker()) as front:
        for id, text in enumerate(("!client", "!engine", "fine"), 1):
            front.send(speak(id, text))
        seen = front.until(1, 2, 3)
    failed = outcome(seen, 1)
    assert isinstance(failed, Failed)
    assert (failed.code, failed.message) == ("empty_text", "say something")
    assert failed.rss > 0
    failed = outcome(seen, 2)
    assert isinstance(failed, Failed)
    assert failed.code == "engine_error"
    assert "ValueError: broken" in failed.message
    assert letters(seen, 3) == "fine"


# Several at once


def test_requests_are_begun_and_go_on_together(serve: Serve) -> None:
    engine = Choir(allow=0)
    assert isinstance(engine, BatchEngine)
    with serve(engine) as front:
        ready = front.seen[0]
        assert isinstance(ready, Ready)
        assert (ready.capacity, ready.live) == (3, 2)
        arrive_in_first_step(front, engine, (2, "ef"), (3, "ghi"), (4, "j"))
        engine.allowed.release()
        # Two join; the fourth waits for a place.
        assert [front.next() for _ in range(3)] == [Begun(2), Begun(3), Chunk(1, b"a")]
        engine.allowed.release(1000)
        seen = front.until(1, 2, 3, 4)
    assert [letters(front.seen, id) for id in (1, 2, 3, 4)] == ["abcd", "ef", "ghi", "j"]
    # A letter of each at every step.
    assert seen[:4] == [Chunk(1, b"b"), Chunk(2, b"e"), Chunk(3, b"g"), Chunk(1, b"c")]
    # It begins as soon as the first of the others is over.
    place = seen.index(Begun(4))
    assert [type(message) for message in seen[:place]].count(Done) == 1
    assert outcome(seen[:place], 2)
    # Four letters and the last step; the fourth request took places that were free.
    assert engine.steps <= 8


def test_more_live_streams_are_told_before_the_first_step_with_them(serve: Serve) -> None:
    engine = Choir(allow=0)
    with serve(engine) as front:
        engine.live = 3
        front.send(speak(1, "ab"))
        assert [front.next() for _ in range(2)] == [Begun(1), Live(3)]
        engine.allowed.release(1000)
        front.until(1)


def test_a_request_that_joins_late_is_served_with_those_that_run(serve: Serve) -> None:
    engine = Choir(allow=2)
    with serve(engine) as front:
        front.send(speak(1, "abcdef"))
        while front.next() != Chunk(1, b"b"):
            pass
        engine.until_steps(3)
        front.send(listen(2, "xyz"))
        front.send(Ping(1))
        assert front.next() == Pong(1)
        engine.allowed.release(1000)
        seen = front.until(1, 2)
    assert (letters(front.seen, 1), letters(front.seen, 2)) == ("abcdef", "xyz")
    assert seen.index(Begun(2)) < seen.index(Chunk(1, b"e"))
    done = outcome(seen, 2)
    assert isinstance(done, Done)
    assert isinstance(done.result, Transcript)
    assert seen.index(done) < seen.index(outcome(seen, 1))


def test_a_cancelled_request_leaves_the_others_alone(serve: Serve) -> None:
    engine = Choir(allow=0)
    with serve(engine) as front:
        arrive_in_first_step(front, engine, (2, "efgh"), (3, "ijkl"), (4, "mnop"))
        engine.allowed.release(2)
        while front.next() != Chunk(3, b"i"):
            pass
        front.send(Cancel(2))
        front.send(Cancel(4))  # which waits for a place
        front.send(Cancel(77))  # nobody's
        front.send(Ping(2))
        assert front.next() == Pong(2)
        engine.allowed.release(1000)
        front.until(1, 2, 3, 4)
    assert (code(front.seen, 2), code(front.seen, 4)) == ("cancelled", "cancelled")
    assert [letters(front.seen, id) for id in (1, 2, 3, 4)] == ["abcd", "e", "ijkl", ""]
    assert isinstance(outcome(front.seen, 1), Done)
    assert isinstance(outcome(front.seen, 3), Done)
    assert engine.closed.count("efgh") == 1


def test_an_error_in_one_request_leaves_the_others_alone(serve: Serve) -> None:
    engine = Choir(allow=0)
    with serve(engine) as front:
        for id, text in ((1, "abcd"), (2, "!engine"), (3, "!client")):
            front.send(speak(id, text))
        engine.allowed.release(1000)
        front.until(1, 2, 3)
    assert (code(front.seen, 2), code(front.seen, 3)) == ("engine_error", "empty_text")
    assert letters(front.seen, 1) == "abcd"
    assert isinstance(outcome(front.seen, 1), Done)


def test_an_error_in_a_step_is_one_of_all_that_wait_for_it(serve: Serve) -> None:
    engine = Choir(allow=0)
    with serve(engine) as front:
        arrive_in_first_step(front, engine, (2, "efgh"), (3, "ijkl"), (4, "m"))
        engine.allowed.release()
        assert [front.next() for _ in range(3)] == [Begun(2), Begun(3), Chunk(1, b"a")]
        engine.error = ValueError("out of order")
        engine.allowed.release(1000)
        seen = front.until(1, 2, 3, 4)
    for id in (1, 2, 3):
        failed = outcome(seen, id)
        assert isinstance(failed, Failed)
        assert failed.code == "engine_error"
        assert "out of order" in failed.message
        assert letters(seen, id) == ""
    # Who was not among them is served as if nothing had been.
    assert letters(seen, 4) == "m"
    assert isinstance(outcome(seen, 4), Done)
    assert {"abcd", "efgh", "ijkl"} <= set(engine.closed)


def test_a_batch_that_lacks_memory_ends_the_worker() -> None:
    class Full(Choir):
        def step(self) -> None:
            raise MemoryError

    with pytest.raises(MemoryError):
        worker._step(Full(), [])


# Replays


@pytest.mark.parametrize("make", [Speaker, Choir])
@pytest.mark.parametrize("skip", range(5))
@pytest.mark.parametrize("request_of", [speak, listen])
def test_what_the_client_has_is_made_again_and_not_sent(
    serve: Serve, make: type[Speaker], skip: int, request_of: Callable[[int, str, int], Request]
) -> None:
    with serve(make()) as front:
        front.send(request_of(1, "abcd", skip))
        front.send(request_of(2, "efgh", 0))
        seen = front.until(1, 2)
    assert letters(seen, 1) == "abcd"[skip:]
    assert letters(seen, 2) == "efgh"
    assert isinstance(outcome(seen, 1), Done)


@pytest.mark.parametrize("make", [Speaker, Choir])
@pytest.mark.parametrize("request_of", [speak, listen])
def test_a_response_that_is_shorter_than_its_beginning_is_another_one(
    serve: Serve, make: type[Speaker], request_of: Callable[[int, str, int], Request]
) -> None:
    with serve(make()) as front:
        front.send(request_of(1, "abcd", 7))
        front.send(request_of(2, "efgh", 0))
        seen = front.until(1, 2)
    failed = outcome(seen, 1)
    assert isinstance(failed, Failed)
    assert failed.code == "engine_error"
    assert "only 4 bytes or segments, but 7 had already been sent" in failed.message
    assert letters(seen, 1) == ""
    assert letters(seen, 2) == "efgh"
    assert isinstance(outcome(seen, 2), Done)


# One request by itself


class _Sent:
    """A channel and an inbox that note what they are told."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.finished: list[int] = []

    def send(self, message: Any) -> None:
        self.messages.append(message)

    def finish(self, id: int) -> None:
        self.finished.append(id)


def test_a_request_goes_on_until_it_waits() -> None:
    def output() -> Output:
        yield b"a" * (worker.CHUNK_SIZE + 1)
        yield None
        yield b"b"
        return SpeechResult(8000, 2)

    sent = _Sent()
    stop = threading.Event()
    running = worker._Running(speak(1, ""), output(), stop, sent, sent)  # type: ignore[arg-type]
    assert running.advance()
    assert [len(message.data) for message in sent.messages] == [worker.CHUNK_SIZE, 1]
    assert (running.over, sent.finished) == (False, [])
    assert not running.advance()
    assert sent.messages[2] == Chunk(1, b"b")
    assert isinstance(sent.messages[3], Done)
    assert (running.over, sent.finished) == (True, [1])


def test_a_request_that_waits_has_a_cancellation_raised_where_it_waits() -> None:
    cleaned: list[bool] = []

    def output() -> Output:
        try:
            yield None
        except Cancelled:
            cleaned.append(True)
            raise
        raise AssertionError("it went on")

    sent = _Sent()
    stop = threading.Event()
    running = worker._Running(speak(1, ""), output(), stop, sent, sent)  # type: ignore[arg-type]
    assert running.advance()
    stop.set()
    assert not running.advance()
    assert cleaned == [True]
    assert [message.code for message in sent.messages] == ["cancelled"]


def test_a_request_that_lacks_memory_ends_the_worker() -> None:
    def output() -> Output:
        yield None
        raise MemoryError

    sent = _Sent()
    stop = threading.Event()
    running = worker._Running(speak(1, ""), output(), stop, sent, sent)  # type: ignore[arg-type]
    assert running.advance()
    with pytest.raises(MemoryError):
        running.advance()
    assert sent.messages == []
