"""Readers: hundreds of subscribers who read at any speed, pause, cut their connections, and reconnect.

They have a topic of their own. What waits unread in a socket counts as dispatched (docs/guarantees.md), so on the
auditor's topic each cut would look like a loss, and each slow reader like a commit that comes too early.

The mix keeps the process of the readers below one core: parsing and judging cost some 2 µs a record, and 200 readers at
2,000 records of 1 kB per second read 25,000 per second.

* One in ten reads as fast as it can, and sees every record of its replica.
* Six in ten read 20 to 200 kB/s: less than a replica's share of 2,000 records per second, so that they live on its
  history and on Kafka, and more than its share of 300, so that they fall behind when they pause.
* Three in ten read 1 to 8 kB/s through a receive buffer of 4 KiB, and are always at the end of full sockets. They read
  SSE: of a WebSocket they would see nothing before a whole message has come.
* One more for each replica is steady: it reads all, never leaves by itself, and sees every state.
* Of a mixed crowd three in ten have the whole topic, and two in ten observe.
"""

import random
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from urllib.parse import quote

import trio

from dispatcher.sansio.encoding.messages import SUBPROTOCOL
from tests.audit.listeners import Process, Transport
from tests.chaos.frames import FrameError
from tests.chaos.judge import Judge, View
from tests.chaos.selections import Selection, draw_selection
from tests.chaos.streams import CLOSE, PING, PONG_FRAME, Control, Parser, SseParser, WebSocketParser, pairs

FASTEST_RECEIVE_BYTES = 256 * 1024
SMALL_BUFFER_BYTES = 4096
WAKE_SECONDS = 0.2
"""A slow reader takes what its speed allows in this time, and then waits for as long."""

PAUSE_SECONDS = (0.5, 5.0)
BETWEEN_PAUSES_SECONDS = 10.0
VISIT_SECONDS = 15.0
"""How long a connection lasts that nothing else ends; like the time above a mean, of an exponential distribution."""

AWAY_SECONDS = (0.0, 1.5)
RESUMES = 0.85
"""Share of the returns with the last id; the others start over."""

STAYS = 0.5
"""Share of the returns to the same replica, if it is still there."""

SWITCHING = b"HTTP/1.1 101 "
STREAMING = b"HTTP/1.1 200 "


@dataclass(frozen=True, slots=True)
class Habits:
    """How a reader reads."""

    transport: Transport
    bytes_per_second: float | None = None
    """None: as fast as it can."""
    receive_buffer_bytes: int = 0
    """0: as the system has it."""
    steady: bool = False
    """Never pauses, never leaves, and goes nowhere else."""
    whole: bool = False
    """Asks for the whole topic."""
    observes: bool = False
    """Asks for nothing that it is sent to count."""
    loyal: bool = False
    """Always comes back with its last id."""
    selection: Selection | None = None
    """Its filter, if it has one."""


STEADY = Habits("sse", steady=True)


def draw_habits(chance: random.Random) -> Habits:
    """One reader of the mix."""
    kind = chance.random()
    transport: Transport = "sse" if chance.random() < 0.5 else "websocket"
    if kind < 0.1:
        return Habits(transport)
    if kind < 0.7:
        speed = 20_000 * 10 ** chance.random()
        return Habits(transport, speed, chance.choice((0, 0, 64 * 1024, 16 * 1024)))
    return Habits("sse", 1000 * 8 ** chance.random(), SMALL_BUFFER_BYTES)


def draw_mixed(chance: random.Random) -> Habits:
    """One reader of the mix, with one of the scopes, and perhaps an observer."""
    return replace(draw_habits(chance), whole=chance.random() < 0.3, observes=chance.random() < 0.2)


def draw_filtered(chance: random.Random) -> Habits:
    """One reader of the mix with a filter, and with one of the scopes; none observes."""
    return replace(draw_habits(chance), whole=chance.random() < 0.4, selection=draw_selection(chance))


def draw_observer(chance: random.Random) -> Habits:
    """One reader of the mix that observes, with one of the scopes."""
    return replace(draw_mixed(chance), observes=True)


async def read_head(sock: trio.socket.SocketType) -> tuple[bytes, bytes]:
    """The head of a response, and what follows it; nothing if the connection ends before."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += (some := await sock.recv(1024))
        if not some:
            return b"", b""
    head, _, rest = received.partition(b"\r\n\r\n")
    return head, rest


class Reader:
    """One reader.

    Args:
        name: What the judge calls it.
        judge: Takes what it sees.
        topic: What it reads.
        where: The replicas that it may go to now.
        habits: How it reads.
        chance: Of everything else that it does.
        began: When the run began, on Trio's clock: the judge's times count from there.
    """

    def __init__(
        self,
        name: str,
        judge: Judge,
        topic: str,
        where: Callable[[], Sequence[Process]],
        *,
        habits: Habits,
        chance: random.Random,
        began: float,
    ) -> None:
        self.name = name
        self._judge = judge
        self._topic = topic
        self._where = where
        self.habits = habits
        self._chance = chance
        self._began = began
        self._last_id = ""
        self._last_process = ""
        self._parser: Parser | None = None

    @property
    def is_somewhere(self) -> bool:
        """Whether there is a replica that it may go to. *Thread*: any."""
        return bool(self._where())

    @property
    def position(self) -> dict[int, int]:
        """Offset by partition of its last id. *Thread*: any."""
        parser = self._parser
        return pairs((parser is not None and parser.last_id) or self._last_id)

    async def run(self) -> None:
        """Come and go for ever. *Cancellation*: safe, the connection is closed."""
        while True:
            if (process := self._choose()) is not None:
                if self._chance.random() > RESUMES and not self.habits.loyal:
                    self._last_id = ""
                seconds = float("inf") if self.habits.steady else self._chance.expovariate(1 / VISIT_SECONDS)
                with trio.move_on_after(seconds) as visit, suppress(OSError):
                    await self._visit(process, visit)
            await trio.sleep(0.1 if self.habits.steady else self._chance.uniform(*AWAY_SECONDS))

    def _choose(self) -> Process | None:
        processes = self._where()
        if not processes:
            return None
        same = [process for process in processes if process.identity == self._last_process]
        process = same[0] if same and self._chance.random() < STAYS else self._chance.choice(processes)
        self._last_process = process.identity
        return process

    async def _visit(self, process: Process, visit: trio.CancelScope) -> None:
        sock = trio.socket.socket()
        try:
            if self.habits.receive_buffer_bytes:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.habits.receive_buffer_bytes)
            await sock.connect(process.address)
            await sock.send(self._request())
            head, rest = await read_head(sock)
            is_sse = self.habits.transport == "sse"
            if head.startswith(STREAMING if is_sse else SWITCHING):
                parser: Parser = SseParser() if is_sse else WebSocketParser()
                await self._watch(process, sock, parser, rest, visit)
            if visit.cancel_called and self._chance.random() < 0.5:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        finally:
            sock.close()

    def _request(self) -> bytes:
        target, fields = f"?topic={self._topic}", "Host: localhost\r\n"
        target += "&scope=topic" if self.habits.whole else "&scope=replica"
        target += "&observe=1" * self.habits.observes
        target += "" if self.habits.selection is None else self.habits.selection.query
        if self._last_id and self._chance.random() < 0.5:
            target += f"&last_event_id={quote(self._last_id)}"
        elif self._last_id:
            fields += f"Last-Event-ID: {self._last_id}\r\n"
        if self.habits.transport == "sse":
            return f"GET /events{target} HTTP/1.1\r\n{fields}Accept: text/event-stream\r\n\r\n".encode()
        fields += "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        fields += f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n"
        return f"GET /ws{target} HTTP/1.1\r\n{fields}\r\n".encode()

    async def _watch(
        self, process: Process, sock: trio.socket.SocketType, parser: Parser, data: bytes, visit: trio.CancelScope
    ) -> None:
        named = pairs(self._last_id) if self._last_id else None
        habits = self.habits
        view = self._judge.opened(
            self.name,
            process.identity,
            named,
            self._now(),
            whole=habits.whole,
            observes=habits.observes,
            wants=None if habits.selection is None else habits.selection.wants,
        )
        self._parser = parser
        try:
            await self._read(sock, parser, data, view)
        except FrameError as error:
            view.broken(str(error))
        finally:
            self._last_id = parser.last_id or self._last_id
            view.closed(pairs(parser.last_id), cut=visit.cancel_called)

    async def _read(self, sock: trio.socket.SocketType, parser: Parser, data: bytes, view: View) -> None:
        speed = self.habits.bytes_per_second
        most = FASTEST_RECEIVE_BYTES if speed is None else max(256, int(speed * WAKE_SECONDS))
        pause_at = trio.current_time() + self._between_pauses()
        while True:
            # No await before all of it is noted: the id is the one after the last record.
            answer = b""
            for item in parser.feed(data):
                if isinstance(item, Control):
                    answer += self._control(item, view)
                else:
                    view.record(*item)
            if answer:
                await sock.send(answer)
            if trio.current_time() > pause_at:
                await trio.sleep(self._chance.uniform(*PAUSE_SECONDS))
                pause_at = trio.current_time() + self._between_pauses()
            if speed is not None:
                await trio.sleep(len(data) / speed)
            data = await sock.recv(most)
            if not data:
                return

    def _control(self, control: Control, view: View) -> bytes:
        """Tell the judge what is no record; returns what the replica wants to hear."""
        payload = control.payload
        if control.kind == "state":
            listed = (payload[member].get(self._topic, ()) for member in ("assigned", "followed"))
            view.state(frozenset().union(*listed), self._now())
        elif control.kind == "gap":
            view.gap(payload["partition"], payload["from"], payload["to"], payload["reason"])
        elif control.kind == CLOSE:
            raise OSError("closed by the replica")
        return PONG_FRAME if control.kind == PING else b""

    def _now(self) -> float:
        return trio.current_time() - self._began

    def _between_pauses(self) -> float:
        return float("inf") if self.habits.steady else self._chance.expovariate(1 / BETWEEN_PAUSES_SECONDS)
