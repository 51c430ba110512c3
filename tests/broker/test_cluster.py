"""The broker that the other tests rely on does what they ask of it, and leaves nothing behind."""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from tests.broker.cluster import KafkaCluster
from tests.broker.witness import (
    GroupMember,
    GroupState,
    ToolError,
    delete_records,
    group_members,
    group_offsets,
    group_offsets_without_java,
    group_state,
    topic_list,
)
from tests.producing import produce_numbered

SECONDS = 30.0
ROOT = Path(__file__).parents[2]


def ended(pid: int, seconds: float) -> bool:
    """Wait until a process has ended, also one that is not our child."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], seconds)[0])
    finally:
        os.close(process)


def values(cluster: KafkaCluster, topic: str, number: int) -> list[bytes | None]:
    """The first records of partition 0."""
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap_servers, "group.id": "reader", "log_level": 2})
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    try:
        records = consumer.consume(number, SECONDS)
        return [record.value() for record in records if record.error() is None]
    finally:
        consumer.close()


@pytest.fixture
def cluster(own_cluster: Callable[..., KafkaCluster]) -> KafkaCluster:
    """One node, started."""
    started = own_cluster()
    started.start()
    return started


@pytest.fixture
def script() -> Iterator[Callable[[list[str]], subprocess.Popen[str]]]:
    """Starts Python processes that start clusters of their own."""
    processes: list[subprocess.Popen[str]] = []

    def start(arguments: list[str]) -> subprocess.Popen[str]:
        processes.append(
            subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, bufsize=1)
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_witness_tells_what_a_group_committed(cluster: KafkaCluster) -> None:
    """While the member is there and after it has left, and never "nothing" when the broker could not be asked."""
    at = cluster.bootstrap_servers
    cluster.create_topic("assets", 3)
    produce_numbered(at, "assets", 8, 2)
    consumer = Consumer(
        {
            "bootstrap.servers": at,
            "group.id": "readers",
            "client.id": "reader-1",
            "group.protocol": "consumer",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "log_level": 2,
        }
    )
    try:
        consumer.subscribe(["assets"])
        assert len(consumer.consume(8, SECONDS)) == 8
        consumer.commit(offsets=[TopicPartition("assets", 0, 3), TopicPartition("assets", 1, 4)], asynchronous=False)

        rows = group_offsets(at, "readers")
        assert {key: (row.current_offset, row.log_end_offset, row.lag) for key, row in rows.items()} == {
            ("assets", 0): (3, 4, 1),
            ("assets", 1): (4, 4, 0),
            ("assets", 2): (None, 0, None),
        }
        assert {("reader-1", "/127.0.0.1")} == {(row.client_id, row.host) for row in rows.values()}
        (consumer_id,) = {row.consumer_id for row in rows.values()}
        assert consumer_id is not None
        assert [GroupMember(consumer_id, "/127.0.0.1", "reader-1", 3)] == group_members(at, "readers")
        assert GroupState("Stable", 1) == group_state(at, "readers")
    finally:
        consumer.close()

    rows = group_offsets(at, "readers")
    assert [(row.current_offset, row.consumer_id) for row in rows.values()] == [(3, None), (4, None)]
    assert rows == group_offsets_without_java(at, "readers")
    assert GroupState("Empty", 0) == group_state(at, "readers")

    assert {} == group_offsets(at, "nobody") == group_offsets_without_java(at, "nobody")
    assert group_members(at, "nobody") == []
    assert group_state(at, "nobody") is None

    cluster.kill_node(0)
    with pytest.raises(ToolError, match="failed"):
        group_offsets(at, "readers")


def test_topics_and_their_records_come_and_go(cluster: KafkaCluster) -> None:
    """Kafka's own tools agree that a topic was created, cut and deleted."""
    at = cluster.bootstrap_servers
    cluster.create_topic("assets", 1, config={"retention.ms": "60000"})
    produce_numbered(at, "assets", 5, 1)
    assert values(cluster, "assets", 5) == [b"0", b"1", b"2", b"3", b"4"]
    delete_records(at, {("assets", 0): 3})
    assert values(cluster, "assets", 2) == [b"3", b"4"]
    with pytest.raises(ToolError, match="OffsetOutOfRange"):
        delete_records(at, {("assets", 0): 100})
    assert "assets" in topic_list(at)
    cluster.delete_topic("assets")
    assert "assets" not in topic_list(at)


def test_node_comes_back_with_its_data_and_port(own_cluster: Callable[..., KafkaCluster]) -> None:
    """Killed, stopped in good order or paused, a node comes back as it was; the thread that started it may end."""
    cluster = own_cluster()
    starter = threading.Thread(target=cluster.start)
    starter.start()
    starter.join()
    assert not ended(cluster.pid(0), 0.5)
    at = cluster.bootstrap_servers
    cluster.create_topic("assets", 1)
    for n, (take_away, give_back) in enumerate(
        [
            (cluster.kill_node, cluster.start_node),
            (cluster.stop_node, cluster.start_node),
            (cluster.pause_node, cluster.resume_node),
        ]
    ):
        produce_numbered(at, "assets", 1, 1, first=n)
        take_away(0)
        with pytest.raises(KafkaException):
            cluster.admin.list_topics(timeout=0.5)
        give_back(0)
        cluster.wait_until_ready()
        assert at == cluster.bootstrap_servers
        assert [str(i).encode() for i in range(n + 1)] == values(cluster, "assets", n + 1)
    with pytest.raises(RuntimeError, match="runs already"):
        cluster.start_node(0)


def test_three_nodes_go_on_without_one(own_cluster: Callable[..., KafkaCluster]) -> None:
    """Topics are on all three; with one killed, records are still stored and read; it comes back."""
    cluster = own_cluster(3)
    cluster.start()
    assert {0, 1, 2} == set(cluster.admin.list_topics(timeout=SECONDS).brokers)
    cluster.create_topic("assets", 1)
    produce_numbered(cluster.bootstrap_servers, "assets", 5, 1)
    leader = cluster.admin.list_topics("assets", timeout=SECONDS).topics["assets"].partitions[0].leader
    cluster.kill_node(leader)
    produce_numbered(cluster.bootstrap_servers, "assets", 5, 1, first=5)
    assert [str(n).encode() for n in range(10)] == values(cluster, "assets", 10)
    cluster.start_node(leader)
    cluster.wait_until_ready()


@pytest.mark.parametrize("fault", ["port", "property"])
def test_failed_start_shows_why(own_cluster: Callable[..., KafkaCluster], fault: str) -> None:
    """The error holds the reason that Kafka gave, and no node is left."""
    if fault == "property":
        with pytest.raises(RuntimeError, match=r"process\.roles"), own_cluster(1, {"process.roles": "nonsense"}):
            pass
        return
    cluster = own_cluster()
    host, _, port = cluster.bootstrap_servers.partition(":")
    with socket.create_server((host, int(port))):
        with pytest.raises(RuntimeError, match="Address already in use"):
            cluster.start()
        assert ended(cluster.pid(0), 0)


def test_no_node_outlives_its_parent(
    own_cluster: Callable[..., KafkaCluster], script: Callable[..., "subprocess.Popen[str]"]
) -> None:
    """Also when the parent has no chance to stop it: kill -9."""
    del own_cluster  # only says whether there can be a broker
    code = (
        "import threading; from tests.broker.cluster import KafkaCluster\n"
        "with KafkaCluster() as cluster: print(cluster.pid(0)); threading.Event().wait()"
    )
    parent = script(["-u", "-c", code])
    assert parent.stdout is not None
    node = int(parent.stdout.readline())
    assert not ended(node, 0)
    parent.kill()
    assert ended(node, SECONDS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_broker_for_hand_use(
    own_cluster: Callable[..., KafkaCluster], script: Callable[..., "subprocess.Popen[str]"], number: signal.Signals
) -> None:
    """``python -m tests.broker`` prints where it is, has the topics, and stops with exit code 0 and without a trace."""
    del own_cluster
    hand = script(["-u", "-m", "tests.broker", "--topic", "one:1", "--topic", "two:2"])
    assert hand.stdout is not None
    lines = [hand.stdout.readline().strip() for _ in range(5)]
    assert lines[1] == "Topics: one (1), two (2)"
    name, _, address = lines[2].partition("=")
    assert name == "KAFKA_BOOTSTRAP_SERVERS"
    assert {"one", "two"} <= set(topic_list(address))
    (node,) = psutil.Process(hand.pid).children()
    folder = Path(node.cmdline()[-1]).parent
    assert folder.is_dir()
    hand.send_signal(number)
    assert hand.wait(SECONDS) == 0
    assert ended(node.pid, 0)
    assert not folder.exists()
