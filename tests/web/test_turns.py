"""What clients that say much cost a turn of the event loop, and a request that is refused."""

import socket
from collections import Counter
from contextlib import ExitStack

import pytest
import trio

from dispatcher.web.inbound import STEP_BYTES, Inbound
from dispatcher.web.server import REQUESTS_PER_TURN
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


async def noted_steps(
    monkeypatch: pytest.MonkeyPatch, request: bytes, said: bytes, number: int
) -> list[tuple[Inbound, int]]:
    """This many steps of what clients say, all of them at once: whose each was, and in which turn of the loop."""
    turn, steps = 0, list[tuple[Inbound, int]]()
    read = Inbound.on_client_data

    def noted(inbound: Inbound, data: bytes, now: float) -> bytes | None:
        steps.append((inbound, turn))
        return read(inbound, data, now)

    monkeypatch.setattr(Inbound, "on_client_data", noted)

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await trio.lowlevel.checkpoint()

    house = House("socket")
    async with house.serving():
        with ExitStack() as opened:
            streams = [connect(house, request) for _ in range(CLIENTS)]
            for stream in streams:
                opened.callback(stream.socket.close)
            await house.live(CLIENTS)
            for stream in streams:
                with socket.socket(fileno=socket.dup(stream.socket.fileno())) as plain:  # without a turn in between
                    plain.sendall(said)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(count_turns)
                while len(steps) < number:  # noqa: ASYNC110 - each turn counts
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
    return steps


async def test_clients_that_flood_share_the_steps_of_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many they are, a few steps of what they say are read in a turn of the loop; in the end all is read."""
    flood = FRAME * (STEPS * STEP_BYTES // len(FRAME))
    steps = await noted_steps(monkeypatch, REQUESTS["websocket"], flood, CLIENTS * STEPS)
    # The first step of each is read at once. What counts as one turn here may be parts of two.
    first = {inbound: number for number, (inbound, _) in reversed([*enumerate(steps)])}
    later = Counter(turn for number, (inbound, turn) in enumerate(steps) if number != first[inbound])
    assert max(later.values()) <= 4 * REQUESTS_PER_TURN < CLIENTS


async def test_clients_that_acknowledge_at_the_same_moment_share_the_steps_of_a_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However little each of them says: an acknowledgement may let much be committed, and be followed by records."""
    request = REQUESTS["websocket"].replace(b"/ws", b"/ws?ack=client")
    steps = await noted_steps(monkeypatch, request, ACKNOWLEDGEMENT, CLIENTS)
    assert max(Counter(turn for _, turn in steps).values()) <= 4 * REQUESTS_PER_TURN < CLIENTS


@pytest.mark.parametrize("way", ["pipelined", "completed at once"])
async def test_requests_take_turns_however_they_come(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that come together with the one before, and those whose heads were begun earlier."""
    turn, begun = 0, list[int]()
    serve = Tasks.serve

    async def noted(tasks: Tasks, *others: object) -> None:
        begun.append(turn)
        await serve(tasks, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(Tasks, "serve", noted)

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await trio.lowlevel.checkpoint()

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
            for stream in streams:
                with socket.socket(fileno=socket.dup(stream.socket.fileno())) as plain:  # without a turn in between
                    plain.sendall(rest)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(count_turns)
                while len(begun) < requests:  # noqa: ASYNC110 - each turn counts
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
    # What counts as one turn here may be parts of two.
    assert max(Counter(begun).values()) <= 4 * REQUESTS_PER_TURN < MANY / 4


async def test_a_request_that_is_broken_from_its_beginning_does_not_reach_the_app(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its answer is 400 already; a body that is whole is passed on."""
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
