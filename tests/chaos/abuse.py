"""Clients that are not what a server expects: odd requests on ``/events``, and WebSockets that do everything wrong.

They read a topic of their own, so that nobody's books depend on what they take. What the server does to them is their
own business, within the protocol; that they are forgotten when they have gone is looked at in the end (`leftovers`).
"""

import random
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import orjson
import trio

from dispatcher.sansio.encoding.messages import SUBPROTOCOL
from testbed.patience import seconds
from tests.audit.listeners import Process
from tests.chaos.frames import CLOSE, PING, PONG, TEXT, FrameError, Frames

ANSWER_SECONDS = 10.0
"""A deadline in `testbed.patience.seconds`."""

STAY_SECONDS = 2.0
"""How long a client goes on when nothing ends it."""

FLOOD_BYTES = 100_000
RECEIVE_BYTES = 16 * 1024
PAUSES = 0.1
PAUSE_SECONDS = (0.05, 0.4)
"""A pause follows one read in ten."""

SMALL_BUFFER_BYTES = 4096
MASK = b"\x01\x02\x03\x04"

_GET = "GET /events?topic={topic} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
REQUESTS: Mapping[str, str] = {
    "Upgrade: h2c": _GET + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA\r\n\r\n",
    "Upgrade: websocket": _GET + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "Upgrade of something": _GET + "Connection: upgrade\r\nUpgrade: TLS/1.0\r\n\r\n",
    "Content-Length without a body": _GET + "Content-Length: 1\r\n\r\n",
    "Content-Length with a body": _GET + "Content-Length: 5\r\n\r\nhello",
    "half of a body": _GET + "Content-Length: 5\r\n\r\nhe",
    "chunks": _GET + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "half a chunk": _GET + "Transfer-Encoding: chunked\r\n\r\n5\r\nhe",
    "Expect": _GET + "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    "HTTP/1.0": "GET /events?topic={topic} HTTP/1.0\r\nHost: localhost\r\n\r\n",
    "HTTP/1.0 that stays": "GET /events?topic={topic} HTTP/1.0\r\nConnection: keep-alive\r\nHost: localhost\r\n\r\n",
    "Connection: close": _GET + "Connection: close\r\n\r\n",
    "pipelined": (_GET + "\r\n") * 2,
    "HEAD": "HEAD /events?topic={topic} HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "POST": "POST /events?topic={topic} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{{}}",
    "plain": _GET + "\r\n",
}
"""By name: what is sent, with the topic left open."""

ENDINGS = ("FIN at once", "FIN", "reset", "half-close at once", "half-close later")


class Abuse:
    """Counts what odd clients were answered, and what the server did wrong.

    Args:
        topic: What they read.
    """

    def __init__(self, topic: str) -> None:
        self.clients: Counter[str] = Counter()
        """By name of what they did."""
        self.faults: list[str] = []
        """Breaches of a protocol by the server, in words."""
        self._topic = topic

    async def requests(self, replica: Process, chance: random.Random) -> None:
        """Send each odd request and leave in each way, all at once."""
        every = [(name, request, ending) for name, request in REQUESTS.items() for ending in ENDINGS]
        chance.shuffle(every)
        async with trio.open_nursery() as nursery:
            for one in every:
                nursery.start_soon(self._request, replica, *one)

    async def sockets(self, replica: Process, chance: random.Random) -> None:
        """Do everything that a WebSocket client should not, all at once."""
        async with trio.open_nursery() as nursery:
            for name, behave in BEHAVIOURS.items():
                nursery.start_soon(self._socket, replica, name, behave, random.Random(chance.random()))  # noqa: S311

    def rows(self) -> Iterator[tuple[str, str, bool]]:
        """Name, value, and whether it is as it should be."""
        if self.clients:
            yield "odd clients", f"{self.clients.total():,}", True
            yield "protocols violated to odd clients", f"{len(self.faults):,}", not self.faults

    async def _request(self, replica: Process, name: str, request: str, ending: str) -> None:
        self.clients[name] += 1
        sock = trio.socket.socket()
        try:
            await sock.connect(replica.address)
            await sock.send(request.format(topic=self._topic).encode())
            if ending == "half-close at once":
                sock.shutdown(socket.SHUT_WR)
            if ending == "FIN at once":
                return
            received = b""
            with trio.move_on_after(STAY_SECONDS):
                while data := await sock.recv(64 * 1024):
                    received = (received + data)[:64]
            if received and not received.startswith(b"HTTP/1."):
                self.faults.append(f"{name}: answered {received[:40]!r}")
            if ending == "half-close later":
                sock.shutdown(socket.SHUT_WR)
                with trio.move_on_after(STAY_SECONDS):
                    while await sock.recv(64 * 1024):
                        pass
            if ending == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass  # the replica may end it at any time, or have ended itself
        finally:
            sock.close()

    async def _socket(self, replica: Process, name: str, behave: "Behaviour", chance: random.Random) -> None:
        self.clients[name] += 1
        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
        sent: list[bytes] = []
        try:
            await sock.connect(replica.address)
            fields = "Host: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            fields += f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n"
            await sock.send(f"GET /ws?topic={self._topic}&since=earliest HTTP/1.1\r\n{fields}\r\n".encode())
            received = b""
            with trio.fail_after(seconds(ANSWER_SECONDS)):
                while b"\r\n\r\n" not in received:
                    received += (some := await sock.recv(1))
                    if not some:
                        return
            if received.startswith(b"HTTP/1.1 101 "):
                with trio.move_on_after(STAY_SECONDS):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_say, sock, behave(chance), sent)
                        await _read_strictly(sock, sent, chance)
        except* FrameError as errors:
            self.faults += [f"{name}: {error}" for error in _leaves(errors)]
        except* (OSError, trio.TooSlowError):
            pass  # the replica may end it at any time, be suspended, or have ended itself
        finally:
            sock.close()


async def _say(sock: trio.socket.SocketType, what: Iterator[tuple[bytes, float]], sent: list[bytes]) -> None:
    for data, pause_seconds in what:
        if data[:1] == bytes([0x80 | PING]):
            sent.append(_unmasked(data))
        view = memoryview(data)
        while view:
            view = view[await sock.send(view) :]
        await trio.sleep(pause_seconds)


async def _read_strictly(sock: trio.socket.SocketType, pings: list[bytes], chance: random.Random) -> None:
    """Read by fits and starts, and refuse what no server may send; returns at the end of the stream.

    A reader that is slow all the time is never live. One that reads all there is, and then nothing for a moment, lets
    its socket fill while it is: a write is taken in part, and something else may come between.
    """
    frames = Frames()
    while data := await sock.recv(RECEIVE_BYTES):
        for frame in frames.feed(data):
            if frame.opcode == TEXT:
                try:
                    orjson.loads(frame.payload)
                except orjson.JSONDecodeError as error:
                    raise FrameError(f"a message that is no JSON: {frame.payload[:40]!r}") from error
            elif frame.opcode == PONG and frame.payload not in pings:
                raise FrameError(f"a pong to no ping: {frame.payload!r}")
        if chance.random() < PAUSES:
            await trio.sleep(chance.uniform(*PAUSE_SECONDS))


def _frame(opcode: int, payload: bytes = b"", *, first: int = 0x80, masked: bool = True) -> bytes:
    length, mask = len(payload), 0x80 if masked else 0
    head = bytes([first | opcode])
    if length < 126:
        head += bytes([mask | length])
    elif length < 1 << 16:
        head += bytes([mask | 126]) + struct.pack("!H", length)
    else:
        head += bytes([mask | 127]) + struct.pack("!Q", length)
    return head + (MASK + _masked(payload) if masked else payload)


def _masked(payload: bytes) -> bytes:
    return bytes(byte ^ MASK[n % 4] for n, byte in enumerate(payload))


def _unmasked(frame: bytes) -> bytes:
    """The payload of a short masked frame."""
    return _masked(frame[6:])


Behaviour = Callable[[random.Random], Iterator[tuple[bytes, float]]]
"""Makes what a client says: bytes, and how long it is silent after them."""


def _ping_at(pause_seconds: float) -> Behaviour:
    def ping(_chance: random.Random) -> Iterator[tuple[bytes, float]]:
        for number in range(100_000):
            yield _frame(PING, str(number).encode()), pause_seconds

    return ping


def _say_once(*frames: bytes) -> Behaviour:
    def say(_chance: random.Random) -> Iterator[tuple[bytes, float]]:
        yield b"".join(frames), 0.0
        # And goes on as if nothing were: nothing of it may be answered with records.
        for _ in range(20):
            yield _frame(TEXT, b"{}"), 0.1

    return say


BEHAVIOURS: Mapping[str, Behaviour] = {
    "a ping every 10 ms": _ping_at(0.01),
    "a ping every 100 ms": _ping_at(0.1),
    "pings without a pause": _ping_at(0.0),
    "a message that is too large": _say_once(_frame(TEXT, b"x" * FLOOD_BYTES)),
    "a close": _say_once(_frame(CLOSE, b"\x03\xe8bye")),
    "a close without a code": _say_once(_frame(CLOSE)),
    "a close with half a code": _say_once(_frame(CLOSE, b"\x03")),
    "a frame without a mask": _say_once(_frame(TEXT, b"{}", masked=False)),
    "a reserved bit": _say_once(_frame(TEXT, b"{}", first=0xC0)),
    "an unknown opcode": _say_once(_frame(0x3, b"")),
    "a continuation of nothing": _say_once(_frame(0x0, b"x")),
    "a fragmented ping": _say_once(_frame(PING, b"x", first=0)),
    "a long ping": _say_once(_frame(PING, b"x" * 126)),
    "text that is not UTF-8": _say_once(_frame(TEXT, b"\xff\xfe")),
    "half a frame": _say_once(_frame(TEXT, b"x" * 100)[:50]),
    "no frame at all at first": _say_once(),
}


def _leaves(group: BaseExceptionGroup[FrameError]) -> Iterator[FrameError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
