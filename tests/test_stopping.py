"""Guarantee G7: a stop is graceful whatever a client does; a crash commits what is true."""

import signal
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import trio

from testbed.broker.cluster import KafkaCluster
from testbed.clients import open_sse, open_ws, sse_records, ws_close_code, ws_records
from testbed.patience import seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from tests.conftest import Kafka

RECORDS = 30_000
SIZE_BYTES = 1000
SHUTDOWN_SECONDS = 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_stop_while_one_client_reads_nothing(
    kafka: Kafka, replicas: Callable[..., Replica], number: signal.Signals
) -> None:
    """The exit code is 0 in time, others get a goodbye, and dispatched records are committed."""
    topic = kafka.create_topic(2)
    # The history holds what the WebSocket has to read after the other one.
    settings = {"shutdown_seconds": SHUTDOWN_SECONDS, "history_bytes": "256MiB"}
    replica = replicas(kafka.bootstrap_servers, topic, settings=settings)
    replica.wait_until_ready()
    async with (
        open_sse(replica, receive_buffer_bytes=4096),  # never reads
        open_sse(replica) as reader,
        open_ws(replica) as websocket,
    ):
        await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, RECORDS, 2, SIZE_BYTES)
        with trio.fail_after(seconds(30)):
            await sse_records(reader, RECORDS)
            await ws_records(websocket, RECORDS)
        replica.signal(number)
        with trio.fail_after(SHUTDOWN_SECONDS):
            goodbye = await reader.next_control("goodbye")
            assert goodbye["code"] == 1012
            assert await reader.next_event() is None
            assert reader.ended
            assert await ws_close_code(websocket) == 1012
        exit_code = await trio.to_thread.run_sync(replica.wait, SHUTDOWN_SECONDS)
    assert exit_code == 0, replica.log[-3000:]
    rows = kafka.group_offsets(replica.group)
    assert [row.current_offset for row in rows.values()] == [RECORDS // 2] * 2
    assert [row.consumer_id for row in rows.values()] == [None] * 2, "the member has left the group"


async def test_not_ready_while_stopping(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """While a stuck client delays the stop, the replica is not ready and refuses new clients."""
    topic = kafka.create_topic(1)
    replica = replicas(kafka.bootstrap_servers, topic, settings={"shutdown_seconds": 10})
    replica.wait_until_ready()
    async with open_sse(replica, receive_buffer_bytes=4096):
        await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, RECORDS, 1, SIZE_BYTES)
        replica.wait_for("the client is full", lambda s: s["subscribers"]["catching-up"] == 1)
        replica.signal(signal.SIGTERM)
        with trio.fail_after(seconds(5)):
            await trio.to_thread.run_sync(
                lambda: replica.wait_for("not ready", lambda status: not status["ready"], seconds=5)
            )
        assert replica.get("/readyz").json()["reasons"] == ["the replica is stopping"]
        async with open_sse(replica) as late:
            assert late.response.status_code == 200
            assert (await late.next_control("goodbye"))["code"] == 1013
        assert await trio.to_thread.run_sync(replica.wait) == 0


async def test_crash_of_the_hub(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """The exit code is 1, the log says why, and exactly what was dispatched is committed."""
    topic = kafka.create_topic(1)
    fault = (
        "from dispatcher.hub.hub import Hub\n"
        "publish = Hub.publish\n"
        "def fail(self, batch):\n"
        "    if batch.records[-1].value == b'crash': raise RuntimeError('put in on purpose')\n"
        "    publish(self, batch)\n"
        "Hub.publish = fail\n"
    )
    replica = replicas(kafka.bootstrap_servers, topic, code=fault)
    replica.wait_until_ready()
    async with open_sse(replica) as stream:
        await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, 1000, 1)
        with trio.fail_after(seconds(30)):
            await sse_records(stream, 1000)
            await trio.to_thread.run_sync(_produce_crash, kafka.bootstrap_servers, topic)
            exit_code = await trio.to_thread.run_sync(replica.wait)
    assert exit_code == 1
    assert "put in on purpose" in replica.log
    assert replica.logged("crashed, stopping")
    row = kafka.group_offsets(replica.group)[topic, 0]
    assert (row.current_offset, row.log_end_offset) == (1000, 1001)


def _produce_crash(bootstrap_servers: str, topic: str) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": bootstrap_servers})
    producer.produce(topic, value=b"crash", partition=0)
    assert producer.flush(10) == 0


WORDS_AT_HALF_TIME = "import dispatcher.process\ndispatcher.process.LAST_WORDS_SHARE = 0.5"
"""Between the line that says so and the end a slow machine has time to write it."""


async def test_a_stop_while_no_broker_answers(
    own_cluster: Callable[..., KafkaCluster], replicas: Callable[..., Replica]
) -> None:
    """If everything is committed the exit code is 0, otherwise 1 after `shutdown_seconds`, with a log line."""
    cluster = own_cluster()
    await trio.to_thread.run_sync(cluster.start)
    cluster.create_topic("assets", 2)
    servers, uncommitted = cluster.bootstrap_servers, {"commit_interval_seconds": 600, "shutdown_seconds": 6}
    # A member that has lost its partitions has nothing left to commit, and closes.
    patient = {"session.timeout.ms": 120_000}
    one = replicas(servers, "assets", group="one", settings={"shutdown_seconds": 600})
    two = replicas(servers, "assets", group="two", settings=uncommitted, kafka=patient, code=WORDS_AT_HALF_TIME)
    async with open_sse(one) as first, open_sse(two) as second:
        for replica in (one, two):
            await trio.to_thread.run_sync(replica.wait_until_ready)
        await trio.to_thread.run_sync(produce_numbered, servers, "assets", 100, 2)
        with trio.fail_after(seconds(30)):
            await sse_records(first, 100)
            await sse_records(second, 100)
        await trio.to_thread.run_sync(one.wait_for, "all committed", lambda status: committed(status) == [50, 50])
        assert committed(two.status()) == [0, 0]
        await trio.to_thread.run_sync(cluster.kill_node, 0)
        for replica in (one, two):
            replica.signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(one.wait, 60) == 0
        assert await trio.to_thread.run_sync(two.wait, 60) == 1
    assert one.logged("stopped")
    assert not one.logged(TOO_LONG)
    assert two.logged(TOO_LONG)
    assert not two.logged("stopped")


TOO_LONG = "stopping took too long, exiting; uncommitted records will be delivered again"


def committed(status: Mapping[str, Any]) -> list[int]:
    """The committed offset of each partition."""
    return [partition["committed"] for partition in status["partitions"]]


SIGNAL_AT_ONCE = """
import os, signal
import dispatcher.supervisor as supervisor
supervisor._warn_of_any_host = lambda _settings: os.kill(os.getpid(), signal.%s)
"""
"""What is called as soon as the replica listens."""


def test_a_stop_as_soon_as_it_listens(replicas: Callable[..., Replica]) -> None:
    """It exits with 0, as at any later moment."""
    replica = replicas("127.0.0.1:9", "assets", code=SIGNAL_AT_ONCE % "SIGTERM")
    assert replica.wait() == 0
    assert replica.logged("stopped")


def test_a_reload_as_soon_as_it_listens(replicas: Callable[..., Replica]) -> None:
    """It continues to serve; without a handler, SIGHUP would end the process."""
    replica = replicas("127.0.0.1:9", "assets", code=SIGNAL_AT_ONCE % "SIGHUP")
    assert replica.status()["state"] == "broker-down"
    replica.signal(signal.SIGTERM)
    assert replica.wait() == 0
