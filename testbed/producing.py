"""Numbered records for tests to look for."""

import ctypes
import time
from pathlib import Path

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, Producer

from testbed.patience import seconds


def produce_numbered(  # noqa: PLR0917 - trio.to_thread.run_sync passes no keywords
    bootstrap_servers: str, topic: str, number: int, partitions: int, size_bytes: int = 0, first: int = 0
) -> None:
    """Write records ``first`` to ``first + number - 1``, round robin over the partitions; the value is the number."""
    producer = Producer(
        {"bootstrap.servers": bootstrap_servers, "linger.ms": 20, "queue.buffering.max.messages": 10**6}
    )
    deadline = time.monotonic() + seconds(30)
    for n in range(first, first + number):
        value, key = str(n).zfill(size_bytes), f"key-{n % 1000}"
        while True:
            try:
                producer.produce(topic, value=value, key=key, partition=n % partitions)
                break
            except KafkaException as error:
                # A partition that was added a moment ago is not known to every broker.
                is_unknown = error.args[0].code() == KafkaError._UNKNOWN_PARTITION  # noqa: SLF001 - its public spelling
                if not is_unknown or time.monotonic() > deadline:
                    raise
                producer.list_topics(topic, timeout=seconds(10))
                time.sleep(0.05)
        if n % 1000 == 0:
            producer.poll(0)
    left = producer.flush(60)
    assert left == 0, f"{left} records were not stored"


def produce_with_header_name(bootstrap_servers: str, topic: str, name: bytes, value: bytes) -> None:
    """Write a record into partition 0 with a header whose name may be any bytes, as a client in C can.

    confluent_kafka takes text only, so this calls the library that it brings with it.
    """
    library = _librdkafka()
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    for function in (library.rd_kafka_conf_new, library.rd_kafka_new, library.rd_kafka_headers_new):
        function.restype = pointer
    error = ctypes.create_string_buffer(512)
    configuration = pointer(library.rd_kafka_conf_new())
    library.rd_kafka_conf_set(configuration, b"bootstrap.servers", bootstrap_servers.encode(), error, 512)
    producer = pointer(library.rd_kafka_new(0, configuration, error, 512))
    headers = pointer(library.rd_kafka_headers_new(ctypes.c_size_t(1)))
    size = ctypes.c_ssize_t
    library.rd_kafka_header_add(headers, name, size(len(name)), b"1", size(1))
    # rd_kafka_vtype_t: 1 topic, 3 partition, 4 value, 7 flags (2: copy), 10 headers, 0 end.
    arguments = [1, topic.encode(), 3, 0, 4, value, ctypes.c_size_t(len(value)), 7, 2, 10, headers, 0]
    failed = library.rd_kafka_producev(producer, *(integer(a) if isinstance(a, int) else a for a in arguments))
    assert not failed, failed
    assert library.rd_kafka_flush(producer, 10_000) == 0
    library.rd_kafka_destroy(producer)


def fail_for_good(producer: Producer) -> None:
    """Let an idempotent producer meet a fatal error, as if the broker had lost its records: no broker is asked."""
    # A Producer's first member, right after what all objects have, is librdkafka's handle.
    client = ctypes.c_void_p.from_address(id(producer) + object.__basicsize__)
    out_of_order = 45
    _librdkafka().rd_kafka_test_fatal_error(client, out_of_order, b"put in by the test")


def _librdkafka() -> ctypes.CDLL:
    folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    return ctypes.CDLL(str(next(folder.glob("librdkafka-*.so*"))))
