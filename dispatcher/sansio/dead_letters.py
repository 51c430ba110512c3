"""Dead letters: what they look like, and in which order they are written, retried and acknowledged.

Rules of this module:

* Nothing is dropped: a letter is in the book until the broker has acknowledged it, or its partition has left.
* What fails because of its topic (missing, not authorized) makes the letters of that topic wait; one of them tries
  again after a pause that doubles. What fails because of the letter itself (too large) makes that letter alone wait. It
  is tried again with no other letter of its topic under way: brokers refuse a batch of them for its size as a whole, so
  letters may have failed because of one beside them.
* Letters of one topic are taken in the order in which they were added.
* A record has one letter, whoever puts it aside and however often: clients refuse it, or its deadline passes. The first
  one says why. Stored letters are remembered for a while, until the partition leaves.
* Key, value and headers stay as they were; what is said about the record is in headers of its own, beside them. The
  letter's timestamp is the time at which it was written: with the record's own, retention could delete it at once.
"""

from bisect import insort
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from dispatcher.sansio.records import Headers, Record, TopicPartition

PREFIX = "dispatcher.dlq."
"""How the names of the headers begin that say what the letter is about."""

PLACEHOLDER = "{topic}"
"""Stands for the record's topic in the name of the dead-letter topic."""

DETAIL_CHARACTERS = 500
"""Of what is said for people, this many characters are kept: clients may have said it."""

WINDOW_LETTERS = 1000
WINDOW_BYTES = 4 * 1024 * 1024
"""Most letters, and about as many bytes, that are with the producer at a time."""

ROOM_BYTES = 8 * 1024 * 1024
"""About as many bytes the book holds before it has no room: what is refused waits where it is."""

REMEMBERED_LETTERS = 10_000
"""Stored letters that are remembered: every subscriber is sent a record, and may refuse it after another one has."""

RETRY_SECONDS = (1.0, 30.0)
"""First and longest pause before a failed letter is tried again."""


class Letter(NamedTuple):
    """A record that goes to the dead-letter topic, and why."""

    partition: TopicPartition
    record: Record
    reason: str
    """One word: ``deadline``, ``nack``."""
    detail: str = ""
    """For people."""


def dead_letter_topic(template: str, topic: str) -> str:
    """The dead-letter topic of a topic."""
    return template.replace(PLACEHOLDER, topic)


def headers_of(letter: Letter, *, group: str, replica: str) -> Headers:
    """The headers of a letter: the record's own, unchanged, and what is said about it."""
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
    """Dead-letter topics of which the last attempt failed, and why."""


@dataclass(slots=True)
class _Pause:
    seconds: float
    until: float


@dataclass(slots=True)
class _Queue:
    """The letters of one dead-letter topic."""

    due: list[int] = field(default_factory=list)
    """Numbers of letters that are to be written, in order."""
    under_way: int = 0
    is_alone: bool = False
    """Whether what was taken last is to have no other letter beside it."""
    pause: _Pause | None = None
    """Since the topic failed."""
    reason: str | None = None


_Key = tuple[TopicPartition, int]
"""A record: its partition and its offset."""


class LetterBook:
    """Says which letters to write now.

    Args:
        template: The name of dead-letter topics (`dead_letter_topic`).
    """

    def __init__(self, template: str) -> None:
        self._template = template
        self._letters: dict[int, Letter] = {}
        self._numbers: dict[_Key, int] = {}
        """The letter of each record that has one."""
        self._stored: dict[_Key, int | None] = {}
        """Records whose letters were stored, oldest first, with their timestamps: another log has the same offsets."""
        self._queues: dict[str, _Queue] = {}
        self._under_way: set[int] = set()
        self._alone: dict[int, _Pause] = {}
        """Letters that failed by themselves."""
        self._number = 0
        self._bytes = 0
        self._under_way_bytes = 0
        self._written: Counter[tuple[str, str]] = Counter()

    def add(self, letter: Letter) -> int:
        """Enter a letter; returns its number, or that of the letter that the record has."""
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
        """Whether a letter of this record waits to be stored."""
        return (partition, offset) in self._numbers

    def remembers(self, partition: TopicPartition, offset: int) -> bool:
        """Whether a letter of a record with this offset was stored; another log may have one at the same offset."""
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
        """How many letters are with the producer."""
        return len(self._under_way)

    def topic_for(self, topic: str) -> str:
        """The dead-letter topic of a topic."""
        return dead_letter_topic(self._template, topic)

    def topic_of(self, letter: Letter) -> str:
        """Where a letter belongs."""
        return self.topic_for(letter.partition.topic)

    def take(self, now: float) -> list[tuple[int, Letter]]:
        """The letters to write now, which are under way from here on.

        Args:
            now: Seconds on any clock that only goes forward.
        """
        taken: list[int] = []
        for queue in self._queues.values():
            # After a failure one letter finds out whether the topic takes letters again.
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
        """When `take` has something next; None while nothing waits for a time. Never before now."""
        times = []
        for queue in self._queues.values():
            if queue.due:
                begins = now if queue.pause is None else queue.pause.until
                firsts = (self._alone[number].until if number in self._alone else now for number in queue.due)
                times.append(max(begins, min(firsts)))
        return max(now, min(times)) if times else None

    def acknowledged(self, number: int) -> Letter | None:
        """The broker has a letter; returns it, or None if nobody wants to know any more."""
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
        """A letter was refused: it waits, and is tried again.

        Args:
            number: The letter's.
            reason: In the broker's words.
            now: As for `take`.
            is_its_own: The letter is at fault, and not its topic.
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
            # Others that fail in the same attempt change nothing.
            queue.pause = _longer(queue.pause, now)

    def interrupted(self, reason: str, now: float) -> None:
        """The producer is gone: what was under way is written by the next one, after a pause.

        Args:
            reason: Why.
            now: As for `take`.
        """
        for number in tuple(self._under_way):
            self.failed(number, reason, now)

    def forget(self, partitions: Collection[TopicPartition]) -> list[int]:
        """Partitions have left: their letters are their next owner's; returns the numbers."""
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
        """A letter is under way no longer, and is to be written again, in its old place."""
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
