"""Finds out for subscribers what is not in memory: records to read again, where a time begins, where a log ends.

Nobody waits for another's answer: a question is a task of its own, and `Replays` bounds how many are under way. The
bounds of logs are asked for once for everybody who asks meanwhile: after a restart that may be every subscriber.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol

import trio

from dispatcher.sansio.catch_up import BoundsQuestion, Question, ReadQuestion, TimeQuestion
from dispatcher.sansio.ranges import Bounds, Chunk, Range
from dispatcher.sansio.records import TopicPartition

ASK_AGAIN_SECONDS = 0.5
"""When there was no answer, as with a broker away."""


class Replays(Protocol):
    """Reads Kafka for those who are behind what is in memory. Every method waits in line."""

    async def read(self, ranges: Mapping[TopicPartition, Range], most_bytes: int) -> Chunk | None:
        """The next part of some ranges; None when nothing came, such as when no broker answers."""

    async def bounds(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Bounds] | None:
        """Where the logs of partitions begin and end; None when no broker answers."""

    async def offsets_since(
        self, partitions: Iterable[TopicPartition], since_ms: int
    ) -> Mapping[TopicPartition, int] | None:
        """The first offset of each partition in which something came since a time; None when no broker answers."""


class Asker(Protocol):
    """Who is told the answer, as long as it is here."""

    asking: trio.CancelScope
    """Around what is found out for it alone; cancelled when it leaves."""

    @property
    def has_left(self) -> bool:
        """Whether it is told nothing any more."""

    def read(self, question: ReadQuestion, chunk: Chunk) -> None:
        """Take what was read again."""

    def placed(self, question: TimeQuestion, offsets: Mapping[TopicPartition, int]) -> None:
        """Take the first offsets of what came since a time."""

    def bounded(self, question: BoundsQuestion, bounds: Mapping[TopicPartition, Bounds]) -> None:
        """Take where logs begin and end."""

    def unanswered(self, question: Question) -> None:
        """There is no answer now: ask again."""


class Answers:
    """Answers questions as they come.

    *Thread*: Trio's only.

    Args:
        replays: Where to look.
        chunk_bytes: Most bytes of records that are read again for one question.
    """

    def __init__(self, replays: Replays, chunk_bytes: int) -> None:
        self._replays = replays
        self._chunk_bytes = chunk_bytes
        self._asked: list[tuple[Asker, ReadQuestion | TimeQuestion]] = []
        self._doubts: list[tuple[Asker, BoundsQuestion]] = []
        self._wake_up = trio.Event()
        self._doubt = trio.Event()

    def ask(self, asker: Asker, question: Question) -> None:
        """Find something out. Never waits."""
        if isinstance(question, BoundsQuestion):
            self._doubts.append((asker, question))
            self._doubt.set()
        else:
            self._asked.append((asker, question))
            self._wake_up.set()

    async def run(self) -> None:
        """Answer until cancelled. *Cancellation*: safe, late by what a worker thread has under way."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._settle_doubts)
            while True:
                await self._wake_up.wait()
                self._wake_up = trio.Event()
                asked, self._asked = self._asked, []
                for asker, question in asked:
                    nursery.start_soon(self._find_out, asker, question)

    async def _find_out(self, asker: Asker, question: ReadQuestion | TimeQuestion) -> None:
        if asker.has_left:
            return
        with trio.CancelScope() as asker.asking:
            answer: Callable[[], None] | None
            if isinstance(question, TimeQuestion):
                offsets = await self._replays.offsets_since(question.partitions, question.since_ms)
                answer = None if offsets is None else partial(asker.placed, question, offsets)
            else:
                chunk = await self._replays.read(question.ranges, self._chunk_bytes)
                answer = None if chunk is None else partial(asker.read, question, chunk)
            if answer is None:
                await trio.sleep(ASK_AGAIN_SECONDS)
                answer = partial(asker.unanswered, question)
            if not asker.has_left:
                answer()

    async def _settle_doubts(self) -> None:
        while True:
            await self._doubt.wait()
            self._doubt = trio.Event()
            doubts, self._doubts = self._doubts, []
            partitions = frozenset(tp for _, question in doubts for tp in question.partitions)
            bounds = await self._replays.bounds(partitions)
            if bounds is None:
                await trio.sleep(ASK_AGAIN_SECONDS)
            for asker, question in doubts:
                if asker.has_left:
                    continue
                if bounds is None:
                    asker.unanswered(question)
                else:
                    asker.bounded(question, {partition: bounds[partition] for partition in question.partitions})
