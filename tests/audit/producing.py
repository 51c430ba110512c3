"""Produces numbered records at a steady rate."""

import math
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

BURST_SECONDS = 0.02
NICEST = 19
"""The lowest priority (nice(2))."""


def produce_steadily(
    bootstrap_servers: str,
    topic: str,
    partitions: int,
    *,
    rate: float,
    value_bytes: int,
    stopped: Callable[[], bool],
    on_stored: Callable[[int, int, int], None],
    on_refused: Callable[[str], None],
    record: Callable[[int], Mapping[str, Any]] | None = None,
) -> None:
    """Produce until told to stop, round robin over the partitions, and return when all is stored.

    *Thread*: one of its own; all callbacks are called there.

    Args:
        bootstrap_servers: The brokers.
        topic: Where to.
        partitions: Of the topic.
        rate: Records a second, over all partitions.
        value_bytes: Size of a value: the record's number, padded with zeros.
        stopped: Whether to stop.
        on_stored: Called with partition, offset and number of what a broker has stored.
        on_refused: Called with the reason why a record was not.
        record: Makes value, key and headers of the record with a number; None: the value is the number alone.
    """
    producer = _yielding_producer(bootstrap_servers)

    def on_delivery(number: int) -> Callable[[KafkaError | None, Message], None]:
        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                on_refused(error.str())
            elif (offset := message.offset()) is not None:
                # Of a record that the broker already had when the producer sent it again, nobody says where it is.
                on_stored(message.partition() or 0, offset, number)

        return delivered

    started = time.monotonic()
    number = 0
    while not stopped():
        due = math.ceil((time.monotonic() - started) * rate)
        while number < due:
            made = {"value": str(number).zfill(value_bytes)} if record is None else record(number)
            producer.produce(topic, **made, partition=number % partitions, on_delivery=on_delivery(number))
            number += 1
        producer.poll(BURST_SECONDS)
    producer.flush()


def _yielding_producer(bootstrap_servers: str) -> Producer:
    """Return a producer whose own threads let everything else on the machine run first.

    While brokers answer slowly, those of an idempotent producer poll their sockets without a pause (librdkafka 2.16;
    others do not): a dozen producers took both cores from the brokers that they waited for.
    """
    properties = {
        "bootstrap.servers": bootstrap_servers,
        "enable.idempotence": True,
        "linger.ms": 5,
        "delivery.timeout.ms": 120_000,
        "reconnect.backoff.max.ms": 500,
        "log_level": 2,
    }
    # On Linux niceness is a thread's, and new threads inherit it.
    with ThreadPoolExecutor(1, initializer=os.nice, initargs=(NICEST,)) as thread:
        return thread.submit(Producer, properties).result()
