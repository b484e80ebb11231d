"""A collector of OpenTelemetry for tests: takes traces over HTTP, in Protocol Buffers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.service import NET


class Collector:
    """What has arrived. Its address refuses connections until `listen`."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.spans: list[Span] = []
        self.resource: dict[str, Any] = {}
        self._arrived = threading.Condition()
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), self._handler(), bind_and_activate=False
        )
        self._server.server_bind()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def listen(self) -> None:
        """Accept connections from now on."""
        self._server.server_activate()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()

    def wait_for(self, wanted: Callable[[list[Span]], bool]) -> None:
        """Wait until what has arrived is `wanted`."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: wanted(self.spans), NET):
                raise AssertionError(f"it never came to that; there are {self.spans}")

    def trace(self, trace_id: str) -> tuple[Span, list[Span]]:
        """The span of a request, once it has arrived, and those of its parts in their order."""

        def own() -> list[Span]:
            return [span for span in self.spans if span.trace_id.hex() == trace_id]

        def request() -> list[Span]:
            return [span for span in own() if span.kind == Span.SPAN_KIND_SERVER]

        self.wait_for(lambda _: bool(request()))
        (root,) = request()
        parts = [span for span in own() if span is not root]
        return root, sorted(parts, key=lambda span: span.start_time_unix_nano)

    def _take(self, body: bytes) -> None:
        message = ExportTraceServiceRequest.FromString(body)
        with self._arrived:
            self.bodies.append(body)
            for group in message.resource_spans:
                self.resource = attributes(group.resource)
                for scope in group.scope_spans:
                    self.spans.extend(scope.spans)
            self._arrived.notify_all()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        take = self._take

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                """Take the spans of a request."""
                assert self.path == "/v1/traces"
                take(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        return Handler


def attributes(of: Any) -> dict[str, Any]:
    """The attributes of a span, an event or a resource."""

    def plain(value: AnyValue) -> Any:
        kind = value.WhichOneof("value")
        return None if kind is None else getattr(value, kind)

    pairs: list[KeyValue] = list(of.attributes)
    return {pair.key: plain(pair.value) for pair in pairs}


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens."""
    collector = Collector()
    collector.listen()
    try:
        yield collector
    finally:
        collector.close()
