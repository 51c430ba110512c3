"""``python -m tests.worst.server``: says the worst at every turn, each kind of it on a port of its own.

Prints the addresses as JSON, ``{kind: url}``, and serves until its standard input ends. ``/report`` says how many
streams were requested on that port.
"""

import gzip
import json
import random
import re
import struct
import sys
from base64 import b64encode
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache
from hashlib import sha1
from itertools import count
from pathlib import Path
from typing import Any

import trio

from dispatcher.sansio.compact_position import spell_compact
from dispatcher.web import page
from tests.client_cases.encoding import payload

OPEN_TO_ALL = (
    "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Headers: *\r\nAccess-Control-Expose-Headers: *\r\n"
    "Cache-Control: no-store\r\nConnection: close\r\n"
)
STREAM = f"HTTP/1.1 200 OK\r\n{OPEN_TO_ALL}Content-Type: text/event-stream\r\n"
FLOOD_BYTES = 16 * 1024
FLOOD_SECONDS = 0.05
"""300 kB/s of each kind that floods: what is tested is what a client keeps of it, not how fast it reads."""
FOLDER = Path(page.__file__).parent
TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}
CLIENT_FILES = {f"/{each.name}": TYPES[each.suffix] for each in FOLDER.iterdir() if each.suffix in TYPES}
CLIENT_FILES["/"] = "text/html"
STATUSES = ("[" * 200_000, "[]", "null", '{"partitions": 5}', '{"partitions": [[], null, {"topic": {}}]}', "<html>", "")
"""What the live page is answered that asks for the status of the replica."""
BOMB_CHARACTERS = 30_000_000
LEFT = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)
NUMBERS: tuple[Any, ...] = (0, -1, -5e300, 1e300, 2**31, 2**63, "abc", None, [], {}, True, "NaN", "Infinity", 0.0001)
RETRY_AFTER = ("0", "-1", "abc", "9" * 40, "0.00001", "Thu, 01 Jan 1970 00:00:00 GMT", "NaN", "é", "")
KEY = re.compile(rb"\r\nsec-websocket-key: *(\S+)", re.IGNORECASE)
LOCATIONS = (
    "http://[bad",
    "http://a..b/",
    "//",
    "http:// é/",
    "javascript:alert(1)",
    "\x01",
    "ws://127.0.0.1:1/",
    "?" * 9000,
)

WIDE = spell_compact([*range(8192)], [1] * 8192)
WRONG_IDS = ("t", "t:0", "t:0=x", "t:~", "t:~AQ", "..:0=1", "t:0=1,0=2", f"t:0={'9' * 30}", "t:0=1\x01")
Play = Callable[["Turn"], Awaitable[None]]


class Turn:
    """One connection: what it requested, and how it is spoken to."""

    def __init__(self, stream: trio.SocketStream, path: str, number: int, kind: str, key: bytes = b"") -> None:
        self.stream = stream
        self.path = path
        self.key = key
        self.number = number
        self.kind = kind
        self.is_websocket = path.split("?", maxsplit=1)[0].endswith("/ws")
        self.form = "websocket" if self.is_websocket else "envelope"
        self.random = random.Random(f"{kind} {number}")  # noqa: S311 - a seed, to find it again

    async def raw(self, data: bytes | str) -> None:
        """Write what is no event."""
        await self.stream.send_all(data if isinstance(data, bytes) else data.encode())

    async def begin(self) -> None:
        """The head of a stream."""
        if not self.is_websocket:
            await self.raw(f"{STREAM}\r\n")
            return
        accept = b64encode(sha1(self.key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())  # noqa: S324 - RFC 6455
        await self.raw(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept.decode()}\r\nSec-WebSocket-Protocol: dispatcher.v1.json\r\n\r\n"
        )

    async def say(self, *steps: dict[str, Any]) -> None:
        """Steps of a case (tests/client_cases/README.md)."""
        await self.raw(b"".join(self.encoded(step) for step in steps))

    def encoded(self, step: dict[str, Any]) -> bytes:
        """As it is sent."""
        data = payload(step, self.form, 15.0)
        return frame(data) if self.is_websocket and data else data

    async def live(self) -> None:
        """A stream that has begun well."""
        await self.begin()
        await self.say({"state": "streaming", "id": "t:0=-1"})

    async def flood(self, make: Callable[[int], bytes]) -> None:
        """The n-th of something, again and again, at a rate that a client can take."""
        numbers = count()
        while True:
            data = b""
            while len(data) < FLOOD_BYTES:
                data += make(next(numbers))
            await self.stream.send_all(data)
            await trio.sleep(FLOOD_SECONDS)


def frame(data: bytes, first: int = 0x81) -> bytes:
    """One frame of a server."""
    length = len(data)
    if length < 126:
        return bytes([first, length]) + data
    return bytes([first, 126 if length < 65536 else 127]) + struct.pack(">H" if length < 65536 else ">Q", length) + data


def closing(code: int, reason: bytes = b"worst") -> bytes:
    """A close frame."""
    return frame(struct.pack(">H", code) + reason, 0x88)


async def _ends_at_once(turn: Turn) -> None:
    await turn.begin()
    if turn.is_websocket:
        await turn.raw(closing(1001))


async def _retry_0(turn: Turn) -> None:
    await turn.live()
    await turn.say({"retry": 0}, {"record": {"id": "t:0=1", "value": "x"}})


async def _asks_for(turn: Turn, code: int, wait: Any) -> None:
    await turn.live()
    await turn.say({"say": "goodbye", "data": {"code": code, "reason": "worst", "retry_ms": wait}})
    if turn.is_websocket:
        await turn.raw(closing(code))


async def _too_slow(turn: Turn) -> None:
    await _asks_for(turn, 4408, 0)


async def _odd_waits(turn: Turn) -> None:
    await _asks_for(turn, 1012, NUMBERS[turn.number % len(NUMBERS)])


async def _any_code(turn: Turn) -> None:
    code = turn.random.choice((1000, 1001, 1011, 1012, 1013, 3000, 4000, 4408, 4409, 4429, 4999))
    await _asks_for(turn, code, turn.random.choice((0, -1, 1)))


async def _unavailable(turn: Turn) -> None:
    fields = f"Retry-After: {RETRY_AFTER[turn.number % len(RETRY_AFTER)]}\r\n"
    await turn.raw(f"HTTP/1.1 503 No\r\n{OPEN_TO_ALL}{fields}Content-Type: application/json\r\n\r\n[[[")


async def _endless_refusal(turn: Turn) -> None:
    await turn.raw(f"HTTP/1.1 500 No\r\n{OPEN_TO_ALL}Content-Type: application/problem+json\r\n\r\n" + '{"detail":"')
    await turn.flood(lambda _: b"x" * 1024)


async def _leads_in_a_circle(turn: Turn) -> None:
    await turn.raw(f"HTTP/1.1 307 There\r\n{OPEN_TO_ALL}Location: {turn.path}\r\nContent-Length: 0\r\n\r\n")


async def _leads_nowhere(turn: Turn) -> None:
    location = LOCATIONS[turn.number % len(LOCATIONS)]
    await turn.raw(f"HTTP/1.1 302 There\r\n{OPEN_TO_ALL}Location: {location}\r\nContent-Length: 0\r\n\r\n")


async def _reset(turn: Turn) -> None:
    await turn.live()
    turn.stream.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")


async def _cut_anywhere(turn: Turn) -> None:
    await turn.begin()
    whole = turn.encoded({"state": "streaming", "id": "t:0=-1"})
    whole += b"".join(turn.encoded({"record": {"id": f"t:0={n}", "value": "é\r\n🦊"}}) for n in range(5))
    await turn.raw(whole[: turn.random.randrange(len(whole))])


async def _noise(turn: Turn) -> None:
    await turn.begin()
    await turn.raw(turn.random.randbytes(4096))


async def _noise_for_a_head(turn: Turn) -> None:
    await turn.raw(turn.random.choice((b"\0" * 99, b"HTTP/1.1 200\r\n\r\n", b"HTTP/9.9 x\r\n\r\n", b"SSH-2.0-x\r\n")))


async def _endless_head(turn: Turn) -> None:
    await turn.raw("HTTP/1.1 200 OK\r\n")
    await turn.flood(lambda n: b"x-%d: %b\r\n" % (n, b"x" * 500))


async def _endless_line(turn: Turn) -> None:
    await turn.live()
    if turn.is_websocket:
        await turn.raw(bytes([0x81, 127]) + struct.pack(">Q", 2**40))
    else:
        await turn.raw("data: ")
    await turn.flood(lambda _: b"x" * 4096)


async def _compressed(turn: Turn) -> None:
    await turn.raw(f"{STREAM}Content-Encoding: gzip\r\n\r\n")
    await turn.raw(gzip.compress(b"data: " + b"x" * 100_000_000, 9))


@cache
def _bomb(make: Callable[[int], bytes], least_bytes: int = BOMB_CHARACTERS) -> bytes:
    """Compressed: 1,000 of something, as often as it takes."""
    lot = b"".join(map(make, range(1000)))
    return gzip.compress(lot * (least_bytes // len(lot) + 1), 1)


async def _explode(turn: Turn, make: Callable[[int], bytes]) -> None:
    await turn.raw(f"{STREAM}Content-Encoding: gzip\r\n\r\n")
    await turn.raw(_bomb(make))


def _some_record(n: int) -> bytes:
    return payload({"record": {"id": f"t:0={n}", "value": "x"}}, "envelope", 15.0)


def _some_state(n: int) -> bytes:
    return payload({"state": f"state {n}", "assigned": {"t": [n]}}, "envelope", 15.0)


def _some_gap(n: int) -> bytes:
    return payload({"gap": {"topic": "t", "partition": n, "from": 0, "to": n, "reason": "expired"}}, "envelope", 15.0)


def _some_position(n: int) -> bytes:
    """Some characters that name as many partitions as an id may."""
    return f"id: t{n % 7}:{spell_compact([*range(8192)], [n] * 8192)}\n\n".encode()


async def _compressed_records(turn: Turn) -> None:
    await _explode(turn, _some_record)


async def _compressed_states(turn: Turn) -> None:
    await _explode(turn, _some_state)


async def _compressed_gaps(turn: Turn) -> None:
    await _explode(turn, _some_gap)


async def _wide_positions(turn: Turn) -> None:
    await turn.live()
    if not turn.is_websocket:
        await turn.flood(_some_position)
    records = [{"topic": "t", "partition": 0, "offset": n, "id": f"t:0={n};u{n % 2}:{WIDE}"} for n in range(2000)]
    await turn.flood(lambda _: frame(json.dumps({"type": "records", "records": records}).encode()))


async def _tiny_pieces(turn: Turn) -> None:
    await turn.begin()
    data = turn.encoded({"state": "streaming", "id": "t:0=-1"}) + turn.encoded({"record": {"id": "t:0=1"}}) * 1000
    for n in range(2000):
        await turn.raw(data[n : n + 1])


async def _wrong_types(turn: Turn) -> None:
    await turn.begin()
    if turn.number % 2:
        await turn.say({"state": "streaming"})
    wrong = turn.random.choice(NUMBERS)
    kind = turn.random.choice(("state", "gap", "goodbye", "records", "message", "expiring", "nacked"))
    members = ("state", "id", "records", "topic", "partition", "offset", "from", "to", "reason", "code", "retry_ms")
    data = dict.fromkeys((*members, "assigned", "partitions", "degraded", "heartbeat_seconds"), wrong)
    await turn.say({"say": kind, "data": data})
    await trio.sleep(1)


async def _deep(turn: Turn) -> None:
    await turn.begin()
    data = b"[" * 200_000
    await turn.raw(frame(data) if turn.is_websocket else b"event: state\ndata: " + data + b"\n\n")
    await trio.sleep(1)


async def _wrong_ids(turn: Turn) -> None:
    await turn.live()
    event_id = turn.random.choice(WRONG_IDS)
    await turn.say({"unknown": "name", "id": event_id}, {"heartbeat": event_id})
    await trio.sleep(1)


async def _new_partitions(turn: Turn) -> None:
    await turn.live()
    base = turn.number * 10_000_000
    await turn.flood(lambda n: turn.encoded({"record": {"id": f"t{n % 7}:{base + n}={n}", "value": "x"}}))


async def _new_gaps(turn: Turn) -> None:
    await turn.live()
    base = turn.number * 10_000_000

    def gap(n: int) -> bytes:
        return turn.encoded({"gap": {"topic": "t", "partition": base + n, "from": 0, "to": n, "reason": "expired"}})

    await turn.flood(gap)


async def _repeats(turn: Turn) -> None:
    await turn.live()
    await turn.flood(lambda _: turn.encoded({"record": {"id": "t:0=1", "value": "x"}}))


async def _states(turn: Turn) -> None:
    await turn.begin()
    await turn.flood(lambda n: turn.encoded({"state": f"state {n}", "assigned": {"t": [n]}}))


async def _burst_of_states(turn: Turn) -> None:
    await turn.begin()
    states = ({"state": f"state {n}", "assigned": {"t": [n]}} for n in range(20_000))
    await turn.say(*states, {"state": "streaming", "assigned": {"t": [0]}})
    await trio.sleep_forever()


async def _heartbeats(turn: Turn) -> None:
    await turn.live()
    await turn.flood(lambda n: turn.encoded({"heartbeat": f"t:0={n}"}))


async def _pings(turn: Turn) -> None:
    await turn.live()
    await turn.flood(lambda _: frame(b"x" * 125, 0x89) if turn.is_websocket else b":\n\n")


async def _silent(turn: Turn) -> None:  # noqa: ARG001 - it says nothing
    await trio.sleep_forever()


async def _wrong_frames(turn: Turn) -> None:
    await turn.live()
    first = turn.random.choice((0xF1, 0x83, 0x80, 0x8B, 0x01, 0x82))
    await turn.raw(frame(turn.random.randbytes(50), first) + bytes([0x81, 0x85]) + b"masked---" + frame(b"\xff\xfe"))
    await trio.sleep(1)


async def _wrong_close(turn: Turn) -> None:
    await turn.live()
    codes = (closing(0), closing(1005), closing(5000), closing(1000, b"\xff"), frame(b"x", 0x88))
    await turn.raw(turn.random.choice(codes))


KINDS: dict[str, Play] = {
    name.removeprefix("_"): play
    for name, play in list(globals().items())
    if name.startswith("_") and getattr(play, "__annotations__", {}).keys() == {"turn", "return"}
}
"""Everything above, by name."""
LASTING = [name for name in KINDS if name not in {"endless_line", "compressed", "leads_in_a_circle", "endless_head"}]


async def _mixed(turn: Turn) -> None:
    await KINDS[turn.random.choice(LASTING)](turn)


KINDS["mixed"] = _mixed


class Worst:
    """One kind, on its port."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._numbers = count()
        self._statuses = count()
        self._turns = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection."""
        try:
            head = b""
            while b"\r\n\r\n" not in head:
                if not (data := bytes(await stream.receive_some(65536))):
                    return
                head += data
            await self._answer(stream, head)
        except* LEFT:
            pass
        finally:
            stream.socket.close()

    async def _answer(self, stream: trio.SocketStream, head: bytes) -> None:
        method, path, *_ = head.decode("latin-1").split(" ")
        file = path.partition("?")[0]
        turn = Turn(stream, path, 0, self.kind)
        if method in {"OPTIONS", "HEAD"}:
            await turn.raw(f"HTTP/1.1 200 OK\r\n{OPEN_TO_ALL}Content-Length: 0\r\n\r\n")
        elif path == "/report":
            await turn.raw(f"HTTP/1.1 200 OK\r\n{OPEN_TO_ALL}\r\n{self._turns}")
        elif path == "/status":
            body = STATUSES[next(self._statuses) % len(STATUSES)]
            await turn.raw(f"HTTP/1.1 200 OK\r\n{OPEN_TO_ALL}Content-Type: application/json\r\n\r\n{body}")
        elif file in CLIENT_FILES:
            body = (FOLDER / file[1:]).read_text() if file != "/" else "<!doctype html><meta charset=utf-8>"
            await turn.raw(f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: {CLIENT_FILES[file]}\r\n\r\n{body}")
        else:
            self._turns += 1
            key = KEY.search(head)
            turn = Turn(stream, path, next(self._numbers), self.kind, key[1] if key else b"")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, stream, nursery.cancel_scope)
                await KINDS[self.kind](turn)
                nursery.cancel_scope.cancel()
        with suppress(*LEFT):
            await stream.send_eof()
            with trio.move_on_after(1):
                while await stream.receive_some(65536):
                    pass

    async def _watch(self, stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        with suppress(*LEFT):
            while await stream.receive_some(65536):
                pass
        scope.cancel()


async def serve_all(task_status: trio.TaskStatus[dict[str, str]] = trio.TASK_STATUS_IGNORED) -> None:
    """Serve each kind until cancelled; started with the addresses."""
    addresses = {}
    async with trio.open_nursery() as nursery:
        for kind in KINDS:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            addresses[kind] = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
            nursery.start_soon(trio.serve_listeners, Worst(kind).serve, listeners)
        task_status.started(addresses)


async def main() -> None:
    """Serve until standard input ends."""
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(serve_all)
        print(json.dumps(addresses), flush=True)  # noqa: T201 - this is what it is started for
        stdin = trio.lowlevel.FdStream(0)
        while await stdin.receive_some(65536):
            pass
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    sys.exit(trio.run(main))
