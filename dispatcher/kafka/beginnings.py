"""Asks Kafka where partitions begin: what the group has committed, which topic is there, where its log begins and ends.

All requests go through an `AdminClient`, which answers by futures. Only a rebalance callback waits for them, at most
`ANSWER_SECONDS`; otherwise the poller's thread looks at them between two polls. A partition flows once it is known
where it begins; the others flow meanwhile, so a coordinator that is away delays new partitions only.

*Thread*: the poller's only.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import confluent_kafka
import structlog
from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    Uuid,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined] # it is public, and documented

from dispatcher.kafka.properties import LIBRDKAFKA_LOG, admin_properties
from dispatcher.sansio.beginnings import Again, Committed, Policy, Stamp, Start, Undecided, begin, go_on, other_log
from dispatcher.sansio.ranges import Bounds
from dispatcher.sansio.records import TopicPartition

log = structlog.get_logger(__name__)

ANSWER_SECONDS = 0.1
"""How long a rebalance callback waits for the answers, which take a few milliseconds from a broker that is there: other
partitions' records wait as long."""

REQUEST_SECONDS = 2.0
"""How long a request may take before it is made again."""

RETRY_SECONDS = 0.25
"""How soon a request that failed is made again."""

WATCH_SECONDS = 5.0
"""How often topics are looked at: one that was deleted and created again is noticed within this time."""

HINT_SECONDS = 0.5
"""The same, when something hints at that."""

_EARLIEST, _LATEST = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call] # they have no types

LOG_SECONDS = 10.0
"""Least time between two log lines about a partition that cannot begin."""

PASSING_SECONDS = 2.0
"""A partition without an answer from its leader for this long is told: leaders change, and new topics have none yet."""

_NO_TOPIC_ID = str(Uuid(0, 0))
"""What librdkafka has for topics of brokers without topic ids (before Kafka 2.8)."""


@dataclass(slots=True)
class _Restart:
    """A partition that has begun and has to go on elsewhere."""

    next_offset: int
    truncated: bool


class _Round:
    """Requests that were made together, for some partitions, and their answers."""

    def __init__(
        self, ask: "_Ask", partitions: Collection[TopicPartition], bounded: Collection[TopicPartition]
    ) -> None:
        self.partitions = set(partitions)
        topics = {partition.topic for partition in partitions}
        self.described = ask.describe(topics)
        self.committed = ask.committed(partitions)
        self.group = ask.committed(None) if ask.policy is not Policy.EARLIEST else None
        self.bounds = ask.bounds(bounded)

    @property
    def futures(self) -> list["Future[Any]"]:
        """Everything that is waited for."""
        bounds = [future for both in self.bounds.values() for future in both]
        group = [] if self.group is None else [self.group]
        return [*self.described.values(), self.committed, *group, *bounds]


class _Ask:
    """The requests."""

    def __init__(self, properties: Mapping[str, Any]) -> None:
        self.policy = Policy.of(properties.get("auto.offset.reset"))
        self._properties = admin_properties(properties)
        self._group_id = str(properties["group.id"])
        reads_all = properties.get("isolation.level") == "read_uncommitted"
        self._isolation = IsolationLevel.READ_UNCOMMITTED if reads_all else IsolationLevel.READ_COMMITTED
        # Kept for as long as it is used: the futures of an AdminClient that was let go are never answered.
        self._admin = self._make()

    def renew(self) -> None:
        """Take another client.

        Once its group's coordinator has died, an AdminClient never gets an answer from the one that takes its place
        (librdkafka 2.16.0, seen for 40 s after a broker was killed and started again), and a new one gets it at once.
        """
        self._admin = self._make()

    def serve(self) -> None:
        """Let librdkafka hand out its log lines, which it keeps otherwise."""
        self._admin.poll(0)

    def _make(self) -> AdminClient:
        return AdminClient(self._properties, logger=LIBRDKAFKA_LOG)

    def describe(self, topics: Collection[str]) -> dict[str, "Future[Any]"]:
        """Id and partitions of topics."""
        return dict(self._admin.describe_topics(TopicCollection(list(topics)), request_timeout=REQUEST_SECONDS))

    def committed(self, partitions: Iterable[TopicPartition] | None) -> "Future[Any]":
        """The group's offsets of some partitions, or of all that it has any of."""
        asked = None if partitions is None else [confluent_kafka.TopicPartition(*p) for p in partitions]
        groups = [ConsumerGroupTopicPartitions(self._group_id, asked)]
        return self._admin.list_consumer_group_offsets(groups, request_timeout=REQUEST_SECONDS)[self._group_id]

    def bounds(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, tuple["Future[Any]", "Future[Any]"]]:
        """Where logs begin and end."""
        asked = [confluent_kafka.TopicPartition(*partition) for partition in partitions]
        if not asked:
            return {}
        low, high = (
            self._admin.list_offsets(
                dict.fromkeys(asked, spec), isolation_level=self._isolation, request_timeout=REQUEST_SECONDS
            )
            for spec in (_EARLIEST, _LATEST)
        )
        return {TopicPartition(p.topic, p.partition): (low[p], high[p]) for p in asked}


class Beginnings:
    """Finds out where assigned partitions begin, and whether their topics are still the same.

    Args:
        properties: librdkafka's configuration of the consumer.
        topics: What is subscribed to.
        clock: Seconds on any clock that only goes forward.
    """

    def __init__(
        self,
        properties: Mapping[str, Any],
        topics: Collection[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = _Ask(properties)
        self._topics = list(topics)
        self._clock = clock
        self._known: dict[str, Stamp] = {}
        """What is known of topics that this process has begun with."""
        self._stamps: dict[TopicPartition, Stamp] = {}
        """Of every partition that has begun."""
        self._waiting: set[TopicPartition] = set()
        """Assigned, and not begun."""
        self._restarts: dict[TopicPartition, _Restart] = {}
        self._bounded: set[TopicPartition] = set()
        """Partitions for which bounds are needed."""
        self._round: _Round | None = None
        self._retry_at = 0.0
        self._describes = True
        """Whether a broker tells topic ids; librdkafka's mock cluster does not."""
        self._watch: dict[str, Future[Any]] = self._ask.describe(self._topics)
        self._watched_at = clock()
        self._hinted = False
        self._disconnected = False
        self._tell_at: dict[TopicPartition, float] = {}
        """When to log again that a partition cannot begin."""

    @property
    def pending(self) -> bool:
        """Whether some partition waits for an answer."""
        return bool(self._waiting or self._restarts)

    def assigned(self, partitions: Iterable[TopicPartition]) -> None:
        """Find out where partitions begin."""
        partitions = set(partitions)
        self.forget(partitions)
        self._waiting |= partitions
        self._round, self._retry_at = None, 0.0

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Partitions have left."""
        for partition in partitions:
            self._stamps.pop(partition, None)
            self._waiting.discard(partition)
            self._restarts.pop(partition, None)
            self._bounded.discard(partition)

    def out_of_range(self, partition: TopicPartition, next_offset: int, *, truncated: bool) -> None:
        """The broker has no record at the next offset of a partition that had begun: find out where to go on."""
        if partition in self._stamps:
            self._restarts[partition] = _Restart(next_offset, truncated)
            self._bounded.add(partition)
            self._round, self._retry_at = None, 0.0

    def hint(self) -> None:
        """Something hints at a topic that is another one now."""
        self._hinted = True

    def disconnected(self) -> None:
        """A broker has gone away: a coordinator may have died, see `_Ask.renew`."""
        self._disconnected = True

    def wait(self, seconds: float) -> list[Start | Again]:
        """What is known within a time."""
        deadline = self._clock() + seconds
        found = self.take()
        while self.pending and self._round is not None and (left := deadline - self._clock()) > 0:
            wait([future for future in self._round.futures if self._is_waited_for(future)], left)
            found += self.take()
        return found

    def take(self) -> list[Start | Again]:
        """What has become known; asks for what is not. Costs nothing while nothing is to be found out."""
        if not self.pending:
            return []
        self._ask.serve()
        now = self._clock()
        if self._round is None:
            if now < self._retry_at:
                return []
            if self._disconnected:
                self._renew()
            partitions = self._waiting | self._restarts.keys()
            self._round = _Round(self._ask, partitions, self._bounded & partitions)
        if not all(future.done() for future in self._round.futures if self._is_waited_for(future)):
            return []
        answered, self._round = self._round, None
        found, asks_more = self._decide(answered)
        self._retry_at = 0.0 if asks_more else now + RETRY_SECONDS
        if asks_more and self.pending:
            self._round = _Round(self._ask, self._waiting | self._restarts.keys(), self._bounded)
        return found

    def watch(self, next_offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, Stamp]:
        """Look at the topics at a modest pace, and go on in those that are other ones now.

        Args:
            next_offsets: The next offset of each partition that has begun.

        Returns:
            Stamps of partitions of which the topic id was not known before.
        """
        now = self._clock()
        if not self._watch:
            if now >= self._watched_at + (HINT_SECONDS if self._hinted else WATCH_SECONDS):
                self._ask.serve()
                self._hinted = False
                self._watched_at = now
                self._watch = self._ask.describe(self._topics)
            return {}
        if not all(future.done() for future in self._watch.values()):
            return {}
        described, self._watch = self._described(self._watch), {}
        news = {}
        for partition, before in self._stamps.items():
            topic = described.get(partition.topic, Stamp())
            if other_log(before, topic):
                if partition not in self._restarts:
                    self.out_of_range(partition, next_offsets[partition], truncated=False)
            elif before.topic_id is None and topic.topic_id is not None:
                news[partition] = Stamp(topic.topic_id, before.partitions or topic.partitions)
        self._stamps.update(news)
        return news

    def _is_waited_for(self, future: "Future[Any]") -> bool:
        """Whether nothing can be decided without this answer."""
        assert self._round is not None  # noqa: S101 - the future is one of its
        return self._describes or future not in self._round.described.values()

    def _decide(self, answered: _Round) -> tuple[list[Start | Again], bool]:
        """What follows from answers, and whether more has to be asked at once."""
        try:
            committed = _committed(answered.committed)
            group = {} if answered.group is None else _committed(answered.group)
        except KafkaException as error:
            self._complain(answered.partitions, error.args[0].str())
            if error.args[0].code() == KafkaError._TIMED_OUT:  # noqa: SLF001 - the public spelling of local codes
                self._renew()
            return [], False
        topics = self._described(answered.described)
        if topics:
            self._describes = True
        elif any(_code(future) == KafkaError._TIMED_OUT for future in answered.described.values()):  # noqa: SLF001
            # The group's offsets came from a broker that is there, so it is one that does not answer this question.
            self._describes = False
        bounds = {partition: found for partition, both in answered.bounds.items() if (found := _bounds(*both))}
        decided: list[Start | Again] = []
        asks_more = False
        for partition in answered.partitions & self._restarts.keys():
            restart, before = self._restarts[partition], self._stamps[partition]
            if partition in bounds:
                topic = topics.get(partition.topic, Stamp())
                decided.append(
                    go_on(
                        partition,
                        restart.next_offset,
                        bounds[partition],
                        before=before,
                        topic=topic,
                        truncated=restart.truncated,
                        committed=committed.get(partition),
                    )
                )
        for partition in sorted(answered.partitions & self._waiting):
            others = [
                one.stamp
                for at, one in {**group, **committed}.items()
                if at.topic == partition.topic and at != partition
            ]
            if partition.topic in self._known:
                others.append(self._known[partition.topic])
            start = begin(
                partition,
                committed.get(partition),
                topic=topics.get(partition.topic, Stamp()),
                others=others,
                policy=self._ask.policy,
                bounds=bounds.get(partition),
            )
            if isinstance(start, Start):
                decided.append(start)
            elif start is Undecided.REFUSED:
                self._complain([partition], "the group has no offset, and auto.offset.reset is error")
            elif partition not in self._bounded:
                self._bounded.add(partition)
                asks_more = True
        for decision in decided:
            self._begun(decision)
        silent = (answered.bounds.keys() - bounds.keys()) & (self._waiting | self._restarts.keys())
        self._complain(silent, "its leader does not tell where the log begins and ends", after=PASSING_SECONDS)
        return decided, asks_more

    def _renew(self) -> None:
        try:
            self._ask.renew()
        except KafkaException as error:
            # A file, such as a certificate, may be away for a moment: the old client asks on meanwhile.
            self._complain(self._waiting | self._restarts.keys(), error.args[0].str())
            self._disconnected = True
        else:
            self._disconnected = False
            self._watch = {}

    def _begun(self, start: Start | Again) -> None:
        self._waiting.discard(start.partition)
        self._restarts.pop(start.partition, None)
        self._bounded.discard(start.partition)
        self._tell_at.pop(start.partition, None)
        if isinstance(start, Start):
            self._stamps[start.partition] = start.stamp
            self._known[start.partition.topic] = start.stamp

    def _described(self, futures: Mapping[str, "Future[Any]"]) -> dict[str, Stamp]:
        """Topics as they are, without those of which nothing is known."""
        found = {}
        for topic, future in futures.items():
            if future.done():
                with suppress(KafkaException):
                    description = future.result()
                    topic_id = str(description.topic_id)
                    found[topic] = Stamp(None if topic_id == _NO_TOPIC_ID else topic_id, len(description.partitions))
        return found

    def _complain(self, partitions: Iterable[TopicPartition], reason: str, *, after: float = 0.0) -> None:
        """Log that partitions cannot begin, each at most once in `LOG_SECONDS`, the first time after some seconds."""
        now = self._clock()
        late = [p for p in sorted(partitions) if now >= self._tell_at.setdefault(p, now + after)]
        if late:
            self._tell_at.update(dict.fromkeys(late, now + LOG_SECONDS))
            log.warning("start offsets not known", partitions=[str(p) for p in late], reason=reason)


def _committed(future: "Future[Any]") -> dict[TopicPartition, Committed]:
    """The group's offsets, without partitions that it has none of.

    Raises:
        KafkaException: they are not known.
    """
    found = {}
    for one in future.result().topic_partitions:
        if one.error is not None:
            raise KafkaException(one.error)
        if one.offset >= 0:
            partition = TopicPartition(one.topic, one.partition)
            found[partition] = Committed(one.offset, one.leader_epoch, Stamp.parse(one.metadata))
    return found


def _bounds(low: "Future[Any]", high: "Future[Any]") -> Bounds | None:
    """Where a log begins and ends; None when one of the two is not known.

    A leader that has not answered in time leaves librdkafka's -1001, "invalid", and no error.
    """
    try:
        first, end = low.result().offset, high.result().offset
    except KafkaException:
        return None
    return Bounds(first, end) if min(first, end) >= 0 else None


def _code(future: "Future[Any]") -> int:
    error = future.exception() if future.done() else None
    return error.args[0].code() if isinstance(error, KafkaException) else 0
