"""One or three Kafka nodes on free loopback ports, with temporary data, stopped for sure."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from testbed.broker import leash, topics
from testbed.broker.jars import NODE, java, kafka_version
from testbed.broker.storage import lay_out, new_id
from testbed.patience import seconds

START_SECONDS = 60.0
STOP_SECONDS = 15.0
ADMIN_SECONDS = 30.0

QUICK: Mapping[str, str | int] = {
    # How long a node that was killed counts as there. Until then nobody leads its partitions, and it may not come
    # back itself. With Kafka's 9000: failover 12.0 s, restart 11.8 s; with 3000: 4.3 s and 4.6 s.
    "broker.session.timeout.ms": 3000,
    "broker.heartbeat.interval.ms": 500,
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
}


class KafkaCluster:
    """A cluster for the body of the ``with`` block; every node is broker and controller.

    Nodes are numbered from 0. No node outlives the process that started it, not even after ``kill -9``.

    Thread: any, one at a time.

    Args:
        nodes: 1 or 3.
        properties: More broker properties; they win over ours.
        host: Where clients reach the nodes.
        record: Where a node writes an archive of its classes when it stops, if it is to (`testbed.broker.archives`).
        command: What the command line of each node begins with.
    """

    def __init__(
        self,
        nodes: int = 1,
        properties: Mapping[str, str | int] | None = None,
        host: str = "127.0.0.1",
        *,
        record: Path | None = None,
        command: Sequence[str] = (),
    ) -> None:
        self._command = command
        self._record = record
        self._host = host
        self._ports = _free_ports(2 * nodes)
        self._nodes = range(nodes)
        self._properties = dict(properties or {})
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="kafka-"))
        self._admin: AdminClient | None = None
        # "Parent" means the thread that forked (prctl(2)): nodes started in a worker thread would die with it.
        # This thread lives as long as the cluster, and at the latest as long as the process.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="kafka-starter")

    @property
    def bootstrap_servers(self) -> str:
        """Addresses of all nodes."""
        return ",".join(self._address(node) for node in self._nodes)

    @property
    def description(self) -> str:
        """What this is, for people."""
        number = len(self._nodes)
        return f"Apache Kafka {kafka_version()}, {number} node{'s' if number > 1 else ''}, started by the tests"

    @property
    def admin(self) -> AdminClient:
        """An admin client, made when first asked for."""
        if self._admin is None:
            self._admin = _admin(self.bootstrap_servers)
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
        """Lay out the storage, start every node, and return when the cluster answers.

        Measured on two cores: one node 2.2 s, three nodes 5.8 s.

        Raises:
            RuntimeError: a node ended or did not answer in time; the message holds the end of its log.
        """
        if self._record is None:
            from testbed.broker import archives  # noqa: PLC0415 - makes them with a cluster

            archives.make()
        cluster_id = new_id()
        for node in self._nodes:
            self._write_properties(node)
            lay_out(self._folder / f"data-{node}", node, cluster_id)
            self.start_node(node)
        self.wait_until_ready()

    def stop(self) -> None:
        """End every node, remove the data.

        Killed, not asked: the data goes too, and nodes that are asked together wait 5 s for a quorum that is gone.
        """
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait(seconds(STOP_SECONDS))
        self._processes.clear()
        self._admin = None
        self._starter.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)

    def pid(self, node: int) -> int:
        """The process id of a node that was started."""
        return self._processes[node].pid

    def is_started(self, node: int) -> bool:
        """Whether a node was started, and neither stopped nor killed since then; it may have ended by itself."""
        return node in self._processes

    def start_node(self, node: int) -> None:
        """Start a node on its port and its data; `wait_until_ready` tells when it answers.

        Raises:
            RuntimeError: it runs already.
        """
        if node in self._processes and self._processes[node].poll() is None:
            raise RuntimeError(f"Kafka node {node} runs already")
        command = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *self._command]
        command += java(NODE, self._file(node, "properties"), heap_megabytes=384, record=self._record)
        with self._file(node, "log").open("ab") as log:
            self._processes[node] = self._starter.submit(
                subprocess.Popen,
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A Ctrl-C in the terminal is for us, who then stop the nodes. In a session of their own, the kernel
                # would compare niceness only within it (sched(7), "The autogroup feature").
                process_group=0,
            ).result()

    def kill_node(self, node: int) -> None:
        """Kill -9."""
        process = self._processes.pop(node)
        process.kill()
        process.wait()

    def stop_node(self, node: int, deadline_seconds: float = STOP_SECONDS) -> None:
        """Stop a node in good order.

        Args:
            node: Its number.
            deadline_seconds: How long it may take.

        Raises:
            RuntimeError: it did not stop in time, and was killed; the message holds the end of its log.
        """
        process = self._processes.pop(node)
        process.terminate()
        try:
            process.wait(seconds(deadline_seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise RuntimeError(
                f"Kafka node {node} did not stop within {deadline_seconds:g} s:\n{self._log_end(node)}"
            ) from None

    def pause_node(self, node: int) -> None:
        """SIGSTOP: its connections stay, and nothing answers on them."""
        self._processes[node].send_signal(signal.SIGSTOP)

    def resume_node(self, node: int) -> None:
        """SIGCONT."""
        self._processes[node].send_signal(signal.SIGCONT)

    def wait_until_ready(self, deadline_seconds: float = START_SECONDS) -> None:
        """Return when every node that was started answers, and names all of them and no other.

        Raises:
            RuntimeError: one ended or did not answer in time; the message holds the end of its log.
        """
        patience = seconds(deadline_seconds)
        deadline = time.monotonic() + patience
        # Each is asked by itself: for a while after a crash the others go on naming a node that is not there.
        for node, process in tuple(self._processes.items()):
            while not self._answers(node):
                if process.poll() is not None:
                    raise RuntimeError(f"Kafka node {node} ended with {process.returncode}:\n{self._log_end(node)}")
                if time.monotonic() > deadline:
                    raise RuntimeError(
                        f"Kafka node {node} did not answer within {patience:g} s:\n{self._log_end(node)}"
                    )

    def create_topic(
        self,
        name: str,
        partitions: int,
        replication_factor: int | None = None,
        config: Mapping[str, str] | None = None,
    ) -> str:
        """Create a topic, replicated on all nodes unless told otherwise; returns its name when clients can see it."""
        topic = NewTopic(
            name,
            num_partitions=partitions,
            replication_factor=replication_factor or len(self._nodes),
            config=dict(config or {}),
        )
        self.admin.create_topics([topic])[name].result(seconds(ADMIN_SECONDS))
        topics.wait_until_known(self.admin, name)
        return name

    def delete_topic(self, name: str) -> None:
        """Delete a topic."""
        self.admin.delete_topics([name])[name].result(seconds(ADMIN_SECONDS))

    def _answers(self, node: int) -> bool:
        # A client of its own each time knows no other node to ask and has no backoff to wait for.
        with contextlib.suppress(KafkaException):
            return set(_admin(self._address(node)).list_topics(timeout=1).brokers) == set(self._processes)
        return False

    def _address(self, node: int) -> str:
        return f"{self._host}:{self._ports[2 * node]}"

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
            "listeners": f"PLAINTEXT://{self._address(node)},CONTROLLER://127.0.0.1:{self._ports[2 * node + 1]}",
            "advertised.listeners": f"PLAINTEXT://{self._address(node)}",
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


def _admin(bootstrap_servers: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 2, "reconnect.backoff.max.ms": 200})


def _free_ports(number: int) -> list[int]:
    """Ports that were free together a moment ago, and that the kernel gives to nobody who does not ask for them.

    A port of the ephemeral range would not do: while a node is down, a client that tries to reach it again and
    again may be given that very port as its own, and the node could not come back.
    """
    ephemeral, _ = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    candidates = list(range(min(10_000, ephemeral // 2), ephemeral))
    random.shuffle(candidates)
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < number:
            port = candidates.pop()
            sock = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                sock.bind(("127.0.0.1", port))
                ports.append(port)
        return ports
