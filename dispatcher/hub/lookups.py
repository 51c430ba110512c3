"""Looks up in Kafka what is not in memory: records to replay, the offset at a time, the bounds of a log.

No subscriber waits for another one's answer: each read is a task, and `LogReader` bounds how many run at a time. Log
bounds, and the offsets at a given time, are looked up once for all subscribers that have asked for them by then: after
a restart that may be every subscriber.

Each partition is answered separately. One without an answer is postponed briefly for that subscriber, which meanwhile
asks for its other partitions.
"""

from collections import deque
from collections.abc import Collection, Hashable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

import trio

from dispatcher.hub.asked_decoding import AskedDecoding
from dispatcher.hub.statistics import LookupStatistics
from dispatcher.sansio.lookups import LogBounds, Lookup, OffsetsForTime, ReadRanges
from dispatcher.sansio.ranges import NOW, Bounds, Chunk, Range
from dispatcher.sansio.records import TopicPartition

ASK_AGAIN_SECONDS = 0.5
"""How long a partition without an answer is postponed, for example while a broker is unreachable."""

ASK_AGAIN_EACH_SECONDS = 0.002
"""Minimum time between two subscribers that ask again: ten thousand that wait for a broker must not hold the loop."""

UNION_SLICE = 50
"""Maximum number of questions that are joined between two yields: 20 µs each, if they are about 1,000 partitions."""

ANSWER_SLICE = 2_000
"""Maximum number of answers between two yields, one per partition and subscriber: about 1 µs each."""


class LogReader(Protocol):
    """Reads Kafka for subscribers that need records not in memory. Answers leave out partitions that have none now."""

    async def read(self, ranges: Mapping[TopicPartition, Range], max_bytes: int, client: Hashable = None) -> Chunk:
        """Read the next part of some ranges; clients in line take turns."""

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """Look up where the logs of partitions begin and end."""

    async def offsets_since(
        self, partitions: Collection[TopicPartition], since_ms: int
    ) -> Mapping[TopicPartition, int | None]:
        """Look up the offset of each partition's first record at or after a time; None where there is none."""

    async def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Look up the group's committed offsets, or where ``auto.offset.reset`` would start if there are none."""


Key = tuple[int | None, int | None, bool] | None
"""Look-ups with the same key are made together: a time or a number of records, and whether exactly; None: bounds."""


class LookupClient(Hashable, Protocol):
    """Receives the answers, unless it has left meanwhile."""

    owner: Hashable
    """The owner, such as an address: owners take turns, and so do the clients of each owner."""

    lookup_scope: trio.CancelScope
    """The scope of look-ups for this client alone; cancelled when it leaves."""

    @property
    def closed(self) -> bool:
        """Whether it has left and wants no answer."""

    @property
    def decodes(self) -> frozenset[str]:
        """Topics that are decoded because it asks."""

    # An answer may leave out partitions: `ask_again` is called when they may be asked for again.

    def on_chunk(self, lookup: ReadRanges, chunk: Chunk) -> None:
        """Take replayed records."""

    def on_offsets_for_time(self, lookup: OffsetsForTime, offsets: Mapping[TopicPartition, int | None]) -> None:
        """Take the offset of each partition's first record at or after a time; None where there is none.

        The mapping is shared, and may name partitions that others have asked about.
        """

    def on_log_bounds(self, lookup: LogBounds, bounds: Mapping[TopicPartition, Bounds]) -> None:
        """Take where logs begin and end."""

    def ask_again(self, partitions: AbstractSet[TopicPartition]) -> None:
        """Note that partitions without an answer may be asked for again."""


class Lookups:
    """Looks things up in Kafka for its clients.

    *Thread*: Trio's only.

    Args:
        replays: Reads Kafka.
        chunk_bytes: Maximum number of bytes that one look-up replays.
        asked: Decodes for subscribers that ask; None if they cannot ask.
    """

    def __init__(self, replays: LogReader, chunk_bytes: int, asked: AskedDecoding | None = None) -> None:
        self._replays = replays
        self.asked = asked or AskedDecoding()
        """Decodes for subscribers that ask."""
        self._chunk_bytes = chunk_bytes
        self._reads: list[tuple[LookupClient, ReadRanges]] = []
        self._lookups: dict[Key, list[tuple[LookupClient, LogBounds | OffsetsForTime]]] = {}
        self._looking_up: set[Key] = set()
        self._asked = self._reading = 0
        self._wake_up = trio.Event()
        self._put_off: deque[tuple[float, LookupClient, AbstractSet[TopicPartition]]] = deque()
        """When each client may ask again, and for which partitions; the earliest first."""
        self._put_off_event = trio.Event()

    def ask(self, client: LookupClient, lookup: Lookup) -> None:
        """Look something up. Never waits."""
        self._asked += 1
        if isinstance(lookup, ReadRanges):
            self._reading += 1
            self._reads.append((client, lookup))
        else:
            key = (lookup.since_ms, lookup.last, lookup.exact) if isinstance(lookup, OffsetsForTime) else None
            self._lookups.setdefault(key, []).append((client, lookup))
        self._wake_up.set()

    def statistics(self) -> LookupStatistics:
        """A snapshot."""
        return LookupStatistics(self._asked, self._reading, len(self._looking_up), len(self._put_off))

    async def run(self) -> None:
        """Answer until cancelled.

        *Cancellation*: safe, and takes effect when the current calls of worker threads return.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask_again)
            while True:
                await self._wake_up.wait()
                self._wake_up = trio.Event()
                reads, self._reads = self._reads, []
                for client, lookup in reads:
                    nursery.start_soon(self._read, client, lookup)
                for key in self._lookups.keys() - self._looking_up:
                    self._looking_up.add(key)
                    nursery.start_soon(self._look_up, key)

    async def _read(self, client: LookupClient, lookup: ReadRanges) -> None:
        try:
            if client.closed:
                return
            with trio.CancelScope() as client.lookup_scope:
                chunk = await self._replays.read(lookup.ranges, self._chunk_bytes, (client.owner, client))
                if client.decodes:
                    chunk = await self.asked.decoded(chunk, client.decodes)
                if not client.closed:
                    client.on_chunk(lookup, chunk)
                    self._put_off_unanswered(client, lookup.partitions - chunk.next_offsets.keys())
        finally:
            self._reading -= 1

    async def _look_up(self, key: Key) -> None:
        """Answer all look-ups with this key until none are left."""
        while asked := self._lookups.pop(key, None):
            lookups = [lookup for client, lookup in asked if not client.closed]
            partitions = await _union([lookup.partitions for lookup in lookups])
            bounds: Mapping[TopicPartition, Bounds] = {}
            offsets: Mapping[TopicPartition, int | None] = {}
            committed: Mapping[TopicPartition, int] = {}
            asked_for: AbstractSet[TopicPartition] = frozenset()
            if key is None:
                bounds = await self._replays.bounds(partitions)
            else:
                offsets = await self._starts(partitions, *key)
                times = [lookup.committed for lookup in lookups if isinstance(lookup, OffsetsForTime)]
                if asked_for := await _union(times):
                    committed = await self._replays.committed(asked_for)
            of_all = _no_later(offsets, committed, asked_for)
            answered_count = 0
            for client, lookup in asked:
                if answered_count >= ANSWER_SLICE:
                    answered_count = 0
                    await trio.lowlevel.checkpoint()
                if client.closed:
                    continue
                answered_count += len(lookup.partitions)
                if isinstance(lookup, LogBounds):
                    client.on_log_bounds(lookup, {tp: bounds[tp] for tp in lookup.partitions & bounds.keys()})
                else:
                    # Most have asked for the committed offsets of all these partitions, or for none.
                    starts = of_all
                    if len(lookup.committed) != len(asked_for):
                        own = {tp: offsets[tp] for tp in lookup.partitions & offsets.keys()}
                        starts = _no_later(own, committed, lookup.committed)
                    client.on_offsets_for_time(lookup, starts)
                    self._put_off_unanswered(client, lookup.partitions - starts.keys())
                    continue
                self._put_off_unanswered(client, lookup.partitions - bounds.keys())
        self._looking_up.discard(key)

    async def _starts(
        self,
        partitions: AbstractSet[TopicPartition],
        since_ms: int | None,
        last: int | None,
        exact: bool,
    ) -> Mapping[TopicPartition, int | None]:
        """The offset at a time, or a number of records before the end; None past the newest record, unless `exact`."""
        offsets: dict[TopicPartition, int | None] = {}
        if last is None and since_ms is None:
            return dict.fromkeys(partitions)
        if last is None and since_ms != NOW:
            assert since_ms is not None  # noqa: S101 - see above
            offsets.update(await self._replays.offsets_since(partitions, since_ms))
            unknown = frozenset(tp for tp, offset in offsets.items() if offset is None)
            if not (exact and unknown):
                return offsets
            for tp in unknown:
                del offsets[tp]
            partitions = unknown
        for tp, (first, end) in (await self._replays.bounds(partitions)).items():
            offsets[tp] = end if last is None else max(first, end - last)
        return offsets

    def _put_off_unanswered(self, client: LookupClient, partitions: AbstractSet[TopicPartition]) -> None:
        """Let the client ask again, after a moment, for partitions that the answer left out."""
        if partitions:
            at = trio.current_time() + ASK_AGAIN_SECONDS
            if self._put_off:
                at = max(at, self._put_off[-1][0] + ASK_AGAIN_EACH_SECONDS)
            self._put_off.append((at, client, partitions))
            self._put_off_event.set()

    async def _ask_again(self) -> None:
        while True:
            await self._put_off_event.wait()
            while self._put_off:
                await trio.sleep_until(self._put_off[0][0])
                _, client, partitions = self._put_off.popleft()
                if not client.closed:
                    client.ask_again(partitions)
            self._put_off_event = trio.Event()


async def _union(parts: Sequence[AbstractSet[TopicPartition]]) -> AbstractSet[TopicPartition]:
    """All partitions that are asked about. *Cancellation*: safe."""
    found: set[TopicPartition] = set()
    for number, part in enumerate(parts, 1):
        found |= part
        if not number % UNION_SLICE:
            await trio.lowlevel.checkpoint()
    return found


def _no_later(
    offsets: Mapping[TopicPartition, int | None],
    committed: Mapping[TopicPartition, int],
    asked_for: AbstractSet[TopicPartition],
) -> Mapping[TopicPartition, int | None]:
    """The offsets, but in some partitions no later than the group's, and without those where that is unknown."""
    if not asked_for:
        return offsets
    starts = dict(offsets)
    for tp in offsets.keys() & asked_for:
        offset, start = offsets[tp], committed.get(tp)
        if start is None:
            del starts[tp]
        elif offset is None or start < offset:
            starts[tp] = start
    return starts
