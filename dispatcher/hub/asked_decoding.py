"""Decodes for subscribers that ask (``decode=json``), of topics that the settings do not name.

While somebody asks, whoever polls such a topic decodes it, once for all that ask. What that leaves is decoded here,
when a subscriber gets there or a filter has to be evaluated: what was published before the first one asked, what would
have held up the poll, and records whose schema is on its way. Each entry is decoded once, and what it was decoded to is
kept and counted with it.

Subscribers that ask wait before an entry that is not decoded, and read on when it is. Nobody else waits: the others are
sent what Kafka delivered. An entry of a topic waits for those before it, so a registry that is away is asked about one
record of each topic.

*Thread*: Trio's; decoding itself is done in a worker thread.
"""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from heapq import heappop, heappush
from typing import Protocol

import trio

from dispatcher.sansio.decoded import Decoded, joined
from dispatcher.sansio.entries import Entry
from dispatcher.sansio.history import History
from dispatcher.sansio.ranges import Chunk
from dispatcher.sansio.records import Records

WAIT_SECONDS = 0.1
"""How often a record that waits for its schema is tried again."""

LOOK_AHEAD = 64
"""Most entries that are decoded at once, and of one partition beyond the one that a subscriber waits for."""


class AskedDecoder(Protocol):
    """Decodes records for those that ask."""

    def ask(self, topics: frozenset[str]) -> None:
        """Decode these topics from now on when they are polled, and none but these."""

    async def decode(self, topic: str, several: Sequence[Records]) -> Sequence[Records]:
        """The first of each of several runs of records, decoded.

        Returns:
            As many as were begun: nothing is begun after one that has to wait, or after some time.
        """

    async def decode_chunk(self, chunk: Chunk, topics: AbstractSet[str]) -> Chunk:
        """What was read again, decoded, up to the first record of each partition that has to wait."""


class Waiting(Protocol):
    """A subscriber that cannot go on."""

    def decided(self) -> None:
        """It may look again."""


class _Task:
    """An entry that is to be decoded, and what was decoded of it."""

    __slots__ = ("entry", "number", "parts")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.parts: list[Decoded] = []
        self.number = 0
        """How many of its records were decoded."""

    @property
    def is_over(self) -> bool:
        """Whether it was decoded, or the history has let it go."""
        records = self.entry.batch.records
        return self.entry.removed or not records or records.asked is not None

    @property
    def left(self) -> Records:
        """The records that were not decoded."""
        records = self.entry.batch.records
        return records[self.number :] if self.number else records

    def take(self, part: Records) -> None:
        """Note what was decoded."""
        if part.decoded is not None:
            self.parts.append(part.decoded)
            self.number += len(part)


class _Tasks:
    """The entries of one topic that are to be decoded; to take the oldest ones costs little, however many there are."""

    __slots__ = ("_by_sequence", "_sequences")

    def __init__(self) -> None:
        self._by_sequence: dict[int, _Task] = {}
        self._sequences: list[int] = []
        """A heap of those that are not taken."""

    def __bool__(self) -> bool:
        return bool(self._by_sequence)

    def add(self, entry: Entry) -> None:
        """An entry is to be decoded, perhaps once more."""
        if entry.sequence not in self._by_sequence:
            self._by_sequence[entry.sequence] = _Task(entry)
            heappush(self._sequences, entry.sequence)

    def take(self, number: int) -> list[_Task]:
        """No more than that of the oldest ones, those that are over included."""
        return [self._by_sequence[heappop(self._sequences)] for _ in range(min(number, len(self._sequences)))]

    def put_back(self, task: _Task) -> None:
        """A task that was taken is not over."""
        heappush(self._sequences, task.entry.sequence)

    def remove(self, task: _Task) -> None:
        """A task that was taken is over."""
        del self._by_sequence[task.entry.sequence]


class AskedDecoding:
    """What is to be decoded for subscribers that ask, and which of them wait.

    What is decoded in part is bounded by one entry of each topic; the rest is in the history.

    Args:
        history: Has the entries.
        decoder: Decodes; None: nobody can ask.
        on_decided: Called with each entry that was decoded.
    """

    def __init__(
        self,
        history: History | None = None,
        decoder: AskedDecoder | None = None,
        on_decided: Callable[[Entry], None] = lambda _entry: None,
    ) -> None:
        self._history = history
        self._decoder = decoder
        self._on_decided = on_decided
        self._topics: frozenset[str] = frozenset()
        self._tasks: dict[str, _Tasks] = {}
        """By topic."""
        self._waiting: dict[Waiting, str] = {}
        """Subscribers that wait, and the topic for which they do."""
        self._wake_up = trio.Event()

    def topics_changed(self, topics: frozenset[str]) -> None:
        """These topics are asked for from now on."""
        if self._decoder is not None and topics != self._topics:
            self._topics = topics
            self._decoder.ask(topics)
            for topic in self._tasks.keys() - topics:
                del self._tasks[topic]

    def ask(self, entry: Entry) -> None:
        """Have an entry decoded."""
        if entry.batch.partition.topic in self._topics:
            self._tasks.setdefault(entry.batch.partition.topic, _Tasks()).add(entry)
            self._wake_up.set()

    def wait(self, waiting: Waiting, entry: Entry) -> None:
        """Have an entry decoded, and some that follow it, and let a subscriber look again then."""
        self._waiting[waiting] = entry.batch.partition.topic
        for one in self._history.from_entry(entry, LOOK_AHEAD) if self._history is not None else ():
            if one.batch.records and one.batch.records.asked is None:
                self.ask(one)

    def leave(self, waiting: Waiting) -> None:
        """A subscriber has left."""
        self._waiting.pop(waiting, None)

    async def decoded(self, chunk: Chunk, topics: frozenset[str]) -> Chunk:
        """What was read again, for one that asks. *Cancellation*: late, by as long as decoding it takes."""
        return chunk if self._decoder is None else await self._decoder.decode_chunk(chunk, topics)

    async def run(self) -> None:
        """Decode until cancelled. *Cancellation*: late, by as long as one step of decoding takes."""
        while True:
            await self._wake_up.wait()
            self._wake_up = trio.Event()
            while self._tasks:
                has_moved = [await self._decode_some(topic) for topic in tuple(self._tasks)]
                if not any(has_moved):
                    await trio.sleep(WAIT_SECONDS)

    async def _decode_some(self, topic: str) -> bool:
        """Decode the oldest entries of a topic; returns whether anything has changed."""
        assert self._decoder is not None  # noqa: S101 - otherwise nobody can ask
        tasks = self._tasks.get(topic, _Tasks())
        taken = tasks.take(LOOK_AHEAD)
        left = self._without_over(topic, tasks, taken)
        found: Sequence[Records] = ()
        if left:
            found = await self._decoder.decode(topic, [task.left for task in left])
        else:
            # A partition that leaves may leave with a hundred thousand of them.
            await trio.lowlevel.checkpoint()
        # Anything may have happened meanwhile: entries have left, or nobody asks any more.
        for task, part in zip(left, found, strict=False):
            task.take(part)
            if task.number == task.entry.record_count and not task.is_over:
                self._decide(task)
        for task in self._without_over(topic, tasks, left):
            tasks.put_back(task)
        if not tasks and self._tasks.get(topic) is tasks:
            del self._tasks[topic]
        return any(found) or not left

    def _without_over(self, topic: str, tasks: _Tasks, taken: Sequence[_Task]) -> list[_Task]:
        """Drop the tasks that are over: whoever waits for them has to look again, perhaps elsewhere."""
        left = []
        for task in taken:
            if task.is_over:
                tasks.remove(task)
            else:
                left.append(task)
        if len(left) < len(taken):
            self._look_again(topic)
        return left

    def _decide(self, task: _Task) -> None:
        assert self._history is not None  # noqa: S101 - it has the entry
        self._history.decided(task.entry, joined(task.parts))
        self._on_decided(task.entry)

    def _look_again(self, topic: str) -> None:
        for waiting in [one for one, its_topic in self._waiting.items() if its_topic == topic]:
            del self._waiting[waiting]
            waiting.decided()
