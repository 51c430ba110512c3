"""Finds out where partitions start, from the group's commits, the topic's id, and the start and end of the log.

Only a rebalance callback waits for the answers, at most `ANSWER_SECONDS`; otherwise the poller's thread checks
for them between polls. A partition's records flow once its start is known. Other partitions are not held up, so an
unreachable coordinator delays only new partitions.

*Thread*: the poller's only.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog
from confluent_kafka import KafkaError, KafkaException

from dispatcher.kafka.start_lookups import (
    Round,
    StartLookups,
    bounds_of,
    cluster_id,
    committed_offsets,
    described_topics,
    error_code,
)
from dispatcher.sansio.beginnings import Again, Committed, Stamp, Start, Undecided, begin, go_on, other_log
from dispatcher.sansio.ranges import Bounds
from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.topic_memory import TopicMemory

log = structlog.get_logger(__name__)

ANSWER_SECONDS = 0.1
"""How long a rebalance callback waits for the answers, while other partitions' records wait too. A reachable broker
answers in a few milliseconds."""

MAX_RETRY_SECONDS = 5.0
"""Maximum wait before a refused offset is checked again; the wait doubles from `RETRY_SECONDS`."""

FORGET_SECONDS = 30.0
"""After this long without a refusal, the next one is checked at once."""

RETRY_SECONDS = 0.25
"""Pause before a failed request is repeated."""

WATCH_SECONDS = 5.0
"""Interval at which topics are checked: one that was deleted and recreated is noticed within this time."""

HINT_SECONDS = 0.5
"""The same, when something hints at a recreated topic."""

LOG_SECONDS = 10.0
"""Minimum time between two log lines about a partition that cannot begin."""

PASSING_SECONDS = 2.0
"""How long a leader may be silent before its partition is logged: leaders change, and new topics have none yet."""


@dataclass(slots=True)
class _Restart:
    """A partition that has started and must continue at another offset."""

    next_offset: int
    truncated: bool
    due_at: float
    """When to look up where; later each time that the same offset is refused again."""


class _Refused(NamedTuple):
    """An offset that the broker refused."""

    next_offset: int
    wait: float
    at: float


class Beginnings:
    """Finds out where assigned partitions begin, and whether their topics were recreated.

    Args:
        properties: librdkafka's configuration of the consumer.
        topics: The subscribed topics.
        memory: What this process knows about them.
        clock: Any monotonic clock, in seconds.
    """

    def __init__(
        self,
        properties: Mapping[str, Any],
        topics: Collection[str],
        memory: TopicMemory,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lookups = StartLookups(properties)
        self._topics = list(topics)
        self._clock = clock
        self._memory = memory
        self._stamps: dict[TopicPartition, Stamp] = {}
        """The stamp of every partition that has begun."""
        self._waiting: set[TopicPartition] = set()
        """Partitions that are assigned but have not begun."""
        self._restarts: dict[TopicPartition, _Restart] = {}
        self._refused: dict[TopicPartition, _Refused] = {}
        """The last refusal of each partition that had one in this assignment."""
        self._bounded: set[TopicPartition] = set()
        """Partitions whose log bounds are needed."""
        self._round: Round | None = None
        self._retry_at = 0.0
        self._describes = True
        """Whether the brokers report topic ids; librdkafka's mock cluster does not."""
        self._watch: dict[str, Future[Any]] = self._lookups.describe(self._topics)
        self._watched_at = clock()
        self._hinted = False
        self._disconnected = False
        self._tell_at: dict[TopicPartition, float] = {}
        """When to log again that a partition cannot begin."""

    @property
    def pending(self) -> bool:
        """Whether some partition is waiting for an answer."""
        if self._waiting or not self._restarts:
            return bool(self._waiting)
        now = self._clock()
        return any(restart.due_at <= now for restart in self._restarts.values())

    def assigned(self, partitions: Iterable[TopicPartition]) -> None:
        """Find out where partitions begin."""
        partitions = set(partitions)
        self.forget(partitions)
        self._waiting |= partitions
        self._round, self._retry_at = None, 0.0

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget partitions that have left."""
        for partition in partitions:
            self._stamps.pop(partition, None)
            self._waiting.discard(partition)
            self._restarts.pop(partition, None)
            self._refused.pop(partition, None)
            self._bounded.discard(partition)

    def out_of_range(self, partition: TopicPartition, next_offset: int, *, truncated: bool) -> None:
        """The broker has no record at the next offset of a partition that had begun: find out where to continue."""
        if partition not in self._stamps:
            return
        now = self._clock()
        before = self._refused.get(partition)
        # A lagging broker refuses an offset that the leader has, over and over, as fast as librdkafka asks.
        wait = 0.0
        if before is not None and before.next_offset == next_offset and now < before.at + FORGET_SECONDS:
            wait = min(max(2 * before.wait, RETRY_SECONDS), MAX_RETRY_SECONDS)
        self._refused[partition] = _Refused(next_offset, wait, now)
        self._restarts[partition] = _Restart(next_offset, truncated, now + wait)
        self._bounded.add(partition)
        if not wait:
            self._round, self._retry_at = None, 0.0

    def log_ends(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, "Future[Any]"]:
        """Ask where logs end, using this object's client."""
        return self._lookups.log_ends(partitions)

    def close(self) -> None:
        """Close the clients."""
        self._lookups.close()

    def hint(self) -> None:
        """Note a hint that a topic was recreated."""
        self._hinted = True

    def disconnected(self) -> None:
        """A broker has disconnected: it may be a coordinator that has died, see `StartLookups.renew`."""
        self._disconnected = True

    def wait(self, seconds: float) -> list[Start | Again]:
        """Wait up to this many seconds for decisions."""
        deadline = self._clock() + seconds
        found = self.take()
        while self.pending and self._round is not None and (left := deadline - self._clock()) > 0:
            wait([future for future in self._round.futures if self._is_waited_for(future)], left)
            found += self.take()
        return found

    def take(self) -> list[Start | Again]:
        """Make the decisions that are possible now, and ask for what is missing. Free if nothing is missing."""
        if not self.pending:
            return []
        self._lookups.serve()
        now = self._clock()
        if self._round is None:
            if now < self._retry_at:
                return []
            if self._disconnected:
                self._renew()
            self._round = self._ask()
        if not all(future.done() for future in self._round.futures if self._is_waited_for(future)):
            return []
        answered, self._round = self._round, None
        found, asks_more = self._decide(answered)
        self._retry_at = 0.0 if asks_more else now + RETRY_SECONDS
        if asks_more and self.pending:
            self._round = self._ask()
        return found

    def watch(self, next_offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, Stamp]:
        """Check the topics every few seconds, and start over in those that were recreated.

        Args:
            next_offsets: The next offset of each partition that has begun.

        Returns:
            Stamps of partitions whose topic id was not known before.
        """
        now = self._clock()
        if not self._watch:
            if now >= self._watched_at + (HINT_SECONDS if self._hinted else WATCH_SECONDS):
                self._lookups.serve()
                self._hinted = False
                self._watched_at = now
                self._watch = self._lookups.describe(self._topics)
            return {}
        if not all(future.done() for future in self._watch.values()):
            return {}
        described, self._watch = described_topics(self._watch), {}
        self._memory.found(described)
        news = {}
        for partition, before in self._stamps.items():
            topic = described.get(partition.topic, Stamp())
            if other_log(before, topic):
                if partition not in self._restarts:
                    self.out_of_range(partition, next_offsets[partition], truncated=False)
            elif before.topic_id is None and topic.topic_id is not None:
                partitions = topic.partitions if before.partitions is None else before.partitions
                news[partition] = before._replace(topic_id=topic.topic_id, partitions=partitions)
        self._stamps.update(news)
        return news

    def _ask(self) -> Round:
        now = self._clock()
        due = {partition for partition, restart in self._restarts.items() if restart.due_at <= now}
        partitions = self._waiting | due
        return Round(self._lookups, partitions, self._bounded & partitions)

    def _is_waited_for(self, future: "Future[Any]") -> bool:
        """Whether decisions depend on this answer."""
        assert self._round is not None  # noqa: S101 - the future belongs to that round
        return self._describes or (future not in self._round.described.values() and future is not self._round.cluster)

    def _decide(self, answered: Round) -> tuple[list[Start | Again], bool]:
        """Decide from the answers; also returns whether more must be asked at once."""
        cluster = cluster_id(answered.cluster)
        try:
            committed, unknown = committed_offsets(answered.committed, cluster)
        except KafkaException as error:
            self._complain(answered.partitions, error.args[0].str())
            if error.args[0].code() == KafkaError._TIMED_OUT:  # noqa: SLF001 - the public spelling of local codes
                self._renew()
            return [], False
        topics = described_topics(answered.described, cluster)
        self._memory.found(topics)
        if topics:
            self._describes = True
        elif any(error_code(future) == KafkaError._TIMED_OUT for future in answered.described.values()):  # noqa: SLF001
            # A broker has answered with the group's offsets. If none has ever reported an id, this one does not support
            # the request; otherwise it is busy, or the client waits for a dead one.
            self._describes = self._memory.has_ids
            if self._describes:
                self._renew()
        bounds = {partition: found for partition, both in answered.bounds.items() if (found := bounds_of(*both))}
        for partition in unknown.keys() & answered.partitions:
            self._complain([partition], f"the group's offset is not known: {unknown[partition]}")
        decidable = answered.partitions - unknown.keys()
        decided: list[Start | Again] = []
        asks_more = False
        decided += self._where_to_continue(decidable, bounds, topics, committed)
        for partition in sorted(decidable & self._waiting):
            others = [one.stamp for at, one in committed.items() if at.topic == partition.topic and at != partition]
            topic = topics.get(partition.topic, Stamp())
            others += self._memory.of(partition.topic, topic)
            start = begin(
                partition,
                committed.get(partition),
                topic=topic,
                others=others,
                policy=self._lookups.policy,
                bounds=bounds.get(partition),
            )
            if isinstance(start, Start):
                decided.append(start)
            elif start is Undecided.NEEDS_TOPIC:
                self._complain([partition], "no broker reports the topic's id", after=PASSING_SECONDS)
            elif start is Undecided.REFUSED:
                self._complain([partition], "the group has no offset, and auto.offset.reset is error")
            elif partition not in self._bounded:
                self._bounded.add(partition)
                asks_more = True
        for decision in decided:
            self._begun(decision)
        silent = (answered.bounds.keys() - bounds.keys()) & (self._waiting | self._restarts.keys())
        self._complain(silent, "its leader does not report the start and end of the log", after=PASSING_SECONDS)
        return decided, asks_more

    def _where_to_continue(
        self,
        partitions: Collection[TopicPartition],
        bounds: Mapping[TopicPartition, Bounds],
        topics: Mapping[str, Stamp],
        committed: Mapping[TopicPartition, Committed],
    ) -> Iterator[Start | Again]:
        for partition in self._restarts.keys() & partitions & bounds.keys():
            restart = self._restarts[partition]
            yield go_on(
                partition,
                restart.next_offset,
                bounds[partition],
                before=self._stamps[partition],
                topic=topics.get(partition.topic, Stamp()),
                truncated=restart.truncated,
                committed=committed.get(partition),
            )

    def _renew(self) -> None:
        try:
            self._lookups.renew()
        except KafkaException as error:
            # A file, such as a certificate, may be missing for a moment: keep using the old client meanwhile.
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
            self._memory.begun(start.partition.topic, start.stamp)

    def _complain(self, partitions: Iterable[TopicPartition], reason: str, *, after: float = 0.0) -> None:
        """Log that partitions cannot begin, each at most once per `LOG_SECONDS`, and not before `after` seconds."""
        now = self._clock()
        late = [p for p in sorted(partitions) if now >= self._tell_at.setdefault(p, now + after)]
        if late:
            self._tell_at.update(dict.fromkeys(late, now + LOG_SECONDS))
            log.warning("start offsets not known", partitions=[str(p) for p in late], reason=reason)
