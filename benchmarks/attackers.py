"""``python -m benchmarks.attackers KIND PORT SECONDS``: hostile clients that share an address with nobody else."""

import json
import random
import resource
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import trio

from benchmarks.inflating import PING, PONG
from benchmarks.load import MESSAGE_ID, acknowledgement

ADDRESS = "127.0.0.9"
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
TINY_FRAMES = b"\x81\x80\x00\x00\x00\x00" * 10_922
"""64 KiB of text frames without a payload."""
EARLIEST = b"GET /events?since=earliest HTTP/1.1\r\nHost: localhost\r\n\r\n"
FEED = "GET /events?filter=%7B%22suffix%22%3A%7B%22key%22%3A%22.{}%22%7D%7D HTTP/1.1\r\nHost: localhost\r\n\r\n"
"""A request with a filter that no index finds, so each number makes another feed."""
FEEDS = 1000
MALFORMED = b"GET /events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
ACKS = UPGRADE.replace(b"/ws", b"/ws?ack=client&window=100000")
ACKS_PER_SECOND = 10_000
ACKS_AT_ONCE = 10
MANY = 100
ASK, ANSWER = b"\x89\x80\0\0\0\0", b"\x8a\x00"
HALF_A_HEAD = b"GET /events HTTP/1.1\r\nHost: loc"
GONE = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)

counts = {"connections": 0, "refused": 0, "acks": 0}


async def connected(port: int, talk: Callable[[trio.SocketStream], Awaitable[None]]) -> None:
    """Keep one connection until either side ends it."""
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", port, local_address=ADDRESS)
    except OSError:
        counts["refused"] += 1
        return
    counts["connections"] += 1
    try:
        with suppress(*GONE):
            await talk(stream)
    finally:
        stream.socket.close()


async def for_ever(port: int, talk: Callable[[trio.SocketStream], Awaitable[None]]) -> None:
    """Repeat this for ever."""
    while True:
        await connected(port, talk)
        await trio.sleep(0.01)


async def at_rate(port: int, per_second: float, talk: Callable[[trio.SocketStream], Awaitable[None]]) -> None:
    """Open connections at this rate, whatever becomes of earlier ones; at most 500 at the same time."""
    limit = trio.CapacityLimiter(500)

    async def one() -> None:
        async with limit:
            await connected(port, talk)

    began, number = trio.current_time(), 0
    async with trio.open_nursery() as nursery:
        while True:
            number += 1
            await trio.sleep_until(began + number / per_second)
            if limit.statistics().tasks_waiting < 100:
                nursery.start_soon(one)


async def flood(stream: trio.SocketStream) -> None:
    """Send 4 MB/s of tiny frames after the handshake."""
    await stream.send_all(UPGRADE)
    await stream.receive_some(65536)
    while True:
        await stream.send_all(TINY_FRAMES)
        await trio.sleep(0.016)


async def stay(stream: trio.SocketStream) -> None:
    """Send half a head, and then nothing."""
    await stream.send_all(HALF_A_HEAD)
    await stream.receive_some(1)


async def replay(stream: trio.SocketStream) -> None:
    """Read everything from the beginning, for a second."""
    await stream.send_all(EARLIEST)
    with trio.move_on_after(1):
        while await stream.receive_some(65536):
            pass


async def take_feed(number: int, stream: trio.SocketStream) -> None:
    """Use a feed that nobody else has, as long as the server allows."""
    await stream.send_all(FEED.format(number).encode())
    while await stream.receive_some(65536):
        pass


async def break_off(stream: trio.SocketStream) -> None:
    """Send an invalid request."""
    await stream.send_all(MALFORMED)
    with trio.move_on_after(1):
        while await stream.receive_some(65536):
            pass


async def acknowledge(connections: int, stream: trio.SocketStream) -> None:
    """Send one connection's share of `ACKS_PER_SECOND`, right and wrong ones, and count those that were read."""
    await stream.send_all(ACKS)
    last, answers = b"", b""

    async def say() -> None:
        nonlocal answers
        due = trio.current_time()
        while True:
            due += ACKS_AT_ONCE * connections / ACKS_PER_SECOND
            await trio.sleep_until(due)
            said, answers = answers, b""
            if last:
                said += b"".join(_acks(last)) + ASK
            if said:
                await stream.send_all(said)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(say)
        while data := await stream.receive_some(65536):
            counts["acks"] += ACKS_AT_ONCE * data.count(ANSWER)
            if found := MESSAGE_ID.findall(data):
                last = found[-1]
            if PING in data:
                answers = PONG
        nursery.cancel_scope.cancel()


def _acks(last: bytes) -> list[bytes]:
    """Return right acknowledgements, lower ones, and those of unsent records and absent partitions."""
    topic, _, pairs = last.partition(b":")
    partition, _, offset = pairs.partition(b",")[0].partition(b"=")
    sent = int(offset)
    lower = [b"%b:%b=%d" % (topic, partition, random.randrange(sent + 1)) for _ in range(ACKS_AT_ONCE - 4)]  # noqa: S311 - no secret
    wrong = [b"%b:%b=%d" % (topic, partition, sent + 1_000_000), b"%b:999=5" % topic, b"nobody:0=7"]
    return [acknowledgement(one) for one in [last, *lower, *wrong]]


async def main(kind: str, port: int, seconds: float) -> None:
    """Attack for this long, and print how often."""
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            if kind == "frames":
                for _ in range(8):
                    nursery.start_soon(for_ever, port, flood)
            elif kind == "idle":
                for _ in range(300):
                    nursery.start_soon(for_ever, port, stay)
            elif kind == "earliest":
                nursery.start_soon(at_rate, port, 300, replay)
            elif kind == "feeds":
                for number in range(FEEDS):
                    nursery.start_soon(for_ever, port, partial(take_feed, number))
            elif kind == "malformed":
                nursery.start_soon(at_rate, port, 1000, break_off)
            elif kind in {"acks", "acks-many"}:
                connections = 1 if kind == "acks" else MANY
                for _ in range(connections):
                    nursery.start_soon(for_ever, port, partial(acknowledge, connections))
            else:
                raise SystemExit(f"unknown kind {kind}")
    print(json.dumps(counts))  # noqa: T201 - read by the benchmark


if __name__ == "__main__":
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    trio.run(main, sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
