"""What is measured: services that bring a topic to subscribers, each started on the same broker."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from benchmarks.harness import value
from testbed.replicas import Replica

WORKERS = max(2, len(os.sched_getaffinity(0)))
"""One for each core, and at least two."""


class Target(Protocol):
    """A running service."""

    @property
    def name(self) -> str:
        """The service's name in a table."""

    @property
    def address(self) -> tuple[str, int]:
        """The address on which it listens."""

    @property
    def requests(self) -> Mapping[str, str]:
        """The requests of a client, by protocol."""

    @property
    def pids(self) -> tuple[int, ...]:
        """The ids of its processes."""

    @property
    def make_value(self) -> Callable[[], bytes]:
        """Return a function that makes values of records."""

    @property
    def headers(self) -> tuple[tuple[str, bytes], ...]:
        """The headers of a record."""

    def end(self) -> None:
        """End the service."""


def dispatcher_requests(query: str = "") -> dict[str, str]:
    """Return the requests of a subscriber, by protocol."""
    return {
        "sse": f"GET /events{query} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n",
        "websocket": f"GET /ws{query} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
        "Sec-WebSocket-Protocol: dispatcher.v1.json\r\n\r\n",
    }


def compressed_requests(query: str = "") -> dict[str, str]:
    """Return the requests of a subscriber that accepts compression, by protocol."""
    offers = {"sse": "Accept-Encoding: gzip", "websocket": "Sec-WebSocket-Extensions: permessage-deflate"}
    return {
        protocol: request.replace("\r\n\r\n", f"\r\n{offers[protocol]}\r\n\r\n")
        for protocol, request in dispatcher_requests(query).items()
    }


@dataclass
class Dispatcher:
    """This project, with its defaults except for the given settings."""

    replica: Replica
    name: str = "dispatcher"
    requests: Mapping[str, str] = field(default_factory=dispatcher_requests)
    make_value: Callable[[], bytes] = value
    headers: tuple[tuple[str, bytes], ...] = ()

    @classmethod
    def start(cls, bootstrap_servers: str, topic: str, **settings: object) -> "Dispatcher":
        """Start it; returns when it has its partitions."""
        replica = Replica(bootstrap_servers, topic, settings={"max_subscribers": 20_000, **settings})
        replica.wait_until_ready()
        return cls(replica)

    @classmethod
    def start_compressed(cls, bootstrap_servers: str, topic: str) -> "Dispatcher":
        """Start it with compression, for subscribers that accept it."""
        found = cls.start(bootstrap_servers, topic, compression="on")
        found.requests = compressed_requests()
        return found

    @classmethod
    def start_workers(
        cls, bootstrap_servers: str, topic: str, workers: int, partitions: int, command: Sequence[str] = ()
    ) -> "Dispatcher":
        """Start several processes on one port, each of which sends the whole topic.

        Args:
            bootstrap_servers: The broker.
            topic: The topic.
            workers: The number of processes.
            partitions: The number of the topic's partitions; returns when each has an owner.
            command: What the command line begins with.
        """
        settings = {
            "max_subscribers": 20_000,
            "default_scope": "topic",
            "workers": workers,
            "operations_bind": "127.0.0.1:0",
            "idle_leave_seconds": 0,
        }
        replica = Replica(bootstrap_servers, topic, settings=settings, command=command)

        def is_ready(status: Mapping[str, Any]) -> bool:
            up = all(worker["up"] for worker in status.get("workers", ()))
            return bool(up and status["ready"] and len(status["partitions"]) == partitions)

        replica.wait_for("every partition owned", is_ready)
        return cls(replica)

    @property
    def address(self) -> tuple[str, int]:
        """The address on which it listens."""
        return self.replica.address

    @property
    def pids(self) -> tuple[int, ...]:
        """The ids of its processes."""
        return (self.replica.process.pid,)

    def end(self) -> None:
        """End the service."""
        self.replica.end()
