"""The group consumer: one membership of the group, from its subscription to its close.

Rules of this module:

* Only the poller's thread touches the consumer. Only Trio's thread touches offsets and history. A crossing passes on
  what was received (`PollResult`) and returns what the thread must do (`Commands`).
* The thread never blocks on a full pipeline: the commands pause partitions, and it keeps polling, so the group never
  drops the member.
* Callbacks never raise. An exception inside ``consume()`` would lose the records fetched by then, so it is kept, and
  raised once the call has returned and its records have been handed over.
* No call waits without a limit: commits are asynchronous, everything else has a timeout.
* librdkafka never resets an offset by itself: it reports that the offset is out of range, and `Beginnings` says where
  to continue.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import confluent_kafka
import structlog
import trio
from confluent_kafka import Consumer, KafkaError, KafkaException, Message

from dispatcher.errors import KafkaClientError
from dispatcher.kafka.assignment import Assignment, from_client, is_eager
from dispatcher.kafka.beginnings import ANSWER_SECONDS, Beginnings
from dispatcher.kafka.bridge import Calls, Commands, Downstream, PollResult
from dispatcher.kafka.commit_sender import CommitSender
from dispatcher.kafka.decoding import grouped, split_errors
from dispatcher.kafka.held import HeldRecords, RecordDecoder
from dispatcher.kafka.properties import LIBRDKAFKA_LOG
from dispatcher.kafka.spacing import Spacing
from dispatcher.kafka.stalls import StallDetector
from dispatcher.kafka.statistics import parse_statistics
from dispatcher.sansio.beginnings import Again, Start
from dispatcher.sansio.poll_size import PollSize
from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.stalls import Stall
from dispatcher.sansio.topic_memory import TopicMemory

log = structlog.get_logger(__name__)

UNKNOWN_POLL_SECONDS = 0.01
"""How long a poll waits while the start of some partition is unknown, or records wait to be decoded."""

_HINTS = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError.INCONSISTENT_TOPIC_ID,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001 - the public spelling of local codes
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001 - the same
    }
)
"""Errors that hint at a topic that was deleted, and perhaps recreated."""

_DISCONNECTS = frozenset({KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN})  # noqa: SLF001 - the same
"""Errors that report a lost connection to a broker."""


class GroupConsumer:
    """A consumer and its assignment; replaced when it fails.

    *Thread*: the poller's only.

    Args:
        properties: librdkafka's configuration.
        topics: The topics to subscribe to.
        downstream: The Trio side.
        spacing: When to hand over records.
        memory: What this process knows of the topics.
        poll_size: How many records a poll may take.
        batch_bytes: A poll's records of one partition are split into groups of about this size.
        drain_seconds: How long a revoke waits for writes that have started.
        leave_seconds: How long the last commit may take before the member leaves the group without an answer.
        decoder: Decodes the records of some topics; None if no topic is decoded.
    """

    def __init__(
        self,
        properties: Mapping[str, str | int | float | bool],
        topics: Sequence[str],
        downstream: Downstream,
        spacing: Spacing,
        memory: TopicMemory,
        *,
        poll_size: PollSize,
        batch_bytes: int,
        drain_seconds: float,
        leave_seconds: float,
        decoder: RecordDecoder | None = None,
    ) -> None:
        self._properties = properties
        self._topics = list(topics)
        self._downstream, self._spacing = downstream, spacing
        self._memory = memory
        self._poll_size, self._batch_bytes = poll_size, batch_bytes
        self._drain_seconds, self._leave_seconds = drain_seconds, leave_seconds
        self._assignment = Assignment(eager=is_eager(properties))
        self._beginnings: Beginnings | None = None
        self._commits = CommitSender()
        self._held = HeldRecords(decoder) if decoder is not None else None
        self._result = PollResult()
        self._callback_errors: list[BaseException] = []
        self._is_idle = False
        """Whether the last poll found nothing."""
        self._left: set[TopicPartition] = set()
        """Partitions that have left, or continue at another offset, since ``poll`` took the last message."""

    def run(self) -> None:
        """Join the group, poll until the commands say stop, and close the consumer.

        Raises:
            KafkaClientError: the consumer cannot be created, has failed, or must be replaced for another reason.
            Exception: whatever the downstream or a callback raised; what was dispatched is committed.
        """
        try:
            self._beginnings = beginnings = Beginnings(self._properties, self._topics, self._memory)
            consumer = Consumer(
                {
                    **self._properties,
                    "auto.offset.reset": "error",
                    "error_cb": self._guard(self._on_error),
                    "stats_cb": self._guard(self._on_statistics),
                    "on_commit": self._guard(self._commits.on_commit),
                },
                logger=LIBRDKAFKA_LOG,
            )
        except KafkaException as error:
            # It could be created at start-up: a file, such as a certificate, may be missing for a moment.
            raise _client_error(error.args[0]) from error
        failed: KafkaClientError | None = None
        try:
            consumer.subscribe(
                self._topics,
                on_assign=self._guard(self._on_assign),
                on_revoke=self._guard(self._on_revoke),
                on_lost=self._guard(self._on_lost),
            )
            rebuild = self._poll_until_stopped(consumer, beginnings)
        except KafkaException as error:
            # pause, resume and commit raise when they cannot do their work, for example after a fatal error.
            failed = _client_error(error.args[0])
            raise failed from error
        except KafkaClientError as error:
            failed = error
            raise
        except Exception:
            log.exception("crashed, stopping")
            raise
        finally:
            self._leave(consumer, failed)
        if rebuild is not None:
            raise KafkaClientError(KafkaError._FATAL, "_FATAL", rebuild)  # noqa: SLF001 - its public spelling

    def _poll_until_stopped(self, consumer: Consumer, beginnings: Beginnings) -> str | None:
        """Returns why the consumer must be rebuilt, or None. Either way it can still commit."""
        commands, calls, stalls = Commands(), Calls(self._spacing, self._poll_size), StallDetector(beginnings.log_ends)
        while not commands.stop and commands.rebuild is None:
            trio.from_thread.check_cancelled()
            if beginnings.pending:
                self._begin(consumer, beginnings.take())
            if stalled := stalls.check(self._assignment, time.monotonic(), idle=self._is_idle):
                self._restart(consumer, stalled)
            self._result.stamps = beginnings.watch(self._assignment.next_offsets)
            is_hurried = beginnings.pending or self._assignment.held
            self._spacing.wait()
            self._poll(consumer, UNKNOWN_POLL_SECONDS if is_hurried else commands.poll_seconds)
            if self._held is not None:
                self._held.pass_on(self._result)
                self._assignment.hold(consumer, self._held.partitions)
                self._result.held = self._held.partitions
            result = self._take_result()
            commands = (
                trio.from_thread.run(self._downstream.exchange_after_settling, result)
                if commands.settle
                else calls.hand_over(self._downstream.exchange, result)
            )
            if self._callback_errors:
                raise self._callback_errors[0]
            self._commits.send(consumer, commands.commit)
            self._assignment.control_flow(consumer, commands.pause, commands.resume)
        return None if commands.stop else commands.rebuild

    def _take_result(self) -> PollResult:
        result, self._result = self._result, PollResult()
        result.commit_answers = self._commits.take_answers()
        return result

    def _poll(self, consumer: Consumer, timeout_seconds: float) -> None:
        """Wait for one message, then take whatever else has arrived: no record waits for a full batch."""
        messages: list[Message] = []
        try:
            first = consumer.poll(timeout_seconds)
            self._is_idle = first is None
            if first is not None:
                self._left.clear()
                more = consumer.consume(at_most, 0) if (at_most := self._poll_size.records - 1) else []
                # librdkafka drops messages of a partition that leaves meanwhile from `more`, but cannot drop this one.
                has_left = self._left and _partition_of(first) in self._left
                messages = more if has_left else [first, *more]
        except KafkaException as error:
            self._callback_errors.append(_client_error(error.args[0]))
        self._sort(messages)

    def _sort(self, messages: list[Message]) -> None:
        self._result.messages = len(messages)
        records, told = split_errors(messages)
        for group in grouped(records, self._batch_bytes):
            stepped_back = self._assignment.received(group.partition, group.records.offsets[-1] + 1, group.leader_epoch)
            if stepped_back and self._beginnings is not None:
                self._beginnings.hint()
            self._result.groups.append(group)
        for message, error in told:
            if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the public spelling of local codes
                partition, end = _partition_of(message), cast("int", message.offset())
                if self._assignment.ended(partition, end):
                    self._result.ends[partition] = end
            elif error.code() in {KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION}:  # noqa: SLF001 - the same
                self._lose_offset(message, error)
            else:
                self._on_error(error)

    def _lose_offset(self, message: Message, error: KafkaError) -> None:
        """The broker has no record after those received: the partition waits until it is known where to continue."""
        partition = _partition_of(message)
        if self._beginnings is not None and partition in self._assignment.next_offsets:
            truncated = error.code() == KafkaError._LOG_TRUNCATION or "truncat" in error.str()  # noqa: SLF001
            self._beginnings.out_of_range(partition, self._assignment.next_offsets[partition], truncated=truncated)

    def _begin(self, consumer: Consumer, decisions: Sequence[Start | Again], *, in_callback: bool = False) -> None:
        """Start partitions; an assign callback must give librdkafka a list, even an empty one."""
        if not decisions and not in_callback:
            return
        self._left.update(d.partition for d in decisions if d.partition in self._assignment.next_offsets)
        if self._held is not None:
            self._held.drop(decision.partition for decision in decisions if isinstance(decision, Start))
        for decision in decisions:
            if isinstance(decision, Start):
                self._result.starts.append(decision)
            elif decision.gap is not None:
                self._result.gaps.append(decision.gap)
        self._assignment.begin(consumer, decisions)

    def _restart(self, consumer: Consumer, stalls: Sequence[Stall]) -> None:
        """Restart partitions that librdkafka does not fetch; if that has not helped before, commands decide."""
        self._result.stalls += stalls
        if partitions := [stall.partition for stall in stalls if not stall.was_restarted]:
            self._left.update(partitions)
            self._assignment.restart(consumer, partitions)

    def _leave(self, consumer: Consumer, failed: KafkaClientError | None) -> None:
        """Commit what was dispatched, wait a bounded time for the answer, and leave the group."""
        try:
            partitions = trio.from_thread.run_sync(self._downstream.leaving)
            if failed is None:
                self._drain(partitions)
            commits = trio.from_thread.run_sync(self._downstream.revoked, partitions)
            if failed is None and commits:
                self._commits.send_last(consumer, commits, self._leave_seconds)
                trio.from_thread.run_sync(self._downstream.exchange, self._take_result())
        except KafkaException as error:
            log.warning("the last commit could not be sent", error=str(error))
        finally:
            try:
                consumer.close()
            except KafkaException as error:
                log.warning("the consumer could not be closed", error=str(error))
            finally:
                if self._beginnings is not None:
                    self._beginnings.close()
                trio.from_thread.run_sync(self._downstream.left)

    # Callbacks: librdkafka calls them from inside poll, consume and close, in this thread.

    def _guard(self, callback: Callable[..., None]) -> Callable[..., None]:
        def guarded(*args: object) -> None:
            try:
                callback(*args)
            except BaseException as error:  # noqa: BLE001, ASYNC103 - kept, and raised once the call has returned
                self._callback_errors.append(error)

        return guarded

    def _on_assign(self, consumer: Consumer, partitions: list[confluent_kafka.TopicPartition]) -> None:
        assigned = from_client(partitions)
        self._result.assigned = [*(self._result.assigned or ()), *assigned]
        assert self._beginnings is not None  # noqa: S101 - created before the consumer
        self._beginnings.assigned(assigned)
        self._begin(consumer, self._beginnings.wait(ANSWER_SECONDS), in_callback=True)

    def _on_revoke(self, consumer: Consumer, partitions: list[confluent_kafka.TopicPartition]) -> None:
        revoked = from_client(partitions)
        last = self._commits.last(revoked)
        self._forget_unannounced(revoked)
        trio.from_thread.run_sync(self._downstream.revoking, revoked)
        self._drain(revoked)
        # Asynchronous but safe: librdkafka finishes outstanding commits before it releases partitions.
        self._commits.send(consumer, [*last, *trio.from_thread.run_sync(self._downstream.revoked, revoked)])
        self._assignment.let_go(consumer, revoked)

    def _drain(self, partitions: Sequence[TopicPartition]) -> None:
        """Wait, for a bounded time, until no write in progress would dispatch records of these partitions."""
        # Polling beats an event here: it happens once per rebalance, and leaves nothing to clean up.
        deadline = time.monotonic() + self._drain_seconds
        while not trio.from_thread.run_sync(self._downstream.drained, partitions) and time.monotonic() < deadline:
            time.sleep(0.005)

    def _on_lost(self, consumer: Consumer, partitions: list[confluent_kafka.TopicPartition]) -> None:
        lost = from_client(partitions)
        self._forget_unannounced(lost)
        trio.from_thread.run_sync(self._downstream.lost, lost)
        self._assignment.let_go(consumer, lost)

    def _forget_unannounced(self, partitions: Sequence[TopicPartition]) -> None:
        """Forget partitions; those that were assigned within the same poll will never be announced."""
        self._commits.left(partitions)
        self._left.update(partitions)
        if self._held is not None:
            self._held.drop(partitions)
        if self._beginnings is not None:
            self._beginnings.forget(partitions)
        self._result.forget(partitions)

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
        self._result.statistics = parse_statistics(text) or self._result.statistics


def _partition_of(message: Message) -> TopicPartition:
    return TopicPartition(cast("str", message.topic()), cast("int", message.partition()))


def _client_error(error: KafkaError) -> KafkaClientError:
    return KafkaClientError(error.code(), error.name(), error.str())
