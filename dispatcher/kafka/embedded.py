"""The demo's broker: librdkafka's mock cluster, inside this process.

Real client code on a real socket, no set-up. What it is not: durable (5 MiB a partition, then the oldest records
go), or an Apache Kafka (no admin calls, no look-up by time). So it serves the demo and fault-injection tests.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from confluent_kafka import Producer

METADATA_SECONDS = 5.0
FLUSH_SECONDS = 1.0

CONSUMER_PROPERTIES = {
    # Its classic groups are slow and odd; those of KIP-848 behave well.
    "group.protocol": "consumer",
    # It answers an empty fetch only when this time is over, records or not.
    "fetch.wait.max.ms": 10,
}
"""What a consumer of this broker needs in its ``[kafka]`` table."""


class EmbeddedBroker:
    """A mock cluster of one broker, for the body of the ``with`` block. *Thread*: any one.

    Topics come into being when they are first written to or asked for, with 4 partitions.

    Args:
        topics: Topics that are there from the start.
    """

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = topics
        self._producer: Producer

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
        """Write one record; the partition follows from the key.

        Raises:
            BufferError: 100,000 records are on their way already.
        """
        self._producer.produce(topic, value=value, key=key, headers=list(headers))
        self._producer.poll(0)
