"""What clients that say much cost a turn of the event loop, and a request that is refused."""

import socket
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from itertools import pairwise

import pytest
import trio
import trio.testing

from dispatcher.hub.parts import CATCH_UP_WRITES_PER_TURN
from dispatcher.web.connection import REQUEST_COST
from dispatcher.web.inbound import STEP_BYTES, Inbound
from dispatcher.web.server import STARTS_PER_TURN, STEPS_PER_TURN
from dispatcher.web.tasks import Tasks
from tests.web.test_tasks import FRAME, REQUESTS, connect, read_to_end
from tests.web.test_transports import House

CLIENTS = 16
MANY = 60
NOTHING = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n"
STEPS = 6
ACKNOWLEDGEMENT = b'\x81\xa0\0\0\0\0{"type":"ack","id":"assets:0=0"}'
"""A text frame, masked with zeros (RFC 6455, section 5.2)."""
BROKEN = b"GET /events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
WHOLE = (
    b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    b"1\r\nx\r\n0\r\n\r\n"
)


class Turns:
    """The number of the loop's turn; what counts as one here may be parts of two."""

    number = 0

    async def count_until(self, condition: Callable[[], bool]) -> None:
        """Count turns until something holds."""
        while not condition():
            self.number += 1
            await trio.lowlevel.checkpoint()


def say_at_once(streams: Iterable[trio.SocketStream], data: bytes) -> None:
    """Send the same on all of them, without a turn of the loop in between."""
    for stream in streams:
        with socket.socket(fileno=socket.dup(stream.socket.fileno())) as plain:
            plain.sendall(data)


async def noted_steps(
    monkeypatch: pytest.MonkeyPatch, request: bytes, said: bytes, number: int
) -> list[tuple[Inbound, int]]:
    """This many steps of what clients say, all of them at once: whose each was, and in which turn of the loop."""
    turns, steps = Turns(), list[tuple[Inbound, int]]()
    read = Inbound.on_client_data

    def noted(inbound: Inbound, data: bytes, now: float) -> bytes | None:
        steps.append((inbound, turns.number))
        return read(inbound, data, now)

    monkeypatch.setattr(Inbound, "on_client_data", noted)
    house = House("socket")
    async with house.serving():
        with ExitStack() as opened:
            streams = [connect(house, request) for _ in range(CLIENTS)]
            for stream in streams:
                opened.callback(stream.socket.close)
            await house.live(CLIENTS)
            say_at_once(streams, said)
            await turns.count_until(lambda: len(steps) >= number)
    return steps


async def test_clients_that_flood_share_the_steps_of_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn of the loop reads a few steps in all, however many clients there are; finally all is read."""
    flood = FRAME * (STEPS * STEP_BYTES // len(FRAME))
    steps = await noted_steps(monkeypatch, REQUESTS["websocket"], flood, CLIENTS * STEPS)
    # The first step of each is read at once.
    first = {inbound: number for number, (inbound, _) in reversed([*enumerate(steps)])}
    later = Counter(turn for number, (inbound, turn) in enumerate(steps) if number != first[inbound])
    assert max(later.values()) <= 4 * STEPS_PER_TURN < CLIENTS


async def test_clients_that_acknowledge_at_the_same_moment_share_the_steps_of_a_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even short acknowledgements may release many commits and records."""
    request = REQUESTS["websocket"].replace(b"/ws", b"/ws?ack=client")
    steps = await noted_steps(monkeypatch, request, ACKNOWLEDGEMENT, CLIENTS)
    assert max(Counter(turn for _, turn in steps).values()) <= 4 * STEPS_PER_TURN < CLIENTS


@pytest.mark.parametrize("way", ["pipelined", "completed at once"])
async def test_requests_take_turns_however_they_come(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """This includes pipelined requests, and heads that began earlier."""
    turns, begun = Turns(), list[int]()
    serve = Tasks.serve

    async def noted(tasks: Tasks, *others: object) -> None:
        begun.append(turns.number)
        await serve(tasks, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(Tasks, "serve", noted)
    house = House("socket")
    first, rest = (b"", NOTHING * 5) if way == "pipelined" else (NOTHING[:1], NOTHING[1:])
    requests = MANY * (first + rest).count(NOTHING)
    async with house.serving():
        with ExitStack() as opened:
            streams = [connect(house, first) for _ in range(MANY)]
            for stream in streams:
                opened.callback(stream.socket.close)
            await house.until(lambda: house.server.connections == MANY)
            assert not begun
            say_at_once(streams, rest)
            await turns.count_until(lambda: len(begun) >= requests)
    assert max(Counter(begun).values()) <= 4 * STARTS_PER_TURN // REQUEST_COST < MANY / 4


async def test_a_request_that_is_broken_from_its_beginning_does_not_reach_the_app(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It gets 400 at once; a complete body is passed on."""
    served = list[str]()
    serve = Tasks.serve

    async def noted(tasks: Tasks, app: object, scope: dict[str, str], *others: object) -> None:
        served.append(scope["path"])
        await serve(tasks, app, scope, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(Tasks, "serve", noted)
    house = House("socket")
    async with house.serving():
        assert (await read_to_end(connect(house, BROKEN))).startswith(b"HTTP/1.1 400 ")
        assert (await read_to_end(connect(house, WHOLE))).startswith(b"HTTP/1.1 404 ")
    assert served == ["/nothing"]


async def test_subscribers_that_catch_up_give_way_while_requests_wait() -> None:
    """Where nobody serves, nobody begins after the first turn, so that subscribers pass one by one."""
    house = House("socket")
    begin, pace, waiting = house.server._pace, house.hub.catch_up_pace, list[int]()
    async with trio.open_nursery() as nursery:
        for _ in range(STARTS_PER_TURN + 1):
            nursery.start_soon(begin.pass_by, "a")
        for _ in range(3 * CATCH_UP_WRITES_PER_TURN):
            nursery.start_soon(pace.pass_by, "b")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(pace.run)
        while pace.waits:
            waiting.append(pace.waiting)
            await trio.lowlevel.checkpoint()
        assert begin.waits
        nursery.cancel_scope.cancel()
    # What counts as one turn here may be parts of two.
    assert max(before - after for before, after in pairwise(waiting)) <= 2 < CATCH_UP_WRITES_PER_TURN
