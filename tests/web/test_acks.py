"""Acknowledgements over real sockets: what clients may say, in what order, how fast, and how they die."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import trio
from wsproto.events import CloseConnection, Event, Ping, Pong, TextMessage

from dispatcher.hub.goodbyes import restart
from dispatcher.hub.statistics import SubscriberState
from dispatcher.sansio.acknowledgements import STEP_DELIVERIES
from dispatcher.sansio.compact_position import spell_compact
from dispatcher.sansio.encoding.frames import pong_frame
from dispatcher.sansio.ownership import HandOver
from dispatcher.sansio.records import Batch, Record, TopicPartition
from dispatcher.web.acknowledging import ACK_STEP_BYTES, AckInbound
from dispatcher.web.streams import MOST_OWED_BYTES, Farewell, SubscriberStream
from testbed.patience import seconds
from tests.hub.test_acking import Letters
from tests.hub.test_hub import ONE, TWO
from tests.web import test_transports
from tests.web.test_compression import PING, TEXT, frame
from tests.web.test_leaving import masked
from tests.web.test_transports import House, WsStream

CLOSE = 0x88
WIDE = spell_compact(range(8192), [5] * 8192)
ACKED = {"topic_tables": {ONE.topic: {"commit_on": "acked"}}}


class AckHouse(House):
    """A hub and a server of a topic of which only what is acknowledged is committed."""

    def __init__(self, **settings: object) -> None:
        super().__init__("socket", **{**ACKED, **settings})
        self.ends = {ONE: 0, TWO: 0}

    def batch(self, count: int, partition: TopicPartition = ONE, epoch: int = 1) -> None:
        """One batch; epoch 0 for a partition that is followed."""
        first = self.ends[partition]
        self.ends[partition] += count
        records = [Record(first + n, None, None, b"%d" % (first + n), ()) for n in range(count)]
        self.replays.log += [(partition, record) for record in records]
        self.hub.publish(Batch(partition, records, epoch=epoch))

    def follow(self, partition: TopicPartition) -> None:
        """Another replica owns a partition from now on, and this one follows it."""
        self.hub.unassigned([partition])
        self.hub.reached(ONE, 0)
        self.hub.followed.follow(partition, 0)
        self.hub.expect({"assets": 2})

    def own(self, partition: TopicPartition) -> None:
        """Own a partition that was followed, and of which nothing is committed or known to be done."""
        self.ranges.pop(partition, None)
        self.hub.assigned([partition])
        self.hub.followed.own(partition, 5, HandOver(0, []))

    def done(self, partition: TopicPartition = ONE) -> list[int]:
        """The offsets that a commit may pass."""
        return sorted(self.ranges.get(partition, ()))

    @asynccontextmanager
    async def client(self, query: str = "?ack=client", path: str = "/ws") -> AsyncIterator["AckClient"]:
        """A WebSocket."""
        async with self.connected() as stream:
            client = AckClient(stream)
            upgrade = test_transports.UPGRADE.replace(b"GET /ws", f"GET {path}{query}".encode())
            await stream.send_all(upgrade)
            head = b""
            while b"\r\n\r\n" not in head:
                head += await stream.receive_some(1)
            client.head = head
            yield client


class AckClient(WsStream):
    """Reads messages, and sends some."""

    head = b""
    closed: CloseConnection | None = None

    async def say(self, **message: Any) -> None:
        """Send one message."""
        await self.send(TextMessage(orjson.dumps(message).decode()))

    async def ack(self, event_id: str) -> None:
        """Acknowledge."""
        await self.say(type="ack", id=event_id)

    async def message(self, *kinds: str) -> dict[str, Any]:
        """The next message of one of these types; pings are answered."""
        while True:
            event: Event = await self.next_event()
            if isinstance(event, Ping):
                await self.send(Pong(event.payload))
            elif isinstance(event, CloseConnection):
                self.closed = event
                raise ConnectionError(f"{event.code} {event.reason}")
            elif isinstance(event, TextMessage):
                found: dict[str, Any] = orjson.loads(event.data)
                if found["type"] in kinds:
                    return found

    async def offsets(self, number: int) -> list[int]:
        """Of the next records."""
        found: list[int] = []
        while len(found) < number:
            found += [record["offset"] for record in (await self.message("records"))["records"]]
        return found

    async def end(self) -> int:
        """The code with which the server closes."""
        with pytest.raises(ConnectionError):
            await self.message()
        assert self.closed is not None
        return int(self.closed.code)


async def test_the_window_of_the_request_is_kept_and_ids_of_both_spellings_are_taken() -> None:
    """A message's id, a record's pair and a compact id are accepted."""
    house = AckHouse()
    async with house.serving(), house.client("?ack=client&window=4") as client:
        house.batch(20)
        assert await client.offsets(4) == [0, 1, 2, 3]
        await client.ack("assets:0=1")
        assert await client.offsets(2) == [4, 5]
        await client.ack("assets:~AQEAAAMA")  # partition 0 at offset 2
        assert await client.offsets(1) == [6]
        await client.ack("assets:0=6")
        message = await client.message("records")
        assert [record["offset"] for record in message["records"]] == [7, 8, 9, 10]
        await client.ack(message["id"])
        assert await client.offsets(4) == [11, 12, 13, 14]
        assert house.done() == list(range(11))


async def test_a_client_that_does_not_read_its_answers_is_read_no_further() -> None:
    """It refuses what was never sent to it again and again; the answers would fill the memory."""
    house = AckHouse(stall_timeout_seconds=60)
    house.hub.acking.dead_letters = Letters("assets")
    nacks = masked(0x81, b'{"type":"nack","id":"assets:0=999999"}') * 5000
    async with house.serving(), house.client() as client, trio.open_nursery() as nursery:
        house.publish_large()
        await house.until(lambda: any(subscriber.in_flight for subscriber in house.hub._registry.everybody.values()))
        (connection,) = house.server._connections
        nursery.start_soon(client.stream.send_all, nacks)
        await house.until(lambda: connection.writer.owed_bytes > MOST_OWED_BYTES)
        for _ in range(20):
            await trio.sleep(0.05)
            assert connection.writer.owed_bytes < 2 * MOST_OWED_BYTES
        nursery.cancel_scope.cancel()


async def test_what_was_acknowledged_before_the_client_left_counts() -> None:
    """This holds in the same segment as its close frame; the rest goes to the next client."""
    house = AckHouse()
    async with house.serving():
        house.batch(5)
        async with house.client() as client:
            assert await client.offsets(5) == [0, 1, 2, 3, 4]
            data = client._ws.send(TextMessage('{"type":"ack","id":"assets:0=2"}'))
            await client.stream.send_all(data + client._ws.send(CloseConnection(1000)))
            assert await client.end() == 1000
        await house.until(lambda: house.hub.subscribers == 0)
        assert house.done() == [0, 1, 2]
        async with house.client("?ack=client&last_event_id=assets:0=2") as client:
            assert await client.offsets(2) == [3, 4]


@pytest.mark.parametrize("leaves", [False, True])
async def test_an_acknowledgement_that_covers_much_counts_as_a_whole(leaves: bool) -> None:
    """Steps that remain when the client leaves are taken at once."""
    number = 2 * STEP_DELIVERIES + 1
    house = AckHouse()
    async with house.serving():
        for _ in range(number):
            house.batch(1)
        async with house.client() as client:
            await client.offsets(number)
            data = client._ws.send(TextMessage(f'{{"type":"ack","id":"assets:0={number - 1}"}}'))
            await client.stream.send_all(data + (client._ws.send(CloseConnection(1000)) if leaves else b""))
            await house.until(lambda: house.done() == list(range(number)))


@pytest.mark.parametrize("says", [b"", b'{"type":"ack","id":"assets:0='])
async def test_a_client_that_dies_before_or_within_its_acknowledgement_has_acknowledged_nothing(says: bytes) -> None:
    """Half a frame is ignored, and the next client gets everything."""
    house = AckHouse()
    async with house.serving():
        house.batch(3)
        async with house.client() as client:
            assert await client.offsets(3) == [0, 1, 2]
            if says:
                await client.stream.send_all(client._ws.send(TextMessage((says + b'1"}').decode()))[: len(says) + 4])
        await house.until(lambda: house.hub.subscribers == 0)
        assert house.done() == []
        async with house.client() as client:
            assert await client.offsets(3) == [0, 1, 2]


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"ack"}',
        '{"type":"ack","id":5}',
        '{"type":"ack","id":null}',
        '{"type":"ack","id":["assets:0=1"]}',
        '{"type":"ack","id":"assets"}',
        '{"type":"ack","id":"assets:0=1,0=2"}',
        r'{"type":"ack","id":"assets:0=\ud83d"}',
        '{"type":"nack","id":"assets:0=x"}',
        '{"type":"nack","id":"assets:0=0","reason":"no place to go"}',
    ],
)
async def test_what_is_no_id_ends_the_stream(text: str) -> None:
    """It ends with 4400 and the reason, and so does a refusal without a dead-letter topic."""
    house = AckHouse()
    async with house.serving(), house.client() as client:
        house.batch(1)
        await client.offsets(1)
        await client.send(TextMessage(text))
        goodbye = await client.message("goodbye")
        assert goodbye["code"] == await client.end() == 4400
        assert house.done() == []


async def test_what_is_strange_and_harmless_is_passed_over() -> None:
    """Other words, partitions, unsent offsets, repeats and disorder are ignored."""
    house = AckHouse()
    async with house.serving(), house.client() as client:
        house.batch(4)
        await client.offsets(4)
        unread = ["[]", "not JSON", '{"type":7}', '{"type":"hello"}', '"ack"', r'{"type":"\ud83d"}', r'{"ack":"\ud83d"']
        for text in (*unread, "[" * 60_000, "9" * 60_000):
            await client.send(TextMessage(text))
        for event_id in ("other:0=9", "assets:7=1", "assets:0=2", "assets:0=0", "assets:0=2", "assets:0=99"):
            await client.ack(event_id)
        await house.until(lambda: house.done() == [0, 1, 2, 3])
        assert house.hub.statistics().acking.passed_over == 3


async def test_silence_ends_the_stream_and_resuming_sends_it_again() -> None:
    """It ends with 4408 after `ack_timeout_seconds` without progress."""
    house = AckHouse(ack_timeout_seconds=0.2)
    async with house.serving():
        house.batch(3)
        async with house.client() as client:
            await client.offsets(3)
            await client.ack("assets:0=0")
            goodbye = await client.message("goodbye")
            assert (goodbye["code"], await client.end()) == (4408, 4408)
        async with house.client("?ack=client&last_event_id=assets:0=0") as client:
            assert await client.offsets(2) == [1, 2]
            await client.ack("assets:0=2")
            await house.until(lambda: house.done() == [0, 1, 2])


async def test_a_refused_record_is_answered_when_its_dead_letter_is_stored() -> None:
    """The answer has its own pair; unsent records are left to others at once."""
    house = AckHouse()
    letters = house.hub.acking.dead_letters = Letters("assets")
    async with house.serving(), house.client() as client:
        house.batch(3)
        await client.offsets(3)
        await client.say(type="nack", id="assets:0=55", reason="never sent")
        assert await client.message("nacked") == {"type": "nacked", "id": "assets:0=55", "dead_letter": False}
        await client.say(type="nack", id="assets:0=1,1=7", reason="cannot be read")
        await client.ack("assets:0=2")
        await house.until(lambda: house.done() == [0, 2])
        [(partition, record, reason)] = letters.sent
        assert (partition, record.value, reason) == (ONE, b"1", "cannot be read")
        letters.store[0]()
        assert await client.message("nacked") == {"type": "nacked", "id": "assets:0=1", "dead_letter": True}
        assert house.done() == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (r'{"type":"nack","id":"assets:0=0","reason":"cut \ud83d"}', "cut ?"),
        (r'{"type":"nack","id":"assets:0=0","reason":"café, \udcff"}', "café, ?"),
        (r'{"type":"nack","id":"assets:0=0","reason":"whole \ud83d\ude00","also":"\ud83d"}', "whole \U0001f600"),
        ('{"type":"nack","id":"assets:0=0","reason":"slow","took":NaN}', "slow"),
    ],
)
async def test_a_refusal_that_other_encoders_write_counts(text: str, reason: str) -> None:
    """JSON.stringify writes half a character where a text was cut, and Python's json writes NaN."""
    house = AckHouse()
    letters = house.hub.acking.dead_letters = Letters("assets")
    async with house.serving(), house.client() as client:
        house.batch(2)
        await client.offsets(2)
        await client.send(TextMessage(text))
        await client.send(TextMessage(r'{"type":"ack","id":"assets:0=1","note":"\ud83d"}'))
        await house.until(lambda: house.done() == [1])
        assert [(record.offset, said) for _, record, said in letters.sent] == [(0, reason)]
        letters.store[0]()
        assert await client.message("nacked") == {"type": "nacked", "id": "assets:0=0", "dead_letter": True}


async def test_a_dead_letter_may_be_stored_when_its_client_has_left() -> None:
    """The record is done, and no later owner of its socket's descriptor is answered."""
    house = AckHouse()
    letters = house.hub.acking.dead_letters = Letters("assets")
    async with house.serving():
        house.batch(1)
        async with house.client() as client:
            await client.offsets(1)
            await client.say(type="nack", id="assets:0=0", reason="cannot be read")
            await house.until(lambda: bool(letters.store))
        await house.until(lambda: house.server.connections == 0)
        async with house.client("?observe=1") as other:
            await house.live()
            letters.store[0]()
            assert house.done() == [0]
            house.batch(1)
            message = await other.message("records", "nacked")
            assert [record["offset"] for record in message["records"]] == [1]


async def test_acknowledgements_without_end_are_read_at_a_pace_and_disturb_nobody() -> None:
    """Tens of thousands count, the client stays connected, and the loop runs in between."""
    house = AckHouse(ack_window_bytes="16MiB")
    number = 20_000
    async with house.serving(within_seconds=40), house.client(f"?ack=client&window={number}") as client:
        house.batch(1, TWO)
        await client.offsets(1)
        await client.ack("assets:1=0")
        house.batch(number)
        assert len(await client.offsets(number)) == number
        frames = [client._ws.send(TextMessage(f'{{"type":"ack","id":"assets:0={at}"}}')) for at in range(number)]
        steps = 0
        async with house.client("?observe=1") as other, trio.open_nursery() as nursery:
            await house.until(lambda: house.hub.statistics().subscribers[SubscriberState.LIVE] == 2)
            nursery.start_soon(client.stream.send_all, b"".join(frames))
            while len(house.ranges.get(ONE, ())) < number:
                house.batch(1, TWO)
                assert len(await other.offsets(1)) == 1
                steps += 1
        assert steps > 10
        assert house.hub.statistics().acking.acked_records == number + 1
        assert house.hub.subscribers >= 1


@pytest.mark.parametrize(("event_id", "is_wide"), [("assets:0=1", False), (f"assets:{WIDE}", True)])
def test_what_an_id_names_costs_as_well(event_id: str, is_wide: bool) -> None:
    """Ids that name thousands of partitions in a few characters are read slowly."""
    inbound = AckInbound(0.0)
    for _ in range(10):
        inbound.on_client_data(frame(TEXT, b'{"type":"ack","id":"%b"}' % event_id.encode()), 0.0)
    assert len(event_id) < 40
    assert (inbound.rest_seconds(0.0) > 0.2) is is_wide


class Taking:
    """A subscriber that notes the offset of each acknowledgement and refusal."""

    def __init__(self, end: int = 8192) -> None:
        self.taken: list[int] = []
        self.named: list[int] = []
        self._end = end

    def usable_end(self, topic: str) -> int:
        """As it was made."""
        return self._end if topic == "assets" else 0

    def acked(self, position: dict[TopicPartition, int]) -> None:
        """Note the highest offset, and the number of partitions."""
        self.taken.append(max(position.values()))
        self.named.append(len(position))

    def nacked(self, partition: TopicPartition, offset: int, reason: str, answer: Any) -> bool:  # noqa: ARG002
        """Note the offset."""
        self.taken.append(offset)
        return True

    def go_on(self) -> bool:
        """Nothing is left to do."""
        return False


def go_on_to_the_end(inbound: AckInbound, steps: list[int]) -> None:
    """Take all steps that are left, and note how many partitions each one reads."""
    while inbound.go_on():
        steps.append(inbound._partitions)


@pytest.mark.parametrize("kind", ["ack", "nack"])
@pytest.mark.parametrize("begin", [b"", frame(PING, b"1")], ids=["plain", "by wsproto"])
def test_a_step_reads_one_id_that_names_thousands_of_partitions(kind: str, begin: bytes) -> None:
    """A kilobyte can hold two dozen of them, which held the loop for up to 0.2 s; all of them count, in their order."""
    taking, answers = Taking(), list[bytes]()
    inbound = AckInbound(0.0)
    inbound.attach(taking, answers.append)
    ids = [f"assets:{spell_compact(range(8192), [offset] * 8192)}" for offset in range(18)]
    said = [frame(TEXT, b'{"type":"%b","id":"%b"}' % (kind.encode(), one.encode())) for one in ids]
    said += [frame(TEXT, b'{"type":"ack","id":"assets:0=99"}'), frame(CLOSE, b"\x03\xe8")]
    data = begin + b"".join([*said[:9], frame(PING, b"2"), *said[9:]])
    assert len(data) <= ACK_STEP_BYTES
    answer = inbound.on_client_data(data, 0.0)
    steps = [inbound._partitions]
    with pytest.raises(Farewell) as left:
        go_on_to_the_end(inbound, steps)
    assert max(steps) <= 8192
    assert taking.taken == [*range(18), 99]
    assert (answer, answers) == (pong_frame(b"1") if begin else None, [pong_frame(b"2")])
    assert left.value.code == 1000
    assert inbound.rest_seconds(0.0) > 0.5


def test_nothing_is_made_of_partitions_of_which_nothing_was_sent() -> None:
    """An acknowledgement may name thousands of them in a few characters; they cost as much of the budget as others."""
    taking, inbound = Taking(2), AckInbound(0.0)
    inbound.attach(taking, list[bytes]().append)
    for topic in ("assets", "other"):
        inbound.on_client_data(frame(TEXT, b'{"type":"ack","id":"%b:%b"}' % (topic.encode(), WIDE.encode())), 0.0)
        assert inbound._partitions == 8192
    assert (taking.taken, taking.named) == ([5], [2])


async def test_what_a_client_said_before_the_stream_began_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """This holds even if an id with many partitions ends a step early."""
    wide = f"assets:{WIDE}".encode()
    said = frame(TEXT, b'{"type":"ack","id":"%b"}' % wide) + frame(TEXT, b" " * 1500) + frame(PING, b"read")
    run = SubscriberStream.run

    async def run_after(stream: SubscriberStream) -> None:
        stream._connection.unread.append(said)  # what arrives in this moment nobody can time
        await run(stream)

    monkeypatch.setattr(SubscriberStream, "run", run_after)
    house = AckHouse()
    async with house.serving(), house.client() as client:
        with trio.fail_after(seconds(5)):
            while not isinstance(event := await client.next_event(), Pong):
                pass
        assert bytes(event.payload) == b"read"


async def test_without_the_parameter_acknowledgements_mean_nothing() -> None:
    """Where only they count, such a client is an observer."""
    house = AckHouse()
    house.batch(1)
    async with house.serving(), house.client("") as client:
        await house.live()
        house.batch(2)
        await client.offsets(2)
        await client.ack("assets:0=1")
        await client.ack("nonsense")
        house.batch(1)
        await client.offsets(1)
        assert house.done() == []
        assert not house.hub.has_readers("assets")


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("?ack=yes", "unknown ack 'yes'; use client"),
        ("?ack=client&window=0", "window '0' is not a number from 1 to 100000"),
        ("?ack=client&window_bytes=x", "window_bytes 'x' is not a number"),
        ("?window=5", "window is for streams with ack=client"),
        ("?acks=client", "did you mean ack?"),
    ],
)
async def test_what_is_wrong_with_a_request_is_said(query: str, reason: str) -> None:
    """The code is 4400, before anything is sent."""
    house = AckHouse()
    async with house.serving(), house.client(query) as client:
        assert await client.end() == 4400
        assert client.closed is not None
        assert reason in str(client.closed.reason)


async def test_server_sent_events_cannot_acknowledge() -> None:
    """The response is 400, and says how to acknowledge."""
    house = AckHouse()
    async with house.serving(), house.connected() as stream:
        await stream.send_all(b"GET /events?ack=client HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := await stream.receive_some(4096):
            answer += data
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"use /ws" in answer


async def test_a_stop_waits_for_acknowledgements_for_a_moment() -> None:
    """Acknowledgements in time count, and the stream ends with 1012."""
    house = AckHouse(ack_drain_seconds=5)
    async with house.serving(), house.client() as client:
        house.batch(2)
        await client.offsets(2)
        house.hub.say_goodbye(restart)
        await client.ack("assets:0=1")
        assert (await client.message("goodbye"))["code"] == 1012
        assert house.done() == [0, 1]
