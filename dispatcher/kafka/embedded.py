"""The demo's broker: librdkafka's mock cluster, inside this process.

It runs real client code on a real socket, without set-up. It is neither durable (it keeps 5 MiB per partition, then
drops the oldest records) nor a full Apache Kafka (no admin calls, no look-up by time), so it is fit only for the
demo and fault-injection tests.

It answers every look-up by time with "no such record". All of its records are written by this module, which
therefore keeps their times for `EmbeddedReplays`.
"""

import time
from array import array
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaError, Message, Producer

from dispatcher.kafka.replay import Replays
from dispatcher.sansio.ranges import EARLIEST
from dispatcher.sansio.records import TopicPartition

METADATA_SECONDS = 5.0
FLUSH_SECONDS = 1.0

CONSUMER_PROPERTIES = {
    # Its classic groups are slow and unreliable; those of KIP-848 work well.
    "group.protocol": "consumer",
    # It answers an empty fetch only after this time, even if records arrive meanwhile.
    "fetch.wait.max.ms": 10,
}
"""What a consumer of this broker needs in its ``[kafka]`` table."""


MAX_TIMES = 100_000
"""At least this many times are kept per partition: 5 MiB hold fewer records, unless these are smaller than 52 bytes."""


class TimeIndex:
    """Finds a partition's first record at or after a given time.

    Only records that are newer than all before them are kept: no other record can be the first.
    """

    def __init__(self) -> None:
        self._times_ms = array("q")
        self._offsets = array("q")

    def add(self, time_ms: int, offset: int) -> None:
        """Add a record; records are added in the order of their offsets."""
        if self._times_ms and time_ms <= self._times_ms[-1]:
            return
        self._times_ms.append(time_ms)
        self._offsets.append(offset)
        if len(self._offsets) >= 2 * MAX_TIMES:
            del self._times_ms[:MAX_TIMES], self._offsets[:MAX_TIMES]

    def since(self, time_ms: int) -> int | None:
        """The offset of the first record at or after this time; None if there is none."""
        found = bisect_left(self._times_ms, time_ms)
        return self._offsets[found] if found < len(self._offsets) else None


class EmbeddedBroker:
    """A mock cluster of one broker, for the body of the ``with`` block. *Thread*: any.

    Topics are created, with 4 partitions, when they are first written to or asked for.

    Args:
        topics: Topics that exist from the start.
    """

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = topics
        self._producer: Producer
        self._times: dict[TopicPartition, TimeIndex] = {}

    def __enter__(self) -> Self:
        self._producer = Producer({"test.mock.num.brokers": 1, "linger.ms": 2, "log_level": 3})
        for topic in self._topics:
            self._producer.list_topics(topic, timeout=METADATA_SECONDS)
        brokers = self._producer.list_topics(timeout=METADATA_SECONDS).brokers
        self.bootstrap_servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers.values())
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._producer.flush(FLUSH_SECONDS)

    def produce(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()
    ) -> None:
        """Write one record; its key selects the partition.

        Raises:
            BufferError: 100,000 records are already in flight.
        """
        # The broker confirms every record with the time 1234 (librdkafka 2.16), but stores the time that is set
        # here.
        time_ms = time.time_ns() // 1_000_000
        self._producer.produce(
            topic,
            value=value,
            key=key,
            headers=list(headers),
            timestamp=time_ms,
            on_delivery=partial(self._written, time_ms),
        )
        self._producer.poll(0)

    def offsets_since(self, partitions: Iterable[TopicPartition], since_ms: int) -> dict[TopicPartition, int]:
        """By partition, the offset of the first record at or after this time, if there is one.

        The broker may have dropped that record already.
        """
        self._producer.poll(0)
        found = {
            partition: self._times[partition].since(since_ms) for partition in partitions if partition in self._times
        }
        return {partition: offset for partition, offset in found.items() if offset is not None}

    async def look_up(self, partitions: Collection[TopicPartition], since_ms: int) -> Mapping[TopicPartition, int]:
        """`offsets_since`, in the form that `EmbeddedReplays` needs."""
        return self.offsets_since(partitions, since_ms)

    def _written(self, time_ms: int, error: KafkaError | None, message: Message) -> None:
        if error is None:
            partition = TopicPartition(str(message.topic()), message.partition() or 0)
            self._times.setdefault(partition, TimeIndex()).add(time_ms, message.offset() or 0)


LookUp = Callable[[Collection[TopicPartition], int], Awaitable[Mapping[TopicPartition, int]]]
"""By partition, the offset of the first record at or after this time (milliseconds), if there is one."""


class EmbeddedReplays(Replays):
    """`Replays` of an embedded broker, which looks times up in its index.

    Args:
        look_up: Asks the broker, which may be in another process.
        arguments: See `Replays`.
    """

    def __init__(self, look_up: LookUp, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._find = look_up

    async def offsets_since(
        self, partitions: Collection[TopicPartition], since_ms: int
    ) -> Mapping[TopicPartition, int | None]:
        """See `Replays`."""
        if since_ms == EARLIEST:
            return await super().offsets_since(partitions, since_ms)
        bounds = await self.bounds(partitions)
        found = await self._find(partitions, since_ms)
        # The broker may have dropped records since: then its log begins later.
        return {tp: max(found[tp], bounds[tp].first) if tp in found else None for tp in bounds}
