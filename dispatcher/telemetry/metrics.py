"""``/metrics``: the table of metrics, with names and units as Prometheus recommends them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dispatcher import __version__
from dispatcher.invariants import invariants
from dispatcher.sansio.lag import PartitionLag
from dispatcher.sansio.retention import Outlook
from dispatcher.sansio.topic_health import Condition, Reason
from dispatcher.telemetry.logs import dropped_lines
from dispatcher.telemetry.snapshot import Snapshot

Sample = tuple[Sequence[str], float]
"""Values of the labels, and the number."""


class Row(NamedTuple):
    """A metric."""

    family: type[GaugeMetricFamily | CounterMetricFamily]
    name: str
    """Without ``dispatcher_``, and without the ``_total`` that counters get."""
    help: str
    labels: Sequence[str]
    samples: Callable[[Snapshot], Iterable[Sample]]
    """Unknown values have no sample."""


def _gauge(name: str, text: str, value: Callable[[Snapshot], float | None]) -> Row:
    return Row(GaugeMetricFamily, name, text, (), lambda snapshot: _one(value(snapshot)))


def _counter(name: str, text: str, value: Callable[[Snapshot], float | None]) -> Row:
    return Row(CounterMetricFamily, name, text, (), lambda snapshot: _one(value(snapshot)))


def _one(value: float | None) -> Iterator[Sample]:
    if value is not None:
        yield (), value


def _by_partition(name: str, text: str, value: Callable[[PartitionLag], float | None]) -> Row:
    def samples(snapshot: Snapshot) -> Iterator[Sample]:
        for partition, lag in snapshot.pipeline.lags.items():
            if (number := value(lag)) is not None:
                yield (partition.topic, str(partition.partition)), number

    return Row(GaugeMetricFamily, name, text, ("topic", "partition"), samples)


def _outlooks(name: str, text: str, value: Callable[[Outlook], float | None]) -> Row:
    def samples(snapshot: Snapshot) -> Iterator[Sample]:
        for partition, outlook in snapshot.pipeline.undelivered.expiry.outlooks.items():
            if (number := value(outlook)) is not None:
                yield (partition.topic, str(partition.partition)), number

    return Row(GaugeMetricFamily, name, text, ("topic", "partition"), samples)


def _undecided(lag: PartitionLag) -> int | None:
    if lag.log_end is None or lag.last_stable_offset is None:
        return None
    return lag.log_end - lag.last_stable_offset


def _degraded(conditions: Mapping[str, Condition]) -> Iterator[Sample]:
    """Of each name and reason 1 or 0; nothing of a name of which nothing is known."""
    for name, condition in conditions.items():
        if condition.healthy is not None:
            for reason in Reason:
                yield (name, reason), int(condition.reason is reason)


ROWS: Sequence[Row] = (
    _gauge("ready", "1 if the replica is ready for subscribers.", lambda s: not s.reasons),
    Row(
        GaugeMetricFamily,
        "state",
        "1 for the replica's current state.",
        ("state",),
        lambda s: [((s.pipeline.state,), 1)],
    ),
    Row(
        GaugeMetricFamily,
        "subscribers",
        "Subscribers by state.",
        ("state",),
        lambda s: [((state,), number) for state, number in s.hub.subscribers.items()],
    ),
    _counter(
        "dropped_log_lines",
        "Log lines never written, because nobody read the log.",
        lambda _: dropped_lines(),
    ),
    _gauge("ack_subscribers", "Subscribers with ack=client.", lambda s: s.hub.acking.subscribers),
    _gauge(
        "outstanding_records",
        "Records sent to subscribers with ack=client and not acknowledged.",
        lambda s: s.hub.acking.outstanding_records,
    ),
    _gauge(
        "outstanding_bytes",
        "Bytes of these records.",
        lambda s: s.hub.acking.outstanding_bytes,
    ),
    _counter(
        "acked_records",
        "Records times subscribers that acknowledged them.",
        lambda s: s.hub.acking.acked_records,
    ),
    _counter("nacked_records", "Records that subscribers refused.", lambda s: s.hub.acking.nacked_records),
    _counter(
        "passed_over_acks",
        "Parts of acknowledgements that named records not sent, or partitions not here.",
        lambda s: s.hub.acking.passed_over,
    ),
    _counter(
        "ack_timeouts",
        "Streams that ended because the client acknowledged nothing for too long.",
        lambda s: s.hub.acking.timeouts,
    ),
    _gauge("connections", "Open connections.", lambda s: s.access.connections),
    _gauge("idle_connections", "Connections without a request.", lambda s: s.access.server.intake.idle),
    _counter(
        "evicted_connections",
        "Idle connections closed to make room for others.",
        lambda s: s.access.server.intake.evicted,
    ),
    _counter(
        "refused_connections",
        "Connections closed because every other one was in use.",
        lambda s: s.access.server.intake.refused,
    ),
    _counter(
        "failed_handshakes",
        "Connections that ended in their TLS handshake or PROXY header.",
        lambda s: s.access.server.failed_handshakes,
    ),
    _counter("refused_streams", "Requests for a stream over a limit of one client.", lambda s: s.access.limits.refused),
    Row(
        CounterMetricFamily,
        "refused_requests",
        "Requests refused, by reason: origin or host, token or grant, a wrong request, a limit, or no place left.",
        ("reason",),
        lambda s: [((reason,), number) for reason, number in s.access.refusals.items()],
    ),
    Row(
        CounterMetricFamily,
        "ended_streams",
        "Streams that ended, by how.",
        ("why",),
        lambda s: [((str(why),), number) for why, number in s.access.endings.items()],
    ),
    _counter(
        "unlogged_ended_streams",
        "Ended streams that the access log had no room for.",
        lambda s: s.access.unlogged_endings,
    ),
    _gauge(
        "issuer_keys",
        "Keys of the tokens' issuer that count now.",
        lambda s: None if s.access.keys is None else s.access.keys.keys,
    ),
    _counter(
        "issuer_key_fetches",
        "Fetches of the issuer's keys, failed ones included.",
        lambda s: None if s.access.keys is None else s.access.keys.fetches,
    ),
    _counter(
        "failed_issuer_key_fetches",
        "Fetches that brought no keys; those before stay.",
        lambda s: None if s.access.keys is None else s.access.keys.failed,
    ),
    _gauge("subscriber_addresses", "Addresses with subscribers.", lambda s: s.access.limits.addresses.holders),
    _gauge("waiting_records", "Records that no subscriber has taken yet.", lambda s: s.hub.history.waiting_records),
    _gauge(
        "waiting_bytes",
        "Bytes of records that no subscriber has taken yet.",
        lambda s: s.hub.history.waiting_bytes,
    ),
    _gauge(
        "history_bytes", "Bytes of records in memory, waiting records included.", lambda s: s.hub.history.size_bytes
    ),
    _gauge("subscriber_channel_bytes", "Bytes queued for subscribers.", lambda s: s.census.buffered_bytes),
    _gauge(
        "prefetched_bytes",
        "Bytes that librdkafka has fetched and not handed over yet.",
        lambda s: s.pipeline.prefetched_bytes,
    ),
    _gauge(
        "replaying_subscribers",
        "Subscribers that are being served from Kafka, or waiting in line for it.",
        lambda s: s.census.replaying,
    ),
    _gauge(
        "behind_records_median",
        "How many records the median subscriber is behind.",
        lambda s: s.census.behind_records_median,
    ),
    _gauge(
        "behind_records_worst",
        "How many records the slowest subscriber is behind; found in a sample if very many are catching up.",
        lambda s: s.census.behind_records_worst,
    ),
    _gauge("replays_running", "Chunks being replayed from Kafka now.", lambda s: s.pipeline.replays.running),
    _gauge("replays_waiting", "Subscribers waiting in line for a replay.", lambda s: s.pipeline.replays.waiting),
    _gauge("paused_partitions", "Partitions for which fetching is paused.", lambda s: len(s.pipeline.paused)),
    Row(
        CounterMetricFamily,
        "decoded_records",
        "Records of topics with `decode`, by whether their values were decoded.",
        ("topic", "outcome"),
        lambda s: [
            ((topic, outcome), number)
            for outcome, found in (("decoded", s.pipeline.decoding.decoded), ("raw", s.pipeline.decoding.undecoded))
            for topic, number in found.items()
        ],
    ),
    _gauge("schemas", "Schemas that records are decoded with.", lambda s: s.pipeline.decoding.schemas.known),
    _counter("schema_fetches", "Requests for schemas.", lambda s: s.pipeline.decoding.schemas.fetches),
    _gauge(
        "schema_registry_up",
        "Whether the schema registry gave the last answer that it was asked for.",
        lambda s: float(s.pipeline.decoding.schemas.unavailable is None),
    ),
    _gauge("schema_waiting_partitions", "Partitions that wait for a schema.", lambda s: len(s.pipeline.held)),
    _counter("published_records", "Records taken from Kafka.", lambda s: s.hub.published_records),
    Row(
        CounterMetricFamily,
        "unmatched_records",
        "Records that the filters of all subscribers left out: settled without being sent.",
        ("topic",),
        lambda s: [((topic,), number) for topic, number in s.hub.unmatched.items()],
    ),
    Row(
        CounterMetricFamily,
        "parked_records",
        "Records that were left in Kafka because nobody present wanted them, or might have them.",
        ("topic",),
        lambda s: [((topic,), number) for topic, number in s.hub.parked_records.items()],
    ),
    Row(
        GaugeMetricFamily,
        "parked_ranges",
        "Ranges of records that wait in Kafka for a subscriber that wants them.",
        ("topic", "partition"),
        lambda s: [((tp.topic, str(tp.partition)), parked.ranges) for tp, parked in s.hub.parked.items()],
    ),
    _gauge(
        "parking_full_partitions",
        "Partitions with as many parked ranges as there may be: what is to be parked waits in memory.",
        lambda s: sum(parked.is_full for parked in s.hub.parked.values()),
    ),
    _counter(
        "compression_input_bytes",
        "Bytes before compression: a write counts once, however many subscribers it is for.",
        lambda s: s.hub.encoder.compression.input_bytes if s.hub.encoder.compression else None,
    ),
    _counter(
        "compression_output_bytes",
        "The same bytes after compression.",
        lambda s: s.hub.encoder.compression.output_bytes if s.hub.encoder.compression else None,
    ),
    _gauge("feeds", "Distinct formats, topics and filters that subscribers have.", lambda s: s.hub.feeds.feeds),
    _counter("dispatched_records", "Records that at least one subscriber took.", lambda s: s.hub.dispatched_records),
    _counter(
        "deliveries", "Deliveries: one for each record and each subscriber that took it.", lambda s: s.hub.deliveries
    ),
    _counter(
        "fell_back", "Times that a full buffer sent a live subscriber back to catching up.", lambda s: s.hub.fell_back
    ),
    _counter("stalled", "Subscribers disconnected because they took nothing for too long.", lambda s: s.hub.stalled),
    _counter("history_hits", "Subscribers that became live from memory alone.", lambda s: s.hub.history_hits),
    _counter("history_misses", "Subscribers that needed Kafka to become live.", lambda s: s.hub.history_misses),
    _counter("commits", "Committed offsets that the broker stored.", lambda s: s.pipeline.commits.confirmed),
    _counter("replayed_chunks", "Chunks replayed from Kafka.", lambda s: s.pipeline.replays.chunks),
    _counter("replayed_records", "Records replayed from Kafka.", lambda s: s.pipeline.replays.records),
    Row(
        GaugeMetricFamily,
        "topic_degraded",
        "1 for what is wrong with a topic, 0 for what is not; nothing while that is unknown.",
        ("topic", "reason"),
        lambda s: _degraded(s.pipeline.topics.topics),
    ),
    Row(
        GaugeMetricFamily,
        "group_degraded",
        "1 for what is wrong with the consumer group, 0 for what is not; nothing while that is unknown.",
        ("reason",),
        lambda s: [((reason,), value) for (_, reason), value in _degraded({"": s.pipeline.topics.group})],
    ),
    _counter("rebalances", "Times that partitions were revoked or lost.", lambda s: s.pipeline.rebalances),
    _counter(
        "partition_restarts",
        "Partitions fetched afresh because nothing came although their leader had records.",
        lambda s: s.pipeline.stalls.restarts,
    ),
    _counter(
        "consumer_rebuilds",
        "Kafka consumers that failed and were replaced.",
        lambda s: s.pipeline.membership.poller.rebuilds,
    ),
    Row(
        CounterMetricFamily,
        "commit_failures",
        "Committed offsets that the broker did not store, by outcome.",
        ("outcome",),
        lambda s: [((outcome,), number) for outcome, number in s.pipeline.commits.failed.items()],
    ),
    Row(
        CounterMetricFamily,
        "invariant_violations",
        "Violations of what must always hold. Anything but 0 is a bug.",
        ("invariant",),
        lambda _: [((invariant,), number) for invariant, number in invariants.statistics().items()],
    ),
    _by_partition("assigned_partition", "1 for each partition assigned to this replica.", lambda _: 1),
    _by_partition(
        "lag_records",
        "Offsets from the committed one to the end of the log, open transactions included; absent while unknown.",
        lambda lag: lag.lag_records,
    ),
    Row(
        GaugeMetricFamily,
        "group_lag_records",
        "Like lag_records; in standby of every partition, looked up every 10 s. Take the maximum over replicas.",
        ("topic", "partition"),
        lambda s: [
            ((tp.topic, str(tp.partition)), lag.lag_records)
            for tp, lag in {**s.pipeline.membership.group_lags, **s.pipeline.lags}.items()
            if lag.lag_records is not None
        ],
    ),
    _gauge("followed_partitions", "Partitions read without owning them.", lambda s: s.pipeline.following.partitions),
    _counter("followed_records", "Records of followed partitions.", lambda s: s.pipeline.following.records),
    _counter(
        "idle_leaves",
        "Times that the replica left the group because it had no subscriber.",
        lambda s: s.pipeline.membership.standby.leaves,
    ),
    _by_partition(
        "undecided_records",
        "Offsets at the end of the log that open transactions hold back; absent while unknown.",
        _undecided,
    ),
    Row(
        CounterMetricFamily,
        "overdue_records",
        "Records past their topic's deadline that nobody had taken, by what happened to them.",
        ("topic", "action"),
        lambda s: list(s.pipeline.undelivered.deadlines.overdue.items()),
    ),
    Row(
        CounterMetricFamily,
        "dead_letters",
        "Records written to a dead-letter topic and acknowledged by it, by their topic and why.",
        ("topic", "reason"),
        lambda s: list(s.pipeline.undelivered.deadlines.letters.written.items()),
    ),
    _gauge(
        "dead_letters_waiting",
        "Records that no dead-letter topic has acknowledged yet.",
        lambda s: s.pipeline.undelivered.deadlines.letters.waiting,
    ),
    Row(
        GaugeMetricFamily,
        "dead_letters_failing",
        "1 for each dead-letter topic that refused the last record: it is missing, or may not be written.",
        ("topic",),
        lambda s: [((topic,), 1) for topic in s.pipeline.undelivered.deadlines.letters.failing],
    ),
    _outlooks(
        "oldest_waiting_seconds",
        "Age of the oldest record that no subscriber has taken; 0 if none waits, absent while unknown.",
        lambda outlook: outlook.waiting_seconds,
    ),
    _outlooks(
        "retention_headroom_seconds",
        "How long Kafka keeps the oldest waiting record at least; +Inf: for ever, absent if none waits or unknown.",
        lambda outlook: outlook.headroom_seconds,
    ),
)


class Metrics(Collector):
    """Makes the page.

    *Thread*: one at a time, any.

    Args:
        replica: The replica's name.
    """

    def __init__(self, replica: str) -> None:
        self._replica = replica
        self._snapshot: Snapshot | None = None
        self._registry = CollectorRegistry()
        for make in (ProcessCollector, PlatformCollector, GCCollector):
            make(registry=self._registry)
        self._registry.register(self)

    def render(self, snapshot: Snapshot) -> bytes:
        """The page, with the process's own metrics."""
        self._snapshot = snapshot
        try:
            return generate_latest(self._registry)
        finally:
            self._snapshot = None

    def collect(self) -> Iterator[Metric]:
        """The metrics, for prometheus-client."""
        if self._snapshot is None:
            return
        # Addresses change with each task; this lets queries join the other metrics with a stable name.
        info = GaugeMetricFamily(
            "dispatcher_info", "1, with the replica's name and version.", labels=["replica", "version"]
        )
        info.add_metric([self._replica, __version__], 1)
        yield info
        for row in ROWS:
            family = row.family(f"dispatcher_{row.name}", row.help, labels=row.labels)
            for labels, value in row.samples(self._snapshot):
                family.add_metric(labels, value)
            yield family
