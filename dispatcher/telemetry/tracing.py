"""Traces (extra ``[otel]``): one span for each sampled record, from its crossing to its first dispatch.

Everything is set by OpenTelemetry's own variables (``OTEL_*``); without an endpoint nothing is traced and nothing is
imported. A span is linked to the producer's span, which the record's header ``traceparent`` names. Subscribers get no
spans of their own.

*Source*: OpenTelemetry specification, "General SDK configuration" and "OTLP exporter configuration"; semantic
conventions for messaging.
"""

import os
import random
import time
from collections import deque
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import structlog
import trio

from dispatcher import __version__
from dispatcher.hub.dispatch_times import DispatchTimes, Traced
from dispatcher.sansio.budgets import Budget
from dispatcher.sansio.records import Headers, TopicPartition
from dispatcher.sansio.sampling import DEFAULT, Chosen, Producer, Sampling
from dispatcher.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

    from dispatcher.telemetry.spans import Form

log = structlog.get_logger(__name__)

SPANS_PER_SECOND = 200.0
"""Maximum rate: from the choice of its record to the collector, a span costs 50 µs of CPU, so these cost one per cent
of a core."""
SPANS_AT_ONCE = 100.0
"""Maximum number at once, after a silence."""
MAKE_SECONDS = 10.0
"""How often spans are made of what was dispatched: one alone, on the way of a record, costs ten times as much as one of
several, because nothing of the SDK is in the processor's caches. The thread that sends them needs 3 ms for each
request."""
MAKE_NUMBER = 300
"""As soon as this many wait, they are made: the SDK's queue has room for 2,048, and sends 512 at once."""
MADE_AT_ONCE = 20
"""How many are made before other tasks have their turn: less than a millisecond."""
FORMS = 512
"""How many spans that others are copies of (`spans.Form`) are kept: up to three for each partition."""
FLUSH_SECONDS = 1.0
"""How long the last spans may take when the replica stops."""

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Tracing:
    """Chooses records, and sends their spans (`hub.dispatch_times.Tracer`).

    *Thread*: Trio's; spans are encoded and sent in a thread of the SDK.

    *Backpressure*: none; `MAKE_NUMBER` bounds what waits to be made.

    Args:
        settings: Names of the replica and its group.
        sampling: Chooses the records.
        provider: Makes the first span of each partition.
        processor: Sends the spans.
    """

    def __init__(
        self, settings: Settings, sampling: Sampling, provider: "TracerProvider", processor: "SpanProcessor"
    ) -> None:
        from opentelemetry.context import Context  # noqa: PLC0415 - an extra
        from opentelemetry.trace import SpanKind  # noqa: PLC0415 - the same

        from dispatcher.telemetry import spans  # noqa: PLC0415 - it imports the same

        spans.install()
        self._sampling = sampling
        self._processor = processor
        self._spans = spans
        self._form = lru_cache(FORMS)(self._make_form)
        self._ended: deque[tuple[Traced, int, int, int]] = deque()
        """Each becomes a `spans.Ended`."""
        self._random_bits = random.getrandbits
        self._are_many = trio.Event()
        """Set when `MAKE_NUMBER` wait to be made."""
        self._tracer = provider.get_tracer("dispatcher", __version__)
        self._budget = Budget(SPANS_AT_ONCE, SPANS_PER_SECOND, time.monotonic())
        self._attributes = {
            "messaging.system": "kafka",
            "messaging.operation.name": "dispatch",
            "messaging.operation.type": "process",
            "messaging.consumer.group.name": settings.group_id,
            "messaging.client.id": settings.client_id,
        }
        self._context, self._kind = Context(), SpanKind.CONSUMER
        self.left_out = 0
        """Sampled records that got no span, because of `SPANS_PER_SECOND`."""

    def choose(self, headers: Sequence[Headers]) -> Sequence[Chosen]:
        """Choose which of these records are traced."""
        chosen = self._sampling.choose(headers)
        if not chosen:
            return chosen
        now = time.monotonic()
        if self._budget.try_spend(len(chosen), now):
            return chosen
        allowed = [one for one in chosen if self._budget.try_spend(1, now)]
        self.left_out += len(chosen) - len(allowed)
        return allowed

    def dispatched(self, traced: Traced, ended_ns: int) -> tuple[int, int]:
        """Take a record's span, which is made and sent later; returns the ids of trace and span."""
        trace_id, span_id = self._random_bits(128) or 1, self._random_bits(64) or 1
        self._ended.append((traced, ended_ns, trace_id, span_id))
        if len(self._ended) == MAKE_NUMBER:
            self._are_many.set()
        return trace_id, span_id

    async def run(self) -> None:
        """Make spans until cancelled. *Cancellation*: safe, `close` makes the rest."""
        while True:
            with trio.move_on_after(MAKE_SECONDS):
                await self._are_many.wait()
            self._are_many = trio.Event()
            for _ in range(0, len(self._ended), MADE_AT_ONCE):
                self._make(MADE_AT_ONCE)
                await trio.lowlevel.checkpoint()

    def _make(self, number: int) -> None:
        """Make spans, at most this many."""
        for _ in range(min(number, len(self._ended))):
            ended = self._spans.Ended._make(self._ended.popleft())
            traced = ended.traced
            form = self._form(traced.partition, None if traced.producer is None else traced.producer.sampled)
            self._processor.on_end(self._spans.Copy(form, ended))

    def _make_form(self, partition: TopicPartition, producer_sampled: bool | None) -> "Form":
        """Make a span that others are copies of. It is never ended, so it is not sent itself."""
        topic, number = partition
        span = self._tracer.start_span(
            f"dispatch {topic}",
            context=self._context,
            kind=self._kind,
            attributes={
                **self._attributes,
                "messaging.destination.name": topic,
                "messaging.destination.partition.id": str(number),
                self._spans.OFFSET: 0,
            },
            links=[] if producer_sampled is None else [self._spans.link_to(Producer(1, 1, producer_sampled))],
        )
        return self._spans.Form(span)

    async def close(self) -> None:
        """Send what is left, for `FLUSH_SECONDS` at most. *Cancellation*: safe, nothing more is sent."""
        self._make(len(self._ended))
        with trio.move_on_after(FLUSH_SECONDS, shield=True):
            await trio.to_thread.run_sync(self._processor.shutdown, abandon_on_cancel=True)


async def run_tracing(settings: Settings, times: DispatchTimes) -> None:
    """Trace records, if the environment says so, until cancelled. *Cancellation*: the last spans are sent."""
    tracing = open_tracing(settings)
    if tracing is not None:
        times.tracer = tracing
        try:
            await tracing.run()
        finally:
            await tracing.close()  # noqa: ASYNC102 - it is shielded, and bounded, in there


def open_tracing(settings: Settings, environment: Mapping[str, str] = os.environ) -> Tracing | None:
    """Tracing as the environment asks for it; None if it does not, or asks for what cannot be done."""
    if not _is_wanted(environment):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - the same
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - the same
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - the same
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON  # noqa: PLC0415 - the same
    except ImportError as error:
        log.warning(
            "traces are off: pip install 'kafka-dispatcher[otel]'", variable=_given(environment), reason=str(error)
        )
        return None

    name = {} if "OTEL_SERVICE_NAME" in environment else {"service.name": "dispatcher"}
    resource = Resource.create({**name, "service.version": __version__, "service.instance.id": settings.client_id})
    try:
        # Only records that `Tracing.choose` has chosen get a span.
        provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        processor = BatchSpanProcessor(OTLPSpanExporter())
    except ValueError as error:
        # The SDK ignores most wrong values, and raises for some.
        log.warning("traces are off: OpenTelemetry rejects one of its variables", reason=str(error))
        return None
    sampling = _sampling(environment)
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in {None, "", "http/protobuf"}:
        log.warning("OTEL_EXPORTER_OTLP_PROTOCOL is ignored: spans go over http/protobuf", value=protocol)
    log.info("tracing", sampler=environment.get("OTEL_TRACES_SAMPLER") or DEFAULT, variable=_given(environment))
    return Tracing(settings, sampling, provider, processor)


def _is_wanted(environment: Mapping[str, str]) -> bool:
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporters = environment.get("OTEL_TRACES_EXPORTER", "").split(",")
    if exporters == [""]:
        return bool(_given(environment))
    if exporters != ["none"] and "otlp" not in exporters:
        log.warning("traces are off: OTEL_TRACES_EXPORTER must be otlp", value=",".join(exporters))
    return "otlp" in exporters


def _given(environment: Mapping[str, str]) -> str:
    return next((name for name in (*_ENDPOINTS, "OTEL_TRACES_EXPORTER") if environment.get(name)), "")


def _sampling(environment: Mapping[str, str]) -> Sampling:
    """The sampling that the variables ask for; if they are wrong, the specification wants a warning and the default."""
    name = environment.get("OTEL_TRACES_SAMPLER") or DEFAULT
    argument = environment.get("OTEL_TRACES_SAMPLER_ARG") or "1"
    try:
        return Sampling(name, float(argument), random.random)
    except ValueError as error:
        log.warning("OTEL_TRACES_SAMPLER is ignored", reason=str(error))
        return Sampling(DEFAULT, 1.0, random.random)
