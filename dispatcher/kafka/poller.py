"""The poller: one thread owns the group consumer, and crosses into Trio once a poll.

Rules of this module:

* Only the poller thread touches the consumer. Only the Trio thread touches offsets and history. A crossing takes
  what came in (`PollResult`) and brings back what the thread must do (`Commands`).
* The thread never blocks on a full pipeline: it is told to pause partitions and goes on polling, so the group
  never drops it.
* Callbacks never raise. An exception inside ``consume()`` would lose the records that it had fetched
  already, so it is kept, and raised after the call has returned and its records were handed over.
* No call waits without limit: commits are asynchronous, everything else has a timeout.
* A partition is given to librdkafka with the offset at which it begins, once that is known (`Beginnings`). librdkafka
  never resets an offset by itself: it reports it, and the poller says where to go on.
"""

import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import cast

import confluent_kafka
import structlog
import trio
from confluent_kafka import Consumer, KafkaError, KafkaException, Message

from dispatcher.errors import KafkaClientError
from dispatcher.kafka.beginnings import ANSWER_SECONDS, Beginnings
from dispatcher.kafka.bridge import Commands, Downstream, PollResult
from dispatcher.kafka.commits import CommitAnswer, is_worth_another_try
from dispatcher.kafka.decoding import grouped, split_errors
from dispatcher.kafka.properties import LIBRDKAFKA_LOG
from dispatcher.kafka.statistics import parse_statistics
from dispatcher.sansio.beginnings import Again, Start
from dispatcher.sansio.offsets import Commit
from dispatcher.sansio.records import TopicPartition

log = structlog.get_logger(__name__)

RETRY_SECONDS = 0.05
"""How soon the last commit is sent again when the broker could not take it."""

WAKE_TIMEOUT_SECONDS = 0.002
"""Longest wait for an answer that is of no use: a broker that does not answer has nothing to fetch either."""

REBUILD_SECONDS = (0.5, 15.0)
"""First and longest pause before a failed consumer is built anew."""

UNKNOWN_POLL_SECONDS = 0.01
"""How long a poll waits while it is not known where some partition begins."""

_HINTS = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError.INCONSISTENT_TOPIC_ID,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001 - the public spelling of local codes
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001 - the same
    }
)
"""Errors of a topic that may have been deleted, and created again."""

_DISCONNECTS = frozenset({KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN})  # noqa: SLF001 - the same
"""Errors of a broker that has gone away."""


class Poller:
    """Supervises the thread that owns the consumer, and builds the consumer anew when it fails.

    Args:
        properties: librdkafka's configuration.
        topics: What to subscribe to.
        downstream: The Trio side.
        poll_records: Most records taken in one poll.
        batch_bytes: A poll's records of one partition are cut into groups of about this size.
        drain_seconds: How long a revoke waits for writes under way.
        leave_seconds: How long the last commit may take before the member leaves the group without its answer.
    """

    def __init__(
        self,
        properties: dict[str, str | int | float | bool],
        topics: Sequence[str],
        downstream: Downstream,
        *,
        poll_records: int,
        batch_bytes: int,
        drain_seconds: float,
        leave_seconds: float,
    ) -> None:
        self._properties = properties
        self._topics = list(topics)
        self._downstream = downstream
        self._poll_records = poll_records
        self._batch_bytes = batch_bytes
        self._drain_seconds = drain_seconds
        self._leave_seconds = leave_seconds
        self._limiter = trio.CapacityLimiter(1)
        self._result = PollResult()
        self._callback_errors: list[BaseException] = []
        self._beginnings: Beginnings | None = None
        self._next_offsets: dict[TopicPartition, int] = {}
        """The next offset of each partition that was given to librdkafka."""
        self._leader_epochs: dict[TopicPartition, int | None] = {}
        self._left: set[TopicPartition] = set()
        """Partitions that have left, or go on elsewhere, since the last message was taken by ``poll``."""
        self._paused: frozenset[TopicPartition] = frozenset()
        self._departed: set[TopicPartition] = set()
        """Partitions that have left since the last commit was sent."""
        self._stopping = trio.Event()

    async def run(self) -> None:
        """Poll until told to stop.

        *Cancellation*: safe. The thread commits what was dispatched, leaves the group, and then this returns:
        at most `leave_seconds` and the consumer's own ``close`` later.

        Raises:
            Exception: whatever the downstream or a callback raised; what was dispatched is committed.
        """
        pause_seconds = REBUILD_SECONDS[0]
        while True:
            started = trio.current_time()
            try:
                await trio.to_thread.run_sync(self._own_consumer, limiter=self._limiter, thread_name="kafka-poller")
            except KafkaClientError as error:
                if trio.current_time() - started > REBUILD_SECONDS[1]:
                    pause_seconds = REBUILD_SECONDS[0]
                log.warning("consumer failed, rebuilding it", error=str(error), pause_seconds=pause_seconds)
                with trio.move_on_after(pause_seconds * random.uniform(0.5, 1.0)):  # noqa: S311 - jitter, not a secret
                    await self._stopping.wait()
                pause_seconds = min(2 * pause_seconds, REBUILD_SECONDS[1])
                if not self._stopping.is_set():
                    continue
            return

    def stop(self) -> None:
        """Build no consumer any more. One that works is stopped by its commands; this is for one that does not."""
        self._stopping.set()

    # Everything below runs in the poller thread.

    def _own_consumer(self) -> None:
        self._result, self._callback_errors, self._next_offsets, self._leader_epochs = PollResult(), [], {}, {}
        self._paused = frozenset()
        try:
            self._beginnings = beginnings = Beginnings(self._properties, self._topics)
            consumer = Consumer(
                {
                    **self._properties,
                    "auto.offset.reset": "error",
                    "error_cb": self._guard(self._on_error),
                    "stats_cb": self._guard(self._on_statistics),
                    "on_commit": self._guard(self._on_commit),
                },
                logger=LIBRDKAFKA_LOG,
            )
        except KafkaException as error:
            # It could be made at the start: a file, such as a certificate, may be away for a moment.
            raise _client_error(error.args[0]) from error
        failed: KafkaClientError | None = None
        try:
            consumer.subscribe(
                self._topics,
                on_assign=self._guard(self._on_assign),
                on_revoke=self._guard(self._on_revoke),
                on_lost=self._guard(self._on_lost),
            )
            commands = Commands()
            while not commands.stop:
                trio.from_thread.check_cancelled()
                self._begin(consumer, beginnings.take())
                self._watch(beginnings)
                hurried = beginnings.pending
                self._poll(
                    consumer, min(commands.poll_seconds, UNKNOWN_POLL_SECONDS) if hurried else commands.poll_seconds
                )
                result, self._result = self._result, PollResult()
                commands = (
                    trio.from_thread.run(self._downstream.exchange_after_settling, result)
                    if commands.settle
                    else trio.from_thread.run_sync(self._downstream.exchange, result)
                )
                self._raise_callback_error()
                self._apply(consumer, commands)
        except KafkaException as error:
            # Pause, resume and commit refuse what they cannot do, such as with a client that is fatally ill.
            failed = _client_error(error.args[0])
            raise failed from error
        except KafkaClientError as error:
            failed = error
            raise
        finally:
            self._leave(consumer, failed)

    def _poll(self, consumer: Consumer, timeout_seconds: float) -> None:
        """Wait for one message, then take what else is there: no record waits for a full batch."""
        messages: list[Message] = []
        try:
            first = consumer.poll(timeout_seconds)
            if first is not None:
                self._left.clear()
                more = consumer.consume(self._poll_records - 1, 0) if self._poll_records > 1 else []
                # librdkafka takes back what it has put into `more` of a partition that leaves meanwhile, but not this.
                kept = [] if _partition_of(first) in self._left else [first]
                messages = kept + more
        except KafkaException as error:
            self._callback_errors.append(_client_error(error.args[0]))
        self._sort(messages)

    def _sort(self, messages: list[Message]) -> None:
        records, told = split_errors(messages)
        for group in grouped(records, self._batch_bytes):
            if group.partition in self._next_offsets:
                self._next_offsets[group.partition] = group.records.offsets[-1] + 1
            self._note_leader_epoch(group.partition, group.leader_epoch)
            self._result.groups.append(group)
        for message, error in told:
            if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the public spelling of local codes
                self._read_to_end(message)
            elif error.code() in {KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION}:  # noqa: SLF001 - the same
                self._lose_offset(message, error)
            else:
                self._on_error(error)

    def _note_leader_epoch(self, partition: TopicPartition, leader_epoch: int | None) -> None:
        """Leader epochs never step back within a log."""
        before = self._leader_epochs.get(partition)
        if before is not None and leader_epoch is not None and leader_epoch < before and self._beginnings is not None:
            self._beginnings.hint()
        self._leader_epochs[partition] = leader_epoch

    def _read_to_end(self, message: Message) -> None:
        """Report an end only when offsets without a record lie before it: other ends say nothing."""
        partition, end = _partition_of(message), cast("int", message.offset())
        if end > self._next_offsets.get(partition, end):
            self._next_offsets[partition] = self._result.ends[partition] = end

    def _lose_offset(self, message: Message, error: KafkaError) -> None:
        """The broker has no record at the next offset: the partition stands still until it is known where to go on.

        Records that came before this report came in order before it.
        """
        partition = _partition_of(message)
        if self._beginnings is not None and partition in self._next_offsets:
            truncated = error.code() == KafkaError._LOG_TRUNCATION or "truncat" in error.str()  # noqa: SLF001
            self._beginnings.out_of_range(partition, self._next_offsets[partition], truncated=truncated)

    # Where partitions begin.

    @property
    def _is_eager(self) -> bool:
        """Whether a rebalance takes everything from everybody, and librdkafka takes whole assignments only."""
        strategies = str(self._properties.get("partition.assignment.strategy", "range,roundrobin"))
        return self._properties.get("group.protocol") != "consumer" and "cooperative" not in strategies

    def _begin(self, consumer: Consumer, decisions: Sequence[Start | Again], *, in_callback: bool = False) -> None:
        """Give partitions to librdkafka, each with the offset at which it begins.

        An assign callback has to give it something, if only none.
        """
        if not decisions and not in_callback:
            return
        begun = [decision.partition for decision in decisions if decision.partition in self._next_offsets]
        self._left.update(begun)
        for decision in decisions:
            if isinstance(decision, Start):
                self._next_offsets[decision.partition] = decision.offset
                self._leader_epochs[decision.partition] = decision.leader_epoch
                self._result.starts.append(decision)
            elif decision.gap is not None:
                self._next_offsets[decision.partition] = decision.offset
                self._result.gaps.append(decision.gap)
            # Else it goes on where it is by now: records may have come since the question.
        if self._is_eager:
            consumer.assign([self._place(partition) for partition in self._next_offsets])
        else:
            if begun:
                consumer.incremental_unassign([confluent_kafka.TopicPartition(*partition) for partition in begun])
            consumer.incremental_assign([self._place(decision.partition) for decision in decisions])
        if paused := self._paused.intersection(self._next_offsets if self._is_eager else begun):
            consumer.pause([confluent_kafka.TopicPartition(*partition) for partition in paused])

    def _place(self, partition: TopicPartition) -> confluent_kafka.TopicPartition:
        """A partition with its next offset, and the leader epoch of the record before that for KIP-320."""
        leader_epoch = self._leader_epochs.get(partition)
        return confluent_kafka.TopicPartition(
            *partition, self._next_offsets[partition], leader_epoch=-1 if leader_epoch is None else leader_epoch
        )

    def _watch(self, beginnings: Beginnings) -> None:
        """Look whether topics are still the same."""
        self._result.stamps.update(beginnings.watch(self._next_offsets))

    def _let_go(self, consumer: Consumer, partitions: Iterable[TopicPartition]) -> None:
        """Take partitions from librdkafka; it refuses to let go of what it was never given."""
        begun = [partition for partition in partitions if self._next_offsets.pop(partition, None) is not None]
        for partition in begun:
            self._leader_epochs.pop(partition, None)
        self._paused = self._paused.difference(begun)
        if self._is_eager:
            consumer.unassign()
        else:
            consumer.incremental_unassign([confluent_kafka.TopicPartition(*partition) for partition in begun])

    def _apply(self, consumer: Consumer, commands: Commands) -> None:
        if commands.rebuild is not None:
            raise KafkaClientError(KafkaError._FATAL, "_FATAL", commands.rebuild)  # noqa: SLF001 - its public spelling
        self._commit(consumer, commands.commit)
        if commands.resume:
            consumer.resume([confluent_kafka.TopicPartition(*partition) for partition in commands.resume])
            self._wake_fetchers(consumer, self._paused.intersection(commands.resume))
        if commands.pause:
            consumer.pause([confluent_kafka.TopicPartition(*partition) for partition in commands.pause])
        self._paused = self._paused.difference(commands.resume).union(commands.pause)

    def _wake_fetchers(self, consumer: Consumer, resumed: Iterable[TopicPartition]) -> None:
        """Let what was paused be fetched at once.

        librdkafka's threads see what is resumed when they wake for something else, up to a second later. To be asked
        where the logs end wakes the thread of each leader; the answers are of no use.
        """
        asked = [confluent_kafka.TopicPartition(*partition, confluent_kafka.OFFSET_END) for partition in resumed]
        if asked:
            with suppress(KafkaException):
                consumer.offsets_for_times(asked, timeout=WAKE_TIMEOUT_SECONDS)

    def _commit(self, consumer: Consumer, commits: Sequence[Commit]) -> None:
        if not commits:
            return
        consumer.commit(
            offsets=[
                confluent_kafka.TopicPartition(
                    *commit.partition,
                    commit.offset,
                    metadata=commit.metadata,
                    leader_epoch=-1 if commit.leader_epoch is None else commit.leader_epoch,
                )
                for commit in commits
            ],
            asynchronous=True,
        )

    def _leave(self, consumer: Consumer, failed: KafkaClientError | None) -> None:
        """Commit what was dispatched, wait a bounded time for the answer, and leave the group."""
        try:
            commits = trio.from_thread.run_sync(self._downstream.leaving)
            if failed is None and commits:
                self._commit_with_retries(consumer, commits)
                trio.from_thread.run_sync(self._downstream.exchange, self._result)
        except KafkaException as error:
            log.warning("the last commit could not be sent", error=str(error))
        finally:
            try:
                consumer.close()
            except KafkaException as error:
                log.warning("the consumer could not be closed", error=str(error))
            finally:
                trio.from_thread.run_sync(self._downstream.left)

    def _commit_with_retries(self, consumer: Consumer, commits: Sequence[Commit]) -> None:
        """Commit, and again while the broker cannot, such as in the midst of a rebalance; at most `leave_seconds`.

        Not again when the group has gone on without us, nor for partitions that have left meanwhile: brokers take that
        from a member that has joined anew, and it would move their new owner's offset backwards.
        """
        self._departed.clear()
        deadline = time.monotonic() + self._leave_seconds
        self._commit(consumer, commits)
        unanswered = {(commit.partition, commit.offset): commit for commit in commits}
        answered = len(self._result.commit_answers)
        while unanswered and time.monotonic() < deadline:
            # Serves the answer; a record that comes along was not dispatched, so it stays in Kafka.
            consumer.poll(0.02)
            answers = self._result.commit_answers[answered:]
            answered += len(answers)
            again = []
            for answer in answers:
                commit = unanswered.pop((answer.partition, answer.offset), None)
                if commit and is_worth_another_try(answer.code) and commit.partition not in self._departed:
                    again.append(commit)
            if again:
                time.sleep(RETRY_SECONDS)
                unanswered.update({(commit.partition, commit.offset): commit for commit in again})
                self._commit(consumer, again)

    def _raise_callback_error(self) -> None:
        if self._callback_errors:
            raise self._callback_errors[0]

    # Callbacks: librdkafka calls them from inside poll, consume and close, in this thread.

    def _guard(self, callback: Callable[..., None]) -> Callable[..., None]:
        def guarded(*args: object) -> None:
            try:
                callback(*args)
            except BaseException as error:  # noqa: BLE001, ASYNC103 - kept, raised when the call has returned
                self._callback_errors.append(error)

        return guarded

    def _on_assign(self, consumer: Consumer, partitions: list[confluent_kafka.TopicPartition]) -> None:
        assigned = _plain(partitions)
        self._result.assigned = [*(self._result.assigned or ()), *assigned]
        assert self._beginnings is not None  # noqa: S101 - made with the consumer
        self._beginnings.assigned(assigned)
        self._begin(consumer, self._beginnings.wait(ANSWER_SECONDS), in_callback=True)

    def _on_revoke(self, consumer: Consumer, partitions: list[confluent_kafka.TopicPartition]) -> None:
        revoked = self._forget_unannounced(_plain(partitions))
        trio.from_thread.run_sync(self._downstream.revoking, revoked)
        deadline = time.monotonic() + self._drain_seconds
        # Polling beats an event here: it happens once a rebalance, and nothing can be left behind by it.
        while not trio.from_thread.run_sync(self._downstream.drained, revoked) and time.monotonic() < deadline:
            threading.Event().wait(0.005)
        commits = trio.from_thread.run_sync(self._downstream.revoked, revoked)
        # Asynchronous, and still safe: librdkafka finishes commits under way before it lets partitions go.
        self._commit(consumer, commits)
        self._let_go(consumer, revoked)

    def _on_lost(self, consumer: Consumer, partitions: list[confluent_kafka.TopicPartition]) -> None:
        lost = self._forget_unannounced(_plain(partitions))
        trio.from_thread.run_sync(self._downstream.lost, lost)
        self._let_go(consumer, lost)

    def _forget_unannounced(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        """Partitions that come and go within one poll were never told to anybody."""
        self._departed.update(partitions)
        self._left.update(partitions)
        if self._beginnings is not None:
            self._beginnings.forget(partitions)
        result = self._result
        if result.assigned is not None:
            result.assigned = [partition for partition in result.assigned if partition not in partitions]
        result.starts = [start for start in result.starts if start.partition not in partitions]
        result.gaps = [gap for gap in result.gaps if gap.partition not in partitions]
        return partitions

    def _on_commit(self, error: KafkaError | None, partitions: list[confluent_kafka.TopicPartition] | None) -> None:
        for answered in partitions or ():
            problem = answered.error or error
            self._result.commit_answers.append(
                CommitAnswer(_plain([answered])[0], answered.offset)
                if problem is None
                else CommitAnswer(_plain([answered])[0], answered.offset, problem.code(), problem.name(), problem.str())
            )

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal() or error.code() == KafkaError._FATAL:  # noqa: SLF001 - the public spelling of local codes
            self._callback_errors.append(_client_error(error))
        else:
            if self._beginnings is not None:
                if error.code() in _HINTS:
                    self._beginnings.hint()
                elif error.code() in _DISCONNECTS:
                    self._beginnings.disconnected()
            self._result.errors.append((error.name(), error.str()))

    def _on_statistics(self, text: str) -> None:
        statistics = parse_statistics(text)
        if statistics is not None:
            self._result.statistics = statistics


def _plain(partitions: list[confluent_kafka.TopicPartition]) -> list[TopicPartition]:
    return [TopicPartition(partition.topic, partition.partition) for partition in partitions]


def _partition_of(message: Message) -> TopicPartition:
    return TopicPartition(cast("str", message.topic()), cast("int", message.partition()))


def _client_error(error: KafkaError) -> KafkaClientError:
    return KafkaClientError(error.code(), error.name(), error.str())
