"""The follower: one thread with one groupless consumer, which reads the partitions that other replicas own.

It serves streams of the whole topic, and is shared by all of them. Rules of this module:

* Only its thread touches the consumer. A crossing passes on what was received (`Followed`) and returns what to do
  (`FollowCommands`), as the poller's does.
* It commits nothing, and it can fail without any effect on the group's consumer: it is rebuilt with backoff and
  continues where the history ends.
* A partition from which nothing arrives although its leader has records is restarted. If that does not help, the
  consumer is rebuilt (`sansio.stalls`).
* It decides nothing about offsets: if a broker does not have one, it reports that, and the Trio side asks the leader
  whether records have expired, the topic was recreated, or the broker merely lags.
* Whatever is read from a partition carries the epoch in which following it began (`sansio.ownership`).
"""

import random
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

import confluent_kafka
import structlog
import trio
from confluent_kafka import Consumer, KafkaError, KafkaException, Message

from dispatcher.errors import KafkaClientError
from dispatcher.kafka.assignment import for_client
from dispatcher.kafka.bridge import Calls, PollResult
from dispatcher.kafka.decoding import Group, grouped, split_errors
from dispatcher.kafka.held import HeldRecords, RecordDecoder
from dispatcher.kafka.properties import LIBRDKAFKA_LOG
from dispatcher.kafka.spacing import Spacing
from dispatcher.kafka.stalls import AskLogEnds, StallDetector, log_stalls
from dispatcher.sansio.poll_size import PollSize
from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.stalls import Stall, StallLimit

log = structlog.get_logger(__name__)

IDLE_POLL_SECONDS = 0.1
"""How long a poll waits for a record, and so how long a command may wait for the thread."""

HELD_POLL_SECONDS = 0.01
"""The same while records wait for their schema."""

LAG_SECONDS = 5.0
"""Interval at which the lag to the ends of the logs is reported."""

REBUILD_SECONDS = (0.5, 15.0)
"""First and longest pause before a failed consumer is rebuilt."""

PROPERTIES: Mapping[str, str | int | bool] = {
    "auto.offset.reset": "error",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    # These bound its memory, which the README's formula includes.
    "queued.max.messages.kbytes": 8192,
    "queued.min.messages": 5000,
    "fetch.max.bytes": 8 * 1024 * 1024,
    "fetch.queue.backoff.ms": 2,
    "fetch.wait.max.ms": 100,
}
"""Its properties in addition to the connection settings of the group's consumer."""

_OUT_OF_RANGE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}  # noqa: SLF001 - the public spelling
_END = KafkaError._PARTITION_EOF  # noqa: SLF001 - the same
_FATAL = KafkaError._FATAL  # noqa: SLF001 - the same


@dataclass(slots=True)
class Followed:
    """The result of one poll."""

    groups: list[tuple[int, Group]] = field(default_factory=list)
    """Records, each group with the epoch of its partition."""
    ends: list[tuple[TopicPartition, int, int]] = field(default_factory=list)
    """The log ends that were reached, where the last offsets before the end hold no record, each with the epoch."""
    out_of_range: list[tuple[TopicPartition, int, int]] = field(default_factory=list)
    """Partitions whose next offset the broker does not have, with epoch and that offset. They yield nothing more."""
    errors: list[tuple[str, str]] = field(default_factory=list)
    """(name, reason) of each error that the client reported and survived."""
    messages: int = 0
    """How many messages the poll took: records, ends and errors."""
    lags: Mapping[TopicPartition, int] | None = None
    """The number of offsets left to the end of each log, where that is known; None if it was not looked at."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to report."""
        return not (self.messages or self.groups or self.ends or self.out_of_range) and self.lags is None


@dataclass(frozen=True, slots=True)
class FollowCommands:
    """What the thread must do before it polls again."""

    assign: Mapping[TopicPartition, tuple[int, int]] = field(default_factory=dict)
    """Partitions to follow, with the epoch and the first offset, which replace earlier ones."""
    unassign: Collection[TopicPartition] = ()
    stop: bool = False
    settle: bool = False
    """Whether to hand over the next result through `FollowDownstream.followed_when_settled`."""


class FollowDownstream(Protocol):
    """The Trio side of the crossing."""

    @property
    def has_orders(self) -> bool:
        """Whether the thread has something to do. *Thread*: any."""

    def follow(self) -> FollowCommands:
        """Return the partitions that a new consumer must follow."""

    def followed(self, result: Followed) -> FollowCommands:
        """Take the result of a poll, and return what the thread must do."""

    async def followed_when_settled(self, result: Followed) -> FollowCommands:
        """The same, after everything received before has been offered to every live subscriber."""


class Follower:
    """Supervises the thread that owns the consumer, and rebuilds the consumer when it fails.

    Args:
        properties: librdkafka's connection settings.
        downstream: The Trio side.
        spacing: When to hand over records.
        ask_log_ends: Asks leaders where logs end, from the thread.
        poll_size: How many records a poll may take.
        batch_bytes: A poll's records of one partition are split into groups of about this size.
        decoder: Decodes the records of some topics; None if no topic is decoded.
        client_rack: Its rack (KIP-392): it reads from brokers in that rack, if there are any.
    """

    def __init__(
        self,
        properties: Mapping[str, str | int | float | bool],
        downstream: FollowDownstream,
        spacing: Spacing,
        ask_log_ends: AskLogEnds,
        *,
        poll_size: PollSize,
        batch_bytes: int,
        decoder: RecordDecoder | None = None,
        client_rack: str = "",
    ) -> None:
        self._properties = {**properties, **PROPERTIES}
        if client_rack:
            self._properties["client.rack"] = client_rack
        self._downstream = downstream
        self._spacing, self._ask_log_ends = spacing, ask_log_ends
        self._poll_size = poll_size
        self._batch_bytes = batch_bytes
        self._decoder = decoder
        self._held = HeldRecords(decoder) if decoder is not None else None
        self._limiter = trio.CapacityLimiter(1)
        self._epochs: dict[TopicPartition, int] = {}
        self._next_offsets: dict[TopicPartition, int] = {}
        """The next offset of each partition that was given to librdkafka."""
        self._out_of_range: dict[TopicPartition, int] = {}
        """Partitions whose next offset a broker does not have, if earlier records are waiting for their schema."""
        self._lost: set[TopicPartition] = set()
        """Partitions of which that was reported: they are not fetched until an order says where to continue."""
        self.stall_limit = StallLimit()
        """What was done about partitions that librdkafka did not fetch."""
        self.failures = 0
        """How many consumers have failed or could not be created."""

    async def run(self) -> None:
        """Follow until a command says stop. *Cancellation*: safe, takes one poll and the consumer's ``close``."""
        pause_seconds = REBUILD_SECONDS[0]
        while True:
            started = trio.current_time()
            try:
                await trio.to_thread.run_sync(self._own_consumer, limiter=self._limiter, thread_name="kafka-follower")
            except (KafkaException, KafkaClientError, RuntimeError, MemoryError) as error:
                # "can't start new thread" is a RuntimeError: it must not affect the group's consumer.
                self.failures += 1
                if trio.current_time() - started > REBUILD_SECONDS[1]:
                    pause_seconds = REBUILD_SECONDS[0]
                log.warning("follower failed, rebuilding it", error=str(error), pause_seconds=pause_seconds)
                await trio.sleep(pause_seconds * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
                pause_seconds = min(2 * pause_seconds, REBUILD_SECONDS[1])
            else:
                return

    # Everything below runs in the follower's thread.

    @property
    def next_offsets(self) -> Mapping[TopicPartition, int]:
        """The next offset of each partition that was given to librdkafka."""
        return self._next_offsets

    @property
    def paused(self) -> Collection[TopicPartition]:
        """Partitions that are not fetched for now: records wait for their schema, or it is asked where to continue."""
        return self._lost.union(self._held.partitions) if self._held is not None else self._lost

    def _own_consumer(self) -> None:
        self._epochs, self._next_offsets, self._out_of_range, self._lost = {}, {}, {}, set()
        self._held = HeldRecords(self._decoder) if self._decoder is not None else None
        consumer = Consumer(dict(self._properties), logger=LIBRDKAFKA_LOG)
        try:
            commands = trio.from_thread.run_sync(self._downstream.follow)
            calls, stalls = Calls(self._spacing, self._poll_size), StallDetector(self._ask_log_ends)
            lags_at, is_idle = time.monotonic(), False
            while not commands.stop:
                trio.from_thread.check_cancelled()
                self._apply(consumer, commands)
                if stalled := stalls.check(self, time.monotonic(), idle=is_idle):
                    self._restart(consumer, stalled)
                self._spacing.wait()
                result = self._poll(consumer)
                is_idle = not result.messages
                if self._held is not None:
                    self._decode(consumer, self._held, result)
                self._lost.update(tp for tp, _, _ in result.out_of_range)
                if (now := time.monotonic()) >= lags_at:
                    lags_at, result.lags = now + LAG_SECONDS, self._lags(consumer, stalls)
                if commands.settle:
                    commands = trio.from_thread.run(self._downstream.followed_when_settled, result)
                elif result.is_empty and not self._downstream.has_orders:
                    # A quiet topic should not wake the loop ten times per second, in each worker.
                    commands = FollowCommands()
                else:
                    commands = calls.hand_over(self._downstream.followed, result)
        finally:
            consumer.close()

    def _apply(self, consumer: Consumer, commands: FollowCommands) -> None:
        gone = [tp for tp in {*commands.unassign, *commands.assign} if tp in self._next_offsets]
        if gone:
            if self._held is not None and (held := self._held.partitions.intersection(gone)):
                # Waiting records will be read again. librdkafka keeps a partition paused even when it is taken back.
                self._held.drop(held)
                consumer.resume(for_client(held))
            consumer.incremental_unassign([confluent_kafka.TopicPartition(*tp) for tp in gone])
            for tp in gone:
                del self._next_offsets[tp], self._epochs[tp]
                self._out_of_range.pop(tp, None)
        self._lost.difference_update(commands.assign, commands.unassign)
        if commands.assign:
            for tp, (epoch, offset) in commands.assign.items():
                self._epochs[tp], self._next_offsets[tp] = epoch, offset
            consumer.incremental_assign(
                [confluent_kafka.TopicPartition(*tp, offset) for tp, (_, offset) in commands.assign.items()]
            )

    def _poll(self, consumer: Consumer) -> Followed:
        """Wait for one message, then take whatever else has arrived."""
        is_holding = self._held is not None and self._held.partitions
        first = consumer.poll(HELD_POLL_SECONDS if is_holding else IDLE_POLL_SECONDS)
        messages: list[Message] = []
        if first is not None:
            more = consumer.consume(at_most, 0) if (at_most := self._poll_size.records - 1) else []
            messages = [first, *more]
        result = Followed(messages=len(messages))
        records, events = split_errors(messages)
        for group in grouped(records, self._batch_bytes):
            if group.partition in self._next_offsets:
                self._next_offsets[group.partition] = group.records.offsets[-1] + 1
                result.groups.append((self._epochs[group.partition], group))
        for message, error in events:
            self._take_event(result, message, error)
        return result

    def _decode(self, consumer: Consumer, held: HeldRecords, result: Followed) -> None:
        """Pass on the records that need not wait, and pause the partitions of the others."""
        before = held.partitions
        passed = PollResult(groups=[group for _, group in result.groups], ends={tp: end for tp, _, end in result.ends})
        held.pass_on(passed)
        result.groups = [(self._epochs[group.partition], group) for group in passed.groups]
        result.ends = [(tp, self._epochs[tp], end) for tp, end in passed.ends.items()]
        # The report has to follow the waiting records: the Trio side would continue past them.
        self._out_of_range.update((tp, offset) for tp, _, offset in result.out_of_range)
        readable = self._out_of_range.keys() - held.partitions
        result.out_of_range = [(tp, self._epochs[tp], self._out_of_range[tp]) for tp in readable]
        if paused := held.partitions - before:
            consumer.pause(for_client(paused))
        if released := before - held.partitions:
            consumer.resume(for_client(released))
            # A pause discards what is queued. That may be the report that a broker does not have the next offset, after
            # which librdkafka fetches nothing more.
            if again := released - readable:
                self._begin_again(consumer, again)
        for tp in readable:
            del self._out_of_range[tp]

    def _begin_again(self, consumer: Consumer, partitions: Collection[TopicPartition]) -> None:
        """Fetch partitions from their next offset on, whatever became of earlier fetches and pauses."""
        consumer.incremental_unassign(for_client(partitions))
        consumer.incremental_assign([confluent_kafka.TopicPartition(*tp, self._next_offsets[tp]) for tp in partitions])
        # A pause that librdkafka kept from an earlier assignment (confluentinc/librdkafka#1849) outlives even this.
        consumer.resume(for_client(partitions))

    def _restart(self, consumer: Consumer, stalls: Sequence[Stall]) -> None:
        """Restart partitions that librdkafka does not fetch.

        Raises:
            KafkaClientError: that has not helped before.
        """
        log_stalls(stalls, "follower")
        if (reason := self.stall_limit.take(stalls, time.monotonic())) is not None:
            raise KafkaClientError(_FATAL, "_FATAL", reason)
        if partitions := [stall.partition for stall in stalls if not stall.was_restarted]:
            self._begin_again(consumer, partitions)

    def _lags(self, consumer: Consumer, stalls: StallDetector) -> Mapping[TopicPartition, int]:
        """The lags as of the last fetch of each partition, or by its leader's last answer: no broker is asked."""
        lags = {}
        for tp, next_offset in self._next_offsets.items():
            _, end = consumer.get_watermark_offsets(confluent_kafka.TopicPartition(*tp), cached=True)
            end = max(end, stalls.log_end(tp, next_offset))
            if end >= 0:  # a negative end is unknown
                lags[tp] = max(0, end - next_offset)
        return lags

    def _take_event(self, result: Followed, message: Message, error: KafkaError) -> None:
        if error.fatal() or error.code() == _FATAL:
            raise KafkaException(error)
        tp = TopicPartition(cast("str", message.topic()), cast("int", message.partition()))
        if tp not in self._next_offsets or error.code() not in {_END, *_OUT_OF_RANGE}:
            result.errors.append((error.name(), error.str()))
        elif error.code() == _END:
            end = cast("int", message.offset())
            if end > self._next_offsets[tp]:
                self._next_offsets[tp] = end
                result.ends.append((tp, self._epochs[tp], end))
        else:
            result.out_of_range.append((tp, self._epochs[tp], self._next_offsets[tp]))
