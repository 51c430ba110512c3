"""Decodes for subscribers that ask (``decode=json``), in topics that the settings do not decode for all.

While a subscriber asks for such a topic, the thread that polls it decodes it, once for all that ask. The rest is
decoded here, when a subscriber reaches it or a filter has to be evaluated: records published before the first
subscriber asked, those that would have held up the poll, and those whose schema is still being fetched. Each entry is
decoded once; the result is kept with the entry, and counted towards its size.

Subscribers that ask wait at an entry that is not decoded yet, and continue when it is. The others do not wait: they are
sent what Kafka delivered. An entry waits for earlier entries of its topic, so an unreachable registry is asked about
only one record per topic.

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
"""Interval at which a record that waits for its schema is tried again."""

LOOK_AHEAD = 64
"""Maximum number of entries decoded in one step, and of those queued when a subscriber waits for the first one."""


class AskedDecoder(Protocol):
    """Decodes records for subscribers that ask."""

    def ask(self, topics: frozenset[str]) -> None:
        """From now on, decode exactly these topics when they are polled."""

    async def decode(self, topic: str, several: Sequence[Records]) -> Sequence[Records]:
        """Decode the beginning of each of several runs of records.

        Returns:
            The decoded part of each run that was begun. No run is begun after one that has to wait, or after some time.
        """

    async def decode_chunk(self, chunk: Chunk, topics: AbstractSet[str]) -> Chunk:
        """Decode replayed records, up to the first record of each partition that has to wait."""


class Waiting(Protocol):
    """A subscriber that cannot continue."""

    def decided(self) -> None:
        """Let it try again."""


class _Task:
    """An entry that is to be decoded, and its decoded records."""

    __slots__ = ("entry", "number", "parts")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.parts: list[Decoded] = []
        self.number = 0
        """The number of its decoded records."""

    @property
    def is_over(self) -> bool:
        """Whether it was decoded, or has left the history."""
        records = self.entry.batch.records
        return self.entry.removed or not records or records.asked is not None

    @property
    def left(self) -> Records:
        """The records that are not decoded yet."""
        records = self.entry.batch.records
        return records[self.number :] if self.number else records

    def take(self, part: Records) -> None:
        """Add decoded records."""
        if part.decoded is not None:
            self.parts.append(part.decoded)
            self.number += len(part)


class _Tasks:
    """The entries of one topic that are to be decoded; taking the oldest ones is cheap, however many there are."""

    __slots__ = ("_by_sequence", "_sequences")

    def __init__(self) -> None:
        self._by_sequence: dict[int, _Task] = {}
        self._sequences: list[int] = []
        """A heap of the sequences that are not taken."""

    def __bool__(self) -> bool:
        return bool(self._by_sequence)

    def add(self, entry: Entry) -> None:
        """Add an entry, unless it was added already."""
        if entry.sequence not in self._by_sequence:
            self._by_sequence[entry.sequence] = _Task(entry)
            heappush(self._sequences, entry.sequence)

    def take(self, number: int) -> list[_Task]:
        """Take up to this many of the oldest tasks, including those that are over."""
        return [self._by_sequence[heappop(self._sequences)] for _ in range(min(number, len(self._sequences)))]

    def put_back(self, task: _Task) -> None:
        """Return a task that is not over."""
        heappush(self._sequences, task.entry.sequence)

    def remove(self, task: _Task) -> None:
        """Drop a task that is over."""
        del self._by_sequence[task.entry.sequence]


class AskedDecoding:
    """The entries to decode for subscribers that ask, and the subscribers that wait.

    At most one entry per topic is partly decoded; all other results are in the history.

    Args:
        history: Holds the entries.
        decoder: The decoder; None if subscribers cannot ask.
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
        """The waiting subscribers, and the topic for which each waits."""
        self._wake_up = trio.Event()

    def topics_changed(self, topics: frozenset[str]) -> None:
        """Note that subscribers now ask for exactly these topics."""
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
        """Have an entry decoded, and some that follow it; then let a subscriber try again."""
        self._waiting[waiting] = entry.batch.partition.topic
        for one in self._history.from_entry(entry, LOOK_AHEAD) if self._history is not None else ():
            if one.batch.records and one.batch.records.asked is None:
                self.ask(one)

    def leave(self, waiting: Waiting) -> None:
        """Forget a subscriber that has left."""
        self._waiting.pop(waiting, None)

    async def decoded(self, chunk: Chunk, topics: frozenset[str]) -> Chunk:
        """Decode replayed records for a subscriber that asks. *Cancellation*: takes effect when decoding has ended."""
        return chunk if self._decoder is None else await self._decoder.decode_chunk(chunk, topics)

    async def run(self) -> None:
        """Decode until cancelled. *Cancellation*: takes effect when the current step has ended."""
        while True:
            await self._wake_up.wait()
            self._wake_up = trio.Event()
            while self._tasks:
                has_moved = [await self._decode_some(topic) for topic in tuple(self._tasks)]
                if not any(has_moved):
                    await trio.sleep(WAIT_SECONDS)

    async def _decode_some(self, topic: str) -> bool:
        """Decode the oldest entries of a topic; returns whether anything has changed."""
        assert self._decoder is not None  # noqa: S101 - without a decoder nobody can ask
        tasks = self._tasks.get(topic, _Tasks())
        taken = tasks.take(LOOK_AHEAD)
        left = self._without_over(topic, tasks, taken)
        found: Sequence[Records] = ()
        if left:
            found = await self._decoder.decode(topic, [task.left for task in left])
        else:
            # A partition may leave with a hundred thousand entries.
            await trio.lowlevel.checkpoint()
        # Anything may have happened meanwhile: entries may have left, and subscribers too.
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
        """Drop the tasks that are over: subscribers that wait for them have to try again, perhaps with a replay."""
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
