"""The stack as `docker` shows it: deploys it, watches its tasks, and asks its replicas how they are."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.swarm.engine import Engine

FOLDER = Path(__file__).parents[2] / "deploy/swarm"
FILES = ("stack.kafka.yml", "stack.yml", "stack.monitoring.yml")
TRIAL = Path(__file__).parent / "stack.trial.yml"
READY_SECONDS = 180.0
REMOVE_SECONDS = 90.0

FIND_WRITABLE = """
import os
for folder, folders, files in os.walk("/"):
    if folder == "/":
        folders[:] = set(folders) - {"dev", "proc", "sys"}  # the kernel's own
    try:
        os.close(os.open(folder + "/.trial", os.O_CREAT | os.O_WRONLY))
        print(folder)
    except OSError:
        pass
"""


class Stack:
    """One deployed stack.

    *Thread*: any, one at a time.

    Args:
        engine: Where.
        name: Of the stack.
        variables: For the stack files.
    """

    def __init__(self, engine: Engine, name: str, variables: Mapping[str, str]) -> None:
        self._engine = engine
        self._name = name
        self._variables = variables

    def deploy(self) -> None:
        """All three files, as the README tells, and what a trial adds."""
        files = [argument for file in FILES for argument in ("-c", str(FOLDER / file))]
        self._engine.docker("stack", "deploy", *files, "-c", TRIAL, self._name, environment={**self._variables})

    def remove(self) -> None:
        """Remove it, its volumes, configs and secrets, and return when they are gone."""
        with suppress(RuntimeError):
            self._engine.docker("stack", "rm", self._name)
        label = f"label=com.docker.stack.namespace={self._name}"
        deadline = time.monotonic() + REMOVE_SECONDS
        while self._engine.docker("ps", "--all", "--quiet", "--filter", label) and time.monotonic() < deadline:
            time.sleep(0.5)
        for kind in ("volume", "network", "config", "secret"):
            for one in self._engine.docker(kind, "ls", "--quiet", "--filter", label).split():
                with suppress(RuntimeError):
                    self._engine.docker(kind, "rm", one)

    def service(self, name: str) -> str:
        """The full name of a service."""
        return f"{self._name}_{name}"

    def update(self, service: str, *arguments: str) -> None:
        """Begin to update a service."""
        self._engine.docker("service", "update", "--detach", "--quiet", *arguments, self.service(service))

    def scale(self, service: str, replicas: int) -> None:
        """Begin to scale a service."""
        self._engine.docker("service", "scale", "--detach", f"{self.service(service)}={replicas}")

    def update_state(self, service: str) -> str:
        """How far the last update of a service is, such as ``completed``."""
        (inspected,) = self._engine.ask("service", "inspect", self.service(service))
        return str(inspected.get("UpdateStatus", {}).get("State", "none"))

    def containers(self, service: str, *, ended_too: bool = False) -> list[str]:
        """Ids of a service's running containers, the newest first."""
        label = f"label=com.docker.swarm.service.name={self.service(service)}"
        more = ("--all",) if ended_too else ()
        return self._engine.docker("ps", *more, "--no-trunc", "--quiet", "--filter", label).split()

    def exit_codes(self, containers: Collection[str]) -> list[int]:
        """Of containers that have ended."""
        return [one["State"]["ExitCode"] for one in self._engine.ask("inspect", *containers)]

    def writable(self, container: str) -> list[str]:
        """What a container could do harm with: capabilities, a root that can be written to, folders that can be."""
        (one,) = self._engine.ask("inspect", container)
        host = one["HostConfig"]
        found = [] if host["ReadonlyRootfs"] else ["/"]
        found += [] if host["CapDrop"] == ["ALL"] and not host["CapAdd"] else ["capabilities"]
        return found + self._engine.docker("exec", container, "python3", "-c", FIND_WRITABLE).split()

    def logs(self, service: str) -> str:
        """What the tasks of a service have logged.

        Not by `docker service logs`: with tasks that have failed it shows all there is, and then waits for more.
        """
        containers = self.containers(service, ended_too=True)
        return "\n".join(self._engine.docker("logs", container, errors_too=True) for container in containers)

    def statuses(self, service: str = "dispatcher") -> list[dict[str, Any]]:
        """``/status`` of every task that answers."""
        found = []
        for address in self.addresses(service):
            with suppress(OSError, ValueError):
                found.append(json.loads(get(f"http://{address}:9000/status")))
        return found

    def addresses(self, service: str) -> list[str]:
        """Where this machine reaches the tasks of a service: at the bridge by which they reach it."""
        (bridge,) = self._engine.ask("network", "inspect", "docker_gwbridge")
        running = set(self.containers(service))
        return [one["IPv4Address"].partition("/")[0] for key, one in bridge["Containers"].items() if key in running]

    def wait_until_shared(self, replicas: int, partitions: int) -> None:
        """Return when this many replicas are ready, have some subscribers each, and the partitions among them.

        Raises:
            RuntimeError: not in time; the message tells how they are.
        """

        def shared() -> bool:
            statuses = self.statuses()
            owned = sorted(one["partition"] for status in statuses for one in status["partitions"])
            served = all(status["ready"] and status["subscribers"]["total"] for status in statuses)
            return len(statuses) == replicas and served and owned == list(range(partitions))

        self.wait_for(f"{replicas} replicas with {partitions} partitions and subscribers", shared)

    def wait_for(self, what: str, condition: Callable[[], bool], seconds: float = READY_SECONDS) -> None:
        """Return when a condition holds.

        Raises:
            RuntimeError: not in time; the message tells what the tasks are doing.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                tasks = self._engine.docker("stack", "ps", "--no-trunc", self._name)
                raise RuntimeError(f"not within {seconds:g} s: {what}\n{tasks}\n{self._how_they_are()}")
            time.sleep(0.3)

    def _how_they_are(self) -> str:
        keys = ("replica", "ready", "partitions", "subscribers")
        return "\n".join(str({key: status[key] for key in keys}) for status in self.statuses())


def get(url: str, seconds: float = 5.0) -> bytes:
    """The body of an answer."""
    try:
        with urllib.request.urlopen(url, timeout=seconds) as response:  # noqa: S310 - addresses of our own containers
            body: bytes = response.read()
            return body
    except urllib.error.HTTPError as error:
        # It is the answer, too, and nobody else closes its socket.
        error.close()
        raise


def free_variables(ports: Sequence[int]) -> dict[str, str]:
    """Variables for the ports of a trial: the edge's, then those of three brokers, then Grafana's."""
    names = ("DISPATCHER_PORT", "KAFKA_1_PORT", "KAFKA_2_PORT", "KAFKA_3_PORT", "GRAFANA_PORT")
    return {name: str(port) for name, port in zip(names, ports, strict=True)} | {
        "CONFIG_VERSION": f"trial-{os.getpid()}",
        "TRIAL_FOLDER": str(TRIAL.parent),
    }
