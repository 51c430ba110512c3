"""Numbered records for tests to look for."""

from confluent_kafka import Producer


def produce_numbered(  # noqa: PLR0917 - trio.to_thread.run_sync passes no keywords
    bootstrap_servers: str, topic: str, number: int, partitions: int, size_bytes: int = 0, first: int = 0
) -> None:
    """Write records ``first`` to ``first + number - 1``, round robin over the partitions; the value is the number."""
    producer = Producer(
        {"bootstrap.servers": bootstrap_servers, "linger.ms": 20, "queue.buffering.max.messages": 10**6}
    )
    for n in range(first, first + number):
        producer.produce(topic, value=str(n).zfill(size_bytes), key=f"key-{n % 1000}", partition=n % partitions)
        if n % 1000 == 0:
            producer.poll(0)
    left = producer.flush(60)
    assert left == 0, f"{left} records were not stored"
