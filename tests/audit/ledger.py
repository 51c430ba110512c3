"""The auditor's books: what was produced, received and committed, and what does not fit together.

Pure: no I/O, no clock; times are arguments, in seconds on any clock that only goes forward.

How it judges:

* A record is *dispatched* when some subscriber has received it, *lost* when none ever does.
* It is *repeated* when a second process sends it as well; two subscribers of one process are no repeat.
* Within a connection a partition's offsets go up one by one. After a ``state`` event a partition may have left and
  come back, so there it may go on anywhere.
* A commit is *ahead* when it passes a record that nobody has received. The record may still wait in the socket of a
  subscriber that does not read at the moment; then, and only then, is a later receipt a good one. Where there is a
  proxy between, the record may be there as well: it has to come soon, by a connection that was there before the commit.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import NamedTuple

EVIDENCE = 20
"""At most this many faults are kept in words."""


class Repeat(NamedTuple):
    """A record that a second process sent as well."""

    at: float
    partition: int
    offset: int
    first_process: str
    process: str
    since: float = math.inf
    """When the first of the records was received that led to this one without a hole; of several subscribers of the
    second process, the latest. If that was before the process was assigned the partition, all of them continued where
    they had left off. Infinite if not known."""


class Receipt(NamedTuple):
    """The first receipt of a record."""

    at: float
    process: str
    connection: int
    number: int
    """What the record says of itself."""


class _Place(NamedTuple):
    """Where a connection is in a partition."""

    offset: int
    states: int
    """How many states had been received before it."""
    since: float
    """When the first of the records before it, without a hole between them, was received."""


@dataclass(slots=True)
class _Connection:
    process: str
    opened_at: float
    transport: str = ""
    closed_at: float | None = None
    frozen_at: float | None = None
    thawed_at: float = -1.0
    states: int = 0
    places: dict[int, _Place] = field(default_factory=dict)
    """By partition."""


@dataclass(slots=True)
class _Partition:
    produced: dict[int, int] = field(default_factory=dict)
    """Number by offset."""
    receipts: dict[int, Receipt] = field(default_factory=dict)
    received_to: int = 0
    """Every offset below was received."""
    suspects: dict[int, float] = field(default_factory=dict)
    """Offsets that a commit has passed and nobody has received, and when the commit was seen."""
    committed: int = 0
    ahead: set[int] = field(default_factory=set)
    last_at: float | None = None
    silence_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Backwards:
    """A commit below an earlier one."""

    partition: int
    offset: int
    before: int
    """The highest that had been committed."""
    stored_ms: int
    """When the broker stored it, in ms since the epoch."""

    def __str__(self) -> str:
        at = datetime.fromtimestamp(self.stored_ms / 1000, UTC)
        return f"partition {self.partition}: {self.offset} after {self.before}, at {at:%H:%M:%S.%f}"


@dataclass(frozen=True, slots=True)
class Report:
    """What the books say."""

    produced: int
    dispatched: int
    """Records that at least one subscriber received."""
    lost: tuple[tuple[int, int], ...]
    """(partition, offset) of records that no subscriber received."""
    repeats: tuple[Repeat, ...]
    out_of_order: int
    """Records that came after a later one of their partition, on one connection."""
    holes: int
    """Records that were left out on one connection."""
    altered: int
    """Records whose number is not the one that was produced."""
    ahead: tuple[tuple[int, int], ...]
    """(partition, offset) of records that a commit passed before any subscriber had them."""
    backwards: tuple[Backwards, ...]
    """Commits below an earlier one of their partition: of an assignment that was over."""
    late: tuple[Backwards, ...] = field(default=(), kw_only=True)
    """Those that the logs excuse: librdkafka had given them up, they came late, and a later one put it right."""
    samples: int
    """How often the committed offsets were compared."""
    silence_seconds: Mapping[int, float]
    """By partition, the longest time between two records that came."""

    @property
    def clean(self) -> bool:
        """Whether every guarantee was kept; repeats are none of them."""
        return not (
            self.lost or self.out_of_order or self.holes or self.altered or self.ahead or self.backwards
        ) and bool(self.produced and self.samples)

    def rows(self) -> Iterator[tuple[str, str, bool]]:
        """Name, value, and whether it is as it should be."""
        yield "produced", f"{self.produced:,}", self.produced > 0
        yield "dispatched at least once", f"{self.dispatched:,}", self.dispatched == self.produced
        yield "lost", _some(self.lost), not self.lost
        yield "repeated", f"{len(self.repeats):,}", True
        yield "out of order within a connection", f"{self.out_of_order:,}", not self.out_of_order
        yield "left out within a connection", f"{self.holes:,}", not self.holes
        yield "altered", f"{self.altered:,}", not self.altered
        yield f"commits ahead of dispatch ({self.samples:,} samples)", _some(self.ahead), not self.ahead
        yield "commits that went backwards", "; ".join(map(str, self.backwards)) or "0", not self.backwards
        if self.late:
            yield "commits given up that came late", "; ".join(map(str, self.late)), True
        for partition, seconds in sorted(self.silence_seconds.items()):
            yield f"longest silence of partition {partition}", f"{seconds:.2f} s", True


class Ledger:
    """Keeps the books of one topic and one group.

    Args:
        proxy_seconds: How long a record may be in a proxy between replica and subscriber; 0: there is none.
    """

    def __init__(self, proxy_seconds: float = 0.0) -> None:
        self._proxy_seconds = proxy_seconds
        self.ahead_words: list[str] = []
        """The first records that a commit passed before anybody had them, with what is known of their receipts."""
        self.receipts: list[tuple[float, str, int, int]] = []
        """(at, process, partition, offset) of every first receipt by a process, in order of time."""
        self._partitions: dict[int, _Partition] = {}
        self._connections: dict[int, _Connection] = {}
        self._repeats: dict[tuple[str, int, int], Repeat] = {}
        """By process, partition and offset."""
        self._backwards: list[Backwards] = []
        self._counts: Counter[str] = Counter()
        self._silence_counts = True

    def produced(self, partition: int, offset: int, number: int) -> None:
        """The broker has stored a record."""
        self._of(partition).produced[offset] = number

    def quiet(self) -> None:
        """Nothing is produced from now on, so silence means nothing."""
        self._silence_counts = False

    # What subscribers see.

    def opened(self, process: str, at: float = 0.0, transport: str = "") -> int:
        """A connection to a process was opened; returns its number."""
        number = len(self._connections)
        self._connections[number] = _Connection(process, at, transport)
        return number

    def closed(self, connection: int, at: float) -> None:
        """A connection has ended."""
        self._connections[connection].closed_at = at

    def told_state(self, connection: int) -> None:
        """The replica has told its state: partitions may have come and gone."""
        self._connections[connection].states += 1

    def frozen(self, connection: int, at: float) -> None:
        """The subscriber reads nothing from now on."""
        self._connections[connection].frozen_at = at

    def thawed(self, connection: int, at: float) -> None:
        """The subscriber reads again, and has read what waited in its socket."""
        self._connections[connection].thawed_at = at

    def received(self, connection: int, partition: int, offset: int, number: int, at: float) -> None:
        """A subscriber has read a record."""
        books = self._of(partition)
        subscriber = self._connections[connection]
        since = self._check_place(subscriber, partition, offset, at)
        receipt = books.receipts.get(offset)
        if receipt is None:
            books.receipts[offset] = Receipt(at, subscriber.process, connection, number)
            self.receipts.append((at, subscriber.process, partition, offset))
            while books.received_to in books.receipts:
                books.received_to += 1
            self._judge_suspect(books, offset, subscriber, at)
            if books.last_at is not None and self._silence_counts:
                books.silence_seconds = max(books.silence_seconds, at - books.last_at)
            books.last_at = at
            return
        if receipt.number != number:
            self._counts["altered"] += 1
        if receipt.process != subscriber.process:
            key = (subscriber.process, partition, offset)
            repeat = self._repeats.get(key)
            if repeat is None:
                self.receipts.append((at, subscriber.process, partition, offset))
                self._repeats[key] = Repeat(at, partition, offset, receipt.process, subscriber.process, since)
            elif repeat.since < since:
                self._repeats[key] = repeat._replace(since=since)

    # What the broker says.

    def sampled(self, committed: Mapping[int, int], at: float) -> None:
        """Compare committed offsets with what was received; subscribers have read what was in their sockets."""
        self._counts["samples"] += 1
        for partition, offset in committed.items():
            books = self._of(partition)
            for passed in range(books.received_to, offset):
                if passed not in books.receipts:
                    books.suspects.setdefault(passed, at)

    def committed(self, partition: int, offset: int, stored_ms: int = 0) -> None:
        """A commit was stored, as the broker's own log of commits has it."""
        books = self._of(partition)
        if offset < books.committed:
            self._backwards.append(Backwards(partition, offset, books.committed, stored_ms))
        books.committed = max(books.committed, offset)

    @property
    def repeated(self) -> int:
        """How many records were also sent by a second process."""
        return len(self._repeats)

    def missing(self) -> list[tuple[int, int]]:
        """(partition, offset) of records that were produced and not received yet."""
        return sorted(
            (partition, offset)
            for partition, books in self._partitions.items()
            for offset in books.produced.keys() - books.receipts.keys()
        )

    def log_ends(self) -> dict[int, int]:
        """The offset after the last produced record, by partition."""
        return {partition: max(books.produced) + 1 for partition, books in self._partitions.items() if books.produced}

    def report(self) -> Report:
        """The books as they are now."""
        altered = self._counts["altered"] + sum(
            books.produced[offset] != receipt.number
            for books in self._partitions.values()
            for offset, receipt in books.receipts.items()
            if offset in books.produced
        )
        return Report(
            produced=sum(len(books.produced) for books in self._partitions.values()),
            dispatched=sum(len(books.produced.keys() & books.receipts.keys()) for books in self._partitions.values()),
            lost=tuple(self.missing()),
            repeats=tuple(self._repeats.values()),
            out_of_order=self._counts["out of order"],
            holes=self._counts["holes"],
            altered=altered,
            ahead=tuple(
                sorted(
                    (partition, offset)
                    for partition, books in self._partitions.items()
                    for offset in books.ahead | books.suspects.keys()
                )
            ),
            backwards=tuple(self._backwards),
            samples=self._counts["samples"],
            silence_seconds={p: books.silence_seconds for p, books in sorted(self._partitions.items())},
        )

    def losses(self, commits: Iterable[tuple[int, int, int]], clock: float) -> Iterator[str]:
        """Each run of lost records in words: what came before and after, which commits passed it, and who listened.

        Args:
            commits: Partition, offset and time (ms) of every commit.
            clock: What the times of this ledger lack of seconds since the epoch.
        """
        for partition, first, last in _runs(self.missing()):
            books = self._of(partition)
            yield f"lost: partition {partition}: {first} to {last}"
            for offset in (first - 1, last + 1):
                if receipt := books.receipts.get(offset):
                    where = self._connections[receipt.connection]
                    yield f"  {offset} came at {_time(receipt.at + clock)} from {receipt.process} ({where.transport})"
            reached = first - 1
            for of, offset, stored_ms in commits:
                if of == partition and reached < offset and reached <= last:
                    yield f"  {offset} was committed at {_time(stored_ms / 1000)}"
                    reached = offset
            for number, one in self._connections.items():
                place = one.places.get(partition)
                ended = "open" if one.closed_at is None else f"closed {_time(one.closed_at + clock)}"
                at = (
                    "nothing"
                    if place is None
                    else f"{place.offset} last, without a hole since {_time(place.since + clock)}"
                )
                opened = f"opened {_time(one.opened_at + clock)}"
                yield f"  {number}: {one.process} ({one.transport}), {opened}, {ended}: {at}"

    def _check_place(self, subscriber: _Connection, partition: int, offset: int, at: float) -> float:
        """Returns since when the connection has received records of the partition without a hole."""
        last = subscriber.places.get(partition)
        if last is not None and last.states == subscriber.states:
            if offset <= last.offset:
                self._counts["out of order"] += 1
            else:
                self._counts["holes"] += offset - last.offset - 1
        since = last.since if last is not None and offset == last.offset + 1 else at
        subscriber.places[partition] = _Place(offset, subscriber.states, since)
        return since

    def _judge_suspect(self, books: _Partition, offset: int, subscriber: _Connection, at: float) -> None:
        seen_at = books.suspects.pop(offset, None)
        if seen_at is None:
            return
        frozen_then = (
            subscriber.frozen_at is not None
            and subscriber.frozen_at <= seen_at
            and (subscriber.thawed_at < subscriber.frozen_at or seen_at <= subscriber.thawed_at)
        )
        was_in_proxy = subscriber.opened_at <= seen_at and at - seen_at < self._proxy_seconds
        if not (frozen_then or was_in_proxy):
            books.ahead.add(offset)
            if len(self.ahead_words) < EVIDENCE:
                self.ahead_words.append(
                    f"ahead: {offset} was passed by a commit seen at {seen_at:.3f}, and received at {at:.3f} from "
                    f"{subscriber.process}, "
                    f"last frozen at {subscriber.frozen_at}, thawed at {subscriber.thawed_at:.3f}"
                )

    def _of(self, partition: int) -> _Partition:
        return self._partitions.setdefault(partition, _Partition())


def _runs(records: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Partition, first and last offset of the runs in sorted records."""
    for (partition, _), run in groupby(enumerate(records), key=lambda item: (item[1][0], item[1][1] - item[0])):
        offsets = [offset for _, (_, offset) in run]
        yield partition, offsets[0], offsets[-1]


def _time(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%H:%M:%S.%f}"[:-3]


def _some(records: tuple[tuple[int, int], ...]) -> str:
    """How many, and the first few by partition and offset."""
    few = ", ".join(f"{partition}@{offset}" for partition, offset in records[:5])
    return f"{len(records):,}" + (f" ({few}{', …' if len(records) > 5 else ''})" if few else "")
