"""The peers: what each is made of, and how it is set up."""

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from benchmarks.harness import value
from benchmarks.peers.service import Service, build, built, free_port
from benchmarks.targets import Dispatcher, Target, dispatcher_requests

HERE = Path(__file__).parent


class Peer(ABC):
    """How to start a service that is compared."""

    name: ClassVar[str]
    made_of: ClassVar[Mapping[str, str]] = {}
    """What was built, and in which version."""
    configuration: ClassVar[Mapping[str, Any]] = {}
    """How it is set up."""
    protocols: ClassVar[tuple[str, ...]] = ("sse", "websocket")
    settle_seconds: ClassVar[float] = 1.0
    """From the answer to a subscriber until it is sent whatever is produced."""

    @abstractmethod
    def start(self, bootstrap_servers: str, topic: str) -> Target:
        """Returns when it serves.

        Raises:
            CannotRunError: it could not be built or started.
        """


@dataclass
class Running:
    """A peer that serves."""

    service: Service
    name: str
    requests: Mapping[str, str]
    greetings: Mapping[str, str] = field(default_factory=dict)
    make_value: Callable[[], bytes] = value
    """Makes the value of a record."""

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return "127.0.0.1", self.service.port

    @property
    def pids(self) -> tuple[int, ...]:
        """Its processes."""
        return (self.service.process.pid,)

    def end(self) -> None:
        """End it."""
        self.service.end()


class Ours(Peer):
    """The dispatcher, with its defaults."""

    name = "dispatcher"
    configuration: ClassVar[Mapping[str, Any]] = {"max_subscribers": 20_000}

    def start(self, bootstrap_servers: str, topic: str) -> Target:
        """With its partitions."""
        return Dispatcher.start(bootstrap_servers, topic, **self.configuration)


class Handwritten(Peer):
    """FastAPI, aiokafka, sse-starlette and Uvicorn (`handwritten.py`)."""

    name = "hand-written (FastAPI, aiokafka)"
    requirements: ClassVar[str] = (HERE / "requirements.txt").read_text()
    made_of: ClassVar[Mapping[str, str]] = dict(line.split("==") for line in requirements.split())
    configuration: ClassVar[Mapping[str, Any]] = {
        "loop": "uvloop",
        "http": "httptools",
        "ws": "websockets-sansio",
        "access_log": False,
        "log_level": "warning",
        # The load generator answers only pings without a payload.
        "ws_ping_timeout": 120,
    }

    def start(self, bootstrap_servers: str, topic: str) -> Target:
        """With its partitions."""
        folder = built(self._folder(), self._make)
        options = json.dumps(self.configuration)
        command: list[str | Path] = [
            folder / "bin" / "python",
            HERE / "handwritten.py",
            bootstrap_servers,
            topic,
            options,
        ]
        return Running(Service(command, folder), self.name, dispatcher_requests())

    def _folder(self) -> str:
        return f"handwritten-fastapi-{self.made_of['fastapi']}-aiokafka-{self.made_of['aiokafka']}"

    def _make(self, folder: Path) -> None:
        build(sys.executable, "-m", "venv", folder, folder=folder)
        pip = (folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        build(*pip, "--no-deps", "-r", HERE / "requirements.txt", folder=folder)


class KafkaSse(Peer):
    """KafkaSSE: a Kafka consumer for each client, in Node; SSE only."""

    name = "KafkaSSE"
    # node-rdkafka: the last that fits what KafkaSSE asks for (^2.3.4); it is compiled with its librdkafka.
    made_of: ClassVar[Mapping[str, str]] = {"kafka-sse": "0.4.2", "node-rdkafka": "2.18.0"}
    configuration: ClassVar[Mapping[str, Any]] = {
        # A consumer that waits for records holds one of libuv's threads: its own scripts ask for 128. This is the most.
        "UV_THREADPOOL_SIZE": "1024",
        "NODE_ENV": "production",
    }
    protocols = ("sse",)
    settle_seconds = 10.0

    def start(self, bootstrap_servers: str, topic: str) -> Target:
        """Without a consumer: each client brings one."""
        folder = built("-".join(f"{name}-{version}" for name, version in self.made_of.items()), self._make)
        (folder / "kafka_sse.js").write_bytes((HERE / "kafka_sse.js").read_bytes())
        options = json.dumps({"kafkaConfig": {"metadata.broker.list": bootstrap_servers}})
        service = Service(["node", "kafka_sse.js", options], folder, self.configuration)
        request = f"GET /{topic} HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n"
        return Running(service, self.name, {"sse": request})

    def _make(self, folder: Path) -> None:
        (folder / "package.json").write_text(json.dumps({"private": True, "dependencies": self.made_of}))
        build("npm", "install", "--no-audit", "--no-fund", folder=folder)
        build("node", "-e", "require('node-rdkafka')", folder=folder)


class Centrifugo(Peer):
    """Centrifugo with its own Kafka consumer and unidirectional transports.

    The newest version of which the Go module proxy gives a version's files here; it does not give version 6.
    """

    name = "Centrifugo"
    module: ClassVar[str] = "github.com/centrifugal/centrifugo/v5"
    made_of: ClassVar[Mapping[str, str]] = {"centrifugo": "v5.4.9"}
    configuration: ClassVar[Mapping[str, Any]] = {
        "address": "127.0.0.1",
        "uni_sse": True,
        "uni_websocket": True,
        "allow_anonymous_connect_without_token": True,
        "allow_subscribe_for_client": True,
        "allow_subscribe_for_anonymous": True,
        "client_channel_limit": 1,
        "log_level": "error",
    }
    settle_seconds = 5.0

    def start(self, bootstrap_servers: str, topic: str) -> Target:
        """With its consumer."""
        folder = built(f"centrifugo-{self.made_of['centrifugo']}", self._make)
        port = free_port()
        kafka = {"brokers": bootstrap_servers.split(","), "topics": [topic], "consumer_group": f"centrifugo-{topic}"}
        consumer = {"name": "kafka", "type": "kafka", "kafka": kafka}
        settings = {**self.configuration, "port": port, "consumers": [consumer]}
        (folder / "config.json").write_text(json.dumps(settings))
        service = Service([folder / "centrifugo", "--config", folder / "config.json"], folder, port=port)
        connect = json.dumps({"subs": {CHANNEL: {}}})
        upgrade = dispatcher_requests()["websocket"].replace("Sec-WebSocket-Protocol: dispatcher.v1.json\r\n", "")
        requests = {
            "sse": f"GET /connection/uni_sse?cf_connect={quote(connect)} HTTP/1.1\r\nHost: bench\r\n"
            "Accept: text/event-stream\r\n\r\n",
            "websocket": upgrade.replace("/ws", "/connection/uni_websocket", 1),
        }
        # A masked text frame with a mask of zeros (RFC 6455, section 5.2).
        greeting = bytes([0x81, 0x80 | len(connect), 0, 0, 0, 0]) + connect.encode()
        return Running(service, self.name, requests, {"websocket": greeting.hex()}, make_value=_publish_command)

    def _make(self, folder: Path) -> None:
        (folder / "go.mod").write_text(
            f"module peers\n\ngo 1.23\n\nrequire {self.module} {self.made_of['centrifugo']}\n"
        )
        (folder / "tools.go").write_text(f'//go:build tools\n\npackage tools\n\nimport _ "{self.module}"\n')
        build("go", "build", "-mod=mod", "-o", "centrifugo", self.module, folder=folder)


CHANNEL = "assets"


def _publish_command() -> bytes:
    """A record as Centrifugo wants it: what to do, and in it the value."""
    return b'{"method":"publish","payload":{"channel":"%b","data":"%b"}}' % (CHANNEL.encode(), value())


PEERS: tuple[Peer, ...] = (Ours(), Handwritten(), Centrifugo(), KafkaSse())
