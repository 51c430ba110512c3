"""Clients that acknowledge: they work for random times, are late, and die before, during and after they say so."""

import random
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import quote

import orjson
import trio

from dispatcher.sansio.encoding.messages import SUBPROTOCOL
from tests.audit.listeners import Process
from tests.chaos.ack_books import AckBooks, Client
from tests.chaos.frames import FrameError
from tests.chaos.judge import Judge, View
from tests.chaos.readers import SWITCHING, read_head
from tests.chaos.streams import CLOSE, PING, PONG, PONG_FRAME, Control, WebSocketParser

ACK_TIMEOUT_SECONDS = 3
"""The replicas' setting: who is late for longer is sent away with 4408."""

WORK_SECONDS = 0.05
"""A mean, of an exponential distribution, for all that has come."""

LATE_SECONDS = (2.0, 6.0)
AWAY_SECONDS = (0.0, 1.0)
DEATHS = 0.03
"""Share of acknowledgements at which the client dies; and the same again that are late."""

RESUMES = 0.7
"""Share of the returns that ask for what comes after the client's last acknowledgement."""

WINDOWS = (1, 10, 100)


@dataclass(frozen=True, slots=True)
class Conduct:
    """What an acker does."""

    whole: bool = False
    window: int = 100
    dies: bool = True
    """Else it only does its work, at once."""


def draw_conduct(chance: random.Random) -> Conduct:
    """One of the mix."""
    return Conduct(whole=chance.random() < 0.3, window=chance.choice(WINDOWS))


class Acker:
    """One client.

    Args:
        name: What the judge calls it.
        topic: What it reads.
        where: The replicas that it may go to now.
        books: Where it writes down what it acknowledges.
        judge: Takes what it sees.
        conduct: How it works.
        chance: Of all that it does.
    """

    def __init__(
        self,
        name: str,
        topic: str,
        where: Callable[[], Sequence[Process]],
        *,
        books: AckBooks,
        judge: Judge,
        conduct: Conduct,
        chance: random.Random,
    ) -> None:
        self._name = name
        self._topic = topic
        self._where = where
        self._books = books
        self._judge = judge
        self._conduct = conduct
        self._chance = chance
        self._done: dict[int, int] = {}
        self._numbers = 0

    async def run(self) -> None:
        """Work for ever. *Cancellation*: safe, the connection is closed."""
        while True:
            if processes := self._where():
                if self._chance.random() > RESUMES:
                    self._done = {}
                with suppress(OSError):
                    await self._visit(self._chance.choice(processes))
            await trio.sleep(self._chance.uniform(*AWAY_SECONDS) if self._conduct.dies else 0.1)

    async def _visit(self, process: Process) -> None:
        sock = trio.socket.socket()
        try:
            await sock.connect(process.address)
            named = dict(self._done)
            # The replica may begin the stream long before its head is read here, and others acknowledge meanwhile.
            asked_at = time.time()
            await _send(sock, self._request())
            head, rest = await read_head(sock)
            if head.startswith(SWITCHING):
                # A client that resumes is judged from there; the others may begin anywhere.
                view = self._judge.opened(
                    self._name, process.identity, named or None, time.time(), whole=self._conduct.whole
                )
                client = self._books.opened(process.identity, named, self._conduct.window, asked_at)
                try:
                    await self._work(sock, rest, view, client)
                except FrameError as error:
                    view.broken(str(error))
                finally:
                    view.closed({}, cut=True)
            if self._chance.random() < 0.5:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        finally:
            sock.close()

    def _request(self) -> bytes:
        conduct = self._conduct
        target = f"/ws?topic={self._topic}&ack=client&window={conduct.window}"
        target += "&scope=topic" if conduct.whole else "&scope=replica"
        if self._done:
            target += f"&last_event_id={quote(self._id(self._done.items()))}"
        return (
            f"GET {target} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
        ).encode()

    async def _work(self, sock: trio.socket.SocketType, data: bytes, view: View, client: Client) -> None:
        parser, chance = WebSocketParser(), self._chance
        while True:
            answer = b""
            for item in parser.feed(data):
                if isinstance(item, Control):
                    answer += self._control(item, view, client)
                else:
                    view.record(*item)
                    client.record(*item, time.time())
            if answer:
                await _send(sock, answer)
            if client.outstanding:
                if self._conduct.dies:
                    is_late = chance.random() < DEATHS
                    await trio.sleep(chance.uniform(*LATE_SECONDS) if is_late else chance.expovariate(1 / WORK_SECONDS))
                if await self._acknowledge(sock, client):
                    return
            data = await sock.recv(64 * 1024)
            if not data:
                return

    async def _acknowledge(self, sock: trio.socket.SocketType, client: Client) -> bool:
        """Say what is done; returns whether the client has died over it."""
        dies = chance_of(self._chance) if self._conduct.dies else ""
        if dies == "before":
            return True
        done = client.says_done(time.time())
        last: dict[int, int] = {}
        for partition, offset in done:
            last[partition] = max(offset, last.get(partition, -1))
        frame = _masked(0x81, orjson.dumps({"type": "ack", "id": self._id(last.items())}))
        if dies == "during":
            await _send(sock, frame[: self._chance.randrange(1, len(frame))])
            return True
        self._done |= last
        self._numbers += 1
        await _send(sock, frame + _masked(0x89, b"%d" % self._numbers))
        client.asked(self._numbers, done)
        return dies == "after"

    def _control(self, control: Control, view: View, client: Client) -> bytes:
        payload = control.payload
        if control.kind == "state":
            listed = frozenset().union(*(payload[member].get(self._topic, ()) for member in ("assigned", "followed")))
            view.state(listed, time.time())
            client.state(listed, time.time())
        elif control.kind == "gap":
            view.gap(payload["partition"], payload["from"], payload["to"], payload["reason"])
        elif control.kind == PONG and payload["text"].isdigit():
            client.answered(int(payload["text"]), time.time())
        elif control.kind == CLOSE:
            raise OSError("closed by the replica")
        return PONG_FRAME if control.kind == PING else b""

    def _id(self, position: object) -> str:
        pairs = ",".join(f"{partition}={offset}" for partition, offset in position)  # type: ignore[attr-defined]
        return f"{self._topic}:{pairs}"


def chance_of(chance: random.Random) -> str:
    """Whether a client dies over an acknowledgement, and when; mostly it does not."""
    return chance.choice(("before", "during", "after")) if chance.random() < DEATHS else ""


def _masked(first: int, payload: bytes) -> bytes:
    """A client's frame; the mask is zero."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size)
    return bytes([first]) + length + bytes(4) + payload


async def _send(sock: trio.socket.SocketType, data: bytes) -> None:
    while data:
        data = data[await sock.send(data) :]
