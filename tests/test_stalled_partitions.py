"""A partition that librdkafka stops fetching without a word is fetched again, on a real broker."""

import time
from collections.abc import Callable
from functools import partial

import pytest
import trio

from testbed.broker import topics
from testbed.broker.cluster import KafkaCluster
from testbed.clients import SseStream, open_sse, sse_records
from testbed.patience import seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from tests.conftest import Kafka

PAUSED = "paused unseen"
STAYS_PAUSED = f"""
PAUSED = {PAUSED!r}
from dispatcher.kafka import assignment
control_flow, first = assignment.Assignment.control_flow, []
def stuck(self, consumer, pause, resume):
    control_flow(self, consumer, pause, resume)
    first or first.append(consumer)
    if resume and consumer is first[0]:
        consumer.pause(assignment.for_client(resume))
        print(PAUSED, flush=True)
assignment.Assignment.control_flow = stuck
"""
"""What librdkafka #5591 does: partitions of the first consumer stay paused though they were resumed."""

RESTARTS_NOTHING = "assignment.Assignment.restart = lambda self, consumer, partitions: None\n"


FOLLOWED_STAYS_PAUSED = f"""
PAUSED = {PAUSED!r}
from dispatcher.kafka import follower
apply, first = follower.Follower._apply, []
def stuck(self, consumer, commands):
    apply(self, consumer, commands)
    first or first.append(consumer)
    if commands.assign and consumer is first[0]:
        consumer.pause(follower.for_client(commands.assign))
        print(PAUSED, flush=True)
follower.Follower._apply = stuck
"""
"""The same with partitions that the replica follows."""

RESTARTS_NOTHING_FOLLOWED = "follower.Follower._begin_again = lambda self, consumer, partitions: None\n"


REPLAYED_STAYS_PAUSED = f"""
PAUSED = {PAUSED!r}
from dispatcher.kafka import assignment, reader
go_to, first = reader.Reader._go_to, []
def stuck(self, positions):
    go_to(self, positions)
    first or first.append(self._consumer)
    if self._consumer is first[0]:
        self._consumer.pause(assignment.for_client(positions))
        print(PAUSED, flush=True)
reader.Reader._go_to = stuck
"""
"""The same with partitions that are replayed."""


def produce_when_paused(replica: Replica, servers: str, topic: str) -> None:
    """Ten records, which librdkafka would have fetched already if they had been there before."""
    deadline = time.monotonic() + seconds(60)
    while PAUSED not in replica.log:
        assert time.monotonic() < deadline, replica.log
        time.sleep(0.05)
    produce_numbered(servers, topic, 10, 1)


async def test_a_partition_that_stays_paused_unseen_is_restarted(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """Its leader has records and none arrive, so it is fetched again from where it was."""
    topic = kafka.create_topic(1)
    replica = replicas(kafka.bootstrap_servers, topic, code=STAYS_PAUSED)
    await trio.to_thread.run_sync(produce_when_paused, replica, kafka.bootstrap_servers, topic)
    async with open_sse(replica) as stream:
        with trio.fail_after(seconds(60)):
            records = await sse_records(stream, 10)
    assert [record.own for record in records] == [(0, offset) for offset in range(10)]
    (line,) = await trio.to_thread.run_sync(replica.wait_until_logged, "partitions not fetched, restarting them")
    assert (line["partitions"], line["next_offsets"], line["log_ends"]) == ([f"{topic}:0"], [0], [10])
    assert replica.logged("consumer failed, rebuilding it") == []
    assert "dispatcher_partition_restarts_total 1.0" in replica.get("/metrics").text


async def test_a_partition_that_a_restart_does_not_help_gets_another_consumer(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """Subscribers stay connected, and nothing is lost."""
    topic = kafka.create_topic(1)
    replica = replicas(kafka.bootstrap_servers, topic, code=STAYS_PAUSED + RESTARTS_NOTHING)
    await trio.to_thread.run_sync(produce_when_paused, replica, kafka.bootstrap_servers, topic)
    async with open_sse(replica) as stream:
        with trio.fail_after(seconds(90)):
            records = await sse_records(stream, 10)
    assert [record.own for record in records] == [(0, offset) for offset in range(10)]
    (line,) = await trio.to_thread.run_sync(replica.wait_until_logged, "consumer failed, rebuilding it")
    assert len(replica.logged("partitions not fetched, restarting them")) == 1
    assert f"{topic}:0 is not fetched from offset 0" in line["error"]
    assert "dispatcher_consumer_rebuilds_total 1.0" in replica.get("/metrics").text


async def test_a_followed_partition_that_stays_paused_unseen_is_restarted(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """A stream of the whole topic goes on."""
    replica = await read_what_another_owns(kafka, replicas, FOLLOWED_STAYS_PAUSED)
    (line,) = await trio.to_thread.run_sync(replica.wait_until_logged, "partitions not fetched, restarting them")
    assert (line["consumer"], line["next_offsets"], line["log_ends"]) == ("follower", [0], [10])
    assert replica.logged("follower failed, rebuilding it") == []
    assert replica.status()["followed"]["restarts"] == 1
    assert "dispatcher_followed_partition_restarts_total 1.0" in replica.get("/metrics").text


async def test_a_followed_partition_that_a_restart_does_not_help_gets_another_consumer(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """The group's consumer keeps its own."""
    replica = await read_what_another_owns(kafka, replicas, FOLLOWED_STAYS_PAUSED + RESTARTS_NOTHING_FOLLOWED)
    (line,) = await trio.to_thread.run_sync(replica.wait_until_logged, "follower failed, rebuilding it")
    assert ":0 is not fetched from offset 0, although its leader has records up to 10" in line["error"]
    assert replica.logged("consumer failed, rebuilding it") == []


async def read_what_another_owns(kafka: Kafka, replicas: Callable[..., Replica], code: str) -> Replica:
    """Read ten records of a partition through a replica with this fault that only follows it; returns the replica."""
    topic = kafka.create_topic(1)
    owner = replicas(kafka.bootstrap_servers, topic, client_id="owner")
    await trio.to_thread.run_sync(owner.wait_for, "its partition", lambda status: status["partitions"] != [])
    replica = replicas(kafka.bootstrap_servers, topic, client_id="follower", code=code)
    async with open_sse(replica, "?scope=topic") as stream:
        await trio.to_thread.run_sync(produce_when_paused, replica, kafka.bootstrap_servers, topic)
        with trio.fail_after(seconds(90)):
            records = await sse_records(stream, 10)
    assert [record.own for record in records] == [(0, offset) for offset in range(10)]
    return replica


async def test_a_replayed_partition_that_stays_paused_unseen_gets_another_consumer(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """Its leader answers, and the reader yields nothing, read after read."""
    topic = kafka.create_topic(1)
    await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, 10, 1)
    latest = {"auto.offset.reset": "latest"}
    replica = replicas(kafka.bootstrap_servers, topic, kafka=latest, code=REPLAYED_STAYS_PAUSED)
    await trio.to_thread.run_sync(replica.wait_until_ready)
    async with open_sse(replica, "?since=earliest") as stream:
        with trio.fail_after(seconds(90)):
            records = await sse_records(stream, 10)
    assert [record.own for record in records] == [(0, offset) for offset in range(10)]
    (line,) = await trio.to_thread.run_sync(replica.wait_until_logged, "replays yield nothing, replacing a reader")
    assert line["partitions"] == [f"{topic}:0"]
    assert PAUSED in replica.log


@pytest.mark.timeout(400)
async def test_a_topic_recreated_twice_while_a_broker_is_away_is_read(
    own_cluster: Callable[..., KafkaCluster], replicas: Callable[..., Replica]
) -> None:
    """With librdkafka 2.16.0, fetching stopped for one partition for good; the whole last log is owed."""
    cluster = own_cluster(3)
    cluster.start()
    topic = cluster.create_topic("assets", 3)
    replica = replicas(cluster.bootstrap_servers, topic)
    await trio.to_thread.run_sync(replica.wait_until_ready)
    write = partial(topics.fill, cluster.bootstrap_servers, topic, range(3))
    owed = {(number, offset) for number in range(3) for offset in range(40)}
    received: set[tuple[int, int]] = set()
    async with open_sse(replica) as stream, trio.open_nursery() as nursery:
        nursery.start_soon(_collect, stream, '"last"', received)
        await trio.to_thread.run_sync(write, 10, '"first"')
        await trio.to_thread.run_sync(replica.wait_for, "dispatched", lambda s: s["records"]["dispatched"] >= 30)
        await trio.to_thread.run_sync(cluster.kill_node, 1)
        for number, value in ((20, '"second"'), (40, '"last"')):
            await trio.to_thread.run_sync(topics.recreate, cluster.admin, topic, 3, 3)
            await trio.to_thread.run_sync(write, number, value)
        await trio.to_thread.run_sync(cluster.start_node, 1)
        await trio.to_thread.run_sync(cluster.wait_until_ready)
        with trio.fail_after(seconds(120)):
            while received != owed:  # noqa: ASYNC110 - it has no event
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()


async def _collect(stream: SseStream, value: str, received: set[tuple[int, int]]) -> None:
    """Keep the places of records with this value."""
    while (event := await stream.next_event()) is not None:
        if event.type == "message" and event.data == value:
            received.add(event.own)
