"""Brokers and replicas for every test that needs them."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.broker.cluster import KafkaCluster
from tests.broker.jars import missing_tools
from tests.broker.witness import GroupOffset, group_offsets
from tests.replicas import Replica

_used: list[str] = []


class Kafka:
    """The broker of this run: started by the tests, or one that runs already."""

    def __init__(self, bootstrap_servers: str, description: str) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.description = description
        self.admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 2})

    def create_topic(self, partitions: int, config: Mapping[str, str] | None = None) -> str:
        """Create a topic with a name of its own and return the name."""
        name = f"assets-{uuid.uuid4().hex[:12]}"
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=dict(config or {}))
        self.admin.create_topics([topic])[name].result(30)
        return name

    def group_offsets(self, group: str) -> dict[tuple[str, int], GroupOffset]:
        """What Kafka's own tool says that the group has committed."""
        return group_offsets(self.bootstrap_servers, group)


def _need_java() -> None:
    missing = missing_tools()
    if missing:
        reason = f"a real broker needs {' and '.join(missing)}, which this machine does not have"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """A real Apache Kafka with one node."""
    external = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if external:
        broker = Kafka(external, f"external, at {external}")
        _used.append(broker.description)
        yield broker
        return
    _need_java()
    with KafkaCluster() as cluster:
        broker = Kafka(cluster.bootstrap_servers, cluster.description)
        _used.append(broker.description)
        yield broker


@pytest.fixture
def own_cluster() -> Iterator[Callable[..., KafkaCluster]]:
    """Makes clusters that one test may stop and kill as it likes; they are not started yet."""
    _need_java()
    clusters: list[KafkaCluster] = []

    def make(nodes: int = 1) -> KafkaCluster:
        clusters.append(KafkaCluster(nodes))
        return clusters[-1]

    yield make
    for cluster in clusters:
        cluster.stop()


@pytest.fixture
def replicas() -> Iterator[Callable[..., Replica]]:
    """Starts replicas as real processes, and ends them for sure."""
    started: list[Replica] = []

    def start(*arguments: str, **keywords: object) -> Replica:
        started.append(Replica(*arguments, **keywords))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for replica in started:
        replica.end()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a real broker."""
    for item in items:
        if {"kafka", "own_cluster"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.real_broker)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which broker the results are about."""
    used = ", ".join(_used) or "none was needed"
    terminalreporter.write_line(f"Kafka broker: {used}")
    if shutil.which("java") is None and not _used:
        terminalreporter.write_line("Install Java and Maven to run the tests that need a real broker.")
