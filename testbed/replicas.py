"""A replica as a real process, as an operator would run it."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import httpx2
import orjson

from testbed import forking, requests
from testbed.broker import leash
from testbed.patience import TooLateError
from testbed.patience import seconds as patient_seconds

START_SECONDS = 20.0
END_SECONDS = 15.0
WAIT_SECONDS = 30.0
"""Deadlines in `testbed.patience.seconds`."""

_starter = ThreadPoolExecutor(1, thread_name_prefix="replica-starter")
"""No replica outlives the thread that started it (`leash`), and this one lives as long as the process."""


def _start(command: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    return _starter.submit(
        subprocess.Popen,
        [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *command],
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, **forking.UNBUFFERED},
    ).result()


class Replica:
    """``dispatcher serve`` on a free port.

    Args:
        bootstrap_servers: The broker.
        topic: The topic.
        settings: More settings, as flags: ``stall_timeout_seconds=1``.
        kafka: librdkafka properties.
        code: Python to run before the command line, to put a fault in.
        code_in_fork: Whether `code` works in a fork, where all is loaded: it replaces what is looked up when it is
            used, such as methods, and a test finds out if it had no effect.
        host: Where it listens.
        command: What the command line begins with, such as ``ip netns exec NAME``.
        fresh: Whether it goes through the start of Python, too, where others may be forks (`testbed.forking`): for
            tests about that, and about memory. One with `code`, `command` or workers always does.

    Raises:
        AssertionError: it did not start listening; the process has ended, and the message holds what it logged.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        *,
        group: str | None = None,
        client_id: str = "replica",
        settings: Mapping[str, object] | None = None,
        kafka: Mapping[str, object] | None = None,
        code: str = "",
        code_in_fork: bool = False,
        host: str = "127.0.0.1",
        command: Sequence[str] = (),
        fresh: bool = False,
    ) -> None:
        self.host = host
        self.group = group or f"group-{topic}"
        self.client_id = client_id
        flags = {
            "bootstrap-servers": bootstrap_servers,
            "topics": topic,
            "group-id": self.group,
            "client-id": self.client_id,
            "bind": f"{host}:0",
            "log-format": "json",
            # Whoever counts connections wants those alone that end for a reason of the test's own.
            "spread-seconds": 0,
            **{name.replace("_", "-"): value for name, value in (settings or {}).items()},
        }
        arguments: Sequence[str] = [
            "serve",
            *(f"--{name}={value}" for name, value in flags.items()),
            *(f"-X{name}={value}" for name, value in (kafka or {}).items()),
        ]
        descriptor, path = tempfile.mkstemp(prefix="replica-", suffix=".log")
        os.close(descriptor)
        self._log = Path(path)
        needs_start = fresh or (code and not code_in_fork) or command or "workers" in flags
        may_be_fork = forking.is_allowed() and not needs_start
        self.process: subprocess.Popen[bytes] | forking.Fork
        with self._log.open("wb") as log:
            if may_be_fork:
                self.process = forking.start(arguments, log.fileno(), log.fileno(), code)
            else:
                self.process = _start([*command, sys.executable, "-c", f"{code}\n{forking.RUN}", *arguments], log)
        self.operations_url = ""
        try:
            self.port = self._wait_for_port()
            for line in self.logged("listening for operators"):
                self.operations_url = str(line["addresses"][0])
        except BaseException:
            # Nobody has this object yet, so nobody else could end the process: the next test would pay for it.
            self.end(by_force=True)
            raise

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://{self.host}:{self.port}"

    @property
    def identity(self) -> str:
        """Its name, which no other process has."""
        return f"{self.client_id}/{self.process.pid}"

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self.host, self.port

    @property
    def log(self) -> str:
        """Everything it has logged."""
        return self._log.read_text(errors="replace")

    def log_from(self, start_bytes: int) -> bytes:
        """What it has logged after that much, in whole lines."""
        with self._log.open("rb") as log:
            log.seek(start_bytes)
            return b"".join(line for line in log if line.endswith(b"\n"))

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one event that are written.

        A thread of the replica writes them, so what a line reports may be seen elsewhere before the line is here: to
        assert that lines are there, use `wait_until_logged`.
        """
        # The last one may be written in part.
        whole = self.log.rpartition("\n")[0]
        lines = [orjson.loads(line) for line in whole.splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == event]

    def get(self, path: str) -> httpx2.Response:
        """A plain request."""
        return self._get(self.url + path)

    def status(self) -> dict[str, Any]:
        """``/status``, on the port for operators where there is one."""
        return dict(self._get(f"{self.operations_url or self.url}/status").json())

    def metrics(self) -> str:
        """``/metrics``, from where ``/status`` is."""
        return str(self._get(f"{self.operations_url or self.url}/metrics").text)

    def wait_for(self, what: str, condition: Any, seconds: float = WAIT_SECONDS) -> dict[str, Any]:
        """Ask ``/status`` until a condition on it holds, and return that status.

        Args:
            what: The condition in words.
            condition: Called with the status.
            seconds: How long that may take on a quiet machine (`testbed.patience`).
        """
        deadline = time.monotonic() + patient_seconds(seconds)
        while time.monotonic() < deadline:
            status = self.status()
            if condition(status):
                return status
            time.sleep(0.05)
        raise TooLateError(f"not within {seconds:g} s: {what}\n{orjson.dumps(status).decode()}\n{self.log[-1000:]}")

    def wait_until_logged(
        self,
        event: str,
        condition: Callable[[list[dict[str, Any]]], object] = bool,
        seconds: float = WAIT_SECONDS,
    ) -> list[dict[str, Any]]:
        """The log lines of an event, as soon as a condition on them holds; a replica that has ended logs nothing more.

        Args:
            event: What the lines have as `event`.
            condition: Called with the lines; by default there is one.
            seconds: How long that may take on a quiet machine (`testbed.patience`).
        """
        deadline = time.monotonic() + patient_seconds(seconds)
        has_ended = False
        while time.monotonic() < deadline and not has_ended:
            has_ended = self.process.poll() is not None
            if condition(lines := self.logged(event)):
                return lines
            time.sleep(0.05)
        raise TooLateError(f"not within {seconds:g} s: {event}\n{self.log[-1000:]}")

    def wait_until_ready(self) -> None:
        """Return when it has its partitions."""
        self.wait_for("ready", lambda status: status["ready"] and status["partitions"])

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self, seconds: float = END_SECONDS) -> int:
        """Its exit code."""
        return self.process.wait(patient_seconds(seconds))

    def end(self, *, by_force: bool = False) -> str:
        """End it, whatever state it is in, with force if it does not end by itself; returns all that it logged."""
        if self.process.poll() is None and not by_force:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patient_seconds(END_SECONDS))
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        log = self.log
        self._log.unlink()
        return log

    def _get(self, url: str) -> httpx2.Response:
        return requests.get(url, timeout=patient_seconds(10))

    def _wait_for_port(self) -> int:
        deadline = time.monotonic() + patient_seconds(START_SECONDS)
        while time.monotonic() < deadline and self.process.poll() is None:
            for line in self.logged("listening"):
                return int(line["addresses"][0].rpartition(":")[2])
            time.sleep(0.02)
        kind = TooLateError if self.process.poll() is None else AssertionError
        raise kind(f"the replica did not start listening:\n{self.log}")
