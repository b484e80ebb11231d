"""A worker: serves one request at a time until the front closes its pipe.

Runs in worker processes: forked from a template, or started for itself (`main`, start method
spawn). The main thread runs the engine. A second thread reads the pipe, so that pings are answered
and cancellations noticed while the model computes.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import logging
import os
import queue
import sys
import threading
from collections.abc import Generator
from pathlib import Path

from ipc.channel import BlockingChannel
from ipc.errors import ErrorCode, ServiceError
from ipc.messages import Cancel, Chunk, Done, Failed, Json, Ping, Pong, Ready, Request
from model_procs import bootstrap
from model_procs.engine import Cancelled, Engine
from model_procs.speech.base import SpeechEngine

CHUNK_SIZE = 256 * 1024
"""Longest data of one frame, in bytes; longer pieces are cut."""

_OOM_SCORE = "800"
"""Of 1000; the front keeps its 0."""

_IDLE_SECONDS = 0.05
"""How long a worker waits for the next request before it takes the time to trim."""

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
    gc.collect()
    gc.freeze()
    serve(engine, channel, args.config.worker_options)
    return 0


def serve(engine: Engine, channel: BlockingChannel, options: Json) -> None:
    """Warm up, report READY, answer requests until EOF."""
    _offer_to_the_kernel()
    try:
        engine.warm_up()
        if isinstance(engine, SpeechEngine):
            engine.keep_voices(options)
    except Exception as error:
        channel.send(bootstrap.failure(error))
        raise
    inbox = _Inbox(channel)
    baseline = bootstrap.resident_bytes()
    trim_mark = baseline + int(options.get("trim_growth", 0))
    channel.send(Ready(engine.info(), baseline))
    threading.Thread(target=inbox.read_forever, name="reader", daemon=True).start()
    while True:
        request = inbox.next(timeout=_IDLE_SECONDS)
        if request is None:
            if bootstrap.resident_bytes() > trim_mark:
                _trim()
            request = inbox.next(timeout=None)
        if request is not None:
            _answer(engine, channel, request, inbox.stop_event(request.id))
            inbox.finish(request.id)


class _Inbox:
    """What has arrived: requests in order, and a stop event for each."""

    def __init__(self, channel: BlockingChannel) -> None:
        self._channel = channel
        self._requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._stops: dict[int, threading.Event] = {}

    def read_forever(self) -> None:
        """The reader thread. Ends the process at EOF: nobody is left to answer to."""
        status = 1
        try:
            while (message := self._channel.receive()) is not None:
                match message:
                    case Request():
                        self._stops[message.id] = threading.Event()
                        self._requests.put(message)
                    case Cancel():
                        if stop := self._stops.get(message.id):
                            stop.set()
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
        """The next request; None after `timeout` seconds without one."""
        try:
            return self._requests.get(timeout=timeout)
        except queue.Empty:
            return None

    def stop_event(self, request_id: int) -> threading.Event:
        return self._stops[request_id]

    def finish(self, request_id: int) -> None:
        del self._stops[request_id]


def _answer(
    engine: Engine, channel: BlockingChannel, request: Request, stop: threading.Event
) -> None:
    """Run one request and report how it went. The report is the last thing the front waits for."""
    failed: tuple[ErrorCode, str] | None = None
    result: Json = {}
    try:
        result = _send_chunks(engine.run(request, stop), channel, request)
    except Cancelled:
        failed = (ErrorCode.cancelled, "the request was cancelled")
    except ServiceError as error:
        failed = (error.code, error.message)
    except BrokenPipeError:
        os._exit(0)
    except MemoryError:
        raise  # what is left of this process is not to be trusted
    except Exception as error:
        logger.exception("request %d failed", request.id)
        failed = (ErrorCode.engine_error, f"the engine failed: {type(error).__name__}: {error}")
    gc.collect()
    rss = bootstrap.resident_bytes()
    if failed is None:
        channel.send(Done(request.id, result, rss))
    else:
        channel.send(Failed(request.id, failed[0].wire_name, failed[1], rss))


def _send_chunks(
    pieces: Generator[bytes, None, Json], channel: BlockingChannel, request: Request
) -> Json:
    """Send the answer but for its first `skip` bytes, cut to the size of a frame.

    Raises `ServiceError` when it has fewer: then the client has the beginning of another answer.
    """
    skip = request.skip
    try:
        while True:
            piece = next(pieces)
            dropped = min(skip, len(piece))
            skip -= dropped
            for start in range(dropped, len(piece), CHUNK_SIZE):
                channel.send(Chunk(request.id, piece[start : start + CHUNK_SIZE]))
    except StopIteration as end:
        if skip:
            raise ServiceError(
                ErrorCode.engine_error,
                f"the engine made {request.skip - skip} bytes where another worker had made "
                f"{request.skip}; send the request again",
            ) from None
        result: Json = end.value
        return result
    finally:
        pieces.close()


def _offer_to_the_kernel() -> None:
    """If the kernel must kill for memory, let it take a worker: one is replaced in milliseconds."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)


def _trim() -> None:
    """Give the heap's free pages back to the kernel; glibc keeps them otherwise."""
    with contextlib.suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    sys.exit(main())
