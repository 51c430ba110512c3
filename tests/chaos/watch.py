"""Readers of a topic whose log changes: one on each replica, who leave, freeze and come back together."""

from collections.abc import Callable

import orjson
import trio

from dispatcher.sansio.position import format_position, parse_position
from dispatcher.sansio.records import TopicPartition
from testbed.clients import Event, SseStream, first_pair, open_sse
from tests.audit.fleet import Fleet
from tests.audit.listeners import ENDINGS, RECONNECT_SECONDS
from tests.chaos.books import Books

SMALL_BUFFER_BYTES = 4096


class Watch:
    """Keeps one reader of a topic on each slot of a fleet.

    Args:
        books: Whom the readers tell what they see.
        fleet: The replicas.
        resumes: Whether readers come back with what all of them have seen, merged, as clients do: meanwhile a
            partition may have moved to another replica. Without it, what a socket had taken and a reader that leaves
            has not read is lost, however fast the reader. A topic that is made again is read without: an id of its
            old log may name offsets of the new one.
    """

    def __init__(self, books: Books, fleet: Fleet, *, resumes: bool = False) -> None:
        self.books = books
        self.fleet = fleet
        self._resumes = resumes
        self._position: dict[TopicPartition, int] = {}
        self._here = trio.Event()
        self._here.set()
        self._reading = trio.Event()
        self._reading.set()
        self._visits: set[trio.CancelScope] = set()

    async def run(self, slots: int) -> None:
        """Read for ever. *Cancellation*: safe, all connections are closed."""
        async with trio.open_nursery() as nursery:
            for number in range(slots):
                nursery.start_soon(self._stay_at, number)

    def leave(self) -> None:
        """Nobody reads the topic from now on."""
        self._here = trio.Event()
        for visit in self._visits:
            visit.cancel()

    def freeze(self) -> None:
        """Connections stay open, and nobody reads from them."""
        self._reading = trio.Event()

    def come_back(self) -> None:
        """Read again, on new connections where there are none."""
        self._here.set()
        self._reading.set()

    async def _stay_at(self, number: int) -> None:
        while True:
            await self._here.wait()
            slots = self.fleet.slots[number : number + 1]
            if slots and (replica := slots[0].replica) is not None:
                try:
                    with trio.CancelScope() as visit:
                        self._visits.add(visit)
                        query = f"?topic={self.books.topic}"
                        headers = {"Last-Event-ID": format_position(self._position)} if self._position else {}
                        async with open_sse(replica, query, headers, SMALL_BUFFER_BYTES) as stream:
                            await read_into(self.books, stream, lambda: self._reading, self._remember)
                except* ENDINGS:
                    pass  # the next connection tells how things are
                finally:
                    self._visits.discard(visit)
            await trio.sleep(RECONNECT_SECONDS)

    def _remember(self, event: Event) -> None:
        if self._resumes and event.id:
            for partition, offset in parse_position(event.id).items():
                self._position[partition] = max(offset, self._position.get(partition, -1))


async def read_into(
    books: Books,
    stream: SseStream,
    reading: Callable[[], trio.Event],
    remember: Callable[[Event], None] = lambda _: None,
) -> None:
    """Tell the books of everything that comes, until the stream ends."""
    connection = books.opened()
    while (event := await stream.next_event()) is not None:
        take(books, connection, event)
        remember(event)
        await reading().wait()


def take(books: Books, connection: int, event: Event) -> None:
    """Tell the books of one event."""
    if event.type == "message":
        books.received(connection, *first_pair(event.id), generation_of(event.data))
    elif event.type == "state":
        books.state(connection, frozenset(orjson.loads(event.data)["assigned"].get(books.topic, ())))
    elif event.type == "gap":
        gap = orjson.loads(event.data)
        books.gap(connection, gap["partition"], gap["from"], gap["to"], gap["reason"])


def value_of(generation: int, size_bytes: int = 0) -> str:
    """Return the value of every record of a generation."""
    return f"{generation} ".ljust(size_bytes, ".")


def generation_of(value: str) -> int:
    """The generation that a value names."""
    return int(value.partition(" ")[0])
