"""Traces for OpenTelemetry: a span for each request, and for each of its parts. Runs in the front.

Import it only where traces are wanted, because OpenTelemetry takes memory. The spans of the parts
are made when the request ends, with the times in its record. A thread of the SDK sends them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import hdrs, web
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from ipc.errors import ErrorCode
from ipc.operations import Speak, SpeechResult, Transcript
from supervisor import log
from supervisor.dispatch.job import Job, Run
from supervisor.http.context import CLIENT
from supervisor.http.errors import Handler
from supervisor.http.record import RECORD, Record, declared_path
from supervisor.log import logger
from supervisor.service import SERVICE, VERSION
from supervisor.threads import in_thread

_NAME = "voice-engine"

_FLUSH_SECONDS = 5.0
"""How long a shutdown waits for the last spans, if it has so much time."""
_GIVE_UP_SECONDS = 0.2
"""How long a shutdown waits for the sender to notice that it is over."""
_LONGEST = 256
"""How many characters of what a client sent are kept."""

_SPAN: web.RequestKey[Span] = web.RequestKey("span", Span)
_STATUS = "http.response.status_code"
_W3C = TraceContextTextMapPropagator()

_PROTOCOL = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

Attributes = dict[str, AttributeValue]


class Tracing:
    """Makes the spans, and sends them as the standard variables `OTEL_...` say."""

    def __init__(self) -> None:
        """Raises what the SDK raises when it cannot obey the variables."""
        self._sdk_log = SdkLog()
        for name in ("opentelemetry", "urllib3"):
            library = logging.getLogger(name)
            library.handlers, library.propagate = [self._sdk_log], False
        if "grpc" in map(os.environ.get, _PROTOCOL):
            logger.warning("tracing", message="OTLP goes over HTTP here, not gRPC: use port 4318")
        given = OTELResourceDetector().detect().attributes
        ours = {"service.name": _NAME, "service.version": VERSION}
        self._provider = TracerProvider(
            resource=Resource.create({**ours, **given}), shutdown_on_exit=False
        )
        self._exporter = _Exporter(self._sdk_log)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer(_NAME, VERSION)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Make the spans of a request. Its record must exist."""
        record, clock = request[RECORD], _Clock(time.time_ns() - time.monotonic_ns())
        method = request.method if request.method in hdrs.METH_ALL else "_OTHER"
        route = declared_path(request)
        attributes: Attributes = {
            "http.request.method": method,
            "url.path": _clean(request.rel_url.raw_path),
            "url.scheme": request.scheme,
            "voice_engine.request_id": log.current_request() or "",
        }
        if route:
            attributes["http.route"] = route
        if request.remote is not None:
            attributes["client.address"] = request.remote
        name = "HTTP" if method == "_OTHER" else method
        span = request[_SPAN] = self._tracer.start_span(
            f"{name} {route}" if route else name,
            _context_of(request),
            SpanKind.SERVER,
            attributes,
            start_time=clock.wall(record.arrived),
        )
        response: web.StreamResponse | None = None
        try:
            response = await handler(request)
            return response
        finally:
            if span.is_recording():
                try:
                    _Parts(self._tracer, clock, request, span, response).make(time.monotonic())
                except Exception:  # a bug there must not reach the request
                    logger.exception("tracing_failed")

    async def add_parent(self, request: web.Request, response: web.StreamResponse) -> None:
        """Signal handler: add the id of the span to every response, streams and errors included."""
        if span := request.get(_SPAN):
            if span.is_recording():  # a stream: whatever becomes of it, this was its status
                span.set_attribute(_STATUS, response.status)
            _W3C.inject(response.headers, set_span_in_context(span))

    async def close(self, end: float) -> None:
        """Send the spans that wait, until `end` (loop's clock) at the latest."""
        # In a thread that does not hold up the end of the process, because a request to a
        # collector cannot be cancelled.
        flush = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        flush.start()
        if not self._sdk_log.failing:
            seconds = min(_FLUSH_SECONDS, end - asyncio.get_running_loop().time())
            await in_thread(lambda: flush.join(max(0.0, seconds)))
            if flush.is_alive():
                logger.warning("traces_not_sent", message="the collector takes too long")
        if flush.is_alive():
            self._exporter.shutdown()
            await in_thread(lambda: flush.join(_GIVE_UP_SECONDS))


@dataclass(frozen=True, slots=True)
class _Clock:
    """The clock of `time.monotonic` as nanoseconds since the epoch.

    All times of a request are on the same clock, so that no part begins before the whole.
    """

    offset: int

    def wall(self, moment: float) -> int:
        """The time of a moment."""
        return self.offset + round(moment * 1e9)


@dataclass(frozen=True, slots=True)
class _Parts:
    """The spans of one request that ends, below `span`."""

    tracer: Tracer
    clock: _Clock
    request: web.Request
    span: Span
    response: web.StreamResponse | None

    @property
    def error(self) -> str | None:
        """The code of the error with which it ended."""
        return "cancelled" if self.response is None else self.request[RECORD].error

    def make(self, now: float) -> None:
        """Make them, and end the request's own."""
        record, span = self.request[RECORD], self.span
        if self.response is not None and record.answered is None:
            span.set_attribute(_STATUS, self.response.status)
        if name := self.request.get(CLIENT):
            span.set_attribute("voice_engine.client", name)
        if record.answered is not None:
            span.add_event("first_byte", timestamp=self.clock.wall(record.answered))
        if record.reading is not None and self.request.body_exists:
            failed = self.error if record.read is None else None
            self._part("upload", record.reading, record.read or now, {}, failed)
        if record.job is not None:
            self._make_job(record, record.job, now)
        _fail(span, self.error)
        span.end(self.clock.wall(now))

    def _make_job(self, record: Record, job: Job[object], now: float) -> None:
        of_job = self._of_job(record, job)
        self.span.set_attributes(of_job)
        for attempt, run in enumerate(job.runs, 1):
            last = attempt == len(job.runs)
            failed = None if job.result is not None else self.error
            if not last:
                failed = ErrorCode.worker_crashed.wire_name
                self.span.add_event(
                    "replay",
                    {"voice_engine.worker": run.worker or "", "voice_engine.attempt": attempt},
                    timestamp=self.clock.wall(job.runs[attempt].queued),
                )
            attributes = {**of_job, "voice_engine.attempt": attempt}
            self._make_run(job, run, attributes, failed, now)

    def _make_run(
        self, job: Job[object], run: Run, attributes: Attributes, failed: str | None, now: float
    ) -> None:
        if run.worker is None:
            self._part("queue", run.queued, now, attributes, failed)
            return
        self._part("queue", run.queued, run.started, attributes)
        attributes["voice_engine.worker"] = run.worker
        ended = now if run.ended is None else min(run.ended, now)
        encode = job.encode_s if run is job.runs[-1] else None
        if encode is None:
            self._part("inference", run.started, ended, attributes, failed)
            return
        between = max(run.started, ended - encode)
        self._part("inference", run.started, between, attributes, failed)
        self._part("encode", between, ended, attributes)

    def _of_job(self, record: Record, job: Job[object]) -> Attributes:
        """What was asked for, and how much it was; no text, and no name of a file."""
        of_job: dict[str, AttributeValue | None] = {"model": record.model}
        if record.voice is not None:
            of_job["voice"] = _clean(record.voice)
        if record.model is not None:
            models = self.request.app[SERVICE].models
            of_job["engine"] = models.named(record.model).backend.engine.name
        if isinstance(job.operation, Speak):
            of_job["characters"] = len(job.operation.text)
        if isinstance(job.result, SpeechResult | Transcript):
            of_job["sound_seconds"] = round(job.result.duration, 3)
        return {
            f"voice_engine.{name}": value for name, value in of_job.items() if value is not None
        }

    def _part(
        self, name: str, start: float, end: float, attributes: Attributes, failed: str | None = None
    ) -> None:
        part = self.tracer.start_span(
            name,
            set_span_in_context(self.span, Context()),
            attributes=attributes,
            start_time=self.clock.wall(start),
        )
        _fail(part, failed)
        part.end(self.clock.wall(end))


def _clean(given: str) -> str:
    """What a client sent, without what has no place in UTF-8: the SDK would drop all it sends."""
    return given[:_LONGEST].encode(errors="replace").decode()


def _fail(span: Span, error: str | None) -> None:
    """Set the code of the error; an error of the client does not make the span a failed one."""
    if error is not None:
        span.set_attribute("error.type", error)
        if ErrorCode.from_wire(error).status >= 500:
            span.set_status(StatusCode.ERROR)


def _context_of(request: web.Request) -> Context:
    """The caller's span, if the headers of the request name one."""
    names = [name for name in _W3C.fields if name in request.headers]
    return _W3C.extract({name: request.headers.getall(name) for name in names}, Context())


class _Exporter(OTLPSpanExporter):
    """Sends spans; tells the log what has been sent."""

    def __init__(self, sdk_log: SdkLog) -> None:
        super().__init__()
        self._sdk_log = sdk_log

    def shutdown(self) -> None:
        """Give up: a pause before another try ends."""
        super().shutdown()  # type: ignore[no-untyped-call]

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send them, in the thread of the SDK."""
        result = super().export(spans)
        if result is SpanExportResult.SUCCESS:
            self._sdk_log.sent()
        return result


class SdkLog(logging.Handler):
    """Puts the log of the SDK into ours, each message once: what it repeats is for debugging.

    So is all that follows from a collector that is away, which is told once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failing = False
        """Whether the collector did not take what was sent last."""
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record of the SDK, in whichever thread."""
        if record.name == OTLPSpanExporter.__module__:
            level = "debug" if self.failing else "warning"
            self.failing = True
            event = "traces_not_sent"
        else:
            quiet = self.failing or record.msg in self._told
            level = "debug" if quiet else record.levelname.lower()
            self._told.add(record.msg)
            event = "tracing"
        getattr(logger, level)(event, message=record.getMessage(), exc_info=record.exc_info)

    def sent(self) -> None:
        """The collector has taken spans."""
        if self.failing:
            self.failing = False
            logger.info("traces_sent_again")
