"""Copies of spans: what the SDK would have sent, at a tenth of its price."""

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanKind

from dispatcher.hub.dispatch_times import Traced
from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.sampling import Producer
from dispatcher.telemetry.spans import OFFSET, Copy, Ended, Form, encode, install, link_to

PRODUCER = Producer(0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7, sampled=True)


def start(topic: str, offset: int, producer: Producer | None, start_ns: int | None = None) -> ReadableSpan:
    """A span as the SDK makes it."""
    provider = TracerProvider(sampler=ALWAYS_ON, resource=Resource({"service.name": "x"}), shutdown_on_exit=False)
    span = provider.get_tracer("dispatcher", "1").start_span(
        f"dispatch {topic}",
        kind=SpanKind.CONSUMER,
        attributes={"messaging.destination.name": topic, OFFSET: offset},
        links=[] if producer is None else [link_to(producer)],
        start_time=start_ns,
    )
    assert isinstance(span, ReadableSpan)
    return span


def copies() -> list[Copy]:
    """Spans of two partitions, with links and without."""
    found = []
    for topic in "ab":
        for producer in (PRODUCER, None):
            form = Form(start(topic, 0, producer and Producer(1, 1, sampled=True)))
            for offset in (5, 2**40):
                traced = Traced(TopicPartition(topic, 0), offset, producer, 1_700_000_000_000_000_000 + offset)
                found.append(Copy(form, Ended(traced, traced.began_ns + 10, 2**127 + offset, 2**63 + offset)))
    return found


@pytest.mark.parametrize("limit", ["128", "1", "0"])
def test_copies_are_encoded_as_the_sdk_encodes_them(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its limits may leave attributes and links out."""
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", limit)
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", limit)
    spans = copies()
    assert encode(spans) == encode_spans(spans)
    assert encode(spans[::-1]) == encode_spans(spans[::-1])


def test_a_copy_has_what_a_span_of_the_sdk_has() -> None:
    """Only its ids are others."""
    (copied,) = encode(copies()[:1]).resource_spans
    (made,) = encode_spans([start("a", 5, PRODUCER, 1_700_000_000_000_000_005)]).resource_spans
    assert (copied.resource, copied.scope_spans[0].scope) == (made.resource, made.scope_spans[0].scope)
    (one,), (other,) = copied.scope_spans[0].spans, made.scope_spans[0].spans
    assert one.trace_id == (2**127 + 5).to_bytes(16, "big")
    assert one.span_id == (2**63 + 5).to_bytes(8, "big")
    other.trace_id, other.span_id, other.end_time_unix_nano = one.trace_id, one.span_id, one.end_time_unix_nano
    assert one == other


def test_spans_of_others_are_encoded_by_the_sdk() -> None:
    """The exporter's encoder is one for the whole process."""
    install()
    assert trace_exporter.encode_spans is encode  # type: ignore[attr-defined,unused-ignore] # imported there
    spans = [*copies(), start("c", 1, None, 7)]
    assert encode(spans) == encode_spans(spans)
    assert encode([]) == encode_spans([])
