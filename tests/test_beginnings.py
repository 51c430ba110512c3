"""Where reading begins and goes on, on a real broker: guarantees G2 and G3 whatever happens to offsets and topics."""

import json
import signal
import time
from collections.abc import Callable

import confluent_kafka
import pytest
import trio
from confluent_kafka import Consumer, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.cimpl import NewPartitions

from testbed.broker.witness import delete_records
from testbed.clients import SseStream, open_sse, open_ws, sse_records
from testbed.patience import seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from tests.conftest import Kafka

PROTOCOLS = {
    "classic": {},
    "eager": {"partition.assignment.strategy": "range"},
    "consumer": {"group.protocol": "consumer"},
}
"""librdkafka properties by the kind of group."""

RESETS = ["earliest", "latest"]
"""``auto.offset.reset``: neither may lose anything."""


async def produce(
    kafka: Kafka, topic: str, first: int, number: int, *, partitions: int = 1, size_bytes: int = 0
) -> None:
    """This many records more."""
    await trio.to_thread.run_sync(
        produce_numbered, kafka.bootstrap_servers, topic, number, partitions, size_bytes, first
    )


async def in_thread(function: Callable[..., object], *arguments: object) -> None:
    """Call something that blocks."""
    await trio.to_thread.run_sync(function, *arguments)


async def told(stream: SseStream, until: Callable[[list[tuple[object, ...]]], bool]) -> list[tuple[object, ...]]:
    """Records as (partition, offset) and gaps as ("gap", partition, from, to, reason), in order, until a condition."""
    found: list[tuple[object, ...]] = []
    with trio.fail_after(seconds(90)):
        while not until(found):
            event = await stream.next_event()
            assert event is not None
            if event.type == "gap":
                gap = json.loads(event.data)
                found.append(("gap", gap["partition"], gap["from"], gap["to"], gap["reason"]))
            elif event.type == "message":
                found.append(event.own)
    return found


def committed(kafka: Kafka, replica: Replica) -> dict[int, int | None]:
    """The group's offsets by partition, as Kafka's own tool shows them."""
    return {row.partition: row.current_offset for row in kafka.group_offsets(replica.group).values()}


async def until_begun(replica: Replica, partitions: int = 1) -> None:
    """Until empty partitions have begun: with ``latest``, records that come before that are not the group's."""
    begun = [0] * partitions
    await in_thread(replica.wait_for, "begun", lambda s: [p["committed"] for p in s["partitions"]] == begun)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("protocol", list(PROTOCOLS))
async def test_records_that_expire_while_fetching_is_paused_are_reported(
    kafka: Kafka, replicas: Callable[..., Replica], protocol: str, reset: str
) -> None:
    """One connection gets fetched records, a gap and the rest, so no offset is left out."""
    topic = kafka.create_topic(1)
    small = {"pause_above_bytes": "64KiB", "resume_below_bytes": "32KiB"}
    properties = {**PROTOCOLS[protocol], "auto.offset.reset": reset, "queued.max.messages.kbytes": 64}
    replica = replicas(kafka.bootstrap_servers, topic, settings=small, kafka=properties)
    await until_begun(replica)
    await produce(kafka, topic, 0, 3000, size_bytes=1000)
    await in_thread(replica.wait_for, "paused", lambda s: s["partitions"][0]["paused"])
    await in_thread(delete_records, kafka.bootstrap_servers, {(topic, 0): 2500})
    async with open_sse(replica) as stream:
        events = await told(stream, lambda found: (0, 2999) in found)
        gap = next(number for number, event in enumerate(events) if event[0] == "gap")
        assert [(0, offset) for offset in range(gap)] == events[:gap]
        assert events[gap] == ("gap", 0, gap, 2499, "expired")
        assert [(0, offset) for offset in range(2500, 3000)] == events[gap + 1 :]
        inside = f"?last_event_id={topic}:0={gap + 99}"
        async with open_sse(replica, inside) as other:
            first, second = (await told(other, lambda found: len(found) == 2))[:2]
        assert (first, second) == (("gap", 0, gap + 100, 2499, "expired"), (0, 2500))
    await in_thread(replica.wait_for, "all committed", lambda s: s["partitions"][0]["committed"] == 3000)


@pytest.mark.parametrize("reset", RESETS)
async def test_a_committed_offset_that_has_expired_is_reported(
    kafka: Kafka, replicas: Callable[..., Replica], reset: str
) -> None:
    """The first subscriber gets the gap; until then nothing is committed beyond it."""
    topic = kafka.create_topic(1)
    properties = {"auto.offset.reset": reset}
    replica = replicas(kafka.bootstrap_servers, topic, kafka=properties)
    await until_begun(replica)
    async with open_sse(replica) as stream:
        await produce(kafka, topic, 0, 10)
        await told(stream, lambda found: (0, 9) in found)
        await in_thread(replica.wait_for, "committed", lambda s: s["partitions"][0]["committed"] == 10)
    replica.signal(signal.SIGTERM)
    await in_thread(replica.wait)
    await produce(kafka, topic, 10, 90)
    await in_thread(delete_records, kafka.bootstrap_servers, {(topic, 0): 60})
    replica = replicas(kafka.bootstrap_servers, topic, kafka=properties)
    await in_thread(replica.wait_until_logged, "records expired")
    assert committed(kafka, replica) == {0: 10}
    async with open_ws(replica) as websocket:
        messages: list[dict[str, object]] = []
        with trio.fail_after(seconds(30)):
            while not messages or messages[-1]["type"] != "records":
                messages.append(json.loads(await websocket.get_message()))
    gaps = [message for message in messages if message["type"] == "gap"]
    assert gaps == [{"type": "gap", "topic": topic, "partition": 0, "from": 10, "to": 59, "reason": "expired"}]
    await in_thread(replica.wait_for, "all committed", lambda s: s["partitions"][0]["committed"] == 100)


async def test_a_gap_at_the_end_of_the_log_is_reported_without_a_record(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """If all records expired, subscribers get the gap at once, and its offsets are committed."""
    topic = kafka.create_topic(1)
    small = {"pause_above_bytes": "64KiB", "resume_below_bytes": "32KiB"}
    replica = replicas(kafka.bootstrap_servers, topic, settings=small, kafka={"queued.max.messages.kbytes": 64})
    replica.wait_until_ready()
    await produce(kafka, topic, 0, 1000, size_bytes=1000)
    await in_thread(replica.wait_for, "paused", lambda s: s["partitions"][0]["paused"])
    # On a busy machine everything was fetched before the pause; nothing is fetched after it.
    await produce(kafka, topic, 1000, 1000, size_bytes=1000)
    await in_thread(delete_records, kafka.bootstrap_servers, {(topic, 0): 2000})
    async with open_sse(replica) as stream:
        events = await told(stream, lambda found: bool(found) and found[-1][0] == "gap")
        assert events[-1] == ("gap", 0, len(events) - 1, 1999, "expired")
        await in_thread(replica.wait_for, "all committed", lambda s: s["partitions"][0]["committed"] == 2000)


@pytest.mark.parametrize("partitions", [1, 3], ids=["as many partitions", "more partitions"])
@pytest.mark.parametrize("protocol", list(PROTOCOLS))
async def test_a_topic_that_was_recreated_and_refilled_is_read_from_its_start(
    kafka: Kafka, replicas: Callable[..., Replica], protocol: str, partitions: int
) -> None:
    """The old offset exists in the new log, so only the topic's id shows the difference."""
    topic = kafka.create_topic(1)
    replica = replicas(kafka.bootstrap_servers, topic, kafka=PROTOCOLS[protocol])
    replica.wait_until_ready()
    async with open_sse(replica) as stream:
        await produce(kafka, topic, 0, 3)
        await told(stream, lambda found: (0, 2) in found)
        await in_thread(kafka.recreate_topic, topic, partitions)
        await produce(kafka, topic, 0, 8 * partitions, partitions=partitions)
        expected = {(number, offset) for number in range(partitions) for offset in range(8)}

        def is_all(found: list[tuple[object, ...]]) -> bool:
            gap = ("gap", 0, 3, -1, "recreated")
            begins = [number for number, event in enumerate(found) if event[0] == "gap" and event[1] == 0]
            of_first = set(found[begins[-1] :] if begins else [])
            return bool(begins) and expected <= {*found, gap} and {(0, offset) for offset in range(8)} <= of_first

        events = await told(stream, is_all)
    gap = next(number for number, event in enumerate(events) if event[0] == "gap" and event[1] == 0)
    assert events[gap][3:] == (-1, "recreated")
    assert [event for event in events[gap:] if event[0] == 0] == [(0, offset) for offset in range(8)]
    for number in range(1, partitions):
        assert [event for event in events if event[0] == number] == [(number, offset) for offset in range(8)]


@pytest.mark.parametrize("listens", [True, False], ids=["connected", "later"])
async def test_a_topic_that_was_recreated_between_two_runs_is_noticed(
    kafka: Kafka, replicas: Callable[..., Replica], listens: bool
) -> None:
    """The committed offset has its topic's id, and the first subscriber gets the gap."""
    topic = kafka.create_topic(1)
    before = kafka.admin.describe_topics(TopicCollection([topic]))[topic].result(10).topic_id
    group = f"group-{topic}"
    await in_thread(kafka.recreate_topic, topic, 1)
    await produce(kafka, topic, 0, 8)
    consumer = confluent_kafka.Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": group})
    # Kafka forgets a group's offsets of a topic that is deleted, unless the commit comes a moment later, as it may.
    late = confluent_kafka.TopicPartition(topic, 0, 3, metadata=f"dispatcher;topic-id={before};began-with=1")
    await trio.to_thread.run_sync(lambda: consumer.commit(offsets=[late], asynchronous=False))
    consumer.close()
    replica = replicas(kafka.bootstrap_servers, topic)
    if not listens:
        await in_thread(replica.wait_until_logged, "topic recreated")
        await in_thread(replica.wait_for, "waiting", lambda s: s["records"]["waiting"] == 8)
        assert committed(kafka, replica) == {0: 3}, "the next replica has to notice, too"
    async with open_sse(replica) as stream:
        events = await told(stream, lambda found: (0, 7) in found)
    assert events == [("gap", 0, 3, -1, "recreated"), *((0, offset) for offset in range(8))]
    await in_thread(replica.wait_for, "committed", lambda s: s["partitions"][0]["committed"] == 8)


async def test_an_offset_that_does_not_say_which_topic_it_is_of_is_committed_once_more(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """Otherwise a recreated topic that outgrew it would be read from there."""
    topic = kafka.create_topic(1)
    await produce(kafka, topic, 0, 8)
    servers = {"bootstrap.servers": kafka.bootstrap_servers}
    consumer = confluent_kafka.Consumer({**servers, "group.id": f"group-{topic}"})
    place = confluent_kafka.TopicPartition(topic, 0, 3)
    await trio.to_thread.run_sync(lambda: consumer.commit(offsets=[place], asynchronous=False))
    replicas(kafka.bootstrap_servers, topic)
    topic_id = kafka.admin.describe_topics(TopicCollection([topic]))[topic].result(30).topic_id
    with trio.fail_after(seconds(60)):
        while True:
            found = (await trio.to_thread.run_sync(lambda: consumer.committed([place], seconds(30))))[0]
            if found.metadata:
                break
            await trio.sleep(0.05)
    consumer.close()
    assert (found.offset, found.metadata.split(";")[1]) == (3, f"topic-id={topic_id}")


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
async def test_records_that_wait_survive_a_restart_with_latest(
    kafka: Kafka, replicas: Callable[..., Replica], protocol: str
) -> None:
    """The group's start is committed before any dispatch, so a restart continues there."""
    topic = kafka.create_topic(2)
    properties = {**PROTOCOLS[protocol], "auto.offset.reset": "latest"}
    first = replicas(kafka.bootstrap_servers, topic, kafka=properties)
    await until_begun(first, 2)
    await produce(kafka, topic, 0, 6, partitions=2)
    await in_thread(first.wait_for, "waiting", lambda s: s["records"]["waiting"] == 6)
    first.signal(signal.SIGKILL)
    await in_thread(first.wait)
    second = replicas(
        kafka.bootstrap_servers,
        topic,
        kafka={**properties, "session.timeout.ms": 6000} if protocol != "consumer" else properties,
    )
    async with open_sse(second) as stream:
        with trio.fail_after(seconds(90)):
            records = await sse_records(stream, 6)
    assert sorted(int(record.data) for record in records) == list(range(6))


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
async def test_a_partition_that_is_added_begins_at_its_start(
    kafka: Kafka, replicas: Callable[..., Replica], protocol: str
) -> None:
    """With ``latest`` as well, records from before its discovery are new to the group."""
    topic = kafka.create_topic(1)
    properties = {
        **PROTOCOLS[protocol],
        "auto.offset.reset": "latest",
        "topic.metadata.refresh.interval.ms": 1000,
    }
    await produce(kafka, topic, 0, 3)
    replica = replicas(kafka.bootstrap_servers, topic, kafka=properties)
    await in_thread(replica.wait_for, "begun", lambda s: [p["committed"] for p in s["partitions"]] == [3])
    async with open_sse(replica) as stream:
        await in_thread(kafka.admin.create_partitions([NewPartitions(topic, 2)])[topic].result, 10)
        await produce(kafka, topic, 0, 10, partitions=2)
        with trio.fail_after(seconds(90)):
            records = await sse_records(stream, 10)
    assert sorted(record.own for record in records) == [
        *((0, offset) for offset in range(3, 8)),
        *((1, offset) for offset in range(5)),
    ]


async def test_a_topic_that_was_recreated_survives_a_restart_with_latest(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """Kafka forgot the group's offsets, so waiting records of the new log need one."""
    topic = kafka.create_topic(1)
    properties = {"auto.offset.reset": "latest", "session.timeout.ms": 6000}
    first = replicas(kafka.bootstrap_servers, topic, kafka=properties)
    await until_begun(first)
    await in_thread(kafka.recreate_topic, topic, 1)
    await produce(kafka, topic, 0, 8)
    await in_thread(first.wait_for, "waiting", lambda s: s["records"]["waiting"] == 8)
    await in_thread(first.wait_until_logged, "topic recreated")
    with trio.fail_after(seconds(30)):
        while await trio.to_thread.run_sync(committed, kafka, first) != {0: 0}:  # noqa: ASYNC110 - it has no event
            await trio.sleep(0.2)
    first.signal(signal.SIGKILL)
    await in_thread(first.wait)
    second = replicas(kafka.bootstrap_servers, topic, kafka=properties)
    async with open_sse(second) as stream:
        with trio.fail_after(seconds(60)):
            records = await sse_records(stream, 8)
    assert [int(record.data) for record in records] == list(range(8))


def reset_offsets(kafka: Kafka, group: str, topic: str) -> None:
    """Set the group's offset of partition 0 back to the start, as an operator does while no replica runs."""
    operator = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": group, "log_level": 2})
    deadline = time.monotonic() + seconds(60)
    while True:
        try:
            operator.commit(offsets=[TopicPartition(topic, 0, 0)], asynchronous=False)
        except KafkaException:
            # The group has members until the last one has left, or its session has ended.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            operator.close()
            return


@pytest.mark.parametrize("scope", ["replica", "topic"])
async def test_after_a_reset_the_state_names_what_a_client_is_sent_again(
    kafka: Kafka, replicas: Callable[..., Replica], scope: str
) -> None:
    """A client drops these records, since its id names them; then come those that are new."""
    topic = kafka.create_topic(1)
    first = replicas(kafka.bootstrap_servers, topic)
    await produce(kafka, topic, 0, 10)
    async with open_sse(first) as stream:
        with trio.fail_after(seconds(60)):
            await sse_records(stream, 10)
        await in_thread(first.wait_for, "all committed", lambda s: s["partitions"][0]["committed"] == 10)
    first.signal(signal.SIGTERM)
    await in_thread(first.wait)
    await in_thread(reset_offsets, kafka, first.group, topic)
    second = replicas(kafka.bootstrap_servers, topic)
    if scope == "topic":
        # A partition that nobody owns yet is followed, and then record 10 comes first.
        await in_thread(second.wait_for, "assigned", lambda s: len(s["partitions"]) == 1)
    async with open_sse(second, f"?scope={scope}&last_event_id={topic}:0=9") as stream:
        await produce(kafka, topic, 10, 1)
        came: list[object] = []
        with trio.fail_after(seconds(60)):
            while (0, 10) not in came:
                event = await stream.next_event()
                assert event is not None
                if event.type == "message":
                    came.append(event.own)
                elif event.type == "state" and (repeats := json.loads(event.data).get("repeats")):
                    came += repeats
    again = {"topic": topic, "partition": 0, "from": 0, "to": 9}
    assert came == [again, *((0, offset) for offset in range(11))]
