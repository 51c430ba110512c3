"""The common parts of benchmarks: the load generator's process, a producer of stamped records, and CPU times."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from types import TracebackType
from typing import Any, Self

import psutil
from confluent_kafka import Producer

from testbed.broker import leash

VALUE_BYTES = 200


class Load:
    """The load generator (`benchmarks.load`), in a separate process."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, leash.__file__, str(psutil.Process().pid), sys.executable, "-m", "benchmarks.load"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process:  # closes its pipes, and waits for it
            self._process.kill()

    def open(self, group: str, count: int, address: tuple[str, int], request: str, **more: object) -> Mapping[str, Any]:
        """Open a group's connections; returns when all have been answered."""
        host, port = address
        return self._ask(do="open", group=group, count=count, host=host, port=port, request=request, **more)

    def reopen(self, group: str, pause_seconds: float) -> Mapping[str, Any]:
        """Cut all connections of a group, and after a pause reopen them at once, each with its last event id."""
        return self._ask(do="reopen", group=group, pause_seconds=pause_seconds)

    def close(self, group: str) -> None:
        """Close a group's connections."""
        self._ask(do="close", group=group)

    def report(self) -> Mapping[str, Any]:
        """Return what each group was sent since the last report."""
        return self._ask(do="report")

    def _ask(self, **command: object) -> Mapping[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Mapping[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the load generator ended with {self._process.wait()}")
        found: Mapping[str, Any] = json.loads(line)
        return found


def value(size_bytes: int = VALUE_BYTES) -> bytes:
    """Return a value for `benchmarks.load`: its mark, the time, and letters."""
    return f"§{time.time_ns()}".encode().ljust(size_bytes, b"x")


class Feeder:
    """Produces bursts of stamped records at a fixed rate, in a separate thread.

    Args:
        bootstrap_servers: The brokers to produce to.
        topic: The topic to produce to.
        per_second: Records per second.
        burst: Records per burst, in one produce request each.
        partitions: Bursts are sent to these in turn.
        first_partition: The first partition.
        make_value: Makes a value with `benchmarks.load`'s mark and the time.
        headers: The headers of each record.
        make_key: Makes the key of a record; None: records have none.
        make_headers: Makes the headers of a record with this key, instead of `headers`.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        *,
        per_second: float,
        burst: int = 1,
        partitions: int = 1,
        first_partition: int = 0,
        make_value: Callable[[], bytes] = value,
        headers: tuple[tuple[str, bytes], ...] = (),
        make_key: Callable[[], bytes] | None = None,
        make_headers: Callable[[bytes], tuple[tuple[str, bytes], ...]] | None = None,
    ) -> None:
        self._make_key = make_key
        self._make_headers = make_headers
        self._producer = Producer(
            {"bootstrap.servers": bootstrap_servers, "linger.ms": 0 if burst == 1 else 1, "acks": 1}
        )
        self._topic = topic
        self._pause = burst / per_second
        self._burst = burst
        self._partitions = partitions
        self._first_partition = first_partition
        self._make_value = make_value
        self._headers: list[tuple[str, str | bytes | None]] = [*headers]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.records = 0
        self.late_seconds = 0.0
        """How late it is, compared with its rate; if this grows, the benchmark measures the producer."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._producer.flush(30)

    def _run(self) -> None:
        due = time.monotonic()
        turn = 0
        while not self._stop.is_set():
            for _ in range(self._burst):
                key, headers = None if self._make_key is None else self._make_key(), self._headers
                if self._make_headers is not None and key is not None:
                    headers = [*self._make_headers(key)]
                partition = self._first_partition + turn % self._partitions
                self._producer.produce(self._topic, self._make_value(), key, partition=partition, headers=headers)
            self.records += self._burst
            turn += 1
            self._producer.poll(0)
            due += self._pause
            self.late_seconds = max(0.0, time.monotonic() - due)
            self._stop.wait(max(0.0, due - time.monotonic()))


class Meter:
    """The CPU time (of all threads, kernel time included) and the memory of processes."""

    def __init__(self, *pids: int) -> None:
        self._processes = [psutil.Process(pid) for pid in pids]
        self._processes += [child for process in self._processes for child in process.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """CPU seconds since the processes began, to the nanosecond: ``/proc/PID/stat`` counts steps of 10 ms."""
        return sum(time.clock_gettime(_cpu_clock(process.pid)) for process in self._processes)

    def resident_bytes(self) -> int:
        """Memory that the processes hold."""
        return sum(int(process.memory_info().rss) for process in self._processes)


def _cpu_clock(pid: int) -> int:
    """The clock of a process's CPU time, as Linux numbers them (``clock_getcpuclockid(3)``)."""
    return ~pid << 3 | 2


@dataclass(frozen=True, slots=True)
class Window:
    """What happened in a period of time."""

    seconds: float
    cpu_seconds: float
    """CPU seconds of the service."""
    groups: Mapping[str, Mapping[str, Any]]

    @property
    def records(self) -> int:
        """Deliveries to all groups."""
        return sum(int(group["records"]) for group in self.groups.values())

    @property
    def per_cpu_second(self) -> float:
        """Deliveries per CPU second of the service."""
        return self.records / max(self.cpu_seconds, 1e-9)


def watch(load: Load, meter: Meter, seconds: float) -> Window:
    """Let everything run for a while, and return what happened."""
    load.report()
    cpu, began = meter.cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    groups = load.report()["groups"]
    return Window(time.monotonic() - began, meter.cpu_seconds() - cpu, groups)


class Probe:
    """Requests a path repeatedly on one connection, as a load balancer does, and keeps the times.

    Args:
        address: Where to.
        path: What is requested.
        every_seconds: The pause between two requests.
        source: The address from which they come: requests of different addresses take turns.
        after_seconds: The pause before the first one.
    """

    def __init__(
        self,
        address: tuple[str, int],
        path: str = "/livez",
        every_seconds: float = 0.02,
        *,
        source: str = "127.0.0.1",
        after_seconds: float = 0.0,
    ) -> None:
        self._address = address
        self._source = source
        self._after_seconds = after_seconds
        self._path = path
        self._every_seconds = every_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.milliseconds: list[float] = []
        self.failed = 0
        """Requests without a response."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def p99(self) -> float:
        """The 99th percentile in milliseconds."""
        return sorted(self.milliseconds)[int(0.99 * len(self.milliseconds))] if self.milliseconds else 0.0

    def _run(self) -> None:
        connection = HTTPConnection(*self._address, timeout=30, source_address=(self._source, 0))
        if self._stop.wait(self._after_seconds):
            return
        while not self._stop.wait(self._every_seconds):
            began = time.monotonic()
            try:
                connection.request("GET", self._path)
                connection.getresponse().read()
            except (OSError, HTTPException):
                self.failed += 1
                connection.close()  # the next request opens it again
            else:
                self.milliseconds.append((time.monotonic() - began) * 1000)
        connection.close()
