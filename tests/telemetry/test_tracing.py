"""Traces, at a real collector: set by OpenTelemetry's variables, one span for each sampled record."""

import math
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pytest
import trio
from confluent_kafka import Producer
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Exemplar
from structlog.testing import capture_logs

from dispatcher.hub.dispatch_times import DispatchTimes, Traced
from dispatcher.sansio.records import Batch, Record, TopicPartition
from dispatcher.settings import Settings
from dispatcher.telemetry import tracing
from dispatcher.telemetry.tracing import open_tracing, run_tracing
from testbed import requests
from testbed.clients import open_sse
from testbed.collector import Collector, attributes_of, open_collector
from testbed.patience import seconds
from testbed.replicas import Replica
from tests.conftest import Kafka

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{SPAN}-01".encode()
UNSAMPLED = f"00-{TRACE}-{SPAN}-00".encode()
ONE = TopicPartition("assets", 3)


def test_without_its_variables_nothing_is_traced() -> None:
    """The same holds for variables that turn it off."""
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    for environment in (
        {},
        {"OTEL_SERVICE_NAME": "x"},
        {"OTEL_SDK_DISABLED": "true", **endpoint},
        {"OTEL_TRACES_EXPORTER": "none", **endpoint},
        {"OTEL_TRACES_EXPORTER": "zipkin", **endpoint},
    ):
        assert open_tracing(Settings(), environment) is None


def test_without_the_extra_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that are set for every Pod must not end the service."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with capture_logs() as lines:
        assert open_tracing(Settings(), {"OTEL_TRACES_EXPORTER": "otlp"}) is None
    assert [line["log_level"] for line in lines] == ["warning"]
    assert "kafka-dispatcher[otel]" in lines[0]["event"]


@pytest.mark.parametrize(
    ("variable", "value"), [("OTEL_BSP_MAX_QUEUE_SIZE", "1"), ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "many")]
)
def test_variables_that_the_sdk_refuses_turn_traces_off(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be meant for other services: a queue shorter than a batch, or not a number."""
    environment = {"OTEL_TRACES_EXPORTER": "otlp", variable: value}
    monkeypatch.setenv(variable, value)
    with capture_logs() as lines:
        assert open_tracing(Settings(), environment) is None
    assert [(line["log_level"], line["event"]) for line in lines] == [
        ("warning", "traces are off: OpenTelemetry rejects one of its variables")
    ]


async def traced(collector: Collector, monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str]) -> Any:
    """Dispatch two records of each kind, and return the times, when the last span was sent."""
    for name, value in {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **environment}.items():
        monkeypatch.setenv(name, value)
    times = DispatchTimes()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_tracing, Settings(group_id="readers", client_id="one"), times)
        with trio.fail_after(seconds(20)):
            while times.tracer is None:  # noqa: ASYNC110 - it has no event
                await trio.lowlevel.checkpoint()
        records = [
            Record(10 + number, 1, None, b"v", (("traceparent", value),) if value else ())
            for number, value in enumerate((SAMPLED, UNSAMPLED, None))
        ]
        batch = Batch(ONE, records)
        times.taken(batch)
        times.dispatched(batch, 3, [(10, 13)])
        nursery.cancel_scope.cancel()
    return times


async def test_a_span_is_linked_to_its_producer_and_says_which_record_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default it follows the producer's decision, and traces records without one."""
    with open_collector() as collector:
        times = await traced(collector, monkeypatch, {})
        linked, root = collector.wait_for(2)
    assert (times.statistics().spans, times.statistics().traced) == (2, 0)
    assert (linked.name, linked.kind) == ("dispatch assets", linked.SPAN_KIND_CONSUMER)
    assert attributes_of(linked) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "dispatch",
        "messaging.operation.type": "process",
        "messaging.consumer.group.name": "readers",
        "messaging.client.id": "one",
        "messaging.destination.name": "assets",
        "messaging.destination.partition.id": "3",
        "messaging.kafka.offset": 10,
    }
    (link,) = linked.links
    assert (link.trace_id.hex(), link.span_id.hex()) == (TRACE, SPAN)
    assert linked.trace_id.hex() != TRACE
    assert not linked.parent_span_id
    assert linked.end_time_unix_nano >= linked.start_time_unix_nano > 0
    assert (attributes_of(root)["messaging.kafka.offset"], len(root.links)) == (12, 0)
    examples = [dict(one.labels) for one in times.statistics().dispatch_seconds.examples if one is not None]
    assert examples == [{"trace_id": root.trace_id.hex(), "span_id": root.span_id.hex()}]
    (resource,) = collector.resources
    assert (resource["service.name"], resource["service.instance.id"]) == ("dispatcher", "one")


async def test_the_sampler_and_the_name_are_what_the_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown sampler means the default, with a warning."""
    wrong = {"OTEL_TRACES_SAMPLER": "xray", "OTEL_SERVICE_NAME": "edge", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    with open_collector() as collector, capture_logs() as lines:
        await traced(collector, monkeypatch, wrong)
        assert len(collector.wait_for(2)) == 2
        assert collector.resources[0]["service.name"] == "edge"
        warned = {line["event"] for line in lines if line["log_level"] == "warning"}
        assert warned == {
            "OTEL_TRACES_SAMPLER is ignored",
            "OTEL_EXPORTER_OTLP_PROTOCOL is ignored: spans go over http/protobuf",
        }
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
        assert (await traced(collector, monkeypatch, {})).statistics().spans == 1


async def test_a_flood_of_sampled_records_is_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default all records without a producer are traced, which must not cost latency."""
    monkeypatch.setattr(tracing, "SPANS_AT_ONCE", 5)
    monkeypatch.setattr(tracing, "SPANS_PER_SECOND", 0)
    found = open_tracing(Settings(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    assert found is not None
    assert len(found.choose([()] * 100)) == 5
    assert found.choose([()] * 100) == []
    assert found.left_out == 195
    await found.close()


async def test_many_spans_are_sent_before_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a flood of sampled records, no more than some wait to be made into spans."""
    monkeypatch.setattr(tracing, "MAKE_SECONDS", math.inf)
    monkeypatch.setattr(tracing, "MAKE_NUMBER", 30)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with open_collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        found = open_tracing(Settings())
        assert found is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(found.run)
            for offset in range(100):
                found.dispatched(Traced(ONE, offset, None, time.time_ns()), time.time_ns())
                if offset in {29, 59}:
                    assert len(await trio.to_thread.run_sync(collector.wait_for, offset + 1)) == offset + 1
            nursery.cancel_scope.cancel()
        await found.close()
        spans = await trio.to_thread.run_sync(collector.wait_for, 100)
    assert len(spans) == 100
    assert {attributes_of(span)["messaging.kafka.offset"] for span in spans} == {*range(100)}


async def test_a_collector_that_is_away_delays_no_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last spans get a moment, and no more."""
    monkeypatch.setattr(tracing, "FLUSH_SECONDS", 0.01)
    collector = Collector("http://127.0.0.1:1")
    times = await traced(collector, monkeypatch, {"OTEL_EXPORTER_OTLP_TIMEOUT": "1"})
    assert times.statistics().spans == 2


def exemplars(page: str) -> dict[str, Exemplar]:
    """The examples of a page in the OpenMetrics format, by histogram: of each the last."""
    return {
        family.name: sample.exemplar
        for family in text_string_to_metric_families(page)  # type: ignore[no-untyped-call] # it has no types
        for sample in family.samples
        if sample.exemplar is not None
    }


async def test_a_record_of_a_real_kafka_is_traced_to_its_dispatch(
    kafka: Kafka, replicas: Callable[..., Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector gets one span for three subscribers; envelope and metrics name it."""
    topic = kafka.create_topic(1)
    with open_collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.url}/v1/traces")
        replica = replicas(kafka.bootstrap_servers, topic)
        assert replica.get("/metrics").headers["Content-Type"].startswith("text/plain")
        async with open_sse(replica, "?format=envelope") as one, open_sse(replica) as two, open_sse(replica) as three:
            streams = (one, two, three)
            await trio.to_thread.run_sync(
                replica.wait_for, "three live", lambda status: status["subscribers"].get("live") == 3
            )
            producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
            for value in (UNSAMPLED, SAMPLED):
                producer.produce(topic, b"value", headers=[("traceparent", value)])
            await trio.to_thread.run_sync(producer.flush, seconds(30))
            data = []
            with trio.fail_after(seconds(30)):
                for stream in streams:
                    seen = 0
                    while seen < 2:
                        event = await stream.next_event()
                        assert event is not None
                        seen += event.type == "message"
                        if event.type == "message" and stream is one:
                            data.append(orjson.loads(event.data))
            assert data[1]["headers"] == [{"key": "traceparent", "value": SAMPLED.decode()}]
            answer = await trio.to_thread.run_sync(metrics_of, replica)
        # A stop sends what is not sent yet.
        replica.signal(signal.SIGTERM)
        (span,) = await trio.to_thread.run_sync(collector.wait_for, 1)
        assert (span.links[0].trace_id.hex(), span.links[0].span_id.hex()) == (TRACE, SPAN)
        assert attributes_of(span)["messaging.kafka.offset"] == 1
        found = exemplars(answer)
        names = {"dispatcher_dispatch_seconds", "dispatcher_write_seconds"}
        assert found.keys() == names
        expected = {"trace_id": span.trace_id.hex(), "span_id": span.span_id.hex()}
        assert [found[name].labels for name in names] == [expected, expected]
        assert "dispatcher_dispatch_seconds_count 2.0" in answer
        assert len(collector.spans) == 1


def metrics_of(replica: Replica) -> str:
    """In the format that has room for examples."""
    accept = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"}
    answer = requests.get(f"{replica.url}/metrics", headers=accept, timeout=seconds(10))
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    return answer.text
