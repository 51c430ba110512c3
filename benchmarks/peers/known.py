"""The peers: what each is made of, and how it is set up."""

import hashlib
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from benchmarks.harness import VALUE_BYTES, value
from benchmarks.peers.service import Service, build, built, free_port
from benchmarks.targets import WORKERS, Dispatcher, Target, dispatcher_requests

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
    competes: ClassVar[bool] = False
    """Whether each record goes to one subscriber only: then a record is one delivery, however many subscribe."""
    is_variant: ClassVar[bool] = False
    """Whether it is one of the services in another configuration, which runs only where that can make a difference."""
    partitions: ClassVar[int] = 1
    """Those of its topic."""

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
    make_value: Callable[[], bytes] = value
    """Makes the value of a record."""
    headers: tuple[tuple[str, bytes], ...] = ()
    """Those of a record."""

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


class Compressed(Ours):
    """The dispatcher with compression, and subscribers that accept it."""

    name = "dispatcher, compressed"
    configuration: ClassVar[Mapping[str, Any]] = {**Ours.configuration, "compression": "on"}
    is_variant = True

    def start(self, bootstrap_servers: str, topic: str) -> Target:
        """With its partitions."""
        return Dispatcher.start_compressed(bootstrap_servers, topic)


class Workers(Ours):
    """The dispatcher on all cores, and with a partition for each worker."""

    name = f"dispatcher, {WORKERS} workers"
    configuration: ClassVar[Mapping[str, Any]] = {
        **Ours.configuration,
        "workers": WORKERS,
        "default_scope": "topic",
        "idle_leave_seconds": 0,
    }
    is_variant = True
    partitions = WORKERS

    def start(self, bootstrap_servers: str, topic: str) -> Target:
        """With its partitions."""
        return Dispatcher.start_workers(bootstrap_servers, topic, WORKERS, self.partitions)


class FirstDraft(Peer):
    """FastAPI, aiokafka, sse-starlette and Uvicorn, as their documentation has it (`first_draft.py`)."""

    name = "hand-written, first draft"
    program: ClassVar[str] = "first_draft.py"
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
        # A reader that waits for the next record would not end before it.
        "timeout_graceful_shutdown": 1,
    }

    def start(self, bootstrap_servers: str, topic: str) -> Target:
        """With its partitions."""
        folder = built(self._folder(), self._make)
        options = json.dumps(self.configuration)
        command: list[str | Path] = [
            folder / "bin" / "python",
            HERE / self.program,
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


class Handwritten(FirstDraft):
    """The same with care (`handwritten.py`)."""

    name = "hand-written, tuned"
    program = "handwritten.py"


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

    Its documentation's delay of writes, which collects messages, is for the commercial edition: this one has no such
    setting. Each connection sends what waits for it.
    """

    name = "Centrifugo"
    module: ClassVar[str] = "github.com/centrifugal/centrifugo/v6"
    made_of: ClassVar[Mapping[str, str]] = {"centrifugo": "v6.9.1"}
    configuration: ClassVar[Mapping[str, Any]] = {
        "http_server": {"address": "127.0.0.1"},
        # Both transports are off by default.
        "uni_sse": {"enabled": True},
        "uni_websocket": {
            "enabled": True,
            # Messages that wait for a connection share a frame, hence a system call; the default is a frame for each.
            "join_push_messages": True,
            # Write buffers are borrowed for a write instead of being held by each connection.
            "use_write_buffer_pool": True,
        },
        "client": {"allow_anonymous_connect_without_token": True},
        "channel": {
            # History, recovery and presence stay off, as they are: they cost time and memory.
            "without_namespace": {"allow_subscribe_for_client": True, "allow_subscribe_for_anonymous": True},
        },
        # No line for a connection.
        "log": {"level": "error"},
        "consumers": [
            {
                "enabled": True,
                "name": "kafka",
                "type": "kafka",
                # A record's value goes to the channels that its header names; otherwise each record is a command, which
                # is parsed.
                "kafka": {"publication_data_mode": {"enabled": True}},
            }
        ],
    }
    settle_seconds = 5.0

    def start(self, bootstrap_servers: str, topic: str) -> Target:
        """With its consumer."""
        folder = built(f"centrifugo-{self.made_of['centrifugo']}", self._make)
        port = free_port()
        settings = deepcopy({**self.configuration})
        settings["http_server"]["port"] = port
        settings["consumers"][0]["kafka"] |= {
            "brokers": bootstrap_servers.split(","),
            "topics": [topic],
            "consumer_group": f"centrifugo-{topic}",
        }
        (folder / "config.json").write_text(json.dumps(settings))
        service = Service([folder / "centrifugo", "--config", folder / "config.json"], folder, port=port)
        connect = f"?cf_connect={quote(json.dumps({'subs': {CHANNEL: {}}}))}"
        requests = {
            "sse": f"GET /connection/uni_sse{connect} HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n",
            "websocket": upgrade(f"/connection/uni_websocket{connect}"),
        }
        headers = (("centrifugo-channels", CHANNEL.encode()),)
        return Running(service, self.name, requests, json_value, headers)

    def _make(self, folder: Path) -> None:
        (folder / "go.mod").write_text(
            f"module peers\n\ngo 1.26\n\nrequire {self.module} {self.made_of['centrifugo']}\n"
        )
        (folder / "tools.go").write_text(f'//go:build tools\n\npackage tools\n\nimport _ "{self.module}"\n')
        build("go", "build", "-mod=mod", "-o", "centrifugo", self.module, folder=folder)


CHANNEL = "assets"


def json_value() -> bytes:
    """A value as a JSON string, no longer than others' values: Centrifugo's messages are JSON, values within them."""
    return b'"%b"' % value(VALUE_BYTES - 2)


class Benthos(Peer):
    """Benthos' core with a Kafka input of franz-go (`benthos.go`), its ``http_server`` output, WebSocket only.

    It stands for Bento, which is a fork of it that the Go module proxy refused, and for Redpanda Connect, which is
    built on it and left out for its licence. The output's other stream is of lines, not of events, and has no response
    before its first record.
    """

    name = "Benthos core, Kafka input of franz-go"
    made_of: ClassVar[Mapping[str, str]] = {
        "github.com/redpanda-data/benthos/v4": "v4.60.0",
        "github.com/twmb/franz-go": "v1.22.3",
        "github.com/Jeffail/checkpoint": "v1.1.0",
    }
    configuration: ClassVar[Mapping[str, Any]] = {
        # The server for its own state and metrics.
        "http": {"enabled": False},
        "logger": {"level": "ERROR"},
        "metrics": {"none": {}},
        # The most in a batch, which goes to one client: as many as the tuned hand-written service takes at once.
        "input": {"franz": {"max_poll_records": 500}},
        "output": {"http_server": {"path": "", "stream_path": "", "ws_path": "/ws"}},
    }
    protocols = ("websocket",)
    settle_seconds = 5.0
    competes = True

    def start(self, bootstrap_servers: str, topic: str) -> Target:
        """With its consumer."""
        # The program is of this project: its text is part of the version.
        text = hashlib.sha256((HERE / "benthos.go").read_bytes()).hexdigest()[:12]
        folder = built("-".join(("benthos", *self.made_of.values(), text)), self._make)
        port = free_port()
        settings = deepcopy({**self.configuration})
        settings["output"]["http_server"]["address"] = f"127.0.0.1:{port}"
        settings["input"]["franz"] |= {
            "seed_brokers": bootstrap_servers.split(","),
            "topic": topic,
            "consumer_group": f"benthos-{topic}",
        }
        (folder / "config.yaml").write_text(json.dumps(settings))
        service = Service([folder / "benthos", "run", folder / "config.yaml"], folder, port=port)
        return Running(service, self.name, {"websocket": upgrade("/ws")})

    def _make(self, folder: Path) -> None:
        wanted = "".join(f"require {module} {version}\n" for module, version in self.made_of.items())
        (folder / "go.mod").write_text(f"module peers\n\ngo 1.26\n\n{wanted}")
        (folder / "main.go").write_bytes((HERE / "benthos.go").read_bytes())
        build("go", "build", "-mod=mod", "-o", "benthos", ".", folder=folder)


def upgrade(path: str) -> str:
    """A client's request for a WebSocket without a subprotocol."""
    request = dispatcher_requests()["websocket"].replace("/ws", path, 1)
    return request.replace("Sec-WebSocket-Protocol: dispatcher.v1.json\r\n", "")


PEERS: tuple[Peer, ...] = (
    Ours(),
    Compressed(),
    Workers(),
    FirstDraft(),
    Handwritten(),
    Centrifugo(),
    Benthos(),
    KafkaSse(),
)
