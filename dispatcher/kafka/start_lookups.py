"""Asks Kafka where partitions start, and reads its answers.

Every answer is a future: from an `AdminClient`, or from `GroupOffsets`, which asks for the committed offsets.

*Thread*: the poller's only.
"""

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, NamedTuple

import confluent_kafka
from confluent_kafka import IsolationLevel, KafkaException, TopicCollection, Uuid
from confluent_kafka.admin import AdminClient, OffsetSpec, TopicDescription  # type: ignore[attr-defined] # public

from dispatcher.kafka.group_offsets import Answers, GroupOffsets
from dispatcher.kafka.properties import LIBRDKAFKA_LOG, admin_properties
from dispatcher.sansio.beginnings import Committed, Policy, Stamp
from dispatcher.sansio.ranges import Bounds
from dispatcher.sansio.records import TopicPartition

REQUEST_SECONDS = 2.0
"""How long a request may take before it is repeated."""

_EARLIEST, _LATEST = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call] # untyped

_NO_TOPIC_ID = str(Uuid(0, 0))
"""librdkafka's value for topics of brokers without topic ids (before Kafka 2.8)."""


class Round:
    """Requests that were made together, for some partitions."""

    def __init__(
        self, ask: "StartLookups", partitions: Collection[TopicPartition], bounded: Collection[TopicPartition]
    ) -> None:
        self.partitions = set(partitions)
        topics = {partition.topic for partition in partitions}
        self.described = ask.describe(topics)
        self.cluster = ask.cluster()
        self.committed = ask.committed(partitions)
        self.bounds = ask.bounds(bounded)

    @property
    def futures(self) -> list["Future[Any]"]:
        """All outstanding requests."""
        bounds = [future for both in self.bounds.values() for future in both]
        return [self.cluster, *self.described.values(), self.committed, *bounds]


class StartLookups:
    """Asks for committed offsets, topics and log bounds. All answers are futures.

    Args:
        properties: librdkafka's configuration of the consumer.
    """

    def __init__(self, properties: Mapping[str, Any]) -> None:
        self.policy = Policy.of(properties.get("auto.offset.reset"))
        self._properties = admin_properties(properties)
        reads_all = properties.get("isolation.level") == "read_uncommitted"
        self._isolation = IsolationLevel.READ_UNCOMMITTED if reads_all else IsolationLevel.READ_COMMITTED
        # Kept for as long as it is used: the futures of a dropped AdminClient never complete.
        self._admin = self._make()
        self._group = GroupOffsets(properties)
        self._group.open()

    def renew(self) -> None:
        """Replace the AdminClient.

        One whose broker has died may wait for that broker for ever (librdkafka 2.16.0, seen for 40 s after a broker was
        killed and restarted), whereas a new one is answered at once. The client for the group's offsets is kept: it
        finds a new coordinator by itself.
        """
        self._admin = self._make()

    def close(self) -> None:
        """Close the client for the group's offsets, in this thread, because it may take a moment."""
        self._group.close()

    def serve(self) -> None:
        """Let librdkafka hand out its log lines, which would pile up otherwise."""
        self._admin.poll(0)

    def _make(self) -> AdminClient:
        return AdminClient(self._properties, logger=LIBRDKAFKA_LOG)

    def describe(self, topics: Collection[str]) -> dict[str, "Future[Any]"]:
        """Ask for the id and the partitions of topics."""
        return dict(self._admin.describe_topics(TopicCollection(list(topics)), request_timeout=REQUEST_SECONDS))

    def cluster(self) -> "Future[Any]":
        """Ask for the cluster's id, among other things."""
        return self._admin.describe_cluster(request_timeout=REQUEST_SECONDS)

    def committed(self, partitions: Collection[TopicPartition]) -> "Future[Answers]":
        """Ask for partitions' committed offsets, and for all of their topics' if the reset policy needs those."""
        return self._group.ask(partitions, REQUEST_SECONDS, siblings=self.policy is not Policy.EARLIEST)

    def bounds(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, tuple["Future[Any]", "Future[Any]"]]:
        """Ask where logs begin and end."""
        partitions = list(partitions)
        if not partitions:
            return {}
        low, high = self._offsets(partitions, _EARLIEST), self._offsets(partitions, _LATEST)
        return {partition: (low[partition], high[partition]) for partition in partitions}

    def log_ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, "Future[Any]"]:
        """Ask where logs end at the consumer's isolation level."""
        return self._offsets(partitions, _LATEST)

    def _offsets(self, partitions: Iterable[TopicPartition], spec: OffsetSpec) -> dict[TopicPartition, "Future[Any]"]:
        asked = {confluent_kafka.TopicPartition(*partition): spec for partition in partitions}
        answers = self._admin.list_offsets(asked, isolation_level=self._isolation, request_timeout=REQUEST_SECONDS)
        return {TopicPartition(p.topic, p.partition): future for p, future in answers.items()}


def described_topics(futures: Mapping[str, "Future[Any]"], cluster: str | None = None) -> dict[str, Stamp]:
    """The current topics, without those about which nothing is known yet."""
    found = {}
    for topic, future in futures.items():
        if future.done():
            with suppress(KafkaException):
                description = future.result()
                found[topic] = Stamp(topic_id_of(description), len(description.partitions), cluster)
    return found


def topic_id_of(description: TopicDescription) -> str | None:
    """Kafka's id of a topic; None if the broker has none to report."""
    topic_id = str(description.topic_id)
    return None if topic_id == _NO_TOPIC_ID else topic_id


class CommittedOffsets(NamedTuple):
    """The group's offsets."""

    offsets: dict[TopicPartition, Committed]
    """By partition, without partitions that have none."""
    errors: dict[TopicPartition, str]
    """Partitions whose offsets are not known now, with the reason: a read that waits for a transaction, or a topic that
    may not be described."""


def committed_offsets(future: "Future[Answers]", cluster: str | None) -> CommittedOffsets:
    """The group's offsets, with those stamps that are valid on this cluster.

    Raises:
        KafkaException: no offset is known.
    """
    found = CommittedOffsets({}, {})
    for one in future.result():
        partition = TopicPartition(one.topic, one.partition)
        if one.error is not None:
            found.errors[partition] = one.error.str()
        elif one.offset >= 0:
            found.offsets[partition] = Committed(one.offset, one.leader_epoch, Stamp.parse(one.metadata).on(cluster))
    return found


def cluster_id(future: "Future[Any]") -> str | None:
    """The cluster's id; None if it is not known (yet)."""
    if future.done():
        with suppress(KafkaException):
            return str(future.result().cluster_id or "") or None
    return None


def bounds_of(low: "Future[Any]", high: "Future[Any]") -> Bounds | None:
    """Where a log begins and ends; None if either is not known.

    A leader that has not answered in time yields librdkafka's -1001, "invalid", and no error.
    """
    try:
        first, end = low.result().offset, high.result().offset
    except KafkaException:
        return None
    return Bounds(first, end) if min(first, end) >= 0 else None


def error_code(future: "Future[Any]") -> int:
    """The code of an answer's error; 0 if there is none."""
    error = future.exception() if future.done() else None
    return error.args[0].code() if isinstance(error, KafkaException) else 0
