"""``/metrics``: the table of metrics, with names and units as Prometheus recommends them."""

from collections.abc import Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from dispatcher.invariants import invariants
from dispatcher.telemetry.logs import dropped_lines
from dispatcher.telemetry.rows import Row, by_partition, counter, degraded, gauge, outlooks, undecided

ROWS: Sequence[Row] = (
    gauge("ready", "1 if the replica is ready for subscribers.", lambda s: not s.reasons),
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
    gauge(
        "counting_subscribers",
        "Subscribers for which sent records count as dispatched: all but observers.",
        lambda s: s.hub.takers,
    ),
    counter(
        "dropped_log_lines",
        "Log lines that were dropped because nobody read the log.",
        lambda _: dropped_lines(),
    ),
    counter("spans", "Spans of traced records.", lambda s: s.hub.times.spans),
    counter(
        "unsent_spans",
        "Sampled records without a span: too many at once, never dispatched, or of a revoked partition.",
        lambda s: s.hub.times.left_out,
    ),
    gauge("ack_subscribers", "Subscribers with ack=client.", lambda s: s.hub.acking.subscribers),
    gauge(
        "outstanding_records",
        "Records sent to subscribers with ack=client and not acknowledged yet.",
        lambda s: s.hub.acking.outstanding_records,
    ),
    gauge(
        "outstanding_bytes",
        "Bytes of these records.",
        lambda s: s.hub.acking.outstanding_bytes,
    ),
    counter(
        "acked_records",
        "Acknowledgements: one for each record and each subscriber that acknowledged it.",
        lambda s: s.hub.acking.acked_records,
    ),
    counter("nacked_records", "Records that subscribers refused.", lambda s: s.hub.acking.nacked_records),
    counter(
        "passed_over_acks",
        "Parts of acknowledgements that named unsent records, or partitions that this replica does not have.",
        lambda s: s.hub.acking.passed_over,
    ),
    counter(
        "ack_timeouts",
        "Streams that ended because the client acknowledged nothing for too long.",
        lambda s: s.hub.acking.timeouts,
    ),
    gauge("connections", "Open connections.", lambda s: s.access.connections),
    gauge("idle_connections", "Connections without a request.", lambda s: s.access.server.intake.idle),
    counter(
        "evicted_connections",
        "Idle connections closed to make room for others.",
        lambda s: s.access.server.intake.evicted,
    ),
    counter(
        "refused_connections",
        "Connections closed because every other one was in use.",
        lambda s: s.access.server.intake.refused,
    ),
    counter(
        "failed_handshakes",
        "Connections that ended in their TLS handshake or PROXY header.",
        lambda s: s.access.server.failed_handshakes,
    ),
    counter("refused_streams", "Requests for a stream above a limit per client.", lambda s: s.access.limits.refused),
    Row(
        CounterMetricFamily,
        "refused_requests",
        "Refused requests, by reason: origin or host, token or grant, an invalid request, a limit, or no capacity.",
        ("reason",),
        lambda s: [((reason,), number) for reason, number in s.access.refusals.items()],
    ),
    Row(
        CounterMetricFamily,
        "ended_streams",
        "Ended streams, by how they ended.",
        ("why",),
        lambda s: [((str(why),), number) for why, number in s.access.endings.items()],
    ),
    counter(
        "unlogged_ended_streams",
        "Ended streams that the access log left out.",
        lambda s: s.access.unlogged_endings,
    ),
    gauge(
        "issuer_keys",
        "Keys of the tokens' issuer that are valid now.",
        lambda s: None if s.access.keys is None else s.access.keys.keys,
    ),
    counter(
        "issuer_key_fetches",
        "Fetches of the issuer's keys, failed ones included.",
        lambda s: None if s.access.keys is None else s.access.keys.fetches,
    ),
    counter(
        "failed_issuer_key_fetches",
        "Failed fetches of the issuer's keys; the previous keys stay in use.",
        lambda s: None if s.access.keys is None else s.access.keys.failed,
    ),
    gauge("subscriber_addresses", "Addresses with subscribers.", lambda s: s.access.limits.addresses.holders),
    gauge("waiting_records", "Records that no subscriber has taken yet.", lambda s: s.hub.history.waiting_records),
    gauge(
        "waiting_bytes",
        "Bytes of records that no subscriber has taken yet.",
        lambda s: s.hub.history.waiting_bytes,
    ),
    gauge("history_bytes", "Bytes of records in memory, waiting records included.", lambda s: s.hub.history.size_bytes),
    gauge("subscriber_channel_bytes", "Bytes queued for subscribers.", lambda s: s.census.buffered_bytes),
    gauge(
        "prefetched_bytes",
        "Bytes that librdkafka has fetched and not handed over yet.",
        lambda s: s.pipeline.prefetched_bytes,
    ),
    gauge(
        "replaying_subscribers",
        "Subscribers that are being served from Kafka, or waiting in line for it.",
        lambda s: s.census.replaying,
    ),
    gauge(
        "behind_records_median",
        "How many records the median subscriber is behind.",
        lambda s: s.census.behind_records_median,
    ),
    gauge(
        "behind_records_worst",
        "How many records the slowest subscriber is behind; found in a sample if very many are catching up.",
        lambda s: s.census.behind_records_worst,
    ),
    gauge("replays_running", "Chunks being replayed from Kafka now.", lambda s: s.pipeline.replays.running),
    gauge("replays_waiting", "Subscribers waiting in line for a replay.", lambda s: s.pipeline.replays.waiting),
    gauge("paused_partitions", "Partitions for which fetching is paused.", lambda s: len(s.pipeline.paused)),
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
    gauge("schemas", "Schemas that records are decoded with.", lambda s: s.pipeline.decoding.schemas.known),
    counter("schema_fetches", "Requests for schemas.", lambda s: s.pipeline.decoding.schemas.fetches),
    gauge(
        "schema_registry_up",
        "0 while the schema registry has no usable answer, whatever the schema, otherwise 1.",
        lambda s: float(s.pipeline.decoding.schemas.unavailable is None),
    ),
    gauge("schema_waiting_partitions", "Partitions that wait for a schema.", lambda s: len(s.pipeline.held)),
    counter("published_records", "Records taken from Kafka.", lambda s: s.hub.published_records),
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
        "Records left in Kafka because no present subscriber wanted them, or was allowed to read them.",
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
    gauge(
        "parking_full_partitions",
        "Partitions with the maximum number of parked ranges: further records to be parked wait in memory.",
        lambda s: sum(parked.is_full for parked in s.hub.parked.values()),
    ),
    counter(
        "compression_input_bytes",
        "Bytes before compression: a write counts once, whatever the number of its subscribers.",
        lambda s: s.hub.encoder.compression.input_bytes if s.hub.encoder.compression else None,
    ),
    counter(
        "compression_output_bytes",
        "The same bytes after compression.",
        lambda s: s.hub.encoder.compression.output_bytes if s.hub.encoder.compression else None,
    ),
    gauge("feeds", "Distinct combinations of format, topics and filter in use.", lambda s: s.hub.feeds.feeds),
    counter("dispatched_records", "Records that at least one subscriber took.", lambda s: s.hub.dispatched_records),
    counter(
        "deliveries", "Deliveries: one for each record and each subscriber that took it.", lambda s: s.hub.deliveries
    ),
    counter(
        "fell_back", "Times that a full buffer sent a live subscriber back to catching up.", lambda s: s.hub.fell_back
    ),
    counter("stalled", "Subscribers disconnected because they took nothing for too long.", lambda s: s.hub.stalled),
    counter("history_hits", "Subscribers that became live from memory alone.", lambda s: s.hub.history_hits),
    counter("history_misses", "Subscribers that needed Kafka to become live.", lambda s: s.hub.history_misses),
    counter("commits", "Committed offsets that the broker stored.", lambda s: s.pipeline.commits.confirmed),
    counter("replayed_chunks", "Chunks replayed from Kafka.", lambda s: s.pipeline.replays.chunks),
    counter("replayed_records", "Records replayed from Kafka.", lambda s: s.pipeline.replays.records),
    Row(
        GaugeMetricFamily,
        "topic_degraded",
        "1 for each reason why a topic is degraded, 0 for other reasons; absent while unknown.",
        ("topic", "reason"),
        lambda s: degraded(s.pipeline.topics.topics),
    ),
    Row(
        GaugeMetricFamily,
        "group_degraded",
        "1 for each reason why the consumer group is degraded, 0 for other reasons; absent while unknown.",
        ("reason",),
        lambda s: [((reason,), value) for (_, reason), value in degraded({"": s.pipeline.topics.group})],
    ),
    counter("rebalances", "Times that partitions were revoked or lost.", lambda s: s.pipeline.rebalances),
    counter(
        "partition_restarts",
        "Times that fetching a partition was restarted because nothing arrived although its leader had records.",
        lambda s: s.pipeline.stalls.restarts,
    ),
    counter(
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
        "Violations of invariants. Anything but 0 is a bug.",
        ("invariant",),
        lambda _: [((invariant,), number) for invariant, number in invariants.statistics().items()],
    ),
    by_partition("assigned_partition", "1 for each partition assigned to this replica.", lambda _: 1),
    by_partition(
        "lag_records",
        "Offsets from the committed one to the end of the log, open transactions included; absent while unknown.",
        lambda lag: lag.lag_records,
    ),
    Row(
        GaugeMetricFamily,
        "group_lag_records",
        "Like lag_records, but in standby for every partition, looked up every 10 s: take the maximum over replicas.",
        ("topic", "partition"),
        lambda s: [
            ((tp.topic, str(tp.partition)), lag.lag_records)
            for tp, lag in {**s.pipeline.membership.group_lags, **s.pipeline.lags}.items()
            if lag.lag_records is not None
        ],
    ),
    gauge("followed_partitions", "Partitions read without owning them.", lambda s: s.pipeline.following.partitions),
    counter("followed_records", "Records of followed partitions.", lambda s: s.pipeline.following.records),
    Row(
        GaugeMetricFamily,
        "followed_lag_records",
        "Offsets from the next one to read to the end of a followed partition's log, open transactions included.",
        ("topic", "partition"),
        lambda s: [((tp.topic, str(tp.partition)), lag) for tp, lag in s.pipeline.following.lags.items()],
    ),
    counter(
        "follower_failures",
        "Consumers of followed partitions that failed, or could not be made, and were replaced.",
        lambda s: s.pipeline.following.failures,
    ),
    counter(
        "followed_partition_restarts",
        "Like partition_restarts, for partitions that are followed.",
        lambda s: s.pipeline.following.restarts,
    ),
    counter(
        "idle_leaves",
        "Times that the replica left the group because it had no subscriber.",
        lambda s: s.pipeline.membership.standby.leaves,
    ),
    by_partition(
        "undecided_records",
        "Offsets at the end of the log that open transactions hold back; absent while unknown.",
        undecided,
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
        "Records written to a dead-letter topic and acknowledged by its brokers, by their topic and reason.",
        ("topic", "reason"),
        lambda s: list(s.pipeline.undelivered.deadlines.letters.written.items()),
    ),
    gauge(
        "dead_letters_waiting",
        "Records that no dead-letter topic has acknowledged yet.",
        lambda s: s.pipeline.undelivered.deadlines.letters.waiting,
    ),
    Row(
        GaugeMetricFamily,
        "dead_letters_failing",
        "1 for each dead-letter topic that refused the last record: it is missing, or writing to it is not allowed.",
        ("topic",),
        lambda s: [((topic,), 1) for topic in s.pipeline.undelivered.deadlines.letters.failing],
    ),
    outlooks(
        "oldest_waiting_seconds",
        "Age of the oldest record that no subscriber has taken; 0 if none waits, absent while unknown.",
        lambda outlook: outlook.waiting_seconds,
    ),
    outlooks(
        "retention_headroom_seconds",
        "Minimum time that Kafka still keeps the oldest waiting record; +Inf: for ever, absent if none or unknown.",
        lambda outlook: outlook.headroom_seconds,
    ),
)
