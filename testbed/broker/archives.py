"""Archives of Kafka's classes (Java's class data sharing), from which nodes and tools start with half of the work.

Java writes an archive when a process ends in good order. So a node and a tool run for that once for each version of
Kafka and of Java, and what they loaded is there for all that start later.
"""

import fcntl
import tempfile
from pathlib import Path

from confluent_kafka import Consumer, Producer

from testbed.broker import cluster as clusters
from testbed.broker import witness
from testbed.broker.jars import NODE, class_archive, jars
from testbed.patience import seconds

STOP_SECONDS = 60.0
"""How long a node may take to end and to write its archive."""

WORK_SECONDS = 30.0

_ALL = (NODE, witness.GROUPS)


def make() -> None:
    """Make the archives that are not there yet.

    Raises:
        RuntimeError: a node did not start or stop, and the message holds the end of its log.
    """
    if _exist():
        return
    cache = jars().parent
    # The second one waits here, and then finds them. The lock of the jars is another: a node needs it to start.
    with (cache / "archives.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _exist():
            with tempfile.TemporaryDirectory(dir=cache) as fresh:
                _record(Path(fresh))


def _exist() -> bool:
    return all(class_archive(main).exists() for main in _ALL)


def _record(fresh: Path) -> None:
    node, tool = fresh / "node.jsa", fresh / "tool.jsa"
    with clusters.KafkaCluster(record=node) as cluster:
        _use(cluster)
        witness.group_offsets(cluster.bootstrap_servers, "group", record=tool)
        cluster.stop_node(0, STOP_SECONDS)
    for main, archive in zip(_ALL, (node, tool), strict=True):
        # Empty if this Java writes none: it is not asked again.
        archive.touch()
        archive.rename(class_archive(main))


def _use(cluster: "clusters.KafkaCluster") -> None:
    """Write a record, read it in a group and commit it: what most tests have a node do."""
    cluster.create_topic("topic", 1)
    producer = Producer({"bootstrap.servers": cluster.bootstrap_servers, "log_level": 2})
    producer.produce("topic", "value")
    producer.flush(seconds(WORK_SECONDS))
    properties = {"group.id": "group", "auto.offset.reset": "earliest", "log_level": 2}
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap_servers, **properties})
    try:
        consumer.subscribe(["topic"])
        message = consumer.poll(seconds(WORK_SECONDS))
        if message is not None and message.error() is None:
            consumer.commit(message=message, asynchronous=False)
    finally:
        consumer.close()
