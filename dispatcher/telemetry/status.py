"""What the replica tells about itself: readiness, status, metrics. Read when asked, so it costs nothing else."""

import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

import trio
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dispatcher.hub.statistics import HubStatistics
from dispatcher.invariants import invariants
from dispatcher.pipeline import PipelineStatistics
from dispatcher.sansio.records import TopicPartition
from dispatcher.settings import Settings


class ReplicaOperations(Collector):
    """Turns statistics into answers (`web.operations.Operations`).

    Args:
        settings: Name of the replica, its group, and its bounds.
        pipeline: Takes a snapshot of the pipeline.
        hub: Takes a snapshot of the hub and of every subscriber.
        connections: Number of open connections.
    """

    def __init__(
        self,
        settings: Settings,
        pipeline: Callable[[], PipelineStatistics],
        hub: Callable[[], HubStatistics],
        connections: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._hub = hub
        self._connections = connections
        self._has_been_ready = False
        self.registry = CollectorRegistry()
        for make in (ProcessCollector, PlatformCollector, GCCollector):
            make(registry=self.registry)
        self.registry.register(self)

    def why_not_ready(self) -> list[str]:
        """Reasons why no new subscriber should be sent here; empty when ready."""
        statistics = self._pipeline()
        reasons = []
        if statistics.stopping:
            reasons.append("the replica is stopping")
        if not statistics.broker_reachable:
            why = f" ({statistics.last_error})" if statistics.last_error else ""
            reasons.append(f"no Kafka broker is reachable at {self._settings.bootstrap_servers}{why}")
        elif not statistics.joined:
            reasons.append(f"the replica has not joined the group {self._settings.group_id} yet")
        elif not statistics.partitions and statistics.last_error:
            reasons.append(f"nothing is assigned ({statistics.last_error})")
        self._has_been_ready |= not reasons
        return reasons

    @property
    def has_been_ready(self) -> bool:
        """Whether it was ready at any time that somebody asked.

        Docker has one health check where others have two, and kills what fails it. A replica that waits for a broker
        with its subscribers connected must not be killed for that; one that never came so far may be.
        """
        return self._has_been_ready

    def status(self) -> Mapping[str, Any]:
        """Everything that a person may want to see."""
        statistics = self._pipeline()
        hub = self._hub()
        return {
            "replica": self._settings.client_id,
            "group": self._settings.group_id,
            "topics": self._settings.topics,
            "state": statistics.state,
            "ready": not self.why_not_ready(),
            "broker_reachable": statistics.broker_reachable,
            "joined": statistics.joined,
            "rebalances": statistics.rebalances,
            "last_error": statistics.last_error,
            "last_crossing_seconds": max(0.0, time.monotonic() - statistics.crossed_at),
            "partitions": [self._partition(statistics, partition) for partition in sorted(statistics.partitions)],
            "commits": {"confirmed": statistics.commits.confirmed, "failed": sum(statistics.commits.failed.values())},
            "connections": self._connections(),
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "subscribers": {
                **{str(state): number for state, number in hub.subscribers.items()},
                "total": sum(hub.subscribers.values()),
                "fell_back": hub.fell_back,
                "stalled": hub.stalled,
                "behind_records": {"median": hub.behind_records_median, "worst": hub.behind_records_worst},
                "transports": hub.transports,
            },
            "records": {
                "published": hub.published_records,
                "dispatched": hub.dispatched_records,
                "waiting": hub.history.waiting_records,
                "deliveries": hub.deliveries,
            },
            "replays": {
                "running": statistics.replays.running,
                "waiting": statistics.replays.waiting,
                "chunks": statistics.replays.chunks,
                "records": statistics.replays.records,
                "subscribers": hub.replaying,
            },
            "history": {"hits": hub.history_hits, "misses": hub.history_misses},
            "bytes": {
                "history": hub.history.bytes,
                "waiting": hub.history.waiting_bytes,
                "subscriber_channels": hub.buffered_bytes,
                "prefetched": _prefetched(statistics),
            },
        }

    def collect(self) -> Iterator[Metric]:
        """The metrics, for prometheus-client; names and units as Prometheus recommends them."""
        statistics = self._pipeline()
        hub = self._hub()
        # Addresses change with each task; this joins every other metric with a name that stays.
        info = GaugeMetricFamily("dispatcher_info", "1, with the name of the replica.", labels=["replica", "version"])
        info.add_metric([self._settings.client_id, version("dispatcher")], 1)
        yield info
        ready = GaugeMetricFamily("dispatcher_ready", "1 when the replica is ready for subscribers.")
        ready.add_metric([], not self.why_not_ready())
        yield ready
        state = GaugeMetricFamily("dispatcher_state", "1 for the replica's present state.", labels=["state"])
        state.add_metric([statistics.state], 1)
        yield state
        subscribers = GaugeMetricFamily("dispatcher_subscribers", "Subscribers by state.", labels=["state"])
        for subscriber_state, number in hub.subscribers.items():
            subscribers.add_metric([subscriber_state], number)
        yield subscribers
        for name, text, value in (
            ("connections", "Open connections.", self._connections()),
            ("waiting_records", "Records that no subscriber has taken yet.", hub.history.waiting_records),
            (
                "waiting_bytes",
                "Memory of records that no subscriber has taken yet.",
                hub.history.waiting_bytes,
            ),
            ("history_bytes", "Memory of the history, waiting records included.", hub.history.bytes),
            ("subscriber_channel_bytes", "Bytes waiting in subscribers' channels.", hub.buffered_bytes),
            ("prefetched_bytes", "Bytes that librdkafka holds fetched.", _prefetched(statistics)),
            ("replaying_subscribers", "Subscribers that are sent what was read again, or wait.", hub.replaying),
            ("behind_records_median", "Records that the median subscriber is behind.", hub.behind_records_median),
            ("behind_records_worst", "Records that the worst subscriber is behind.", hub.behind_records_worst),
            ("replays_running", "Chunks that are being read again from Kafka.", statistics.replays.running),
            ("replays_waiting", "Subscribers that wait in line for that.", statistics.replays.waiting),
            ("paused_partitions", "Partitions whose fetching is paused.", len(statistics.paused)),
        ):
            yield GaugeMetricFamily(f"dispatcher_{name}", text, value=value)
        for name, text, value in (
            ("published_records", "Records taken from Kafka.", hub.published_records),
            ("dispatched_records", "Records that at least one subscriber took.", hub.dispatched_records),
            ("deliveries", "Records times subscribers that took them.", hub.deliveries),
            ("fell_back", "Full channels that sent a subscriber back to catching up.", hub.fell_back),
            ("stalled", "Subscribers that were cut because they took nothing for too long.", hub.stalled),
            ("history_hits", "Subscribers that became live from memory alone.", hub.history_hits),
            ("history_misses", "Subscribers that needed Kafka to become live.", hub.history_misses),
            ("commits", "Offsets that the broker stored.", statistics.commits.confirmed),
            ("replayed_chunks", "Chunks that were read again from Kafka.", statistics.replays.chunks),
            ("replayed_records", "Records that were read again from Kafka.", statistics.replays.records),
            ("rebalances", "Partitions revoked or lost.", statistics.rebalances),
        ):
            yield CounterMetricFamily(f"dispatcher_{name}", text, value=value)
        failures = CounterMetricFamily(
            "dispatcher_commit_failures", "Offsets that the broker did not store, by outcome.", labels=["outcome"]
        )
        for outcome, number in statistics.commits.failed.items():
            failures.add_metric([outcome], number)
        yield failures
        violations = CounterMetricFamily(
            "dispatcher_invariant_violations",
            "How often something did not hold that must always hold: a bug. 0 is the only right value.",
            labels=["invariant"],
        )
        for invariant, number in invariants.statistics().items():
            violations.add_metric([invariant], number)
        yield violations
        lag = GaugeMetricFamily(
            "dispatcher_lag_records", "Records behind the committed offset.", labels=["topic", "partition"]
        )
        for partition in statistics.partitions:
            records = self._partition(statistics, partition)["lag"]
            if records is not None:
                lag.add_metric([partition.topic, str(partition.partition)], records)
        yield lag

    def _partition(self, statistics: PipelineStatistics, partition: TopicPartition) -> Mapping[str, Any]:
        ours = statistics.partitions[partition]
        theirs = statistics.consumer.partitions.get(partition) if statistics.consumer else None
        committed = ours.committed
        if committed is None and theirs is not None:
            committed = theirs.committed
        return {
            "topic": partition.topic,
            "partition": partition.partition,
            "position": ours.received_to,
            "dispatched": ours.dispatched_to,
            "committed": committed,
            "log_end": theirs.log_end if theirs else None,
            "lag": theirs.lag_records if theirs else None,
            "waiting_records": statistics.waiting_records.get(partition, 0),
            "waiting_bytes": statistics.waiting_bytes.get(partition, 0),
            "paused": partition in statistics.paused,
        }


def _prefetched(statistics: PipelineStatistics) -> int:
    if statistics.consumer is None:
        return 0
    return sum(partition.prefetched_bytes for partition in statistics.consumer.partitions.values())
