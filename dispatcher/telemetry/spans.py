"""Spans as copies of one that OpenTelemetry's SDK made: only ids, times, offset and link are their own.

Beside other work, a span costs the SDK 40 µs to make and 80 µs to encode, most of it for attributes that are the same
in all spans of a partition. The SDK makes and encodes one of them (`Form`), with its limits, resource and scope; the
others cost a tenth.

*Source*: `opentelemetry.proto.trace.v1`; "General SDK configuration" of OpenTelemetry's specification.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Encoded
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link, SpanContext, TraceFlags

from dispatcher.hub.dispatch_times import Traced

OFFSET = "messaging.kafka.offset"
"""The attribute that is different in each span of a partition."""

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class Ended(NamedTuple):
    """What is special about a span."""

    traced: Traced
    ended_ns: int
    trace_id: int
    span_id: int


class Form:
    """A span that the SDK made, for the others of its partition.

    *Thread*: any; `encoded` belongs to the one that sends.
    """

    def __init__(self, span: Any) -> None:
        self.span: ReadableSpan = span

    @cached_property
    def request(self) -> ExportTraceServiceRequest:
        """A request with this span alone."""
        return encode_spans([self.span])

    @cached_property
    def encoded(self) -> Encoded:
        """This span, to be filled in and copied."""
        span = Encoded()
        span.CopyFrom(self.request.resource_spans[0].scope_spans[0].spans[0])
        return span

    @cached_property
    def offset(self) -> Any:
        """Where `encoded` has the offset; None if the SDK's limits left it out."""
        return next((one.value for one in self.encoded.attributes if one.key == OFFSET), None)


class Copy(ReadableSpan):
    """A span of a form. It has whatever others have, so the SDK can encode it, too.

    Args:
        form: One for spans with a link if this has one, else one for spans without.
        ended: What is special about it.
    """

    def __init__(self, form: Form, ended: Ended) -> None:
        # Not the constructor of all spans: what is not set here is looked up in the form.
        self.form = form
        self.ended = ended
        self._context = SpanContext(ended.trace_id, ended.span_id, is_remote=False, trace_flags=_SAMPLED)
        self._start_time, self._end_time = ended.traced.began_ns, ended.ended_ns

    def __getattr__(self, name: str) -> Any:
        return getattr(self.form.span, name)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """With the record's own offset."""
        attributes = self.form.span.attributes or {}
        return {**attributes, OFFSET: self.ended.traced.offset} if OFFSET in attributes else attributes

    @property
    def links(self) -> Sequence[Link]:
        """The producer's span, unless limits leave it out."""
        producer = self.ended.traced.producer
        return [] if producer is None or not self.form.span.links else [link_to(producer)]


def link_to(producer: Any) -> Link:
    """A link to the span in which a record was produced."""
    flags = TraceFlags(int(producer.sampled))
    return Link(SpanContext(producer.trace_id, producer.span_id, is_remote=True, trace_flags=flags))


def encode(spans: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
    """Encode spans as the SDK does."""
    if not spans or not all(isinstance(span, Copy) for span in spans):
        return encode_spans(spans)
    request = ExportTraceServiceRequest()
    request.CopyFrom(spans[0].form.request)  # type: ignore[attr-defined] # it is a copy
    out = request.resource_spans[0].scope_spans[0].spans
    del out[:]
    for span in spans:
        out.append(_fill_in(span.form, span.ended))  # type: ignore[attr-defined] # the same
    return request


def _fill_in(form: Form, ended: Ended) -> Encoded:
    """The form's span, with what is special about one: it is the same object for all."""
    encoded, traced = form.encoded, ended.traced
    encoded.trace_id = ended.trace_id.to_bytes(16, "big")
    encoded.span_id = ended.span_id.to_bytes(8, "big")
    encoded.start_time_unix_nano = traced.began_ns
    encoded.end_time_unix_nano = ended.ended_ns
    if form.offset is not None:
        form.offset.int_value = traced.offset
    if traced.producer is not None and encoded.links:
        link = encoded.links[0]
        link.trace_id = traced.producer.trace_id.to_bytes(16, "big")
        link.span_id = traced.producer.span_id.to_bytes(8, "big")
    return encoded


def install() -> None:
    """Let the SDK's exporter encode with `encode`.

    It offers no way to say so. If a later version finds its encoder under another name, spans are sent as before, at
    the SDK's price.
    """
    trace_exporter.encode_spans = encode  # type: ignore[assignment,attr-defined] # imported there
