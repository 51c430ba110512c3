"""Which worker of a replica serves a connection, or has written a line: each worker counts as a process of its own."""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import orjson
import psutil

from testbed.replicas import Replica
from tests.audit.listeners import Process


class Start(NamedTuple):
    """A worker was started."""

    at: str
    """As the log spells it, so that times compare as text."""
    worker: str
    pid: int


@dataclass(slots=True)
class _Seen:
    """How far the log of a replica was read, and what was found."""

    size_bytes: int = 0
    starts: list[Start] = field(default_factory=list)


_seen: WeakKeyDictionary[Replica, _Seen] = WeakKeyDictionary()
_reading = threading.Lock()


def starts(replica: Replica) -> list[Start]:
    """Every worker that a replica has started, in order; none where it has no workers. *Thread*: any.

    Only what is new in its log is read: this is asked twice a second.
    """
    with _reading:
        seen = _seen.setdefault(replica, _Seen())
        more = replica.log_from(seen.size_bytes)
        seen.size_bytes += len(more)
        lines = [orjson.loads(line) for line in more.splitlines() if b'"worker started"' in line]
        seen.starts += [Start(line["timestamp"], line["worker"], line["pid"]) for line in lines]
        return list(seen.starts)


def running(replica: Replica) -> dict[int, str]:
    """Identity by process of the workers that run now."""
    return {one.pid: identity(replica, one) for one in starts(replica) if _descends(one.pid, replica.process.pid)}


def identity(replica: Replica, start: Start) -> str:
    """The name of one worker's life, which no other process has."""
    return f"{replica.client_id}-{start.worker}/{start.pid}"


def serving(process: Process, port: int) -> str:
    """Which worker serves the connection of a client with this port; the replica itself, if none does any more.

    One look at the kernel's table, and only at the names of the workers' descriptors: the listeners, who have to keep
    up with everything that is dispatched, wait for it.
    """
    assert isinstance(process, Replica)
    if (socket := _socket(process.address[1], port)) is not None:
        for pid, name in running(process).items():
            if socket in _descriptors(pid):
                return name
    return process.identity


def writer_of(replica: Replica, line: dict[str, Any], known: list[Start]) -> str:
    """Which process has written a line, or which worker a line of the parent is about."""
    before = [one for one in known if one.worker == line.get("worker") and one.at <= line["timestamp"]]
    return identity(replica, before[-1]) if before else replica.identity


def ends(replica: Replica) -> Iterator[tuple[str, str]]:
    """Worker and time of every end that a worker did not choose."""
    known = starts(replica)
    for event in ("worker ended", "worker hangs, killing it"):
        for line in replica.logged(event):
            yield writer_of(replica, line, known), line["timestamp"]


def _descends(pid: int, ancestor: int) -> bool:
    try:
        return any(parent.pid == ancestor for parent in psutil.Process(pid).parents())
    except psutil.Error:
        return False


def _socket(local_port: int, remote_port: int) -> str | None:
    """Return the name under which a process has the socket of a connection, by its ports on the process's side.

    *Source*: proc_pid_net(5), ``/proc/net/tcp``: addresses, state, queues, timer, resends, user, timeout, inode.
    """
    ports = rf":{local_port:04X} [0-9A-F]+:{remote_port:04X} \S+ \S+ \S+ \S+ +\d+ +\d+ (\d+) "
    found = re.search(ports, Path("/proc/net/tcp").read_text())
    return found and f"socket:[{found[1]}]"


def _descriptors(pid: int) -> Iterator[str]:
    """Return what the descriptors of a process are, as far as it still runs."""
    with suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                yield str(descriptor.readlink())


def kill(pid: int, number: int) -> None:
    """Send a worker a signal, if it still runs."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
