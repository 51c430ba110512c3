"""The cost of connecting: the service's CPU time per connection, without tokens and with a known token.

``BENCH_BESIDE`` names the folder of another checkout, such as an older commit. Both run in this environment on one
broker and take turns, so the machine's load affects both alike.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.harness import Load, Meter
from benchmarks.tables import median
from benchmarks.targets import dispatcher_requests
from testbed.broker.cluster import KafkaCluster
from testbed.tokens import AUDIENCE, ISSUER, SCOPE, jwks, token

PAGE = "performance"
COLUMNS = ("tree", "protocol", "connections", "CPU to connect, each", "the token's share", "of the other tree's")
CONNECTIONS = 2000
HERE = "this tree"
WITH_TOKENS = "this tree, with a token"
BESIDE = "the other tree"


class Service:
    """``dispatcher serve`` of a checkout.

    Args:
        tree: The folder of the checkout.
        bootstrap_servers: The broker.
        topic: The topic.
        group: The consumer group.
        config: A file of settings.
    """

    def __init__(self, tree: Path, bootstrap_servers: str, topic: str, group: str, config: Path | None = None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address: tuple[str, int] = free.getsockname()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - the process writes to it
        flags = {
            "bootstrap-servers": bootstrap_servers,
            "topics": topic,
            "group-id": group,
            "bind": f"{self.address[0]}:{self.address[1]}",
            "max-subscribers": 20_000,
        } | ({} if config is None else {"config": config})
        self.process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "dispatcher", "serve", *(f"--{name}={value}" for name, value in flags.items())],
            cwd=tree,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def status(self) -> Mapping[str, Any]:
        """Return ``/status``."""
        found: Mapping[str, Any] = httpx2.get("http://{}:{}/status".format(*self.address), timeout=30).json()
        return found

    def subscribers(self) -> int:
        """How many subscribers there are."""
        return int(self.status()["subscribers"]["total"])

    def wait_until_ready(self) -> None:
        """Wait until it has its partitions."""
        deadline = time.monotonic() + 60
        while True:
            try:
                if self.status()["state"] == "streaming":
                    return
            except httpx2.TransportError:
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                self._log.seek(0)
                raise RuntimeError(self._log.read().decode(errors="replace"))
            time.sleep(0.1)

    def end(self) -> None:
        """End the service."""
        self.process.kill()
        self.process.wait()
        self._log.close()


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Open connections in turns, and close them."""
    trees = dict.fromkeys((HERE, WITH_TOKENS), Path(__file__).parent.parent)
    if other := os.environ.get("BENCH_BESIDE"):
        trees[BESIDE] = Path(other)
    each, rounds = (500, 2) if quick else (CONNECTIONS, 5)
    costs: dict[tuple[str, str], list[float]] = {}
    services: dict[str, Service] = {}
    with KafkaCluster(1) as cluster, Load() as load, tempfile.TemporaryDirectory() as folder:
        config = _require_tokens(Path(folder))
        topic = cluster.create_topic("connect", 1)
        try:
            for number, (name, tree) in enumerate(trees.items()):
                services[name] = Service(
                    tree, cluster.bootstrap_servers, topic, f"connect-{number}", config if name is WITH_TOKENS else None
                )
            for service in services.values():
                service.wait_until_ready()
            for turn in range(rounds + 1):
                tell(f"round {turn} of {rounds}" if turn else "warming up")
                for protocol, request in dispatcher_requests().items():
                    for name, service in services.items():
                        cost = connect(load, service, _with_token(request) if name is WITH_TOKENS else request, each)
                        if turn:
                            costs.setdefault((name, protocol), []).append(cost)
        finally:
            for service in services.values():
                service.end()
    return [
        {
            "tree": name,
            "protocol": protocol,
            "connections": each,
            "cpu_us": median(found),
            # Rounds of both take turns: the difference of neighbours says more than that of two medians.
            "token_us": median([one - other for one, other in zip(found, costs[HERE, protocol], strict=True)])
            if name is WITH_TOKENS
            else None,
            "ratio": median(found) / median(costs[BESIDE, protocol]) if (BESIDE, protocol) in costs else None,
            "all_us": found,
        }
        for (name, protocol), found in costs.items()
    ]


def _require_tokens(folder: Path) -> Path:
    """Return a settings file with which requests need a token."""
    path, keys = folder / "dispatcher.toml", folder / "keys.json"
    keys.write_bytes(jwks())
    path.write_text(
        f'[auth]\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\nkeys_file = "{keys}"\n'
        f'[[auth.grants]]\nrequire = {{ scope = "{SCOPE}" }}\ntopics = ["*"]\n'
    )
    return path


def _with_token(request: str) -> str:
    """Return the request with a token that all connections share, so only the first one is verified."""
    return request.replace("\r\n\r\n", f"\r\nAuthorization: Bearer {_token()}\r\n\r\n")


@cache
def _token() -> str:
    return token()


def connect(load: Load, service: Service, request: str, connections: int) -> float:
    """Return the service's CPU microseconds per connection, until all have been answered."""
    meter = Meter(service.process.pid)
    before = meter.cpu_seconds()
    load.open("connect", connections, service.address, request)
    # A stream begins after its head, so its first state is part of the cost.
    while service.subscribers() < connections:
        time.sleep(0.1)
    time.sleep(0.3)
    cost = meter.cpu_seconds() - before
    load.close("connect")
    while service.subscribers():
        time.sleep(0.1)
    return cost / connections * 1e6


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return one row for people."""
    return (
        row["tree"],
        row["protocol"],
        f"{row['connections']:,}",
        f"{row['cpu_us'] / 1000:.2f} ms",
        "" if row["token_us"] is None else f"{row['token_us'] / 1000:.2f} ms",
        "" if row["ratio"] is None else f"{row['ratio']:.2f}",
    )


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture."""
    return {"µs of CPU to connect": {f"{row['protocol']}, {row['tree']}": row["cpu_us"] for row in rows}}
