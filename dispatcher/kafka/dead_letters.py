"""Writes records to dead-letter topics, and reports when the broker has stored them.

*Thread*: Trio's. The producer runs in a worker thread, one step at a time, while there are letters.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog
import trio

from dispatcher.kafka.leaders import Leaders
from dispatcher.kafka.letter_writer import LetterWriter, Outcome
from dispatcher.sansio.dead_letters import DeadLetterStatistics, Letter, LetterBook
from dispatcher.sansio.records import Record, TopicPartition

log = structlog.get_logger(__name__)

STEP_SECONDS = 0.2
"""How long a step waits for acknowledgements, and so how long a letter may wait for the previous step."""

LOG_SECONDS = 60.0
"""Minimum time between two log lines about a dead-letter topic that accepts no letters."""


class DeadLetters:
    """Writes letters, and keeps trying until the brokers acknowledge them.

    Args:
        properties: librdkafka's connection settings.
        leaders: Its client checks whether topics exist.
        template: The name of dead-letter topics.
        group: The group of this dispatcher.
        replica: The name of this replica.
    """

    def __init__(
        self,
        properties: Mapping[str, str | int | float | bool],
        leaders: Leaders,
        *,
        template: str,
        group: str,
        replica: str,
    ) -> None:
        self._writer = LetterWriter(properties, leaders, group=group, replica=replica)
        self._book = LetterBook(template)
        self._on_stored: dict[int, list[Callable[[], None]]] = {}
        self._limiter = trio.CapacityLimiter(1)
        self._added = trio.Event()
        self._logged_at: dict[str, float] = {}

    @property
    def has_room(self) -> bool:
        """Whether to send more letters now: *backpressure* for records that can wait elsewhere."""
        return self._book.has_room

    def takes(self, topic: str) -> bool:
        """Whether this topic has a dead-letter topic other than itself."""
        return self._book.topic_for(topic) not in {"", topic}

    def remembers(self, partition: TopicPartition, offset: int) -> bool:
        """See `hub.dead_letters.DeadLetters`."""
        return self._book.remembers(partition, offset)

    def send(self, partition: TopicPartition, record: Record, reason: str, on_stored: Callable[[], None]) -> None:
        """Write a refused record to the dead-letter topic (`hub.dead_letters.DeadLetters`).

        Args:
            partition: Where the record was read.
            record: The record.
            reason: Why the client refused it, in the client's words.
            on_stored: See `post`.
        """
        self.post(Letter(partition, record, "nack", reason), on_stored)

    def post(self, letter: Letter, on_stored: Callable[[], None]) -> None:
        """Write a letter to the dead-letter topic of its record's topic.

        Args:
            letter: The record, and why.
            on_stored: Called once in Trio's thread, as soon as all in-sync replicas have this letter, or an earlier one
                for the same record. Never called if the partition leaves before that (`forget`).
        """
        if self._book.has_stored(letter):
            on_stored()
            return
        self._on_stored.setdefault(self._book.add(letter), []).append(on_stored)
        self._added.set()

    def has(self, partition: TopicPartition, offset: int) -> bool:
        """Whether a letter for this record is waiting to be stored: then nothing else may settle the record."""
        return self._book.has(partition, offset)

    def forget(self, partitions: Collection[TopicPartition]) -> None:
        """Forget the letters of partitions that have left: the next owner decides about their records."""
        for number in self._book.forget(partitions):
            self._on_stored.pop(number, None)

    async def run(self) -> None:
        """Write until cancelled.

        *Cancellation*: waits for the current step; unacknowledged letters may have been stored.
        """
        try:
            while True:
                self._added = trio.Event()
                now = time.monotonic()
                letters = [(number, self._book.topic_of(letter), letter) for number, letter in self._book.take(now)]
                if letters or self._book.under_way:
                    outcome = await self._step(letters)
                    self._take_refused(outcome.refused, outcome.failed)
                    for number in outcome.acknowledged:
                        self._take_acknowledged(number)
                    continue
                next_at = self._book.next_at(now)
                with trio.move_on_after(float("inf") if next_at is None else next_at - now):
                    await self._added.wait()
        finally:
            self._writer.close()

    def statistics(self) -> DeadLetterStatistics:
        """A snapshot."""
        return self._book.statistics()

    async def _step(self, letters: Sequence[tuple[int, str, Letter]]) -> Outcome:
        try:
            return await trio.to_thread.run_sync(self._writer.step, letters, STEP_SECONDS, limiter=self._limiter)
        except (RuntimeError, MemoryError) as error:
            # "can't start new thread" is a RuntimeError: only the letters wait.
            return Outcome(failed=str(error))

    def _take_acknowledged(self, number: int) -> None:
        letter = self._book.acknowledged(number)
        if letter is None:
            return
        topic = self._book.topic_of(letter)
        if topic in self._logged_at and topic not in self._book.statistics().failing:
            del self._logged_at[topic]
            log.info("dead letters can be written again", topic=topic)
        for done in self._on_stored.pop(number):
            done()

    def _take_refused(self, refused: Collection[tuple[int, str, bool]], failed: str | None) -> None:
        now = time.monotonic()
        for number, reason, is_its_own in refused:
            self._book.failed(number, reason, now, is_its_own=is_its_own)
        if failed is not None:
            self._book.interrupted(failed, now)
        for topic, reason in self._book.statistics().failing.items() if refused or failed else ():
            if now >= self._logged_at.get(topic, -LOG_SECONDS) + LOG_SECONDS:
                self._logged_at[topic] = now
                log.warning("dead letters cannot be written: their records wait", topic=topic, reason=reason)
