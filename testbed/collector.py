"""An OpenTelemetry collector on loopback: takes spans over OTLP/HTTP, and keeps them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from testbed.patience import TooLateError, seconds

WAIT_SECONDS = 30.0


@dataclass
class Collector:
    """What has arrived."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, str]] = field(default_factory=list)
    """Of each request, what its spans belong to."""
    changed: threading.Condition = field(default_factory=threading.Condition)

    def take(self, request: ExportTraceServiceRequest) -> None:
        """Keep the spans of a request."""
        with self.changed:
            for some in request.resource_spans:
                self.resources.append({one.key: one.value.string_value for one in some.resource.attributes})
                for scope in some.scope_spans:
                    self.spans.extend(scope.spans)
            self.changed.notify_all()

    def wait_for(self, number: int) -> list[Span]:
        """All spans, when there are this many at least.

        Raises:
            TooLateError: there are fewer.
        """
        with self.changed:
            if not self.changed.wait_for(lambda: len(self.spans) >= number, seconds(WAIT_SECONDS)):
                raise TooLateError(f"{len(self.spans)} spans, not {number}")
            return [*self.spans]


def attributes_of(span: Span) -> dict[str, object]:
    """The attributes of a span."""
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in span.attributes}


@contextmanager
def open_collector() -> Iterator[Collector]:
    """A collector, within the ``with`` block."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        """As with real collectors, the connection stays open for the next request."""

        def do_POST(self) -> None:
            request = ExportTraceServiceRequest()
            request.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
            is_right = self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf"
            if is_right:
                collector.take(request)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200 if is_right else 404)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
