"""Guarantees G6 and G8: a replica whose consumer dies gets another one, and its subscribers stay connected."""

import signal
from collections.abc import Callable

import pytest
import trio

from testbed.broker.witness import set_session_timeout
from testbed.clients import SseStream, open_sse, sse_records
from testbed.patience import seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from tests.conftest import Kafka

PARTITIONS = 4
RECORDS = 1000
SUSPENDED_SECONDS = 8
"""Longer than the session timeout of either protocol (testbed/broker/cluster.py has the broker's)."""
SHORT = {
    "classic": {"session.timeout.ms": 2000, "max.poll.interval.ms": 4000},
    "consumer": {"max.poll.interval.ms": 4000},
}


async def read_on(kafka: Kafka, topic: str, stream: SseStream, first: int) -> None:
    """Produce `RECORDS` more and see all of them, each once, on a stream that is open already."""
    await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, RECORDS, PARTITIONS, 0, first)
    with trio.fail_after(seconds(60)):
        records = await sse_records(stream, RECORDS)
    assert sorted(int(record.data) for record in records) == list(range(first, first + RECORDS))


@pytest.mark.parametrize("protocol", list(SHORT))
async def test_a_suspended_process_rejoins(kafka: Kafka, replicas: Callable[..., Replica], protocol: str) -> None:
    """After session timeout and `max.poll.interval.ms` it lost its partitions, and gets them back by itself."""
    topic = kafka.create_topic(PARTITIONS)
    replica = replicas(kafka.bootstrap_servers, topic, kafka={"group.protocol": protocol, **SHORT[protocol]})
    replica.wait_until_ready()
    async with open_sse(replica) as stream:
        await read_on(kafka, topic, stream, 0)
        replica.wait_for("committed", lambda s: all(p["lag"] == 0 for p in s["partitions"]))
        replica.signal(signal.SIGSTOP)
        await trio.sleep(SUSPENDED_SECONDS)
        replica.signal(signal.SIGCONT)
        await read_on(kafka, topic, stream, RECORDS)
    await trio.to_thread.run_sync(replica.wait_until_logged, "partitions lost")
    replica.wait_for("committed", lambda s: s["partitions"] and all(p["lag"] == 0 for p in s["partitions"]))


async def test_a_fenced_consumer_is_rebuilt(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """Another process took its group.instance.id; the old one is fenced, and serves again when it can."""
    topic = kafka.create_topic(PARTITIONS)
    settings = {"group_instance_id": "slot-1"}
    replica = replicas(kafka.bootstrap_servers, topic, settings=settings, kafka=SHORT["classic"])
    replica.wait_until_ready()
    async with open_sse(replica) as stream:
        await read_on(kafka, topic, stream, 0)
        # What is not committed when another one takes the partitions is dispatched again.
        await trio.to_thread.run_sync(
            replica.wait_for, "all committed", lambda status: all(one["lag"] == 0 for one in status["partitions"])
        )
        other = replicas(kafka.bootstrap_servers, topic, settings=settings, client_id="other")
        failure, *_ = await trio.to_thread.run_sync(replica.wait_until_logged, "consumer failed, rebuilding it")
        other.signal(signal.SIGKILL)
        other.wait()
        await read_on(kafka, topic, stream, RECORDS)
    assert "FENCED" in failure["error"].upper()


@pytest.mark.parametrize("protocol", list(SHORT))
async def test_a_static_member_restarts_and_no_partition_moves(
    kafka: Kafka, replicas: Callable[..., Replica], protocol: str
) -> None:
    """Within the session timeout, the other replica keeps its partitions, and no record is lost."""
    topic = kafka.create_topic(PARTITIONS)
    if protocol == "consumer":
        # A restart may take longer than the few seconds of the brokers here; 45 s is the classic protocol's default.
        set_session_timeout(kafka.bootstrap_servers, f"group-{topic}", 45)

    def start(name: str) -> Replica:
        return replicas(
            kafka.bootstrap_servers,
            topic,
            client_id=name,
            settings={"group_instance_id": name},
            kafka={"group.protocol": protocol},
        )

    def has_half(status: dict[str, object]) -> bool:
        return len(status["partitions"]) == PARTITIONS // 2  # type: ignore[arg-type] # it is a list

    staying, restarted = start("slot-1"), start("slot-2")
    before = restarted.wait_for("its half", has_half)
    rebalances = staying.wait_for("its half", has_half)["rebalances"]
    restarted.signal(signal.SIGTERM)
    assert await trio.to_thread.run_sync(restarted.wait) == 0
    restarted = start("slot-2")
    after = restarted.wait_for("its half", has_half)
    assert [p["partition"] for p in before["partitions"]] == [p["partition"] for p in after["partitions"]]
    revoked = [line["partitions"] for line in staying.logged("revoking")]
    assert staying.status()["rebalances"] == rebalances, revoked
    async with open_sse(staying) as one, open_sse(restarted) as two:
        await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, RECORDS, PARTITIONS)
        with trio.fail_after(seconds(30)):
            records = await sse_records(one, RECORDS // 2) + await sse_records(two, RECORDS // 2)
    assert sorted(int(record.data) for record in records) == list(range(RECORDS))
