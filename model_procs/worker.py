"""A worker: serves requests until the front closes its pipe, as many at once as its engine can.

Runs in worker processes: forked from a template, or started directly (`main`, start method spawn).
The main thread runs the engine. A second thread reads the pipe, so that the worker answers pings
and notices cancellations while the model computes.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from ipc.channel import BlockingChannel
from ipc.errors import ErrorCode, ServiceError
from ipc.messages import (
    Begun,
    Cancel,
    Chunk,
    Done,
    Failed,
    Live,
    Ping,
    Pong,
    Ready,
    Recognized,
    Request,
    Spoken,
    WorkerOptions,
)
from ipc.operations import AnyResult, SpokenSentence
from model_procs import bootstrap
from model_procs.engine import BatchEngine, Cancelled, Engine, Output, VoiceKeeper
from model_procs.heap import Trimmer
from model_procs.sandbox import Sandbox

CHUNK_SIZE = 256 * 1024
"""The most data of one frame, in bytes; longer pieces are split."""

_OOM_SCORE = "800"
"""oom_score_adj of a worker, at most 1000; that of the front stays 0."""

_IDLE_SECONDS = 0.05
"""How long a worker waits for the next request before it trims its heap."""

_DENIED = " - if the engine needs what its sandbox forbids, set VOICE_ENGINE_SANDBOX=off"

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Load the model and serve: the start method "spawn"."""
    parser = argparse.ArgumentParser(description="Worker of one model; started by the front.")
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--replies", type=int, required=True)
    args = bootstrap.start(parser, argv)
    channel = BlockingChannel(args.requests, args.replies)
    try:
        engine = bootstrap.load(args.config)
    except Exception as error:
        channel.send(bootstrap.failure(error))
        raise
    sandbox = Sandbox(engine, args.config.engine, args.config.worker_options)
    gc.collect()
    gc.freeze()
    serve(engine, channel, args.config.worker_options, sandbox)
    return 0


def serve(
    engine: Engine,
    channel: BlockingChannel,
    options: WorkerOptions,
    sandbox: Sandbox | None = None,
) -> None:
    """Enter the sandbox, warm up, report READY, serve requests until EOF."""
    _raise_oom_score()
    bootstrap.resident_bytes()  # opens its file before the sandbox forbids it
    layers = () if sandbox is None else sandbox.enter(options)
    try:
        engine.warm_up()
        if isinstance(engine, VoiceKeeper):
            engine.keep_voices(options)
    except Exception as error:
        denied = layers and isinstance(error, PermissionError)
        channel.send(bootstrap.failure(error, _DENIED if denied else ""))
        raise
    batch = engine if isinstance(engine, BatchEngine) else None
    capacity = 1 if batch is None else batch.capacity
    live = 1 if batch is None else _live(batch)
    inbox = _Inbox(channel, (lambda: None) if batch is None else batch.wake)
    trimmer = Trimmer(bootstrap.resident_bytes, options.trim_growth)
    channel.send(Ready(engine.info(), bootstrap.resident_bytes(), capacity, live, layers))
    threading.Thread(target=inbox.read_forever, name="reader", daemon=True).start()

    def start(request: Request) -> _Running:
        if capacity > 1:
            channel.send(Begun(request.id))
        stop = inbox.stop_event(request.id)
        return _Running(request, engine.run(request.operation, stop), stop, channel, inbox)

    running: list[_Running] = []
    while True:
        if not running:
            running.append(start(_wait(inbox, trimmer)))
        while len(running) < capacity and (request := inbox.next(timeout=0)) is not None:
            running.append(start(request))
        running = [one for one in running if one.advance()]
        if batch is not None and (now := _live(batch)) != live:
            live = now
            channel.send(Live(live))
        if batch is not None and running:
            _step(batch, running)
            running = [one for one in running if not one.over]
        trimmer.busy()


def _wait(inbox: _Inbox, trimmer: Trimmer) -> Request:
    """Wait for the next request. An idle worker that has grown trims its heap first."""
    request = inbox.next(timeout=_IDLE_SECONDS)
    if request is None:
        trimmer.idle()
        request = inbox.next(timeout=None)
    assert request is not None
    return request


def _live(engine: BatchEngine) -> int:
    """How many of its requests may be live streams."""
    return max(1, min(engine.live, engine.capacity))


def _step(engine: BatchEngine, running: list[_Running]) -> None:
    """Run one step of the batch. If it fails, every request that waits for it fails."""
    try:
        engine.step()
    except MemoryError:
        raise  # this process cannot be trusted any more
    except Exception as error:
        for one in running:
            one.fail(error)


class _Running:
    """One request that the engine works on. Its last message is Done or Failed."""

    def __init__(
        self,
        request: Request,
        output: Output,
        stop: threading.Event,
        channel: BlockingChannel,
        inbox: _Inbox,
    ) -> None:
        self.over = False
        self._request = request
        self._output = output
        self._stop = stop
        self._channel = channel
        self._inbox = inbox
        self._skip = request.skip

    def advance(self) -> bool:
        """Work on the request until it waits for a step; False when it is over."""
        try:
            if self._stop.is_set():
                self._output.throw(Cancelled())
            while (item := next(self._output)) is not None:
                if isinstance(item, bytes):
                    self._send_bytes(item)
                elif isinstance(item, SpokenSentence):
                    self._channel.send(Spoken(self._request.id, item))
                elif self._skip:
                    self._skip -= 1
                else:
                    self._channel.send(Recognized(self._request.id, item))
        except StopIteration as end:
            self._finish(end.value)
        except MemoryError:
            raise  # this process cannot be trusted any more
        except BrokenPipeError:
            os._exit(0)
        except Exception as error:
            self.fail(error)
        return not self.over

    def fail(self, error: Exception) -> None:
        """End the request with `error`."""
        match error:
            case Cancelled():
                code, message = ErrorCode.cancelled, "the request was cancelled"
            case ServiceError():
                code, message = error.code, error.message
            case _:
                logger.error("request %d failed", self._request.id, exc_info=error)
                code = ErrorCode.engine_error
                message = f"the engine failed: {type(error).__name__}: {error}"
        rss = self._end()
        self._channel.send(Failed(self._request.id, code.wire_name, message, rss))

    def _finish(self, result: AnyResult) -> None:
        if self._skip:  # the client already has more than this worker has generated
            made = self._request.skip - self._skip
            message = (
                f"the replay gave only {made} bytes or segments, but {self._request.skip} had "
                "already been sent; send the request again"
            )
            self.fail(ServiceError(ErrorCode.engine_error, message))
        else:
            rss = self._end()
            self._channel.send(Done(self._request.id, result, rss))

    def _end(self) -> int:
        """Clean up; returns the RSS in bytes."""
        self.over = True
        self._output.close()
        self._inbox.finish(self._request.id)
        gc.collect()
        return bootstrap.resident_bytes()

    def _send_bytes(self, data: bytes) -> None:
        """Send `data` without the part that the client already has, split into frames."""
        dropped = min(self._skip, len(data))
        self._skip -= dropped
        for start in range(dropped, len(data), CHUNK_SIZE):
            self._channel.send(Chunk(self._request.id, data[start : start + CHUNK_SIZE]))


class _Inbox:
    """Received requests in order, and a stop event for each.

    The reader thread calls `wake` when there is a new request, or one has been cancelled.
    """

    def __init__(self, channel: BlockingChannel, wake: Callable[[], None]) -> None:
        self._channel = channel
        self._wake = wake
        self._requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._stops: dict[int, threading.Event] = {}

    def read_forever(self) -> None:
        """The reader thread. Ends the process at EOF, because then the front no longer listens."""
        status = 1
        try:
            while (message := self._channel.receive()) is not None:
                match message:
                    case Request():
                        self._stops[message.id] = threading.Event()
                        self._requests.put(message)
                        self._wake()
                    case Cancel():
                        if stop := self._stops.get(message.id):
                            stop.set()
                            self._wake()
                    case Ping():
                        self._channel.send(Pong(message.number))
                    case _:
                        raise TypeError(f"a worker cannot handle {message!r}")
            status = 0
        except BrokenPipeError:
            status = 0
        except Exception:
            logger.exception("the pipe from the front broke")
        finally:
            sys.stderr.flush()
            os._exit(status)

    def next(self, timeout: float | None) -> Request | None:
        """The next request, or None after `timeout` seconds; with None it waits for ever."""
        try:
            return self._requests.get(timeout=timeout)
        except queue.Empty:
            return None

    def stop_event(self, request_id: int) -> threading.Event:
        return self._stops[request_id]

    def finish(self, request_id: int) -> None:
        del self._stops[request_id]


def _raise_oom_score() -> None:
    """When memory runs out, make the kernel kill a worker: it is replaced in milliseconds."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)


if __name__ == "__main__":
    sys.exit(main())
