"""``python -m benchmarks.load``: holds thousands of subscribers in one process, and counts what they receive.

One loop over epoll and plain sockets, without any work per record: a record's value contains exactly one section sign,
so ``bytes.count`` counts records, whatever the framing. The sign is followed by the producer's clock (ns since the
epoch, 19 digits, on the same host): latency is the time from there to the read that received the record. On every
`SAMPLE_EVERY`-th connection it is that of all records.

A stream that the server compresses is counted in the same way once it is inflated (`benchmarks.inflating`). Bytes are
those that were received, without the response's head.

Commands arrive as JSON lines on stdin, and each is answered by one line on stdout:

    {"do": "open", "group": "a", "count": 100, "host": …, "port": …, "request": "GET …"}   when all are answered;
                                                         ``@@`` in the request is the connection's number, modulo
                                                         ``"keys"``
    {"do": "reopen", "group": "a", "pause_seconds": 3}   cut all, and after a pause let all come back in one moment,
                                                         each with its last event id and the time from that moment
    {"do": "close", "group": "a"}
    {"do": "report"}                     what each group was sent since the last report
"""

import json
import os
import random
import re
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks import inflating
from benchmarks.inflating import MARK, PING, PONG

RECEIVE_BYTES = 128 * 1024
SAMPLE_EVERY = 8
CONNECT_AT_ONCE = 256
STAMP = re.compile(re.escape(MARK) + rb"(\d{19})")
MESSAGE_ID = re.compile(rb'"type":"records","id":"([^"]+)"')
LAST_ID = re.compile(rb'(?:\nid: |"id":")([^\n"]+)[\n"]')


def acknowledgement(event_id: bytes) -> bytes:
    """Return a client's text frame (RFC 6455, section 5.2), masked with zeros."""
    text = b'{"type":"ack","id":"%b"}' % event_id
    length = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2, "big")
    return b"\x81" + length + b"\0\0\0\0" + text


@dataclass(slots=True)
class Group:
    """Connections that are counted together."""

    name: str
    address: tuple[str, int]
    request: bytes
    frozen: bool
    """Whether nothing is read after the response's head."""
    pace_bytes: int
    """The most bytes read per second on each connection; 0 means everything that arrives."""
    receive_buffer_bytes: int
    keys: int
    """Connections ask for this many different things in turn."""
    samples_all: bool
    """Whether every connection is sampled, because each gets few records."""
    acks: bool
    """Whether each message of records is acknowledged once it was read."""
    want: int = 0
    begun: int = 0
    """How many connections were begun, which is the number of the next one."""
    connections: set["Link"] = field(default_factory=set)
    waiting: deque[bytes] = field(default_factory=deque)
    """Last event ids of connections that are to be reopened."""
    opening: int = 0
    opened: int = 0
    refused: int = 0
    closed: int = 0
    records: int = 0
    bytes: int = 0
    reads: int = 0
    latencies_us: list[int] = field(default_factory=list)
    first_record_ms: list[float] = field(default_factory=list)

    def report(self) -> Mapping[str, Any]:
        """Return what was counted since the last report."""
        found = {
            "open": len(self.connections),
            "refused": self.refused,
            "closed": self.closed,
            "records": self.records,
            "bytes": self.bytes,
            "reads": self.reads,
            "latency_us": percentiles(self.latencies_us),
            "first_record_ms": percentiles(self.first_record_ms),
        }
        self.refused = self.closed = self.records = self.bytes = self.reads = 0
        self.latencies_us, self.first_record_ms = [], []
        return found


def percentiles(samples: list[Any]) -> Mapping[str, float]:
    """Return the number of samples, and percentiles."""
    ordered = sorted(samples)
    places = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}
    mean = {"mean": sum(ordered) / len(ordered)} if ordered else {}
    return (
        {"n": len(ordered)}
        | mean
        | {name: ordered[min(len(ordered) - 1, int(len(ordered) * place))] for name, place in places.items() if ordered}
    )


class Link:
    """One connection."""

    __slots__ = (
        "group",
        "half",
        "head",
        "inflater",
        "last",
        "next_read",
        "number",
        "rest",
        "sampled",
        "socket",
        "started",
        "waits",
    )

    def __init__(self, group: Group, last_id: bytes) -> None:
        self.group = group
        self.number = group.begun
        group.begun += 1
        self.sampled = group.samples_all or random.randrange(SAMPLE_EVERY) == 0 or not group.connections  # noqa: S311 - a sample
        self.head: bytes | None = b""
        """The part of the response's head that has arrived; None once it is complete."""
        self.last = last_id
        """The read that received its last event id, inflated, or that id."""
        self.half = False
        """Whether the last read ended within a mark."""
        self.inflater: inflating.Inflater | None = None
        """What reads its stream; None if that is not compressed."""
        self.rest = b""
        """The beginning of a compressed frame of which the rest has not arrived."""
        self.waits = True
        """Whether it has received no record yet."""
        self.next_read = 0.0
        self.started = time.monotonic()
        self.socket = socket.socket()
        if group.receive_buffer_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, group.receive_buffer_bytes)
        self.socket.setblocking(False)

    def request(self) -> bytes:
        """The request."""
        header = b"Last-Event-ID: " + self.last + b"\r\n" if self.last else b""
        request = self.group.request.replace(b"@@", b"%d" % (self.number % self.group.keys))
        return request.replace(b"\r\n\r\n", b"\r\n" + header + b"\r\n", 1)

    def last_id(self) -> bytes:
        """The last event id that it received."""
        found = LAST_ID.findall(self.last)
        return found[-1] if found else b""


class Load:
    """The loop of the load generator."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.links: dict[int, Link] = {}
        self.groups: dict[str, Group] = {}
        self.paced: list[Link] = []
        self.buffer = bytearray(RECEIVE_BYTES)
        self.view = memoryview(self.buffer)
        self.chunks, self.messages = inflating.chunks(), inflating.messages()
        self.commands = sys.stdin.fileno()
        self.unread = b""
        self.waiting_for: Group | None = None
        self.came_back = 0.0

    def run(self) -> None:
        """Run until stdin ends."""
        self.epoll.register(self.commands, select.EPOLLIN)
        self.answer({"ready": True})
        while True:
            found = self.epoll.poll(0.01 if self.paced else 1.0)
            # A younger connection has the descriptor of one that was closed meanwhile, so the event is not its own.
            polled = time.monotonic()
            for descriptor, events in found:
                if descriptor == self.commands:
                    if not self.command():
                        return
                elif (link := self.links.get(descriptor)) is not None and link.started < polled:
                    self.serve(link, events)
            self.read_paced()

    def command(self) -> bool:
        """Carry out a command; returns False at the end."""
        data = os.read(self.commands, 65536)
        if not data:
            return False
        *lines, self.unread = (self.unread + data).split(b"\n")
        for line in lines:
            asked = json.loads(line)
            match asked["do"]:
                case "open":
                    self.open(asked)
                case "reopen":
                    self.reopen(self.groups[asked["group"]], asked["pause_seconds"])
                case "close":
                    for link in tuple(self.groups.pop(asked["group"]).connections):
                        self.drop(link)
                    self.answer({})
                case "report":
                    now = {"at": time.monotonic(), "cpu_seconds": time.process_time()}
                    self.answer(now | {"groups": {name: group.report() for name, group in self.groups.items()}})
        return True

    def answer(self, found: Mapping[str, Any]) -> None:
        """Print one line."""
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()

    def open(self, asked: Mapping[str, Any]) -> None:
        """Begin to open a group's connections."""
        group = self.groups[asked["group"]] = Group(
            asked["group"],
            (asked["host"], asked["port"]),
            asked["request"].encode(),
            frozen=asked.get("frozen", False),
            pace_bytes=asked.get("pace_bytes", 0),
            receive_buffer_bytes=asked.get("receive_buffer_bytes", 0),
            keys=asked.get("keys", sys.maxsize),
            samples_all=asked.get("samples_all", False),
            acks=asked.get("acks", False),
        )
        group.waiting.extend([asked.get("last_id", "").encode()] * asked["count"])
        self.fill(group, asked["count"])

    def reopen(self, group: Group, pause_seconds: float) -> None:
        """Cut all connections, and after a pause reopen them at once."""
        links = tuple(group.connections)
        group.waiting.extend(link.last_id() for link in links)
        for link in links:
            self.drop(link)
        time.sleep(pause_seconds)
        self.came_back = time.monotonic()
        self.fill(group, len(links))

    def fill(self, group: Group, want: int) -> None:
        """Open connections until this many are open."""
        group.want, group.opened, self.waiting_for = want, 0, group
        self.connect(group)

    def connect(self, group: Group) -> None:
        """Open some more connections."""
        while group.waiting and group.opening < CONNECT_AT_ONCE:
            link = Link(group, group.waiting.popleft())
            group.opening += 1
            group.connections.add(link)
            self.links[link.socket.fileno()] = link
            link.socket.connect_ex(group.address)
            self.epoll.register(link.socket.fileno(), select.EPOLLOUT)

    def drop(self, link: Link) -> None:
        """Close a connection."""
        link.group.connections.discard(link)
        self.links.pop(link.socket.fileno(), None)
        if link in self.paced:
            self.paced.remove(link)
        link.socket.close()

    def serve(self, link: Link, events: int) -> None:
        """Handle an event on a connection."""
        try:
            if events & select.EPOLLOUT:
                link.socket.sendall(link.request())
                self.epoll.modify(link.socket.fileno(), select.EPOLLIN)
                return
            count = link.socket.recv_into(self.buffer)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if count == 0:
            group = link.group
            self.drop(link)
            if link.head is None:
                group.closed += 1
            else:
                # It reconnects, as a browser does.
                group.opening -= 1
                group.refused += 1
                group.waiting.append(link.last)
                self.connect(group)
            return
        self.take(link, bytes(self.view[:count]))

    def take(self, link: Link, data: bytes) -> None:
        """Count received bytes."""
        group = link.group
        if link.head is not None:
            link.head += data
            head, end, data = link.head.partition(b"\r\n\r\n")
            if not end:
                return
            link.head = None
            self.begun(link, head)
        group.reads += 1
        group.bytes += len(data)
        if link.inflater is None:
            # To look for one byte takes a fiftieth of the time, and few reads contain it.
            records, has_ping = data.count(MARK), PING[:1] in data and PING in data
            if link.half and data.startswith(MARK[1:]):
                records += 1
            link.half = data.endswith(MARK[:1])
        else:
            received = link.rest + data
            (data, records, has_ping), complete_bytes = link.inflater.read(received)
            link.rest = received[complete_bytes:]
        if has_ping:
            link.socket.send(PONG)
        if not records:
            return
        group.records += records
        link.last = data
        if group.acks and (ids := MESSAGE_ID.findall(data)):
            link.socket.send(acknowledgement(ids[-1]))
        if link.waits:
            link.waits = False
            group.first_record_ms.append((time.monotonic() - (self.came_back or link.started)) * 1000)
        if link.sampled:
            now = time.time_ns()
            group.latencies_us.extend((now - int(stamp)) // 1000 for stamp in STAMP.findall(data))

    def begun(self, link: Link, head: bytes) -> None:
        """Note that the response has begun."""
        group = link.group
        group.opening -= 1
        if head.split(b" ", 2)[1] not in {b"200", b"101"}:
            group.refused += 1
        if b"content-encoding: gzip" in (fields := head.lower()):
            link.inflater = self.chunks
        elif b"permessage-deflate" in fields:
            link.inflater = self.messages
        if group.frozen or group.pace_bytes:
            self.epoll.unregister(link.socket.fileno())
        if group.pace_bytes:
            self.paced.append(link)
        group.opened += 1
        self.connect(group)
        if group is self.waiting_for and group.opened == group.want:
            self.waiting_for = None
            self.answer({"opened": group.opened, "refused": group.refused})

    def read_paced(self) -> None:
        """Read from connections whose time has come."""
        now = time.monotonic()
        for link in tuple(self.paced):
            while link.next_read <= now:
                part = max(1, link.group.pace_bytes // 100)
                try:
                    count = link.socket.recv_into(self.view[:part])
                except BlockingIOError:
                    link.next_read = now + 0.01
                    break
                if not count:
                    link.group.closed += 1
                    self.drop(link)
                    break
                link.next_read = max(link.next_read, now - 0.1) + count / link.group.pace_bytes
                self.take(link, bytes(self.view[:count]))


if __name__ == "__main__":
    Load().run()
