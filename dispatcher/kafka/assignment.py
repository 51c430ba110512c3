"""Tracks what the group consumer fetches: next offsets, leader epochs, and which partitions are paused.

Rules of this module:

* A partition is given to librdkafka only together with its start offset, once that is known (`Beginnings`).
* librdkafka refuses to release a partition that it was never given, so only those that it was given are taken back.
* With an eager assignor librdkafka accepts only complete assignments; otherwise, only changes to the assignment.

*Thread*: the poller's only.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

import confluent_kafka
from confluent_kafka import Consumer, KafkaException

from dispatcher.sansio.beginnings import Again, Start
from dispatcher.sansio.records import TopicPartition

WAKE_TIMEOUT_SECONDS = 0.002
"""How long to wait for an answer that is discarded: a broker that does not reply has nothing to fetch either."""


def is_eager(properties: Mapping[str, str | int | float | bool]) -> bool:
    """Whether a rebalance takes every partition from every member (librdkafka's ``range`` and ``roundrobin``)."""
    strategies = str(properties.get("partition.assignment.strategy", "range,roundrobin"))
    return properties.get("group.protocol") != "consumer" and "cooperative" not in strategies


class Assignment:
    """The partitions that librdkafka fetches, and the next offset of each.

    Args:
        eager: Whether librdkafka accepts only whole assignments.
    """

    def __init__(self, *, eager: bool) -> None:
        self._eager = eager
        self._next_offsets: dict[TopicPartition, int] = {}
        self._leader_epochs: dict[TopicPartition, int | None] = {}
        self._paused: frozenset[TopicPartition] = frozenset()
        """The partitions that commands have paused."""
        self._held: frozenset[TopicPartition] = frozenset()
        """The partitions whose records wait to be decoded."""

    @property
    def next_offsets(self) -> Mapping[TopicPartition, int]:
        """The next offset of each partition that was given to librdkafka."""
        return self._next_offsets

    @property
    def paused(self) -> frozenset[TopicPartition]:
        """Partitions that are not being fetched for now."""
        return self._paused | self._held

    @property
    def held(self) -> frozenset[TopicPartition]:
        """The partitions whose records wait to be decoded."""
        return self._held

    def begin(self, consumer: Consumer, decisions: Sequence[Start | Again]) -> None:
        """Give partitions to librdkafka, each with its start offset; one that it already has is restarted.

        Raises:
            KafkaException: the client has failed.
        """
        replaced = [decision.partition for decision in decisions if decision.partition in self._next_offsets]
        self._held = self._held.difference(one.partition for one in decisions if isinstance(one, Start))
        for decision in decisions:
            if isinstance(decision, Start):
                self._next_offsets[decision.partition] = decision.offset
                self._leader_epochs[decision.partition] = decision.leader_epoch
            elif decision.gap is not None:
                self._next_offsets[decision.partition] = decision.offset
            # Otherwise it continues from its current offset: records may have arrived since the look-up began.
        if self._eager:
            consumer.assign([self._at_next_offset(partition) for partition in self._next_offsets])
        else:
            if replaced:
                consumer.incremental_unassign(for_client(replaced))
            consumer.incremental_assign([self._at_next_offset(decision.partition) for decision in decisions])
        if paused := self.paused.intersection(self._next_offsets if self._eager else replaced):
            consumer.pause(for_client(paused))

    def restart(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        """Make librdkafka fetch partitions as if they had just been assigned; this ends pauses that are not ours.

        Raises:
            KafkaException: the client has failed.
        """
        self.begin(consumer, [Again(partition, self._next_offsets[partition]) for partition in partitions])
        # A pause that librdkafka kept from an earlier assignment (confluentinc/librdkafka#1849) outlives even this.
        if flowing := [partition for partition in partitions if partition not in self.paused]:
            consumer.resume(for_client(flowing))

    def let_go(self, consumer: Consumer, partitions: Iterable[TopicPartition]) -> None:
        """Take partitions back from librdkafka.

        Raises:
            KafkaException: the client has failed.
        """
        given = [partition for partition in partitions if self._next_offsets.pop(partition, None) is not None]
        for partition in given:
            self._leader_epochs.pop(partition, None)
        self._paused = self._paused.difference(given)
        self._held = self._held.difference(given)
        if self._eager:
            consumer.unassign()
        else:
            consumer.incremental_unassign(for_client(given))

    def control_flow(
        self, consumer: Consumer, pause: Iterable[TopicPartition], resume: Iterable[TopicPartition]
    ) -> None:
        """Pause and resume partitions.

        Raises:
            KafkaException: the client has failed, or was not given one of them.
        """
        if flowing := frozenset(resume) - self._held if self._held else resume:
            consumer.resume(for_client(flowing))
            self._wake_fetchers(consumer, self._paused.intersection(flowing))
        if pause:
            consumer.pause(for_client(pause))
        if pause or resume:
            self._paused = self._paused.difference(resume).union(pause)

    def hold(self, consumer: Consumer, partitions: frozenset[TopicPartition]) -> None:
        """Hold exactly these partitions: any others that were held are fetched again, unless commands have paused them.

        Raises:
            KafkaException: the client has failed, or was not given one of them.
        """
        if partitions == self._held:
            return
        if held := partitions - self.paused:
            consumer.pause(for_client(held))
        if released := self._held - partitions - self._paused:
            consumer.resume(for_client(released))
            self._wake_fetchers(consumer, released)
        self._held = partitions

    def received(self, partition: TopicPartition, next_offset: int, leader_epoch: int | None) -> bool:
        """Note records; return whether the leader epoch is lower than before, which cannot happen within one log."""
        if partition in self._next_offsets:
            self._next_offsets[partition] = next_offset
        before = self._leader_epochs.get(partition)
        self._leader_epochs[partition] = leader_epoch
        return before is not None and leader_epoch is not None and leader_epoch < before

    def ended(self, partition: TopicPartition, end: int) -> bool:
        """Note the end of a log; return whether offsets without a record precede it: only then need it be reported."""
        if end <= self._next_offsets.get(partition, end):
            return False
        self._next_offsets[partition] = end
        return True

    def _at_next_offset(self, partition: TopicPartition) -> confluent_kafka.TopicPartition:
        """A partition with its next offset, and the leader epoch of the record before that (KIP-320)."""
        leader_epoch = self._leader_epochs.get(partition)
        return confluent_kafka.TopicPartition(
            *partition, self._next_offsets[partition], leader_epoch=-1 if leader_epoch is None else leader_epoch
        )

    def _wake_fetchers(self, consumer: Consumer, resumed: Iterable[TopicPartition]) -> None:
        """Make librdkafka fetch resumed partitions at once.

        librdkafka's threads notice a resume only when something else wakes them, up to a second later. Asking for the
        log ends wakes each leader's thread; the answers are discarded.
        """
        asked = [confluent_kafka.TopicPartition(*partition, confluent_kafka.OFFSET_END) for partition in resumed]
        if asked:
            with suppress(KafkaException):
                consumer.offsets_for_times(asked, timeout=WAKE_TIMEOUT_SECONDS)


def for_client(partitions: Iterable[TopicPartition]) -> list[confluent_kafka.TopicPartition]:
    """Convert our partitions to confluent_kafka's."""
    return [confluent_kafka.TopicPartition(*partition) for partition in partitions]


def from_client(partitions: Iterable[confluent_kafka.TopicPartition]) -> list[TopicPartition]:
    """Convert confluent_kafka's partitions to ours."""
    return [TopicPartition(partition.topic, partition.partition) for partition in partitions]
