"""Lag in ``/status`` and ``/metrics``, of a real Kafka: what waits is counted, and what is not known is not 0."""

from collections.abc import Callable

import trio
from confluent_kafka import Producer

from testbed.broker.cluster import KafkaCluster
from testbed.clients import open_sse, sse_records
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from tests.conftest import Kafka

NO_ROOM = {"pause_above_bytes": 2_000, "resume_below_bytes": 1_000}


def lag_metric(replica: Replica) -> list[str]:
    """The series of the lag, as Prometheus reads them."""
    return [line for line in replica.get("/metrics").text.splitlines() if line.startswith("dispatcher_lag_records{")]


async def test_an_open_transaction_hides_no_waiting_record(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """Lag counts to the high watermark, and the last stable offset is shown beside it."""
    topic = kafka.create_topic(1)
    replica = replicas(kafka.bootstrap_servers, topic)
    replica.wait_until_ready()
    async with open_sse(replica) as stream:
        await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, 10, 1)
        await sse_records(stream, 10)
        producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": topic})
        await trio.to_thread.run_sync(producer.init_transactions, 30)
        producer.begin_transaction()
        for _ in range(5):
            producer.produce(topic, b"not decided")
        await trio.to_thread.run_sync(producer.flush, 30)
        status = await trio.to_thread.run_sync(
            replica.wait_for, "lag of what is open", lambda s: s["partitions"][0]["lag"] == 5
        )
        (partition,) = status["partitions"]
        assert (partition["log_end"], partition["last_stable_offset"], partition["committed"]) == (15, 10, 10)
        assert (partition["next_offset"], partition["position"]) == (10, 10)
        assert "dispatcher_undecided_records" in replica.get("/metrics").text
        await trio.to_thread.run_sync(producer.commit_transaction, 30)
        await sse_records(stream, 5)
        await trio.to_thread.run_sync(replica.wait_for, "no lag", lambda s: s["partitions"][0]["lag"] == 0)


def test_a_group_without_a_commit_has_no_lag_of_zero(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """Its lag is unknown while nothing says where it is."""
    topic = kafka.create_topic(1)
    produce_numbered(kafka.bootstrap_servers, topic, 10, 1)
    replica = replicas(kafka.bootstrap_servers, topic)
    status = replica.wait_for("the log's end", lambda s: s["partitions"] and s["partitions"][0]["log_end"] == 10)
    (partition,) = status["partitions"]
    if partition["committed"] is None:
        assert (partition["lag"], lag_metric(replica)) == (None, [])
    else:
        assert (partition["committed"], partition["lag"]) == (0, 10)


def test_while_fetching_is_paused_the_lag_becomes_unknown(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """The client repeats the watermark of the last fetch, whatever is produced."""
    topic = kafka.create_topic(1)
    replica = replicas(kafka.bootstrap_servers, topic, settings=NO_ROOM)
    replica.wait_for("the end of the empty log", lambda s: s["partitions"] and s["partitions"][0]["log_end"] == 0)
    produce_numbered(kafka.bootstrap_servers, topic, 1_000, 1)
    replica.wait_for("paused", lambda s: s["partitions"] and s["partitions"][0]["paused"])
    produce_numbered(kafka.bootstrap_servers, topic, 1_000, 1)
    replica.wait_for("unknown", lambda s: s["partitions"][0]["log_end"] is None and s["partitions"][0]["lag"] is None)
    assert lag_metric(replica) == []
    assert f'dispatcher_assigned_partition{{partition="0",topic="{topic}"}} 1.0' in replica.get("/metrics").text


async def test_while_the_broker_is_away_the_lag_is_unknown(
    own_cluster: Callable[..., KafkaCluster], replicas: Callable[..., Replica]
) -> None:
    """It was 0 before, unknown during the outage, and known again afterwards."""
    cluster = own_cluster()
    await trio.to_thread.run_sync(cluster.start)
    cluster.create_topic("assets", 1)
    # Longer than this test, so that the partition stays: what has left has no lag at all.
    replica = replicas(cluster.bootstrap_servers, "assets", kafka={"session.timeout.ms": 45_000})
    async with open_sse(replica) as stream:
        await trio.to_thread.run_sync(produce_numbered, cluster.bootstrap_servers, "assets", 10, 1)
        await sse_records(stream, 10)
        zero = lambda s: s["partitions"] and s["partitions"][0]["lag"] == 0  # noqa: E731
        await trio.to_thread.run_sync(replica.wait_for, "no lag", zero)
        await trio.to_thread.run_sync(cluster.kill_node, 0)
        unknown = lambda s: s["partitions"][0]["lag"] is None  # noqa: E731
        status = await trio.to_thread.run_sync(replica.wait_for, "unknown", unknown)
        assert [(p["log_end"], p["committed"]) for p in status["partitions"]] == [(None, 10)]
        assert lag_metric(replica) == []
        cluster.start_node(0)
        await trio.to_thread.run_sync(cluster.wait_until_ready)
        await trio.to_thread.run_sync(replica.wait_for, "known again", zero)
