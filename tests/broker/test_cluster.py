"""The broker that the other tests rely on does what they ask of it, and leaves nothing behind."""

import contextlib
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from testbed.broker import archives
from testbed.broker.cluster import KafkaCluster
from testbed.broker.jars import NODE, java, kafka_version
from testbed.broker.witness import (
    GROUPS,
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
from testbed.patience import seconds
from testbed.producing import produce_numbered
from tests.conftest import Kafka

SECONDS = 30.0
FORGET_SOON = {"broker.session.timeout.ms": 1000, "broker.heartbeat.interval.ms": 200}
"""A killed node may come back, and others take over from it, after a second."""
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


def values(bootstrap_servers: str, topic: str, number: int) -> list[bytes | None]:
    """The values of the first records of partition 0."""
    # Commits nothing: the first use of a group costs seconds, for Kafka makes its own topic then.
    settings = {"group.id": "reader", "enable.auto.commit": False, "log_level": 2}
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, **settings})
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    try:
        records = consumer.consume(number, SECONDS)
        return [record.value() for record in records if record.error() is None]
    finally:
        consumer.close()


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


@pytest.mark.usefixtures("java_and_maven")
def test_witness_reports_what_a_group_committed(kafka: Kafka) -> None:
    """It reports while the member is there, after it has left, and if there never was such a group."""
    at = kafka.bootstrap_servers
    topic = kafka.create_topic(3)
    group = f"group-{topic}"
    produce_numbered(at, topic, 8, 2)
    consumer = Consumer(
        {
            "bootstrap.servers": at,
            "group.id": group,
            "client.id": "reader-1",
            "group.protocol": "consumer",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "log_level": 2,
        }
    )
    try:
        consumer.subscribe([topic])
        assert len(consumer.consume(8, SECONDS)) == 8
        consumer.commit(offsets=[TopicPartition(topic, 0, 3), TopicPartition(topic, 1, 4)], asynchronous=False)

        rows = group_offsets(at, group)
        numbers = {number: (row.current_offset, row.log_end_offset, row.lag) for (_, number), row in rows.items()}
        assert numbers == {0: (3, 4, 1), 1: (4, 4, 0), 2: (None, 0, None)}
        ((consumer_id, host, client_id),) = {(row.consumer_id, row.host, row.client_id) for row in rows.values()}
        assert consumer_id is not None
        assert host is not None
        assert client_id == "reader-1"
        assert group_members(at, group) == [GroupMember(consumer_id, host, "reader-1", 3)]
        assert group_state(at, group) == GroupState("Stable", 1)
    finally:
        consumer.close()

    rows = group_offsets(at, group)
    assert {number: (row.current_offset, row.consumer_id) for (_, number), row in rows.items()} == {
        0: (3, None),
        1: (4, None),
    }
    assert group_offsets_without_java(at, group) == rows
    assert group_members(at, group) == []
    assert group_state(at, group) == GroupState("Empty", 0)

    nobody = f"nobody-{topic}"
    assert group_offsets(at, nobody) == {}
    assert group_offsets_without_java(at, nobody) == {}
    assert group_state(at, nobody) is None


@pytest.mark.usefixtures("java_and_maven")
def test_witness_never_says_nothing_when_it_could_not_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed question raises, although Kafka's tool exits with 0: no test takes it for an empty answer."""
    # What the tool does when no broker answers; for real it takes 30 s.
    tool = tmp_path / "java"
    tool.write_text("#!/bin/sh\necho\necho 'Error: Executing consumer group command failed due to Timed out'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(ToolError, match="Timed out"):
        group_offsets("127.0.0.1:9092", "readers")


@pytest.mark.usefixtures("java_and_maven")
def test_topics_and_their_records_come_and_go(kafka: Kafka) -> None:
    """Kafka's own tools agree that a topic was created, truncated and deleted."""
    at = kafka.bootstrap_servers
    topic = kafka.create_topic(1)
    produce_numbered(at, topic, 5, 1)
    assert values(at, topic, 5) == [b"0", b"1", b"2", b"3", b"4"]
    delete_records(at, {(topic, 0): 3})
    assert values(at, topic, 2) == [b"3", b"4"]
    with pytest.raises(ToolError, match="OffsetOutOfRange"):
        delete_records(at, {(topic, 0): 100})
    assert topic in topic_list(at)
    kafka.delete_topic(topic)
    assert topic not in topic_list(at)


def test_node_comes_back_with_its_data_and_port(own_cluster: Callable[..., KafkaCluster]) -> None:
    """A node that was killed, stopped or paused returns as it was, even if the thread that started it has ended."""
    cluster = own_cluster(1, FORGET_SOON)
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
    assert values(at, "assets", 3) == [b"0", b"1", b"2"]
    with pytest.raises(RuntimeError, match="runs already"):
        cluster.start_node(0)


def test_three_nodes_go_on_without_one(own_cluster: Callable[..., KafkaCluster]) -> None:
    """Topics are on all three nodes; with one killed, records are still stored and read, and it returns."""
    cluster = own_cluster(3, FORGET_SOON)
    cluster.start()
    assert {0, 1, 2} == set(cluster.admin.list_topics(timeout=SECONDS).brokers)
    cluster.create_topic("assets", 1)
    produce_numbered(cluster.bootstrap_servers, "assets", 5, 1)
    leader = cluster.admin.list_topics("assets", timeout=SECONDS).topics["assets"].partitions[0].leader
    cluster.kill_node(leader)
    produce_numbered(cluster.bootstrap_servers, "assets", 5, 1, first=5)
    assert [str(n).encode() for n in range(10)] == values(cluster.bootstrap_servers, "assets", 10)
    cluster.start_node(leader)
    cluster.wait_until_ready()


def test_failed_start_shows_why(own_cluster: Callable[..., KafkaCluster]) -> None:
    """The error contains the reason that the node logged, and a node that ended by itself leaves nothing."""
    cluster = own_cluster()
    host, _, port = cluster.bootstrap_servers.partition(":")
    with socket.create_server((host, int(port))), pytest.raises(RuntimeError, match="Address already in use"):
        cluster.start()
    assert ended(cluster.pid(0), 0)


def test_wrong_property_is_reported(own_cluster: Callable[..., KafkaCluster]) -> None:
    """The error contains the reason that Kafka gave when it ended."""
    with pytest.raises(RuntimeError, match=r"process\.roles"):
        own_cluster(1, {"process.roles": "nonsense"}).start()


@pytest.mark.usefixtures("java_and_maven")
def test_no_node_outlives_its_parent(script: Callable[[list[str]], subprocess.Popen[str]]) -> None:
    """A node ends with its parent, even after kill -9."""
    code = (
        "import threading; from testbed.broker.cluster import KafkaCluster\n"
        "with KafkaCluster() as cluster: print(cluster.pid(0)); threading.Event().wait()"
    )
    parent = script(["-u", "-c", code])
    assert parent.stdout is not None
    node = psutil.Process(int(parent.stdout.readline()))
    assert node.is_running()
    parent.kill()
    try:
        assert ended(node.pid, 5)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            node.kill()


@pytest.mark.usefixtures("java_and_maven")
def test_broker_for_hand_use(script: Callable[[list[str]], subprocess.Popen[str]]) -> None:
    """``python -m testbed.broker`` prints its address, has the topics, and exits with 0 on SIGTERM, leaving nothing."""
    hand = script(["-u", "-m", "testbed.broker", "--topic", "one:1", "--topic", "two:2"])
    assert hand.stdout is not None
    lines = [hand.stdout.readline().strip() for _ in range(5)]
    assert lines[1] == "Topics: one (1), two (2)"
    name, _, address = lines[2].partition("=")
    assert name == "KAFKA_BOOTSTRAP_SERVERS"
    topics = AdminClient({"bootstrap.servers": address, "log_level": 2}).list_topics(timeout=SECONDS).topics
    assert {name: len(topic.partitions) for name, topic in topics.items()} == {"one": 1, "two": 2}
    (node,) = psutil.Process(hand.pid).children()
    folder = Path(node.cmdline()[-1]).parent
    assert folder.is_dir()
    hand.terminate()
    assert hand.wait(SECONDS) == 0
    assert ended(node.pid, 0)
    assert not folder.exists()


@pytest.mark.parametrize("main", [NODE, GROUPS])
def test_classes_are_loaded_from_an_archive(main: str, tmp_path: Path, java_and_maven: None) -> None:  # noqa: ARG001
    """A node and a tool start with less work than Java needs to load some thousand classes from jars."""
    archives.make()
    log = tmp_path / "classes.log"
    program, *arguments = java(main, "--version")
    command = [program, f"-Xlog:class+load:file={log}", *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=seconds(SECONDS))
    # Of the archive that is Java's own, they are from the base of two.
    assert log.read_text().count("shared objects file (top)") > 100


def test_an_archive_that_does_not_fit_is_left_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    java_and_maven: None,  # noqa: ARG001
) -> None:
    """Java then loads its classes from the jars, and writes nothing into the output of a tool."""
    archive = tmp_path / "archive.jsa"
    archive.write_text("nonsense")
    monkeypatch.setattr("testbed.broker.jars.class_archive", lambda _: archive)
    command = java(GROUPS, "--version")
    assert f"-XX:SharedArchiveFile={archive}" in command
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds(SECONDS))
    assert done.stdout.split() == [kafka_version()]
    assert not done.stderr
