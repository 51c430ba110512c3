"""Any records come out of compressed streams byte for byte, whenever clients connect, leave and resume.

20,000 records take seconds. ``COMPRESSED_RECORDS=1000000`` is for a release: minutes.
"""

import os
import random
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import lru_cache, partial
from typing import Any, cast
from urllib.parse import quote

import orjson
import trio
from wsproto.events import TextMessage

from dispatcher.sansio.position import parse_position
from dispatcher.sansio.ranges import Bounds, Chunk, Range
from dispatcher.sansio.records import Batch, Record, TopicPartition
from testbed.clients import Event, SseStream
from tests.hub.test_hub import ONE, TWO, RecordedLog
from tests.web.test_compression import deflate_client, gzip_client
from tests.web.test_transports import House, WsStream

NUMBER = int(os.environ.get("COMPRESSED_RECORDS", "20000"))
LONGEST = min(NUMBER // 4, 20_000)
"""How many records a reader stays for at most."""
AHEAD = 4000
"""How many records the slowest reader may be short of the head."""
HISTORY_BYTES = 256 * 1024
"""Less than that many records have: readers that were away for long get a replay."""
REPLAYED = 40
"""Records of one read of the log."""

ALPHABETS = (b"ab", b"0123456789", b' {}[]":,\\/e\n')
LETTERS = [bytes(letters[n % len(letters)] for n in range(256)) for letters in ALPHABETS]
WORDS = ["é", "€", "𝄞", "\u2028", "\ufeff", "\0", "\r", "\n", "\r\n", "\n\n", '"', "\\", "data: ", "id: 1", " "]

Bytes = bytes | None
Reader = Callable[["RandomHouse", str], AbstractAsyncContextManager[SseStream | WsStream]]


def some_bytes(chance: random.Random) -> Bytes:
    """Nothing, text or noise, most of it short."""
    kind = chance.random()
    if kind < 0.05:
        return None
    length = chance.choice((0, 1, 20, 100, 300, 1000)) if chance.random() < 0.995 else 140_000
    noise = chance.randbytes(chance.randint(0, length))
    if kind < 0.2:
        return noise
    if kind < 0.7:
        return noise.translate(chance.choice(LETTERS))
    return "".join(chance.choices(WORDS, k=chance.randint(0, 60))).encode()


@lru_cache(AHEAD * 2)
def record_at(partition: int, offset: int) -> Record:
    """A random record: the same one each time."""
    chance = random.Random(offset * 2 + partition)  # noqa: S311 - it has to be the same each time
    key = None if offset % 3 else some_bytes(chance)
    headers = tuple((f"name {n}", some_bytes(chance)) for n in range(offset % 40 == 0 and chance.randint(1, 3)))
    return Record(offset, chance.choice((None, 1_700_000_000_000 + offset)), key, some_bytes(chance), headers)


class RandomLog(RecordedLog):
    """All of these records, to be read again."""

    ends: Mapping[TopicPartition, int]

    async def read(
        self,
        ranges: Mapping[TopicPartition, Range],
        max_bytes: int,  # noqa: ARG002
        client: Hashable = None,  # noqa: ARG002
    ) -> Chunk:
        """The next ones of each range."""
        await trio.lowlevel.checkpoint()
        ends = {partition: min(part.end, part.first + REPLAYED) for partition, part in ranges.items()}
        batches = [batch(partition, part.first, ends[partition]) for partition, part in ranges.items()]
        return Chunk([one for one in batches if len(one.records)], ends, ())

    async def bounds(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """Nothing was deleted."""
        await trio.lowlevel.checkpoint()
        return {partition: Bounds(0, self.ends[partition]) for partition in partitions}


def batch(partition: TopicPartition, first: int, end: int) -> Batch:
    """Consecutive records."""
    return Batch(partition, tuple(record_at(partition.partition, offset) for offset in range(first, end)))


class RandomHouse(House):
    """It publishes random records in random batches, and waits for its readers."""

    log = RandomLog

    def __init__(self, transport: str, **settings: object) -> None:
        super().__init__(transport, **settings)
        self.ends = {ONE: 0, TWO: 0}
        cast("RandomLog", self.replays).ends = self.ends
        self.read = [0] * len(READERS)
        """How many records each reader has."""
        self.moved = trio.lowlevel.ParkingLot()
        self.room = AHEAD
        """How many records the slowest reader may be short of the head now."""

    def _dispatched(self, batch: Batch, start: int, end: int) -> None:
        """A million of them are not kept."""

    @property
    def published(self) -> int:
        """How many records there are."""
        return sum(self.ends.values())

    def has_come(self, number: int) -> bool:
        """Whether there are this many records, or everybody is waited for."""
        return self.published >= number or self.room < AHEAD

    async def wait(self, condition: Callable[[], bool]) -> None:
        """Return when something holds, of which somebody who changes it says that it did."""
        while not condition():
            await self.moved.park()

    async def publish_all(self) -> None:
        """Some at once, some one by one."""
        chance = random.Random(1)  # noqa: S311 - it has to be the same each time
        while (left := NUMBER - self.published) > 0:
            partition = chance.choice((ONE, TWO))
            end = self.ends[partition] + min(left, chance.randint(1, chance.choice((1, 3, 20, 300))))
            made = batch(partition, self.ends[partition], end)
            self.ends[partition] = end
            self.hub.publish(made)
            self.room = AHEAD if chance.random() < 0.7 else 1
            self.moved.unpark_all()
            if chance.random() < 0.5:
                await trio.lowlevel.checkpoint()
            await self.wait(lambda: self.published - min(self.read) < self.room)


def found_in(field: str, found: Mapping[str, Any]) -> Bytes:
    """The bytes of a key or a value."""
    if f"{field}_base64" in found:
        return b64decode(found[f"{field}_base64"], validate=True)
    return None if found[field] is None else str(found[field]).encode()


def of_envelope(found: Mapping[str, Any]) -> tuple[int, Record]:
    """The partition, and the record that an envelope says."""
    headers = tuple((header["key"], found_in("value", header)) for header in found["headers"])
    record = Record(found["offset"], found["timestamp"], found_in("key", found), found_in("value", found), headers)
    return found["partition"], record


def of_value(event: Event) -> tuple[int, Record]:
    """The same of an event that has nothing but the value."""
    partition, offset = event.own
    value = None if event.type == "tombstone" else event.data.encode()
    if event.type == "binary":
        value = b64decode(event.data, validate=True)
    return partition, Record(offset, None, None, value, ())


def as_value(record: Record) -> Record:
    """What of a record such an event has: a line ends in one way."""
    value = record.value
    try:
        text = (value or b"").decode()
    except UnicodeDecodeError:
        pass
    else:
        value = value and text.replace("\r\n", "\n").replace("\r", "\n").encode()
    return Record(record.offset, None, None, value, ())


async def next_records(client: SseStream | WsStream) -> tuple[str, Sequence[tuple[int, Record]]]:
    """The records of the next event or message, and the position after them if it says one."""
    if isinstance(client, SseStream):
        event = await client.next_event()
        assert event is not None
        if event.type in {"state", "gap", "goodbye"}:
            assert event.type == "state"
            return event.id, ()
        return event.id, [of_envelope(orjson.loads(event.data)) if event.data[:9] == '{"topic":' else of_value(event)]
    said = await client.next_event()
    message = orjson.loads(said.data) if isinstance(said, TextMessage) else {}
    assert message.get("type", "records") in {"records", "state", "heartbeat"}
    return message.get("id", ""), [of_envelope(found) for found in message.get("records", ())]


@asynccontextmanager
async def plain_sse(house: RandomHouse, target: str) -> AsyncIterator[SseStream]:
    """A client that does not offer gzip."""
    async with house.connected() as stream:
        client = SseStream(stream)
        await client.open(target)
        assert b"content-encoding" not in dict(client.response.headers)
        yield client


READERS: Sequence[tuple[Reader, str]] = (
    (gzip_client, "/events?format=envelope"),
    (gzip_client, "/events?format=envelope"),
    (gzip_client, "/events?format=value"),
    (deflate_client, "/ws?"),
    (deflate_client, "/ws?"),
    (plain_sse, "/events?format=envelope"),
)


class Visits:
    """A reader that leaves after a random number of records, in the middle of a write or not, and resumes."""

    def __init__(self, house: RandomHouse, number: int) -> None:
        self._house = house
        self._number = number
        self._opens, self._target = READERS[number]
        self._chance = random.Random(number)  # noqa: S311 - it has to be the same each time
        self._id = ""
        self._next = {ONE.partition: 0, TWO.partition: 0}
        self.visits = 0

    async def run(self) -> None:
        """Until it has every record."""
        house, chance = self._house, self._chance
        while (read := house.read[self._number]) < NUMBER:
            await house.wait(partial(house.has_come, min(read + chance.randrange(AHEAD // 2), NUMBER)))
            place = f"last_event_id={quote(self._id)}" if self._id else "since=earliest"
            async with self._opens(house, f"{self._target}&{place}") as client:
                self.visits += 1
                await self._read(client, min(NUMBER, read + chance.randint(1, chance.choice((10, 1000, LONGEST)))))

    async def _read(self, client: SseStream | WsStream, until: int) -> None:
        house = self._house
        while house.read[self._number] < until:
            at, records = await next_records(client)
            for partition, record in records:
                wanted = record_at(partition, self._next[partition])
                assert record == (as_value(wanted) if "format=value" in self._target else wanted)
                self._next[partition] += 1
            if at:
                self._id = at
                position = parse_position(at)
                assert {p.partition: offset + 1 for p, offset in position.items()} == self._next
            house.read[self._number] = sum(self._next.values())
            house.moved.unpark_all()


async def test_random_records_come_out_byte_for_byte() -> None:
    """Nothing is lost, repeated or changed, in writes of any size, live, from memory and from the log."""
    sizes = {"history_bytes": HISTORY_BYTES, "pause_above_bytes": HISTORY_BYTES, "resume_below_bytes": 1000}
    house = RandomHouse("socket", compression="on", subscriber_buffer_bytes=20_000, **sizes)
    visits = [Visits(house, number) for number in range(len(READERS))]
    async with house.serving(within_seconds=60 + NUMBER / 1000), trio.open_nursery() as nursery:
        nursery.start_soon(house.publish_all)
        for one in visits:
            nursery.start_soon(one.run)
    statistics = house.hub.encoder.statistics()
    assert statistics.compression is not None
    assert statistics.compression.output_bytes < statistics.compression.input_bytes
    assert statistics.replayed
    assert house.read == [NUMBER] * len(READERS)
    assert all(one.visits > 1 for one in visits)
    print(f"{sum(one.visits for one in visits)} connections, {statistics}")  # noqa: T201 - for people, with -s
