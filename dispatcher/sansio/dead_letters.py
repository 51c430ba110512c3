"""Dead letters: what they contain, and in which order they are written, retried and acknowledged.

Rules of this module:

* Nothing is dropped: a letter is in the book until the broker has acknowledged it, or its partition has left.
* A failure of a topic (missing, not authorized) makes all letters of that topic wait; one of them tries again after a
  pause that doubles. A failure of a letter (too large) makes only that letter wait. It is tried again with no other
  letter of its topic under way: brokers refuse a batch for its size as a whole, so letters may have failed because of
  another letter in their batch.
* Letters of one topic are written in the order in which they were added.
* A record gets one letter, whether clients refuse it or its deadline passes, and however often. The first cause is the
  reason in it. Stored letters are remembered for a while, until the partition leaves.
* Key, value and headers stay unchanged; what is said about the record is in additional headers. The letter's timestamp
  is the time at which it was written: with the record's own, retention could delete it at once.
"""

from bisect import insort
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from dispatcher.sansio.records import Headers, Record, TopicPartition

PREFIX = "dispatcher.dlq."
"""The prefix of the additional headers, which describe the letter."""

PLACEHOLDER = "{topic}"
"""Stands for the record's topic in the name of the dead-letter topic."""

DETAIL_CHARACTERS = 500
"""How many characters of an explanation are kept: it may come from a client."""

WINDOW_LETTERS = 1000
WINDOW_BYTES = 4 * 1024 * 1024
"""How many letters, and about how many bytes, the producer may have at a time."""

ROOM_BYTES = 8 * 1024 * 1024
"""About how many bytes the book may hold: letters that do not fit wait as records in the history."""

REMEMBERED_LETTERS = 10_000
"""How many stored letters are remembered: every subscriber is sent a record, and each may refuse it."""

RETRY_SECONDS = (1.0, 30.0)
"""The first and the longest pause before a failed letter is tried again."""


class Letter(NamedTuple):
    """A record for the dead-letter topic, and why it goes there."""

    partition: TopicPartition
    record: Record
    reason: str
    """One word: ``deadline``, ``nack``."""
    detail: str = ""
    """An explanation for people."""


def dead_letter_topic(template: str, topic: str) -> str:
    """Return the name of the dead-letter topic of a topic."""
    return template.replace(PLACEHOLDER, topic)


def headers_of(letter: Letter, *, group: str, replica: str) -> Headers:
    """Return the headers of a letter: the record's own, unchanged, and those that describe the letter."""
    said = {
        "reason": letter.reason,
        "topic": letter.partition.topic,
        "partition": letter.partition.partition,
        "offset": letter.record.offset,
        "timestamp": letter.record.timestamp_ms,
        "group": group,
        "replica": replica,
        "detail": letter.detail[:DETAIL_CHARACTERS] or None,
    }
    return letter.record.headers + tuple(
        (PREFIX + name, str(value).encode(errors="replace")) for name, value in said.items() if value is not None
    )


@dataclass(frozen=True, slots=True)
class DeadLetterStatistics:
    """A snapshot of the book."""

    written: Mapping[tuple[str, str], int]
    """Acknowledged letters since the start, by the record's topic and reason."""
    waiting: int
    """Letters that the broker has not acknowledged."""
    failing: Mapping[str, str]
    """Dead-letter topics whose last attempt failed, and why."""


@dataclass(slots=True)
class _Pause:
    seconds: float
    until: float


@dataclass(slots=True)
class _Queue:
    """The letters of one dead-letter topic."""

    due: list[int] = field(default_factory=list)
    """Numbers of the letters to write, in order."""
    under_way: int = 0
    is_alone: bool = False
    """Whether the letter that was taken last must be alone under way."""
    pause: _Pause | None = None
    """The current pause, if the topic has failed."""
    reason: str | None = None


_Key = tuple[TopicPartition, int]
"""A record, identified by its partition and its offset."""


class LetterBook:
    """Decides which letters to write now.

    Args:
        template: The name of dead-letter topics, a template for `dead_letter_topic`.
    """

    def __init__(self, template: str) -> None:
        self._template = template
        self._letters: dict[int, Letter] = {}
        self._numbers: dict[_Key, int] = {}
        """The number of each record's letter."""
        self._stored: dict[_Key, int | None] = {}
        """Records whose letters were stored, oldest first, with their timestamps: a recreated topic uses the same
        offsets again."""
        self._queues: dict[str, _Queue] = {}
        self._under_way: set[int] = set()
        self._alone: dict[int, _Pause] = {}
        """Letters that failed for a reason of their own."""
        self._number = 0
        self._bytes = 0
        self._under_way_bytes = 0
        self._written: Counter[tuple[str, str]] = Counter()

    def add(self, letter: Letter) -> int:
        """Enter a letter; returns its number, or the number of the letter that the record already has."""
        key = _key(letter)
        number = self._numbers.get(key)
        if number is not None and self._letters[number].record == letter.record:
            return number
        self._number += 1
        self._letters[self._number] = letter
        self._numbers[key] = self._number
        self._bytes += _size(letter)
        self._queues.setdefault(self.topic_of(letter), _Queue()).due.append(self._number)
        return self._number

    def has(self, partition: TopicPartition, offset: int) -> bool:
        """Whether a letter of this record is waiting to be stored."""
        return (partition, offset) in self._numbers

    def remembers(self, partition: TopicPartition, offset: int) -> bool:
        """Whether a letter for this offset was stored; after a recreation that may have been another record."""
        return (partition, offset) in self._stored

    def has_stored(self, letter: Letter) -> bool:
        """Whether the record is known to be in the dead-letter topic."""
        key = _key(letter)
        return key in self._stored and self._stored[key] == letter.record.timestamp_ms

    @property
    def has_room(self) -> bool:
        """Whether more letters should be added now."""
        return self._bytes < ROOM_BYTES

    @property
    def under_way(self) -> int:
        """How many letters the producer has."""
        return len(self._under_way)

    def topic_for(self, topic: str) -> str:
        """Return the dead-letter topic of a topic."""
        return dead_letter_topic(self._template, topic)

    def topic_of(self, letter: Letter) -> str:
        """Return the topic to which a letter belongs."""
        return self.topic_for(letter.partition.topic)

    def take(self, now: float) -> list[tuple[int, Letter]]:
        """Return the letters to write now; from now on they are under way.

        Args:
            now: Seconds on any clock that only moves forward.
        """
        taken: list[int] = []
        for queue in self._queues.values():
            # After a failure, one letter finds out whether the topic accepts letters again.
            most = WINDOW_LETTERS if queue.pause is None else 1 if now >= queue.pause.until else 0
            if (queue.pause is not None or queue.is_alone) and queue.under_way:
                continue
            kept: list[int] = []
            for number in queue.due:
                alone = self._alone.get(number)
                waits = alone is not None and now < alone.until
                if alone is not None and not waits:
                    most = 0 if queue.under_way else min(most, 1)
                is_full = len(self._under_way) >= WINDOW_LETTERS or self._under_way_bytes >= WINDOW_BYTES
                if is_full or most == 0 or waits:
                    kept.append(number)
                    continue
                most -= 1
                taken.append(number)
                queue.under_way += 1
                queue.is_alone = alone is not None
                self._under_way.add(number)
                self._under_way_bytes += _size(self._letters[number])
            queue.due = kept
        return [(number, self._letters[number]) for number in taken]

    def next_at(self, now: float) -> float | None:
        """Return when `take` has something next; never in the past. None while nothing waits for a time."""
        times = []
        for queue in self._queues.values():
            if queue.due:
                begins = now if queue.pause is None else queue.pause.until
                firsts = (self._alone[number].until if number in self._alone else now for number in queue.due)
                times.append(max(begins, min(firsts)))
        return max(now, min(times)) if times else None

    def acknowledged(self, number: int) -> Letter | None:
        """Note that the broker has stored a letter; returns it, or None if it was forgotten meanwhile."""
        letter = self._remove(number)
        if letter is not None:
            topic = self.topic_of(letter)
            queue = self._queues[topic]
            queue.pause = None
            if all(self.topic_of(self._letters[other]) != topic for other in self._alone):
                queue.reason = None
            self._written[letter.partition.topic, letter.reason] += 1
            self._stored[_key(letter)] = letter.record.timestamp_ms
            if len(self._stored) > REMEMBERED_LETTERS:
                del self._stored[next(iter(self._stored))]
        return letter

    def failed(self, number: int, reason: str, now: float, *, is_its_own: bool = False) -> None:
        """Note that a letter was refused; it is tried again later.

        Args:
            number: The number of the letter.
            reason: The reason in the broker's words.
            now: As for `take`.
            is_its_own: Whether the letter itself is at fault, and not its topic.
        """
        letter = self._letters.get(number)
        if letter is None or number not in self._under_way:
            return
        self._back(number)
        queue = self._queues[self.topic_of(letter)]
        queue.reason = reason
        if is_its_own:
            self._alone[number] = _longer(self._alone.get(number), now)
        elif queue.pause is None or now >= queue.pause.until:
            # Other letters that fail in the same attempt change nothing.
            queue.pause = _longer(queue.pause, now)

    def interrupted(self, reason: str, now: float) -> None:
        """Note that the producer failed: the next producer writes what was under way, after a pause.

        Args:
            reason: Why.
            now: As for `take`.
        """
        for number in tuple(self._under_way):
            self.failed(number, reason, now)

    def forget(self, partitions: Collection[TopicPartition]) -> list[int]:
        """Forget the letters of partitions that have left; their next owner writes them. Returns the numbers."""
        gone = [number for number, letter in self._letters.items() if letter.partition in partitions]
        for number in gone:
            self._remove(number)
        self._stored = {key: time_ms for key, time_ms in self._stored.items() if key[0] not in partitions}
        return gone

    def statistics(self) -> DeadLetterStatistics:
        """A snapshot of the book."""
        failing = {topic: queue.reason for topic, queue in self._queues.items() if queue.reason is not None}
        return DeadLetterStatistics(dict(self._written), len(self._letters), failing)

    def _back(self, number: int) -> None:
        """Put a letter that is no longer under way back in its old place among the due ones."""
        letter = self._letters[number]
        queue = self._queues[self.topic_of(letter)]
        self._lay_down(number, letter, queue)
        insort(queue.due, number)

    def _lay_down(self, number: int, letter: Letter, queue: _Queue) -> None:
        queue.under_way -= 1
        self._under_way.discard(number)
        self._under_way_bytes -= _size(letter)

    def _remove(self, number: int) -> Letter | None:
        letter = self._letters.pop(number, None)
        if letter is None:
            return None
        self._bytes -= _size(letter)
        self._alone.pop(number, None)
        if self._numbers.get(_key(letter)) == number:
            del self._numbers[_key(letter)]
        queue = self._queues[self.topic_of(letter)]
        if number in self._under_way:
            self._lay_down(number, letter, queue)
        else:
            queue.due.remove(number)
        return letter


def _key(letter: Letter) -> _Key:
    return letter.partition, letter.record.offset


def _longer(pause: _Pause | None, now: float) -> _Pause:
    seconds = RETRY_SECONDS[0] if pause is None else min(2 * pause.seconds, RETRY_SECONDS[1])
    return _Pause(seconds, now + seconds)


def _size(letter: Letter) -> int:
    record = letter.record
    headers: Iterable[tuple[str, bytes | None]] = record.headers
    return (
        500
        + len(record.key or b"")
        + len(record.value or b"")
        + sum(len(name) + len(value or b"") for name, value in headers)
    )
