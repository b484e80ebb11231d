"""A front's view of a model in a cluster, with made-up replicas behind its handle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from ipc.codec import encode
from ipc.engines import ENGINES
from ipc.errors import ErrorCode, ServiceError
from ipc.messages import Chunk, Done, Failed, Request
from ipc.operations import Recording, Sampling, Speak, SpeechResult, Voice
from supervisor.cluster.backend import ClusterBackend
from supervisor.cluster.messages import Ended, RecordingMissing, Route, only_message
from supervisor.dispatch.cost import Unit, Work
from supervisor.dispatch.job import Job
from supervisor.dispatch.response_buffer import ResponseBuffer
from supervisor.dispatch.spool import Spool
from supervisor.events import Event, Refused, RequestLostWorker
from tests.unit.test_cluster_parts import SPEC, report

RESULT = SpeechResult(24_000, 2)

Reply = bytes | Ended | RecordingMissing | Exception | None
"""None: nothing comes any more."""


class Response:
    """What a replica replies, as Ray Serve hands it over."""

    def __init__(self, replies: list[Reply]) -> None:
        self._replies = replies
        self.cancelled = False

    async def __aiter__(self) -> AsyncIterator[Reply]:
        for reply in self._replies:
            if reply is None:
                await asyncio.Event().wait()
            elif isinstance(reply, Exception):
                raise reply
            yield reply

    def cancel(self) -> None:
        """The front does not want any more."""
        self.cancelled = True


@dataclass
class Handle:
    """Replays what replicas reply, call by call, and keeps the calls."""

    answer: Callable[[Route, Request], list[Reply]]
    calls: list[tuple[Route, Request, int]] = field(default_factory=list)
    responses: list[Response] = field(default_factory=list)

    def remote(self, route: Route, frame: bytes, *blocks: Any) -> Response:
        """Call a replica."""
        request = only_message(frame)
        assert isinstance(request, Request)
        self.calls.append((route, request, len(blocks)))
        self.responses.append(Response(self.answer(route, request)))
        return self.responses[-1]


class Setup:
    """A backend with two replicas, a and b."""

    def __init__(self, folder: Path, answer: Callable[[Route, Request], list[Reply]]) -> None:
        self.events: list[Event] = []
        self.backend = ClusterBackend(SPEC, ENGINES["flite"], 4, self.events.append)
        self.backend.see([report("a"), report("b")])
        self.handle = self.backend._handle = Handle(answer)
        self.spool = Spool(folder, 1024)

    def job(self, voice: Voice | None = None, seconds: float = 60.0) -> Job[SpeechResult]:
        return Job(
            Speak("text", voice or Voice(), Sampling(1)),
            ResponseBuffer(self.spool),
            time.monotonic() + seconds,
            "somebody",
            Work(Unit.CHARACTERS, 4),
        )


def done(replica: str = "a") -> list[Reply]:
    return [encode(Done(1, RESULT, 0)), Ended(replica, "tts-1", 0.1, 0.2, 0)]


def refused(replica: str, code: ErrorCode, retry_after: float) -> list[Reply]:
    end = Ended(replica, None, 0.0, 0.0, 0, retry_after)
    return [encode(Failed(1, code.wire_name, f"{replica} says no")), end]


async def test_a_request_that_one_replica_refuses_goes_to_the_other(tmp_path: Path) -> None:
    def answer(route: Route, _: Request) -> list[Reply]:
        return done("b") if "a" in route.avoid else refused("a", ErrorCode.overloaded, 9.0)

    setup = Setup(tmp_path, answer)
    job = setup.job()
    assert await setup.backend.run(job) == RESULT
    assert [call[0].avoid for call in setup.handle.calls] == [frozenset(), frozenset({"a"})]
    assert (job.running_s, job.runs[-1].worker) == (0.2, "tts-1")


async def test_when_all_refuse_the_client_comes_again_when_the_first_one_may(
    tmp_path: Path,
) -> None:
    def answer(route: Route, _: Request) -> list[Reply]:
        if "a" in route.avoid:
            return refused("b", ErrorCode.overloaded, 3.0)
        return refused("a", ErrorCode.overloaded, 9.0)

    setup = Setup(tmp_path, answer)
    with pytest.raises(ServiceError, match="b says no") as raised:
        await setup.backend.run(setup.job())
    assert raised.value.retry_after == 3.0
    assert [event.reason for event in setup.events if isinstance(event, Refused)] == ["overloaded"]


async def test_a_router_that_knows_one_replica_alone_ends_the_search(tmp_path: Path) -> None:
    setup = Setup(tmp_path, lambda route, request: refused("a", ErrorCode.overloaded, 9.0))
    with pytest.raises(ServiceError, match="a says no"):
        await setup.backend.run(setup.job())
    assert len(setup.handle.calls) == 2


async def test_an_error_of_the_request_is_not_tried_elsewhere(tmp_path: Path) -> None:
    setup = Setup(tmp_path, lambda route, request: refused("a", ErrorCode.invalid_option, 0.0))
    with pytest.raises(ServiceError, match="a says no"):
        await setup.backend.run(setup.job())
    assert len(setup.handle.calls) == 1


async def test_what_the_client_has_is_left_out_by_the_next_replica(tmp_path: Path) -> None:
    calls = 0
    read: list[bytes] = []

    def answer(_: Route, request: Request) -> list[Reply]:
        nonlocal calls
        calls += 1
        if calls == 1:
            return [encode(Chunk(1, b"abc")), ActorDiedError()]
        return [encode(Chunk(1, b"abcdef"[request.skip :])), *done("b")]

    setup = Setup(tmp_path, answer)
    job = setup.job()
    buffer = job.output
    assert isinstance(buffer, ResponseBuffer)
    buffer._begun = True  # the client has read something
    assert await setup.backend.run(job) == RESULT
    while data := await buffer.read():
        read.append(data)
    assert b"".join(read) == b"abcdef"
    assert [call[1].skip for call in setup.handle.calls] == [0, 3]
    (lost,) = [event for event in setup.events if isinstance(event, RequestLostWorker)]
    assert lost.replayed


async def test_a_request_does_not_go_round_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.cluster.backend._FIRST_PAUSE", 0.0)
    setup = Setup(tmp_path, lambda route, request: [ActorDiedError()])
    with pytest.raises(ServiceError, match="10 replicas were lost") as raised:
        await setup.backend.run(setup.job())
    assert raised.value.code is ErrorCode.worker_crashed
    assert len(setup.handle.calls) == 10


@pytest.mark.parametrize("size", [100, 9_000_000])
async def test_a_recording_is_sent_when_a_replica_does_not_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    kept: list[bytes] = []

    def put(block: bytes) -> int:
        kept.append(block)
        return len(kept)

    monkeypatch.setattr("ray.put", put)
    path = tmp_path / "recording"
    path.write_bytes(bytes(size))
    voice = Voice(recording=Recording("k" * 64, path=str(path)), registered=True)

    def answer(route: Route, request: Request) -> list[Reply]:
        return [RecordingMissing("a")] if route.has_recording else done()

    setup = Setup(tmp_path, answer)
    assert await setup.backend.run(setup.job(voice)) == RESULT
    first, second = setup.handle.calls
    assert first[0].voice == "k" * 64
    assert recording(first[1]).source is None
    assert recording(second[1]).path is None
    data = recording(second[1]).data
    assert (data if data is not None else b"".join(kept)) == bytes(size)
    assert second[2] == len(kept) == (0 if size == 100 else 3)


def recording(request: Request) -> Recording:
    assert isinstance(request.operation, Speak)
    found = request.operation.voice.recording
    assert found is not None
    return found


async def test_without_a_replica_the_model_is_unavailable(tmp_path: Path) -> None:
    setup = Setup(tmp_path, lambda route, request: [None])
    setup.backend.see([])
    late = setup.job(seconds=-1.0)
    with pytest.raises(ServiceError, match="voice-engine cluster status") as raised:
        await setup.backend.run(late)
    assert raised.value.code is ErrorCode.model_unavailable
    assert setup.handle.responses[0].cancelled


async def test_a_front_that_drains_takes_only_what_goes_on(tmp_path: Path) -> None:
    setup = Setup(tmp_path, lambda route, request: done())
    await setup.backend.drain()
    with pytest.raises(ServiceError, match="shutting down"):
        await setup.backend.run(setup.job())
    going_on = setup.job()
    going_on.continues = True
    assert await setup.backend.run(going_on) == RESULT


async def test_a_front_holds_no_more_than_the_queues_of_the_replicas(tmp_path: Path) -> None:
    setup = Setup(tmp_path, lambda route, request: done())
    busy = replace(report("a").status, free_slots=0)
    setup.backend.see([replace(report("a"), status=busy)])
    assert setup.backend.busy
    setup.backend._in_flight = 7  # two slots and a queue of four, and one that is just refused
    with pytest.raises(ServiceError, match="6 requests wait or run"):
        await setup.backend.run(setup.job())
