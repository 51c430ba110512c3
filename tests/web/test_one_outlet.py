"""Records, answers to pings and closes on one full socket: no byte comes between two halves."""

import os
from itertools import pairwise
from random import Random

import pytest
import trio
from wsproto.events import CloseConnection, Ping, Pong, TextMessage
from wsproto.utilities import RemoteProtocolError

from dispatcher.sansio.records import Batch, Record
from dispatcher.web.inbound import MAX_MESSAGE_BYTES
from tests.hub.test_hub import ONE
from tests.web.test_transports import House, WsStream, record_values

SECONDS = float(os.environ.get("OUTLET_SECONDS", "3"))
"""How long the storm lasts; 60 once for each release."""

CLIENTS = 20
RECORDS_PER_SECOND = 2000
VALUE_BYTES = 300
PING_SECONDS = 0.01


class Client:
    """Pings all the time and reads now and then; at its end it may close, or say too much."""

    def __init__(self, stream: WsStream, ending: str) -> None:
        self.stream = stream
        self.ending = ending
        self.values: list[int] = []
        self.pongs = 0
        self._random = Random(ending)  # noqa: S311 - guards nothing
        self.close_code: int | None = None
        self._is_pinging = False

    async def run(self) -> None:
        """Live for some seconds from the first record on, then end as it should, or by itself much sooner."""
        while not self.values:
            self._take(await self.stream.next_event())
        until = trio.current_time() + SECONDS
        if self.ending:
            until -= self._random.uniform(0, SECONDS / 2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ping, until)
            # Up to the end of the last ping: one that is cancelled half-way breaks a TLS stream for good.
            while trio.current_time() < until or self._is_pinging:
                self._take(await self.stream.next_event())
                if self._random.random() < 0.02:
                    await trio.sleep(self._random.uniform(0, 0.2))
        if self.ending == "close":
            await self.stream.send(CloseConnection(1000))
        elif self.ending == "oversized":
            await self.stream.send(TextMessage("x" * (MAX_MESSAGE_BYTES + 1)))
        while self.ending and self.close_code is None:
            self._take(await self.stream.next_event())

    async def _ping(self, until: float) -> None:
        self._is_pinging = True
        while trio.current_time() < until:
            await self.stream.send(Ping(b"anyone?"))
            await trio.sleep(PING_SECONDS)
        self._is_pinging = False

    def _take(self, event: object) -> None:
        if isinstance(event, Pong):
            assert bytes(event.payload) == b"anyone?"
            self.pongs += 1
        elif isinstance(event, CloseConnection):
            self.close_code = event.code
        elif isinstance(event, TextMessage):
            self.values += [int(value[:8]) for value in record_values(event)]


@pytest.mark.parametrize("transport", ["socket", "tls"])
async def test_pings_beside_records_on_full_sockets(transport: str) -> None:
    """Every frame is whole, records arrive once in order, and closes have their codes."""
    house = House(transport, history_bytes=256 * 1024 * 1024)
    clients: list[Client] = []
    broken: list[str] = []

    async def client(ending: str) -> None:
        async with house.ws(4096) as stream:
            one = Client(stream, ending)
            clients.append(one)
            try:
                await one.run()
            except (RemoteProtocolError, trio.BrokenResourceError) as error:
                broken.append(f"{ending or 'stays'}: {error!r}")

    async def publish() -> None:
        while True:
            began = trio.current_time()
            for _ in range(20):
                value = f"{house.number:08}{'x' * VALUE_BYTES}".encode()
                house.hub.publish(Batch(ONE, (Record(house.number, None, None, value, ()),)))
                house.number += 1
            await trio.sleep(max(0.0, began + 20 / RECORDS_PER_SECOND - trio.current_time()))

    async with house.serving(within_seconds=SECONDS * 3 + 100), trio.open_nursery() as publishing:
        publishing.start_soon(publish)
        async with trio.open_nursery() as nursery:
            for number in range(CLIENTS):
                nursery.start_soon(client, ("", "", "close", "oversized")[number % 4])
        publishing.cancel_scope.cancel()
    assert broken == []
    for one in clients:
        assert all(after == before + 1 for before, after in pairwise(one.values))
        assert one.close_code == {"": None, "close": 1000, "oversized": 1009}[one.ending]
    assert any(one.pongs for one in clients)
