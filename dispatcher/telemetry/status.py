"""What the replica reports about itself: readiness, and the pages ``/status`` and ``/metrics``.

Nothing is computed until a page is requested, and then once per page (`telemetry.snapshot`).
"""

import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
import trio

from dispatcher.hub.statistics import CompressionStatistics
from dispatcher.pipeline import Pipeline
from dispatcher.pipeline_statistics import PipelineHealth, PipelineStatistics
from dispatcher.sansio.health import why_unreachable
from dispatcher.sansio.parking import ParkedStatistics
from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.retention import UNKNOWN
from dispatcher.sansio.topic_health import Condition
from dispatcher.settings import Settings
from dispatcher.telemetry.metrics_page import Metrics
from dispatcher.telemetry.snapshot import AccessStatistics, Page, Snapshot


class ReplicaStatus:
    """Turns statistics into answers (`web.operations.Operations`).

    *Thread*: Trio's; pages are made in a worker thread.

    Args:
        settings: Name, group and limits of the replica.
        pipeline: Source of statistics, its own and its hub's.
        access: Statistics of the connections and streams at `bind`.
        is_draining: Whether an operator drains the replica.
    """

    def __init__(
        self,
        settings: Settings,
        pipeline: Pipeline,
        access: Callable[[], AccessStatistics],
        is_draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._access = access
        self._is_draining = is_draining
        self._has_been_ready = False
        self._status = Page(self._take, self._render_status)
        self._metrics = Page(self._take, Metrics(settings.client_id).render)
        self._openmetrics = Page(self._take, Metrics(settings.client_id).render_openmetrics)

    def why_not_ready(self) -> list[str]:
        """Reasons why new subscribers should not be sent here; empty when ready. Constant cost."""
        return self._why_not_ready(self._pipeline.health())

    def degraded(self) -> list[str]:
        """What is wrong with topics and the group while the replica is ready all the same. Constant cost."""
        return list(self._pipeline.health().degraded)

    @property
    def has_been_ready(self) -> bool:
        """Whether any readiness check has ever succeeded.

        Docker has one health check where Kubernetes has two, and Swarm kills a container that fails it. A replica that
        waits for a broker with subscribers connected must not be killed for that; one that was never ready may be.
        """
        return self._has_been_ready

    async def status_page(self) -> bytes:
        """Everything that people may want to see, as JSON. *Cancellation*: safe."""
        return await self._status.get()

    async def metrics_page(self, *, openmetrics: bool = False) -> bytes:
        """The metrics, in Prometheus's text format or in OpenMetrics. *Cancellation*: safe."""
        return await (self._openmetrics if openmetrics else self._metrics).get()

    async def _take(self) -> tuple[Snapshot, float]:
        """A snapshot, and for how many seconds it has held the loop."""
        census, taken_seconds = await self._pipeline.hub.census.take()
        began = time.perf_counter()
        pipeline = self._pipeline.statistics()
        snapshot = Snapshot(
            pipeline=pipeline,
            hub=self._pipeline.hub.statistics(),
            census=census,
            access=self._access(),
            tasks=trio.lowlevel.current_statistics().tasks_living,
            reasons=tuple(self._why_not_ready(pipeline)),
            since_crossing_seconds=max(0.0, time.monotonic() - pipeline.last_exchange_at),
        )
        return snapshot, taken_seconds + time.perf_counter() - began

    def _why_not_ready(self, health: PipelineHealth) -> list[str]:
        reasons = []
        if health.stopping:
            reasons.append("the replica is stopping")
        if self._is_draining():
            reasons.append("an operator is draining the replica (/admin/drain)")
        if not health.broker_reachable:
            reasons.append(why_unreachable(self._settings.bootstrap_servers, health.last_error))
        elif not health.joined:
            why = f" ({'; '.join(health.degraded)})" if health.degraded else ""
            reasons.append(f"the replica has not joined the group {self._settings.group_id} yet{why}")
        elif not health.assigned and health.last_error:
            reasons.append(f"no partition is assigned ({health.last_error})")
        self._has_been_ready |= not reasons
        return reasons

    def _render_status(self, snapshot: Snapshot) -> bytes:
        return orjson.dumps(status_of(self._settings, snapshot), option=orjson.OPT_INDENT_2)


def status_of(settings: Settings, snapshot: Snapshot) -> Mapping[str, Any]:
    """``/status``; docs/protocol.md names its members."""
    pipeline, hub, census = snapshot.pipeline, snapshot.hub, snapshot.census
    return {
        "replica": settings.client_id,
        "group": settings.group_id,
        "topics": settings.topics,
        "state": pipeline.state,
        "ready": not snapshot.reasons,
        "broker_reachable": pipeline.broker_reachable,
        "joined": pipeline.joined,
        "rebalances": pipeline.rebalances,
        "last_error": pipeline.last_error,
        "topic_health": {name: _condition(condition) for name, condition in pipeline.topics.topics.items()},
        "group_health": _condition(pipeline.topics.group),
        "dead_letters": _dead_letters(pipeline),
        "retention": {name: _retention(pipeline, name) for name in settings.topics},
        "last_crossing_seconds": snapshot.since_crossing_seconds,
        "partitions": [
            _partition(pipeline, partition, hub.parked.get(partition)) for partition in sorted(pipeline.partitions)
        ],
        "followed": {
            "partitions": pipeline.following.partitions,
            "records": pipeline.following.records,
            "bytes": pipeline.following.bytes,
            "lag": sum(pipeline.following.lags.values()),
            "failures": pipeline.following.failures,
            "restarts": pipeline.following.restarts,
        },
        "group_lag": [
            {"topic": tp.topic, "partition": tp.partition, "committed": lag.committed, "lag": lag.lag_records}
            for tp, lag in sorted(pipeline.membership.group_lags.items())
        ],
        "idle_leaves": pipeline.membership.standby.leaves,
        "commits": {"confirmed": pipeline.commits.confirmed, "failed": sum(pipeline.commits.failed.values())},
        "connections": snapshot.access.connections,
        "access": {
            "idle_connections": snapshot.access.server.intake.idle,
            "evicted_connections": snapshot.access.server.intake.evicted,
            "refused_connections": snapshot.access.server.intake.refused,
            "failed_handshakes": snapshot.access.server.failed_handshakes,
            "addresses": snapshot.access.limits.addresses.holders,
            "most_subscribers_of_one_address": snapshot.access.limits.addresses.most,
            "refused_streams": snapshot.access.limits.refused,
        },
        "tasks": snapshot.tasks,
        "subscribers": {
            **{str(state): number for state, number in hub.subscribers.items()},
            "total": sum(hub.subscribers.values()),
            "fell_back": hub.fell_back,
            "stalled": hub.stalled,
            "behind_records": {"median": census.behind_records_median, "worst": census.behind_records_worst},
            "transports": hub.transports,
            "topics": hub.feeds.present.topics,
            "observers": hub.feeds.present.observers,
            "filtered": hub.feeds.present.filtered,
            "acknowledging": hub.feeds.present.acking,
            "whole_topic": hub.feeds.present.whole,
        },
        "records": {
            "published": hub.published_records,
            "dispatched": hub.dispatched_records,
            "waiting": hub.history.waiting_records,
            "deliveries": hub.deliveries,
            "unmatched": hub.unmatched,
            "parked": hub.parked_records,
        },
        "acks": {
            "subscribers": hub.acking.subscribers,
            "outstanding_records": hub.acking.outstanding_records,
            "outstanding_bytes": hub.acking.outstanding_bytes,
            "acked": hub.acking.acked_records,
            "nacked": hub.acking.nacked_records,
            "passed_over": hub.acking.passed_over,
            "timeouts": hub.acking.timeouts,
        },
        "replays": {
            "running": pipeline.replays.running,
            "waiting": pipeline.replays.waiting,
            "chunks": pipeline.replays.chunks,
            "records": pipeline.replays.records,
            "subscribers": census.replaying,
        },
        "schemas": {
            "registry": settings.schema_registry_url or None,
            "unavailable": pipeline.decoding.schemas.unavailable,
            "known": pipeline.decoding.schemas.known,
            "missing": pipeline.decoding.schemas.missing,
            "fetches": pipeline.decoding.schemas.fetches,
            "decoded": pipeline.decoding.decoded,
            "undecoded": pipeline.decoding.undecoded,
            "asked": sorted(pipeline.decoding.asked),
            "waiting": [str(partition) for partition in sorted(pipeline.held)],
        },
        "history": {"hits": hub.history_hits, "misses": hub.history_misses},
        "compression": _compression(hub.encoder.compression),
        "bytes": {
            "history": hub.history.size_bytes,
            "waiting": hub.history.waiting_bytes,
            "subscriber_channels": census.buffered_bytes,
            "prefetched": pipeline.prefetched_bytes,
        },
    }


def _condition(condition: Condition) -> Mapping[str, Any]:
    words = {None: "unknown", True: "healthy", False: "degraded"}
    since = datetime.fromtimestamp(condition.since, UTC).isoformat(timespec="seconds")
    return {
        "health": words[condition.healthy],
        "reason": condition.reason,
        "detail": condition.detail or None,
        "since": since,
    }


def _dead_letters(statistics: PipelineStatistics) -> Mapping[str, Any]:
    letters = statistics.undelivered.deadlines.letters
    return {"written": sum(letters.written.values()), "waiting": letters.waiting, "failing": letters.failing}


def _compression(found: CompressionStatistics | None) -> Mapping[str, Any] | None:
    return None if found is None else {"input_bytes": found.input_bytes, "output_bytes": found.output_bytes}


def _retention(statistics: PipelineStatistics, topic: str) -> Mapping[str, Any] | None:
    found = statistics.undelivered.expiry.retentions.get(topic)
    return None if found is None else {"seconds": found.seconds, "bytes": found.size_bytes}


def _partition(
    statistics: PipelineStatistics, partition: TopicPartition, parked: ParkedStatistics | None
) -> Mapping[str, Any]:
    ours = statistics.partitions[partition]
    lag = statistics.lags[partition]
    outlook = statistics.undelivered.expiry.outlooks.get(partition, UNKNOWN)
    return {
        "topic": partition.topic,
        "partition": partition.partition,
        "next_offset": ours.received_to,
        # The former name of next_offset, for one more release.
        "position": ours.received_to,
        "dispatched": ours.dispatched_to,
        "committed": lag.committed,
        "log_end": lag.log_end,
        "last_stable_offset": lag.last_stable_offset,
        "lag": lag.lag_records,
        "waiting_records": statistics.waiting_records.get(partition, 0),
        "waiting_bytes": statistics.waiting_bytes.get(partition, 0),
        "paused": partition in statistics.paused,
        "oldest_waiting_seconds": outlook.waiting_seconds,
        # JSON has no infinity: what Kafka keeps for ever, and what is unknown, have no number.
        "retention_headroom_seconds": None if outlook.headroom_seconds == math.inf else outlook.headroom_seconds,
        "parked": None if parked is None else _parked(parked),
    }


def _parked(parked: ParkedStatistics) -> Mapping[str, Any]:
    return {
        "ranges": parked.ranges,
        "offsets": parked.offsets,
        "first_offset": parked.first_offset,
        "reasons": parked.reasons,
        "full": parked.is_full,
    }
