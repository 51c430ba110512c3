"""From messages to records: nothing is left out, and groups are cut where they have to be."""

from itertools import pairwise
from typing import Any, cast

from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_NOT_AVAILABLE, Consumer, Message
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.kafka.decoding import grouped
from dispatcher.sansio.records import RECORD_OVERHEAD_BYTES, Records, TopicPartition
from testbed.producing import produce_numbered, produce_with_header_name
from tests.conftest import Kafka

TEXT = st.none() | st.binary(max_size=20)
MESSAGES: st.SearchStrategy[Any] = st.builds(
    cast("Any", Message),
    topic=st.sampled_from("ab"),
    partition=st.integers(0, 1),
    offset=st.integers(0, 9),
    key=TEXT,
    value=TEXT,
    headers=st.none() | st.lists(st.tuples(st.text(max_size=3), TEXT), max_size=2),
    # "-1 if not available" (rdkafka.h); logs of the oldest format leave it 0.
    timestamp=st.tuples(st.just(TIMESTAMP_NOT_AVAILABLE), st.integers(-1, 0))
    | st.tuples(st.just(TIMESTAMP_CREATE_TIME), st.integers(-1, 9)),
    leader_epoch=st.integers(0, 3),
)


@given(messages=st.lists(MESSAGES), batch_bytes=st.integers(1, 4).map(RECORD_OVERHEAD_BYTES.__mul__))
def test_every_message_is_a_record_of_its_partition(messages: list[Any], batch_bytes: int) -> None:
    """Records are in order and complete; groups end before offsets go backwards, or when too large."""
    groups = list(grouped(messages, batch_bytes))
    for partition in {TopicPartition(str(message.topic()), int(message.partition() or 0)) for message in messages}:
        own = [message for message in messages if (message.topic(), message.partition()) == partition]
        parts = [group for group in groups if group.partition == partition]
        assert [record for part in parts for record in part.records] == [
            (
                message.offset(),
                message.timestamp()[1] if message.timestamp()[0] and message.timestamp()[1] != -1 else None,
                message.key(),
                message.value(),
                tuple(message.headers() or ()),
            )
            for message in own
        ]
        end = 0
        for part in parts:
            end += len(part.records)
            assert part.leader_epoch == own[end - 1].leader_epoch()
            assert part.records.size_bytes <= batch_bytes or len(part.records) == 1
            assert all(before < offset for before, offset in pairwise(part.records.offsets))
        begins = sum(following.offset() <= message.offset() for message, following in pairwise(own))
        if Records.of(record for part in parts for record in part.records).size_bytes <= batch_bytes:
            assert len(parts) == 1 + begins


def test_consecutive_offsets_stay_a_range() -> None:
    """A range takes no memory, and slices like the offsets."""
    make = cast("Any", Message)
    found = [
        make(topic="a", partition=0, offset=offset, timestamp=(TIMESTAMP_CREATE_TIME, 1)) for offset in range(5, 9)
    ]
    parts = [group.records.offsets for group in grouped(found, 2 * RECORD_OVERHEAD_BYTES)]
    assert parts == [range(5, 7), range(7, 9)]


def test_a_header_name_that_is_not_utf_8_is_seen_at_any_time(kafka: Kafka) -> None:
    """CPython checks a C function's result less strictly once it has been called often."""
    topic = kafka.create_topic(1)
    produce_numbered(kafka.bootstrap_servers, topic, 100, 1)
    produce_with_header_name(kafka.bootstrap_servers, topic, b"\xff\xfe", b"unreadable")
    consumer = Consumer(
        {"bootstrap.servers": kafka.bootstrap_servers, "group.id": "messages", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([topic])
    messages: list[Message[Any, Any]] = []
    while len(messages) < 101:
        messages += consumer.consume(101, 10)
    consumer.close()
    (group,) = grouped(messages, 1_000_000)
    assert (group.records[-1].value, group.records[-1].headers) == (b"unreadable", ())
