"""Brokers and replicas for every test that needs them."""

import functools
import gc
import os
import re
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from hypothesis import HealthCheck, settings

from testbed import forking
from testbed.broker import topics
from testbed.broker.cluster import KafkaCluster
from testbed.broker.jars import missing_tools
from testbed.broker.witness import Offsets, group_offsets, group_offsets_without_java
from testbed.patience import seconds
from testbed.replicas import Replica

# An example may take as long as a busy machine lets it, and be drawn as slowly: no test asserts a time.
settings.register_profile("dispatcher", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dispatcher")

TESTS = Path(__file__).parent

# A shell starts its background jobs with SIGINT ignored, and every process of a test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SOAK = ("audit/", "broker/", "chaos/", "fuzz/", "recipes/", "test_release.py")
CHAOS = "chaos/test_chaos.py"
BROWSER = (
    "test_page_failover.py",
    "web/test_client_js.py",
    "web/test_client_package.py",
    "web/test_compression_in_browser.py",
    "web/test_many_tabs.py",
    "web/test_page_in_browser.py",
    "web/test_silent_proxy.py",
    "web/test_tokens_in_browser.py",
    "web/test_page_trials.py",
)
"""Where the tests of two tiers are; the others need a broker, by their fixtures, or nothing."""
COMPUTES = ("sansio/", "hub/")
"""Parts of the last tier that only compute; two tests of the hub need a broker."""

NAMES_A_BROKER = re.compile(r"\b(?:kafka: Kafka|own_cluster|shared_nodes|java_and_maven)\b")
"""How files name the fixtures that give a broker, or ask for the programs that it needs."""

SLOW = (
    "chaos/test_chaos.py",
    "kafka/test_leader_away.py",
    "test_stalled_partitions.py",
    "test_network_cut.py",
    "test_broker_away.py",
    "test_release.py",
    "recipes/",
    "chaos/test_crowd.py",
    "test_whole_topic.py",
    "test_topic_health.py",
    "test_dead_letters.py",
    "test_beginnings.py",
    "test_page_failover.py",
    "web/test_client_js.py",
    "web/test_bad_input.py",
    "command/test_tail.py",
    "client/test_cases.py",
    "workers/test_processes.py",
    "hub/test_planted_faults.py",
)
"""Files that run first, so that no process is left with a minute of one file when the others have ended."""

FEW_THREADS: Mapping[str, str | int] = {
    # Kafka's threads wake several times per second, and a test's node has little to do.
    "num.network.threads": 1,
    "num.io.threads": 2,
    "background.threads": 1,
    "group.coordinator.threads": 1,
    "share.coordinator.threads": 1,
    # Nobody asks for its statistics, and it needs no 128 MiB to compact what tests write.
    "metric.reporters": "",
    "log.cleaner.dedupe.buffer.size": 2 * 1024 * 1024,
    # Without records the controller writes two per second that say nothing.
    "metadata.max.idle.interval.ms": 0,
}
"""Properties of the tests' nodes, which start with a fifth less CPU, and idle with half of it."""

_used: list[str] = []
"""Which brokers the results of this run are about."""
_missing: list[str] = []
"""Why tests that need a real broker could not run."""


class Kafka:
    """The broker of this run: started by the tests, or one that runs already."""

    def __init__(self, bootstrap_servers: str, description: str) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.description = description
        self.admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 2})

    def create_topic(self, partitions: int, config: Mapping[str, str] | None = None, name: str = "") -> str:
        """Create a topic, with a name of its own unless one is given, and return the name."""
        name = name or f"assets-{uuid.uuid4().hex[:12]}"
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=dict(config or {}))
        self.admin.create_topics([topic])[name].result(seconds(30))
        topics.wait_until_known(self.admin, name)
        return name

    def delete_topic(self, name: str) -> None:
        """Delete a topic."""
        self.admin.delete_topics([name])[name].result(seconds(30))

    def recreate_topic(self, name: str, partitions: int, while_gone: Callable[[], object] = lambda: None) -> None:
        """Delete a topic and make another one with its name."""
        self.delete_topic(name)
        while_gone()
        deadline = time.monotonic() + seconds(30)
        while True:
            try:
                self.admin.create_topics([NewTopic(name, num_partitions=partitions)])[name].result(seconds(30))
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                topics.wait_until_known(self.admin, name)
                return

    def group_offsets(self, group: str) -> Offsets:
        """Return what the group has committed, from Kafka's own tool, or without Java from librdkafka."""
        ask = group_offsets_without_java if missing_tools() else group_offsets
        return ask(self.bootstrap_servers, group)


def _need_java_and_maven() -> None:
    missing = missing_tools()
    if missing:
        reason = f"a real broker needs {' and '.join(missing)}, which this machine does not have"
        _missing[:] = missing
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


def _say_used(description: str) -> None:
    if description not in _used:
        _used.append(description)


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """A real Apache Kafka with one node."""
    external = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if external:
        broker = Kafka(external, f"external, at {external}")
        _say_used(broker.description)
        yield broker
        return
    _need_java_and_maven()
    with KafkaCluster(properties=FEW_THREADS) as cluster:
        broker = Kafka(cluster.bootstrap_servers, cluster.description)
        _say_used(broker.description)
        yield broker


@pytest.fixture(scope="session")
def java_and_maven() -> None:
    """Provide Java and Maven for tests that run Kafka's own tools, or start a broker without a fixture."""
    _need_java_and_maven()


@pytest.fixture
def own_cluster(java_and_maven: None) -> Iterator[Callable[..., KafkaCluster]]:  # noqa: ARG001
    """Makes clusters that one test may stop and kill as it likes; they are not started yet."""
    with ExitStack() as made:

        def make(nodes: int = 1, properties: Mapping[str, str | int] | None = None, **more: Any) -> KafkaCluster:
            cluster = KafkaCluster(nodes, {**FEW_THREADS, **(properties or {})}, **more)
            made.callback(cluster.stop)
            _say_used(cluster.description)
            return cluster

        yield make


@pytest.fixture(scope="module")
def shared_nodes(java_and_maven: None) -> Iterator[KafkaCluster]:  # noqa: ARG001
    """Three nodes for the tests of a file, which may kill one of them if they start it again."""
    with KafkaCluster(3, FEW_THREADS) as cluster:
        _say_used(cluster.description)
        yield cluster


@pytest.fixture
def replicas() -> Iterator[Callable[..., Replica]]:
    """Starts replicas as real processes, and ends them for sure."""
    with ExitStack() as started:

        def start(*arguments: str, **keywords: object) -> Replica:
            replica = Replica(*arguments, **keywords)  # type: ignore[arg-type]
            started.callback(replica.end)
            return replica

        yield start


def pytest_configure() -> None:
    """Let replicas be forks (testbed/forking.py); those that a test starts with ``fresh=True`` are not."""
    forking.allow()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files without a test of the tier that is asked for: to import all of them takes 12 s of a core."""
    tier, path = config.getoption("markexpr"), collection_path.relative_to(TESTS).as_posix()
    if collection_path.suffix != ".py":
        return None
    only: dict[str, str | tuple[str, ...]] = {
        "soak": SOAK,
        "soak and not chaos": SOAK,
        "chaos": CHAOS,
        "browser": BROWSER,
        "sansio": "sansio/",
        "hub": "hub/",
    }
    if tier in only:
        return None if path.startswith(only[tier]) else True
    others = {
        "tests": (*SOAK, *BROWSER),
        "tests and not sansio and not hub": (*SOAK, *BROWSER, *COMPUTES),
        "broker": (*SOAK, *BROWSER, "sansio/"),
    }
    if tier in others and path.startswith(others[tier]):
        return True
    is_test = collection_path.name.startswith("test_")
    return True if tier == "broker" and is_test and not _names_a_broker(collection_path) else None


@functools.cache
def _names_a_broker(path: Path) -> bool:
    return bool(NAMES_A_BROKER.search(path.read_text()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test the marker of its tier (testbed/tiers.py), and put those first that take long."""
    for item in items:
        path = item.path.relative_to(TESTS).as_posix()
        if path.startswith(SOAK):
            tier = "soak"
        elif path.startswith(BROWSER):
            tier = "browser"
        else:
            tier = "broker" if {"kafka", "java_and_maven"} & set(getattr(item, "fixturenames", ())) else "tests"
        if tier == "broker" and not _names_a_broker(item.path):
            raise pytest.UsageError(f"the tier broker would leave out {path}: it names no fixture as {NAMES_A_BROKER}")
        item.add_marker(tier)
        if tier == "tests" and path.startswith(COMPUTES):
            item.add_marker(path.partition("/")[0])
        if path.startswith(CHAOS):
            item.add_marker("chaos")
    items.sort(key=_rank)


def pytest_collection_finish() -> None:
    """Look for cycles less often: to look at modules and tests again and again takes a tenth of the CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _rank(item: pytest.Item) -> int:
    path = item.path.relative_to(TESTS).as_posix()
    return next((rank for rank, slow in enumerate(SLOW) if path.startswith(slow)), len(SLOW))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what only this process of several knows to the one that prints the summary."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["kafka"] = (_used, _missing)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take it over, from each process that has come to its end; one that crashed has said nothing."""
    used, missing = getattr(node, "workeroutput", {}).get("kafka", ((), ()))
    for description in used:
        _say_used(description)
    _missing[:] = _missing or missing


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which broker the results are about."""
    if _used:
        used = ", ".join(_used)
    elif _missing:
        used = f"none (install {' and '.join(_missing)} to run the tests that need one)"
    else:
        used = "none (no test needed one)"
    terminalreporter.write_line(f"Kafka broker: {used}")
