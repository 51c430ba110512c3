"""One or three Kafka nodes on free loopback ports, with temporary data, stopped for sure."""

import contextlib
import ctypes
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.broker.jars import java, kafka_version

START_SECONDS = 60.0
STOP_SECONDS = 15.0
ADMIN_SECONDS = 30.0

QUICK: Mapping[str, str | int] = {
    # Groups form at once and may be given short timeouts.
    "group.initial.rebalance.delay.ms": 0,
    "group.min.session.timeout.ms": 1000,
    "group.consumer.min.session.timeout.ms": 1000,
    "group.consumer.session.timeout.ms": 6000,
    "group.consumer.min.heartbeat.interval.ms": 100,
    "group.consumer.heartbeat.interval.ms": 500,
    "offsets.topic.num.partitions": 3,
    "transaction.state.log.num.partitions": 3,
    "share.coordinator.state.topic.num.partitions": 3,
    "auto.create.topics.enable": "false",
    "log.retention.check.interval.ms": 1000,
    "controlled.shutdown.enable": "true",
}


class KafkaCluster:
    """A cluster for the body of the ``with`` block; every node is broker and controller.

    Args:
        nodes: 1 or 3.
        properties: More broker properties; they win over ours.
    """

    def __init__(self, nodes: int = 1, properties: Mapping[str, str | int] | None = None) -> None:
        self._ports = _free_ports(2 * nodes)
        self._nodes = range(nodes)
        self._properties = dict(properties or {})
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="kafka-"))
        self._admin: AdminClient | None = None

    @property
    def bootstrap_servers(self) -> str:
        """Addresses of all nodes."""
        return ",".join(f"127.0.0.1:{self._ports[2 * node]}" for node in self._nodes)

    @property
    def description(self) -> str:
        """What this is, for people."""
        number = len(self._nodes)
        return f"Apache Kafka {kafka_version()}, {number} node{'s' if number > 1 else ''}, started by the tests"

    @property
    def admin(self) -> AdminClient:
        """An admin client, made when first asked for."""
        if self._admin is None:
            self._admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 2})
        return self._admin

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Format the storage, start every node, and return when the cluster answers.

        Raises:
            RuntimeError: a node ended or did not answer in time; the message holds the end of its log.
        """
        cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        formats = []
        for node in self._nodes:
            self._write_properties(node)
            command = java("kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", self._file(node, "properties"))
            formats.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        for process in formats:
            output, _ = process.communicate(timeout=START_SECONDS)
            if process.returncode:
                raise RuntimeError(f"Kafka's storage could not be formatted:\n{output.decode()}")
        for node in self._nodes:
            self.start_node(node)
        self.wait_until_ready()

    def stop(self) -> None:
        """End every node, remove the data."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in self._processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start_node(self, node: int) -> None:
        """Start a node on its port and its data; `wait_until_ready` tells when it answers."""
        with self._file(node, "log").open("ab") as log:
            self._processes[node] = subprocess.Popen(
                java("kafka.Kafka", self._file(node, "properties"), heap_megabytes=384),
                stdout=log,
                stderr=subprocess.STDOUT,
                # A node must not outlive the tests, however they end.
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - the call is safe between fork and exec
            )

    def kill_node(self, node: int) -> None:
        """Kill -9."""
        self._processes[node].kill()
        self._processes.pop(node).wait()

    def stop_node(self, node: int) -> None:
        """Stop a node in good order."""
        self._processes[node].terminate()
        self._processes.pop(node).wait(STOP_SECONDS)

    def pause_node(self, node: int) -> None:
        """SIGSTOP: its connections stay, and nothing answers on them."""
        self._processes[node].send_signal(signal.SIGSTOP)

    def resume_node(self, node: int) -> None:
        """SIGCONT."""
        self._processes[node].send_signal(signal.SIGCONT)

    def wait_until_ready(self, deadline_seconds: float = START_SECONDS) -> None:
        """Return when all nodes are in the metadata.

        Raises:
            RuntimeError: one ended or did not answer in time.
        """
        deadline = time.monotonic() + deadline_seconds
        while time.monotonic() < deadline:
            for node, process in self._processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"Kafka node {node} ended with {process.returncode}:\n{self._log_end(node)}")
            with contextlib.suppress(KafkaException):
                if len(self.admin.list_topics(timeout=1).brokers) == len(self._processes):
                    return
        logs = "\n".join(self._log_end(node) for node in self._nodes)
        raise RuntimeError(f"Kafka did not answer within {deadline_seconds:g} s:\n{logs}")

    def create_topic(self, name: str, partitions: int, config: Mapping[str, str] | None = None) -> str:
        """Create a topic that all nodes replicate; returns its name."""
        topic = NewTopic(
            name, num_partitions=partitions, replication_factor=len(self._nodes), config=dict(config or {})
        )
        self.admin.create_topics([topic])[name].result(ADMIN_SECONDS)
        return name

    def delete_topic(self, name: str) -> None:
        """Delete a topic."""
        self.admin.delete_topics([name])[name].result(ADMIN_SECONDS)

    def _file(self, node: int, kind: str) -> Path:
        return self._folder / f"node-{node}.{kind}"

    def _log_end(self, node: int) -> str:
        return self._file(node, "log").read_text(errors="replace")[-4000:]

    def _write_properties(self, node: int) -> None:
        replicas = len(self._nodes)
        properties: dict[str, str | int] = {
            "process.roles": "broker,controller",
            "node.id": node,
            "controller.quorum.voters": ",".join(f"{n}@127.0.0.1:{self._ports[2 * n + 1]}" for n in self._nodes),
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://127.0.0.1:{self._ports[2 * node]},"
            f"CONTROLLER://127.0.0.1:{self._ports[2 * node + 1]}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self._ports[2 * node]}",
            "log.dirs": str(self._folder / f"data-{node}"),
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": max(1, replicas - 1),
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": max(1, replicas - 1),
            "min.insync.replicas": max(1, replicas - 1),
            **QUICK,
            **self._properties,
        }
        self._file(node, "properties").write_text("".join(f"{key}={value}\n" for key, value in properties.items()))


def _free_ports(number: int) -> list[int]:
    """Ports that were free together a moment ago."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(number)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


_LIBC = ctypes.CDLL(None)


def _die_with_parent() -> None:
    pr_set_pdeathsig = 1
    _LIBC.prctl(pr_set_pdeathsig, signal.SIGKILL)
